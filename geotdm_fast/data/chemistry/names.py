"""Features of atoms and types of edges by name and number; imports nothing heavy."""

from collections.abc import Sequence

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown

# The columns of each feature. The first eight are the official ones, in their order.
COLUMNS = {
    "aromatic": 2,
    "hybridization": 6,
    "partial_charge": 1,
    "implicit_valence": 8,
    "degree": 8,
    "formal_charge": 4,
    "ring_size": 10,
    "chirality": 3,
    "implicit_valence_scalar": 1,
    "degree_scalar": 1,
    "formal_charge_scalar": 1,
    "hydrogens": 5,
}
OFFICIAL = tuple(COLUMNS)[:8]
# Those that the graph of bonds tells, without RDKit; what is taken where nobody says which.
OF_GRAPH = ("degree", "degree_scalar", "hydrogens")
BY_DEFAULT = ("degree", "hydrogens")
# The word for the array h of a file.
OWN = "own"
# Files of molecules whose bond orders RDKit reads.
MOLECULE_SUFFIXES = (".sdf", ".sd", ".mol")

# A bond has 1 + its place in RDKit's BondType.names, which has 22; a pair k > 1 bonds apart 22 + k - 1.
NUM_BOND_TYPES, SINGLE = 22, 2
# Networks have tables of so many rows.
NUM_ATOMS, NUM_EDGE_TYPES = 100, 50
# So this is the farthest pair that has a type.
MOST_HOPS = NUM_EDGE_TYPES - NUM_BOND_TYPES


def check_features(where: str, features: object, has_molecule: bool) -> list[str]:
    """`features` as a list of names of `COLUMNS`, or ["own"]; ValueError otherwise, naming what is needed.

    has_molecule: whether RDKit knows the bond orders; without, `OF_GRAPH` and `own` alone are there
    """
    if not isinstance(features, Sequence) or isinstance(features, str) or len(features) == 0:
        raise ValueError(f"{where}: features must be a list of names, got {shown(features)}")
    names = list(features)
    if names == [OWN] and not has_molecule:
        return names
    for name in names:
        check_choice(f"{where}: features", name, COLUMNS)
        if not has_molecule and name not in OF_GRAPH:
            raise ValueError(
                f"{where}: the feature {name} needs the bond orders of the molecule: molecule: FILE.sdf; without it "
                f"there are {', '.join(OF_GRAPH)}, and own for the array h of the file"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: features must be names, each once, got {shown(names)}")
    return names


def pair_type(hops: int) -> int:
    """The type of an edge between atoms `hops` bonds apart whose bond orders are not known: 2, 23, 24, ..."""
    return SINGLE if hops == 1 else NUM_BOND_TYPES + hops - 1
