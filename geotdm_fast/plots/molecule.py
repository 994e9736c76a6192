"""Molecules in pictures: bonds from covalent radii, colours of the elements."""

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance

COLOURS = {1: "#F1F3F4", 6: "#3C4043", 7: "#3367D6", 8: "#D93025", 9: "#34A853", 15: "#F29900", 16: "#FBBC04"}
OTHER = "#A142F4"  # elements without a colour of their own
SYMBOLS = {
    1: "H", 2: "He", 3: "Li", 5: "B", 6: "C", 7: "N", 8: "O", 9: "F", 11: "Na", 12: "Mg", 13: "Al", 14: "Si", 15: "P",
    16: "S", 17: "Cl", 18: "Ar", 19: "K", 20: "Ca", 25: "Mn", 26: "Fe", 27: "Co", 28: "Ni", 29: "Cu", 30: "Zn",
    34: "Se", 35: "Br", 53: "I",
}  # fmt: skip


def bonds(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Bonded pairs [P, 2] of atoms, the smaller number first, by `bonds_by_distance`; positions [N, 3] in angstrom."""
    pairs = bonds_by_distance(positions, atomic_numbers)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def bond_name(z_i: int, z_j: int) -> str:
    """`C-H`: the elements in the order of falling atomic number, hydrogen last."""
    first, second = sorted((int(z_i), int(z_j)), key=lambda z: (z == 1, z))
    return f"{SYMBOLS.get(first, first)}-{SYMBOLS.get(second, second)}"
