"""The page of samples without a browser: atoms, residues, chains and bonds of a file beside the samples."""

import sys

import numpy as np
import pytest
from page_pictures import written
from tiny_models import ETHANOL, made_samples

from geotdm_fast.cli import main
from geotdm_fast.plots.page import write_page
from geotdm_fast.plots.topology import read_topology
from geotdm_fast.samples.npz import write_samples

_ATOMS = [
    ("N", "ALA", "A", 5), ("CA", "ALA", "A", 5), ("C", "ALA", "A", 5), ("N", "GLY", "A", 6), ("CA", "GLY", "B", 6),
]  # fmt: skip
PDB = "".join(
    f"ATOM  {i + 1:5d} {name:<4s} {residue} {chain}{number:4d}    {i * 1.2:8.3f}   0.000   0.000  1.00  0.00"
    f"{name[0]:>12s}\n"
    for i, (name, residue, chain, number) in enumerate(_ATOMS)
)
SDF = """water

  made
  4  3  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.2000    0.0000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
   -0.6000    0.9000    0.0000 H   0  0  0  0  0  0  0  0  0  0  0  0
   -0.6000   -0.9000    0.0000 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  2  0
  1  3  1  0
  1  4  1  0
M  END
$$$$
"""


def test_residues_and_chains_of_a_pdb(tmp_path):
    (tmp_path / "a.pdb").write_text(PDB + "END\n")
    topology = read_topology(tmp_path / "a.pdb")
    assert topology.names == ["N", "CA", "C", "N", "CA"] and topology.numbers.tolist() == [7, 6, 6, 7, 6]
    assert topology.residue.tolist() == [0, 0, 0, 1, 2] and topology.residues == ["ALA 5", "GLY 6", "GLY 6"]
    assert topology.chain.tolist() == [0, 0, 0, 0, 1] and topology.chains == ["A", "B"]
    named = topology.named()
    assert named["kind_names"] == ["ALA", "GLY"] and named["kinds"] == [0, 1, 1]


def test_a_selection_of_the_atoms(tmp_path):
    pytest.importorskip("mdtraj")
    (tmp_path / "a.pdb").write_text(PDB + "END\n")
    topology = read_topology(tmp_path / "a.pdb", "name CA")
    assert topology.names == ["CA", "CA"] and topology.residue.tolist() == [0, 1]
    assert topology.residues == ["ALA 5", "GLY 6"] and topology.kinds == ["ALA", "GLY"]
    assert topology.chain.tolist() == [0, 1] and topology.chains == ["A", "B"]
    last = read_topology(tmp_path / "a.pdb", "index 4").named()
    assert last["residues"] == ["GLY 6"] and last["kind_names"] == ["GLY"] and last["chains"] == ["B"]
    with pytest.raises(ValueError, match="selection='name ==' must choose atoms"):
        read_topology(tmp_path / "a.pdb", "name ==")
    np.savez(tmp_path / "a.npz", z=ETHANOL)
    with pytest.raises(ValueError, match="selection must be None for a file of this kind, got 'name C'"):
        read_topology(tmp_path / "a.npz", "name C")
    with pytest.raises(ValueError, match="selection must come with a topology, got 'all' alone"):
        write_page(made_samples(nodes=9), tmp_path / "a.html", selection="all")


