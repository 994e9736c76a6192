"""The keys of a data section that make atoms and edges of Align Your Structures, and the shares of its entries."""

from collections.abc import Mapping, Sequence

from geotdm_fast.data.chemistry.names import MOLECULE_SUFFIXES, check_features
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.shown import shown

# Instead of this package's own features of molecules.
ATOM_KEYS = ("features", "molecule")
# How often the entries of a list are drawn in training.
RATIO = "ratio"


def check_atom_keys(where: str, section: Mapping) -> None:
    """ValueError for features of atoms that are none, or that need a molecule, and for what does not go with them."""
    molecule = section.get("molecule")
    if section.get("features") is None:
        if molecule is not None:
            raise ValueError(f"{where}: molecule goes with features, those of its atoms; got molecule alone")
        return
    check_features(where, section["features"], molecule is not None)
    if section.get("fully_connected"):
        raise ValueError(f"{where}: fully_connected does not go with features: edges have the type of a bond")


def knows_bond_orders(section: Mapping) -> bool:
    """Whether data of a section have RDKit's bond orders: by `molecule`, or as conformers in SDF."""
    if section.get("kind") != "conformers":
        return section.get("molecule") is not None
    path = section.get("path")
    paths = path if isinstance(path, (list, tuple)) else [path]
    return any(str(path).lower().endswith(MOLECULE_SUFFIXES) for path in paths)


def taken_atom_keys(entry: dict) -> dict | None:
    """The keys that `with_atom_keys` reads, taken out of an entry; None where there are no features among them."""
    atoms = {key: entry.pop(key) for key in ATOM_KEYS if key in entry}
    return atoms if atoms.get("features") is not None else None


def with_atom_keys(part: TrajectoryDataset, atoms: Mapping, entry: Mapping) -> TrajectoryDataset:
    """The data of an entry with the atoms and edges that these keys say."""
    from geotdm_fast.data.chemistry.datasets import with_atoms

    return with_atoms(part, max_hops=entry.get("max_hops", 3), **atoms, where=part.name)


def check_ratio(where: str, section: Mapping, lists: Sequence[str]) -> None:
    """ValueError for shares that are not one number for each entry of the section's lists.

    lists: the keys that may be lists
    """
    ratio = section.get(RATIO)
    if ratio is None:
        return
    given = [value for key in lists if isinstance(value := section.get(key), (list, tuple))]
    is_number = lambda share: isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < 1e9
    numbers = isinstance(ratio, (list, tuple)) and all(map(is_number, ratio)) and sum(ratio) > 0
    if not given or not numbers or len(ratio) != len(given[0]):
        expected = f"{len(given[0])} numbers of at least 0" if given else "left out where there is no list of paths"
        raise ValueError(f"{where}: {RATIO} must be {expected}, got {shown(ratio)}")
