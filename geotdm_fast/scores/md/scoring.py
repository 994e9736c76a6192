"""All scores of molecules of a file of samples."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.elements import SYMBOLS, formula
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.md.contacts import contact_row
from geotdm_fast.scores.md.decorrelation import decorrelation_rows
from geotdm_fast.scores.md.distributions import Internals, gyration_row, internal_row
from geotdm_fast.scores.md.energies import energy_rows
from geotdm_fast.scores.md.ensemble import LEAST_FRAMES, Ensemble, Unfit, ensembles
from geotdm_fast.scores.md.fluctuations import Superposed, msd_row, rmsd_rows, rmsf_rows
from geotdm_fast.scores.md.msm import msm_rows
from geotdm_fast.scores.md.rdf import rdf_row
from geotdm_fast.scores.md.resampling import Resampling
from geotdm_fast.scores.md.rows import Row
from geotdm_fast.scores.md.settings import MDSettings
from geotdm_fast.scores.md.tica import Components, project, tica_rows
from geotdm_fast.scores.md.torsions import SlowTorsions
from geotdm_fast.scores.md.validity import validity_rows


class Plane(NamedTuple):
    """Points in a plane for a picture: truth, drawn [2, frames]; names of both axes."""

    truth: np.ndarray
    drawn: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class MoleculeScores:
    """The scores of one molecule.

    formula: its elements; graphs: how many there are of it in the samples
    rows: one for each number; left_out: scores that these samples do not allow, and why
    pictures: what `plots.molecule_scores` draws, by the name of the score
    notes: what was chosen for the user
    """

    formula: str
    graphs: int
    rows: list[Row]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()
    pictures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values: `rows` has a line for each score."""
        about = {"formula": self.formula, "graphs": self.graphs, "notes": list(self.notes)}
        return {**about, "rows": [row.as_json() for row in self.rows], "left_out": self.left_out}


def score_molecules(
    samples: Samples,
    settings: MDSettings | None = None,
    *,
    cell: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
) -> list[MoleculeScores]:
    """The scores of every molecule in `samples`: graphs of the same atomic numbers are of one.

    cell: the periodic box, see `ensembles`; None: that of the samples where they have one
    bonds: [P, 2] - instead of those that `settings.bonds` finds, for samples of one molecule
    Deterministic for `settings.seed`. Raises ValueError for samples without truth, not in three dimensions or not
    finite, and for a score that `settings.scores` names and the samples do not allow.
    """
    settings = settings or MDSettings()
    found = ensembles(
        samples, bonds=settings.bonds if bonds is None else np.asarray(bonds), cell=cell, longest_lag=settings.lag
    )
    return [_Scorer(ensemble, settings).result() for ensemble in found]


class _Scorer:
    """Computes the scores of one ensemble; what several of them need is computed once."""

    def __init__(self, ensemble: Ensemble, settings: MDSettings):
        if ensemble.num_truth < 2:
            raise ValueError(
                f"evaluate: md: the floor needs two true trajectories, or one of {2 * LEAST_FRAMES} frames in a row to "
                f"cut in two; got one of {ensemble.num_frames} frames"
            )
        if settings.lag is not None and settings.lag >= ensemble.num_frames:
            raise ValueError(
                f"evaluate: md: lag must be under the {ensemble.num_frames} drawn frames, got {settings.lag}"
            )
        self.ensemble, self.settings = ensemble, settings
        self.lag = settings.lag or max(1, ensemble.num_frames // 10)
        self.resampling = Resampling(ensemble.num_truth, ensemble.num_draws, settings.resamples, settings.seed)
        self.internals = Internals(ensemble)
        self.superposed = Superposed(ensemble)
        self.slow = SlowTorsions(ensemble)
        self.pictures: dict[str, Any] = {}

    def result(self) -> MoleculeScores:
        rows: list[Row] = []
        left_out = {}
        for name in self.settings.wanted:
            try:
                rows += self._rows(name)
            except Unfit as reason:
                if self.settings.scores is not None:
                    raise ValueError(f"evaluate: md: no score '{name}': {reason}") from reason
                left_out[name] = str(reason)
        z = self.ensemble.topology.atomic_numbers
        return MoleculeScores(
            formula(z.tolist()) if z.any() else f"{len(z)} nodes",
            self.ensemble.graphs,
            rows,
            left_out,
            self.ensemble.notes,
            self.pictures,
        )

    def _rows(self, name: str) -> Iterable[Row]:
        ensemble, resampling, settings = self.ensemble, self.resampling, self.settings
        scores: dict[str, Callable[[], Iterable[Row]]] = {
            "bonds": lambda: [internal_row("bonds", self.internals, resampling, settings.bins)],
            "angles": lambda: [internal_row("angles", self.internals, resampling, settings.bins)],
            "torsions": self._torsions,
            "rdf": self._rdf,
            "contacts": lambda: [contact_row(ensemble, resampling, settings.contact)],
            "rg": lambda: [gyration_row(ensemble, resampling)],
            "rmsd": lambda: rmsd_rows(ensemble, self.superposed, resampling),
            "rmsf": lambda: rmsf_rows(ensemble, self.superposed, resampling),
            "msd": lambda: [msd_row(ensemble, resampling)],
            "validity": lambda: validity_rows(ensemble, self.internals, resampling),
            "decorrelation": self._decorrelation,
            "tica": self._tica,
            "msm": lambda: msm_rows(self._components, resampling, settings.states, settings.seed),
            "energy": lambda: energy_rows(ensemble, settings),
        }
        return scores[name]()

    @cached_property
    def _components(self) -> Components:
        self.ensemble.need_lag(self.lag)
        return project(self.slow, self.lag)

    def _torsions(self) -> list[Row]:
        row = internal_row("torsions", self.internals, self.resampling, self.settings.bins)
        plane = self.slow.plane()
        if plane is not None:
            truth, drawn = self.slow.both()
            atoms = [self.slow.atoms[place] for place in plane]
            names = tuple(torsion_name(self.ensemble.topology.atomic_numbers, four) for four in atoms)
            rows = list(plane)
            self.pictures["ramachandran"] = Plane(truth[rows].reshape(2, -1), drawn[rows].reshape(2, -1), names)
        return [row]

    def _rdf(self) -> list[Row]:
        row, self.pictures["rdf"] = rdf_row(self.ensemble, self.resampling, self.settings.r_max)
        return [row]

    def _decorrelation(self) -> list[Row]:
        rows, self.pictures["decorrelation"] = decorrelation_rows(self.slow, self.resampling)
        return rows

    def _tica(self) -> list[Row]:
        components = self._components
        rows = tica_rows(components, self.resampling, self.settings.bins)
        flat = lambda x: x[:2].reshape(2, -1)
        names = ("first component", "second component")
        self.pictures["tica"] = Plane(flat(components.truth), flat(components.drawn), names)
        return rows


def torsion_name(numbers: np.ndarray, atoms: np.ndarray) -> str:
    """`C4-N6-C8-C14`: elements and places of its four atoms, from 0."""
    return "-".join(f"{SYMBOLS[numbers[i]] if numbers[i] else ''}{i}" for i in atoms.tolist())
