"""Which names of atoms mean one element beyond doubt."""

import numpy as np
import pytest

from geotdm_fast.data.molecule_files.contents import Atoms
from geotdm_fast.data.molecule_files.elements import elements_of, stated

PLAIN = {"C": 6, "C12": 6, "H5": 1, "CL1": 17, "BR": 35, "F2": 9, "S1": 16, "P": 15, "I3": 53, "o1": 8}
OF_AMINO_ACIDS = {
    "N": 7, "CA": 6, "C": 6, "O": 8, "OXT": 8, "OC1": 8, "OT2": 8, "HN": 1, "H1": 1, "HT3": 1, "1HB": 1, "HA2": 1,
    "CB": 6, "CG1": 6, "CD": 6, "CE3": 6, "CZ2": 6, "CH2": 6, "CH3": 6, "NE1": 7, "ND2": 7, "NZ": 7, "NH1": 7, "SG": 16,
    "SD": 16, "OCT1": 8, "HNE2": 1, "OG": 8, "OD1": 8, "OE2": 8, "OH": 8,
    "HG": 1, "HE1": 1, "HH11": 1, "HD11": 1, "HH31": 1,
}  # fmt: skip
OF_NUCLEOTIDES = {
    "P": 15, "OP1": 8, "O2P": 8, "C5'": 6, "H5''": 1, "HO2'": 1, "N1": 7, "O4": 8, "C2*": 6, "H5T": 1, "C5M": 6
}  # fmt: skip
OF_WATER = {"OW": 8, "OH2": 8, "HW1": 1, "HW2": 1, "O": 8, "H1": 1}
DOUBTFUL = [
    ("CA", "LIG"), ("CA", "CA"), ("HE", "LIG"), ("NA+", "ION"), ("W", "W"), ("BB", "LYS"), ("SC1", "LYS"),
    ("SC2", "TRP"), ("MW", "SOL"), ("CAB", "UNK"), ("HO", "LIG"), ("1", "LIG"), ("", "LIG"),
    ("CO", "HEM"), ("EPW", "HOH"),
    ("CD", "CD"),
]  # fmt: skip


def table(names, residues, numbers=None):
    numbers = np.zeros(len(names), np.int64) if numbers is None else np.array(numbers)
    return Atoms(list(names), numbers, "file", residues=list(residues))


@pytest.mark.parametrize(
    "names, residue", [(PLAIN, "LIG"), (OF_AMINO_ACIDS, "LYS"), (OF_NUCLEOTIDES, "DA"), (OF_WATER, "SOL")]
)
def test_names_that_leave_no_doubt(names, residue):
    atoms = table(names, [residue] * len(names))
    with pytest.warns(UserWarning, match=rf"here: the elements of {len(names)} atoms are taken from their names, file"):
        assert elements_of("here", atoms, np.arange(len(names)), None).tolist() == list(names.values())


@pytest.mark.parametrize("name, residue", DOUBTFUL)
def test_names_that_leave_some(name, residue):
    with pytest.raises(ValueError, match="here: the element of every atom must be stated"):
        elements_of("here", table([name], [residue]), np.arange(1), None)
    given = elements_of("here", table([name], [residue]), np.arange(1), {name: "Fe"})
    assert given.tolist() == [26]


def test_only_the_chosen_atoms_count():
    atoms = table(["BB", "C1"], ["LYS", "LIG"], [0, 6])
    assert elements_of("here", atoms, np.array([1]), None).tolist() == [0, 6]


def test_what_the_user_says_comes_first():
    atoms = table(["C1", "C2"], ["LIG", "LIG"], [6, 6])
    assert elements_of("here", atoms, np.arange(2), {"C2": 14}).tolist() == [6, 14]
    assert elements_of("here", atoms, np.arange(2), ["Si", "D"]).tolist() == [14, 1]


@pytest.mark.parametrize("symbol, number", [("Ca", 20), ("CA", 20), ("h", 1), ("", 0), ("Xx", 0), ("D", 1), ("C1", 0)])
def test_symbols_as_they_are_written(symbol, number):
    assert stated(symbol) == number
