"""The torsions that say how a molecule is folded, over time: what decorrelation, TICA and states look at."""

import numpy as np

from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.geometry import frame_chunks, torsion_angles
from geotdm_fast.scores.md.resampling import Both, each

# More torsions than that are taken evenly from all.
MOST_TORSIONS = 60


class SlowTorsions:
    """One torsion around each bond, of heavy atoms where there are any, computed when first asked for."""

    def __init__(self, ensemble: Ensemble):
        self.ensemble = ensemble
        self._found: Both | None = None

    @property
    def atoms(self) -> np.ndarray:
        """[F, 4] - at most 60, evenly chosen."""
        atoms = self.ensemble.topology.slow_torsions
        return atoms[:: -(-len(atoms) // MOST_TORSIONS)] if len(atoms) else atoms

    def both(self) -> Both:
        """The true torsions [F, B, T] and the drawn ones [F, B K, T] (radian)."""
        self.ensemble.need_bonds()
        if len(self.atoms) == 0:
            raise Unfit("the molecule has no torsions")
        if self._found is None:
            self._found = each(self._of, self.ensemble.both)
        return self._found

    def _of(self, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(3, x.shape[1], -1)
        found = np.empty((len(self.atoms), flat.shape[2]))
        for frames in frame_chunks(12 * len(self.atoms), flat.shape[2]):
            found[:, frames] = torsion_angles(flat[:, :, frames], self.atoms)
        return found.reshape(len(self.atoms), *x.shape[2:])

    def features(self) -> Both:
        """The cosines and sines of the torsions: [2 F, M, T]."""
        return each(lambda angle: np.concatenate([np.cos(angle), np.sin(angle)]), self.both())

    def plane(self) -> tuple[int, int] | None:
        """The places of the two torsions of a Ramachandran plot: phi and psi of an amino acid, else the first two that
        share a bond, and None where none do."""
        z, neighbours = self.ensemble.topology.atomic_numbers, self.ensemble.topology.neighbours
        place = {}
        for row, (j, k) in enumerate(self.atoms[:, 1:3].tolist()):
            place[j, k] = place[k, j] = row
        carbonyl = lambda c: z[c] == 6 and any(z[o] == 8 and len(neighbours[o]) == 1 for o in neighbours[c])
        for alpha in range(len(z)):
            if z[alpha] != 6 or carbonyl(alpha):
                continue
            for n in neighbours[alpha]:
                for c in neighbours[alpha]:
                    peptide = z[n] == 7 and any(carbonyl(near) for near in neighbours[n])
                    if peptide and carbonyl(c) and (n, alpha) in place and (alpha, c) in place:
                        return place[n, alpha], place[alpha, c]
        for (j, k), row in place.items():
            for (a, b), other in place.items():
                if row < other and len({j, k, a, b}) == 3:
                    return row, other
        return None