def test_residues_without_readers_of_topologies(tmp_path, monkeypatch):
    for package in ("mdtraj", "MDAnalysis"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("geotdm_fast.data.molecule_files.formats.installed", lambda reader: False)
    (tmp_path / "a.pdb").write_text(PDB + "END\n")
    topology = read_topology(tmp_path / "a.pdb")
    assert topology.residues == ["ALA 5", "GLY 6", "GLY 6"] and topology.chains == ["A", "B"] and topology.bonds is None
    # A number need not be decimal, and a letter may tell two residues of one number apart.
    (tmp_path / "b.pdb").write_text(
        PDB.replace("GLY A   6 ", "GLY AA000 ").replace("GLY B   6 ", "GLY A   6B") + "END\n"
    )
    assert read_topology(tmp_path / "b.pdb").residues == ["ALA 5", "GLY A000", "GLY 6B"]


def test_orders_of_bonds(tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "a.sdf").write_text(SDF)
    topology = read_topology(tmp_path / "a.sdf")
    assert topology.bonds.tolist() == [[0, 1, 2], [0, 2, 1], [0, 3, 1]] and topology.names is None
    heavy = topology.of(2, np.array([6, 8]))
    assert heavy.bonds.tolist() == [[0, 1, 2]] and heavy.numbers.tolist() == [6, 8]


def test_arrays_of_a_topology(tmp_path):
    pairs = np.array([[1, 0], [0, 1], [1, 2], [2, 2], [2, 8]])
    np.savez(
        tmp_path / "a.npz", z=ETHANOL, bonds=pairs, orders=np.array([2, 2, 4, 1, 7]), resnames=["ETH"] * 8 + ["END"]
    )
    topology = read_topology(tmp_path / "a.npz")
    assert topology.bonds.tolist() == [[0, 1, 2], [1, 2, 4], [2, 8, 0]]  # once each, and no order that nobody knows
    assert topology.residues == ["ETH 1", "END 2"] and topology.chain is None
    # Atoms to which the file gives no bond get those by distance, of an unknown order.
    with pytest.warns(
        UserWarning,
        match=r"plot: the bonds of the topology leave 5 atoms without any \(3, 4, 5, 6, 7\); 5 bonds were added",
    ):
        content = written(tmp_path / "a.html", made_samples(nodes=9), topology=tmp_path / "a.npz")
    by_distance = [0, 4, 0, 0, 5, 0, 0, 6, 0, 1, 7, 0, 2, 3, 0]
    assert content["topologies"][0]["bonds"] == [0, 1, 2, 1, 2, 4, 2, 8, 0, *by_distance]
    assert content["topologies"][0]["bonded"] == [1] * 9
    assert content["topologies"][0]["residue"] == [0] * 8 + [1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, r"must hold z, names, resid, resnames or chains, got \['x'\]"),
        ({"z": np.array(6)}, r"z must be \[1\], whole numbers, got int64 \[\]"),
        ({"z": np.full(9, 200)}, "z must be atomic numbers, got 200..200"),
        ({"z": ETHANOL, "names": ["C"] * 4}, r"must be \[4\], whole numbers, got int64 \[9\]"),
        ({"z": ETHANOL, "bonds": np.array([[0, 9]])}, r"bonds must be in 0..8, got 0..9"),
        ({"z": ETHANOL, "bonds": np.zeros((2, 3), int)}, r"bonds must be \[M, 2\], whole numbers; got \[2, 3\]"),
        (
            {"z": ETHANOL, "bonds": np.array([[0, 1]]), "orders": np.ones(2, int)},
            r"orders must be \[1\], whole numbers",
        ),
        ({"z": ETHANOL[:5]}, "must have the 9 atoms of a system, got 5, 3 of them other than hydrogen"),
        ({"z": ETHANOL[::-1].copy()}, "must have the elements of the samples, C for atom 0; got H"),
    ],
)
def test_topologies_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        write_page(made_samples(nodes=9), tmp_path / "a.html", topology=tmp_path / "a.npz")
    assert not (tmp_path / "a.html").exists()


def test_command(tmp_path, capsys):
    write_samples(tmp_path / "s.npz", made_samples(nodes=9))
    np.savez(tmp_path / "top.npz", z=ETHANOL, resnames=["ETH"] * 9)
    command = ["plot", str(tmp_path / "s.npz"), "--topology", str(tmp_path / "top.npz"), "--out"]
    assert main([*command, str(tmp_path / "a.html")]) == 0
    assert '"kind_names":["ETH"]' in (tmp_path / "a.html").read_text()
    assert main([*command, str(tmp_path / "a.png")]) == 2
    assert "--topology and --selection are for a page, --out must end in .html" in capsys.readouterr().err
    command[3] = str(tmp_path / "none.pdb")
    assert main([*command, str(tmp_path / "a.html")]) == 2
    assert "none.pdb: no such file" in capsys.readouterr().err
