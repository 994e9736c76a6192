"""Bond lengths, angles, torsions and radii of gyration: how far their distributions are apart."""

from collections.abc import Sequence

import numpy as np

from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.geometry import frame_chunks, internal_coordinates
from geotdm_fast.scores.md.histograms import (
    Bins,
    jensen_shannon,
    point_counts,
    trajectory_histograms,
    value_points,
    wasserstein,
)
from geotdm_fast.scores.md.resampling import Both, Resampling, each
from geotdm_fast.scores.md.rows import Row, plain_number

# Quantities whose histograms are held at once.
_ROWS = 64
_NAMES = ("bonds", "angles", "torsions")
_ABOUT = {"bonds": "bond lengths", "angles": "bond angles", "torsions": "torsions"}


class Internals:
    """All bond lengths, angles and torsions of an ensemble, computed when first asked for: rows by frames."""

    def __init__(self, ensemble: Ensemble):
        self.ensemble = ensemble
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def pair(self, name: str) -> Both:
        """The true values [F, B T] and the drawn ones [F, B K T] of `bonds`, `angles` or `torsions`."""
        self.ensemble.need_bonds()
        if not self._found:
            topology = self.ensemble.topology
            flat = lambda x: x.reshape(3, len(topology.atomic_numbers), -1)
            self._found = [internal_coordinates(flat(x), topology) for x in self.ensemble.both]
        place = _NAMES.index(name)
        return self._found[0][place], self._found[1][place]


def internal_row(name: str, internals: Internals, resampling: Resampling, bins: int) -> Row:
    """The Jensen-Shannon divergence of each bond length, angle or torsion, averaged over them; `detail` has each.

    Bond lengths and angles have `bins` bins over what the truth reaches, a twentieth wider, and one more at each end;
    torsions `bins` over the circle.
    """
    ensemble = internals.ensemble
    truth, drawn = internals.pair(name)
    atoms = getattr(ensemble.topology, name)
    if len(atoms) == 0:
        raise Unfit(f"the molecule has no {_ABOUT[name]}")
    parts, of_all = [], []
    for start in range(0, len(atoms), _ROWS):
        rows = slice(start, start + _ROWS)
        grid = Bins.circle(len(atoms[rows]), bins) if name == "torsions" else Bins.around(truth[rows], bins)
        counts = each(lambda x: trajectory_histograms(x, grid, ensemble.num_frames), (truth[rows], drawn[rows]))  # noqa: B023
        parts.append(resampling.scores(counts, jensen_shannon))
        of_all.append(jensen_shannon(counts[1].sum(0), counts[0].sum(0)))
    all_data = np.concatenate(of_all)
    worst = int(all_data.argmax())
    detail = {
        "atoms": atoms.tolist(),
        "jsd_of_all": [plain_number(value) for value in all_data],
        "worst": {"atoms": atoms[worst].tolist(), "jsd_of_all": plain_number(all_data[worst])},
    }
    return Row(name, f"JSD of {len(atoms)} {_ABOUT[name]}", resampling.mean_over_rows(parts), "bit", detail=detail)


def radius_of_gyration(x: np.ndarray, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """sqrt(sum_i |x_i - mean x|^2 / N) of the atoms of every piece, each with equal weight: [P, S] for x [3, N, S]."""
    found = np.empty((len(pieces), x.shape[2]))
    for row, atoms in zip(found, pieces, strict=True):
        for frames in frame_chunks(3 * len(atoms), x.shape[2]):
            part = x[:, atoms, frames].astype(np.float64)
            part -= part.mean(axis=1, keepdims=True)
            row[frames] = np.sqrt(np.einsum("dns,dns->s", part, part) / len(atoms))
    return found


def gyration_row(ensemble: Ensemble, resampling: Resampling) -> Row:
    """W1 of the radii of gyration: of the whole, or of each of several molecules where bonds tell them apart."""
    piece = ensemble.topology.piece
    whole = ensemble.num_atoms == len(np.unique(piece)) or piece.max() == 0
    if whole and ensemble.num_atoms < 2:
        raise Unfit("one atom has no radius of gyration")
    if whole and ensemble.cell is not None and len(np.unique(piece)) > 1:
        raise Unfit("atoms in a periodic box without bonds have no radius of gyration")
    pieces = [np.arange(ensemble.num_atoms)]
    if not whole:
        pieces = [atoms for atoms in (np.flatnonzero(piece == p) for p in range(piece.max() + 1)) if len(atoms) > 1]
    values = each(lambda x: radius_of_gyration(x.reshape(3, ensemble.num_atoms, -1), pieces), ensemble.both)
    points = value_points(*values)
    by_trajectory = each(lambda v: v.reshape(len(pieces), -1, ensemble.num_frames).swapaxes(0, 1), values)
    counts = each(lambda v: point_counts(v, points, len(v)), by_trajectory)
    detail = {"mean_truth": plain_number(values[0].mean()), "mean_drawn": plain_number(values[1].mean())}
    compare = lambda a, b: wasserstein(a, b, points)
    return Row("rg", "W1 of the radius of gyration", resampling.estimate(counts, compare), ensemble.unit, detail=detail)
