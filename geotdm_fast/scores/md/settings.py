"""What is scored, and how finely: the options of the scores of molecules."""

from collections.abc import Iterable
from dataclasses import dataclass

from geotdm_fast.data.checks import check_count, check_number
from geotdm_fast.runtime.choices import check_choice

# Each with what it compares; docs/scores.md has the formulas.
MD_SCORES = {
    "bonds": "distributions of bond lengths",
    "angles": "distributions of bond angles",
    "torsions": "distributions of torsions",
    "rdf": "radial distribution functions",
    "contacts": "how often atoms touch",
    "rg": "distribution of the radius of gyration",
    "rmsd": "distances after superposition",
    "rmsf": "fluctuation of every atom",
    "msd": "mean squared displacement",
    "validity": "shares of frames with a wrong bond, a clash, a broken ring, a flipped centre",
    "decorrelation": "how fast torsions forget",
    "tica": "slow coordinates of the torsions, and their timescales",
    "msm": "occupancies, transitions and timescales of states",
    "energy": "distributions of energies and forces, by a calculator",
}


@dataclass(frozen=True)
class MDSettings:
    """Options of `score_molecules`.

    scores: of `MD_SCORES`; None: all that the samples allow, and `energy` where there is a calculator. A score that is
        named and cannot be had is an error, one that is not named is left out with its reason
    bonds: where bonds come from: `distance`, by covalent radii in the first true frame; `edges`, those of the samples
    lag: frames between the two times of `tica`, `msm`; None: a tenth of the drawn frames, at least 1
    states: k-means states of `msm`
    bins: of every histogram
    r_max: where radial distribution functions end (angstrom)
    contact: two atoms other than hydrogen touch when nearer (angstrom)
    resamples: random halvings, and bootstrap samples
    seed: of halvings, bootstrap, k-means and the frames that a calculator gets
    calculator: `emt`, `lj`, `tblite`, or `module:function` of a function that returns an ASE calculator
    energy_frames: how many true and how many drawn frames a calculator gets
    """

    scores: tuple[str, ...] | None = None
    bonds: str = "distance"
    lag: int | None = None
    states: int = 20
    bins: int = 60
    r_max: float = 10.0
    contact: float = 4.5
    resamples: int = 200
    seed: int = 0
    calculator: str | None = None
    energy_frames: int = 200

    def __post_init__(self) -> None:
        where = "md"
        check_choice(f"{where}: bonds", self.bonds, ("distance", "edges"))
        for name in ("states", "bins"):
            check_count(where, name, getattr(self, name), minimum=2)
        for name in ("resamples", "energy_frames"):
            check_count(where, name, getattr(self, name))
        check_count(where, "seed", self.seed, minimum=0)
        if self.lag is not None:
            check_count(where, "lag", self.lag)
        for name in ("r_max", "contact"):
            check_number(where, name, getattr(self, name))
        for name in self.scores or ():
            check_choice(f"{where}: scores", name, MD_SCORES)
        if self.scores is not None and not self.scores:
            raise ValueError(f"{where}: scores must name at least one of {', '.join(MD_SCORES)}; got none")
        if "energy" in (self.scores or ()) and self.calculator is None:
            raise ValueError(f"{where}: the score 'energy' needs a calculator: emt, lj, tblite or module:function")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The scores to try, in the order of `MD_SCORES`."""
        named = MD_SCORES if self.scores is None else self.scores
        return tuple(name for name in MD_SCORES if name in named and (name != "energy" or self.calculator is not None))


def parse_md_scores(text: str) -> tuple[str, ...] | None:
    """The scores named in `text` (`bonds,rdf`), None for `all`. Whether they are known `MDSettings` says."""
    names: Iterable[str] = (name.strip() for name in text.split(","))
    found = tuple(dict.fromkeys(name for name in names if name))
    return None if "all" in found else found
