"""PDB files where neither MDTraj nor MDAnalysis is installed, and coarse-grained beads."""

import numpy as np
import pytest
from molecule_frames import ETHANOL_Z, NAMES, motion, nothing_unexpected, pdb_text, places, write, xyz_text

from geotdm_fast.data import file_dataset
from geotdm_fast.data.molecule_files import formats
from geotdm_fast.data.molecule_files.pdb import cell_of

pytestmark = pytest.mark.usefixtures("nothing_unexpected")
assert nothing_unexpected


@pytest.fixture
def without_packages(monkeypatch):
    monkeypatch.setattr(formats, "installed", lambda name: name == "ase")


def test_pdb(tmp_path, without_packages):
    x = motion()
    symbols = [name[0] for name in NAMES]
    path = write(tmp_path / "a.pdb", pdb_text(x, NAMES, elements=symbols, box=(1, 1, 1, 90, 90, 90)))
    dataset = file_dataset(path, span=20)
    assert dataset.atomic_numbers.tolist() == ETHANOL_Z.tolist()
    np.testing.assert_allclose(places(dataset), x, atol=6e-4)
    with pytest.raises(ValueError, match=r"selection must be None without MDTraj or MDAnalysis"):
        file_dataset(path, span=20, selection="name C1")


def test_pdb_without_the_element_column(tmp_path, without_packages):
    names = ["N", "CA", "C", "O", "HE1", "HE2"]
    x = motion(base=np.array([[0, 0, 0], [1.4, 0, 0], [2.8, 0, 0], [3.6, 0.9, 0], [1.4, 1.05, 0], [1.4, -1.05, 0]]))
    path = write(tmp_path / "a.pdb", pdb_text(x, names, "HIS"))
    with pytest.warns(
        UserWarning, match=r"6 atoms are taken from their names, .*a\.pdb states none: .*CA -> C, .*HE1 -> H"
    ):
        assert file_dataset(path, span=20).atomic_numbers.tolist() == [7, 6, 6, 8, 1, 1]
    path = write(tmp_path / "b.pdb", pdb_text(x, names, "LIG"))
    with pytest.raises(
        ValueError, match=r"b\.pdb has only names, which would have become CA -> Ca, HE1 -> He, HE2 -> He"
    ):
        file_dataset(path, span=20)
    with pytest.warns(UserWarning, match="3 atoms are taken from their names"):
        named = file_dataset(path, span=20, elements={"CA": "C", "HE1": "H", "HE2": "H"})
    assert named.atomic_numbers.tolist() == [7, 6, 6, 8, 1, 1]


def test_of_alternate_locations_the_likeliest_is_read(tmp_path, without_packages):
    names = ["N", "CA", "CA", "C", "O", "O"]
    alternate = [(" ", 1.0), ("A", 0.4), ("B", 0.6), (" ", 1.0), ("A", 0.5), ("B", 0.5)]
    x = motion(base=np.array([[0, 0, 0], [1.4, 0.5, 0], [1.4, 0, 0], [2.8, 0, 0], [4.0, 0, 0], [4.0, 0.5, 0]]))
    path = write(tmp_path / "a.pdb", pdb_text(x, names, "ALA", [n[0] for n in names], alternate=alternate))
    with pytest.warns(UserWarning, match=r"a\.pdb: 4 of 6 records are alternate locations .* highest occupancy"):
        dataset = file_dataset(path, span=20)
    assert dataset.atomic_numbers.tolist() == [7, 6, 6, 8]
    np.testing.assert_allclose(places(dataset), x[:, [0, 2, 3, 4]], atol=6e-4)


def test_pdb_across_its_box(tmp_path, without_packages):
    x = motion(drift=(0.3, 0, 0)) + 4
    box = (9.0, 10, 11, 80, 95, 70)
    cell = cell_of(np.array([box[:3]]), np.array([box[3:]]))[0]
    wrapped = np.mod(x @ np.linalg.inv(cell), 1) @ cell
    path = write(tmp_path / "a.pdb", pdb_text(wrapped, NAMES, elements=[n[0] for n in NAMES], box=box))
    with pytest.warns(UserWarning):
        found = places(file_dataset(path, span=20))
    np.testing.assert_allclose(found - found[0, 0], x - x[0, 0], atol=3e-3)


def test_broken_pdb(tmp_path, without_packages):
    x, symbols = motion(3), [name[0] for name in NAMES]
    good = pdb_text(x, NAMES, elements=symbols)
    one_more = "ATOM      1  H9  ETH A   1       0.000   0.000   0.000\nENDMDL"
    first = good[good.index("ATOM") + 30 :][:8]
    for text, message in (
        ("nothing\n", "must have ATOM records, got none"),
        (good.replace("ENDMDL", one_more, 1), "same atoms in every frame, got 9 instead of 10 in frame 1"),
        (good.replace(" O3 ", " O4 ", 2).replace(" O4 ", " O3 ", 1), "got others in frame 1: ' O4"),
        (good.replace(first, "   x.xxx", 1), "columns 31-54 of frame 0 must be coordinates"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"file_dataset: .*a\.pdb.*{message}"):
            file_dataset(write(tmp_path / "a.pdb", text), span=2)


def test_beads_by_name(tmp_path):
    base = np.array([[0.0, 0, 0], [3.5, 0, 0], [7.0, 0, 0], [7.0, 3.5, 0]])
    path = write(tmp_path / "a.xyz", xyz_text(motion(base=base), ["BB", "BB", "BB", "SC1"]))
    with pytest.raises(
        ValueError, match=r"BB -> B, SC1 -> Sc .*beads of a coarse-grained model are told apart by types: name"
    ):
        file_dataset(path, span=20)
    dataset = file_dataset(path, span=20, types="name")
    assert dataset[0].h.tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert dataset[0].edge_index.shape == (2, 12) and dataset.atomic_numbers is None
    assert file_dataset(path, span=20, types="name", cutoff=4.0)[0].edge_index.shape == (2, 6)
    shared = file_dataset(path, span=20, types=["SC1", "SC2", "BB"], bonds=[[0, 1], [1, 2], [2, 3]], max_hops=2)
    assert shared[0].h.tolist()[3] == [1, 0, 0] and shared[0].edge_index.shape == (2, 10)
    assert shared[0].edge_attr.shape == (10, 3)
    with pytest.raises(ValueError, match=r"types must hold the names of all beads, \['BB'\] lacks 'SC1'"):
        file_dataset(path, span=20, types=["BB"])
    with pytest.raises(
        ValueError, match=r"cutoff must be longer than the distances of beads, got 1\.0, which leaves no edge"
    ):
        file_dataset(path, span=20, types="name", cutoff=1.0)
