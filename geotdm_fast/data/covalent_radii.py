"""Covalent radii of the elements, in angstrom."""

import numpy as np

# Cordero et al., Covalent radii revisited, Dalton Transactions 2008, 2832-2838, table 2: hydrogen to curium, by atomic
# number. Carbon is sp3; manganese, iron and cobalt have low spin.
_CORDERO = """
0.31 0.28
1.28 0.96 0.84 0.76 0.71 0.66 0.57 0.58
1.66 1.41 1.21 1.11 1.07 1.05 1.02 1.06
2.03 1.76 1.70 1.60 1.53 1.39 1.39 1.32 1.26 1.24 1.32 1.22 1.22 1.20 1.19 1.20 1.20 1.16
2.20 1.95 1.90 1.75 1.64 1.54 1.47 1.46 1.42 1.39 1.45 1.44 1.42 1.39 1.39 1.38 1.39 1.40
2.44 2.15 2.07 2.04 2.03 2.01 1.99 1.98 1.98 1.96 1.94 1.92 1.92 1.89 1.90 1.87
1.87 1.75 1.70 1.62 1.51 1.44 1.41 1.36 1.36 1.32 1.45 1.46 1.48 1.40 1.50 1.50
2.60 2.21 2.15 2.06 2.00 1.96 1.90 1.87 1.80 1.69
"""
# Alkali and alkaline earth metals are ions in a solution, and noble gases are alone: no bond is guessed for them.
_WITHOUT_BONDS = [2, 3, 10, 11, 12, 18, 19, 20, 36, 37, 38, 54, 55, 56, 86, 87, 88]

COVALENT_RADII = np.array([np.nan, *map(float, _CORDERO.split())])  # entry 0 is no element


def bonding_radii(atomic_numbers: np.ndarray) -> np.ndarray:
    """The covalent radius of every atom, [N] float64 (angstrom); NaN for an element that makes no covalent bonds."""
    radii = COVALENT_RADII.copy()
    radii[_WITHOUT_BONDS] = np.nan
    known = (atomic_numbers > 0) & (atomic_numbers < len(radii))
    return radii[np.where(known, atomic_numbers, 0).astype(np.int64)]
