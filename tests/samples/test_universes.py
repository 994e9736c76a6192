"""Samples of molecules as objects of MDTraj, MDAnalysis and ASE: what goes in comes out, boxes, times and bonds too."""

import dataclasses

import numpy as np
import pytest
from test_exports_in_boxes import TURNED, WALK, samples_of, written
from tiny_models import ETHANOL, made_samples

from geotdm_fast.samples.molecule_exports import export_molecules
from geotdm_fast.samples.wrapping import lengths_and_angles, wrapped

ETHANOLS = made_samples(graphs=2, nodes=9, num_samples=2)
# [graphs, K, T, N, 3]
POSITIONS = ETHANOLS.forecasts().reshape(2, 2, 9, 3, 12).transpose(1, 0, 4, 2, 3)
FLATTENED = POSITIONS.reshape(-1, 9, 3)
WATERS = samples_of(WALK)
WATER_BONDS = {(0, 1), (0, 2), (3, 4), (3, 5), (6, 7), (6, 8)}
IN_ORDER = [(graph, sample, frame) for graph in range(2) for sample in range(2) for frame in range(12)]


def pairs(bonds):
    return {tuple(sorted(map(int, pair))) for pair in bonds}


def bonds_of(found):
    """Of a trajectory of MDTraj or a universe of MDAnalysis."""
    if hasattr(found, "bonds"):
        return pairs(found.bonds.indices)
    return pairs((a.index, b.index) for a, b in found.topology.bonds)


def test_mdtraj():
    pytest.importorskip("mdtraj")
    found = ETHANOLS.to_mdtraj()
    # One rounding, of the division.
    assert np.array_equal(found.xyz, FLATTENED / np.float32(10))
    np.testing.assert_allclose(found.xyz * 10, FLATTENED, rtol=2e-7)
    assert [atom.element.atomic_number for atom in found.topology.atoms] == ETHANOL.tolist()
    assert found.time.tolist() == list(range(48)) and found.unitcell_lengths is None
    one = ETHANOLS.to_mdtraj(graph=1, sample=0)
    assert np.array_equal(one.xyz * np.float32(10), POSITIONS[1, 0] / np.float32(10) * np.float32(10))
    assert one.time.tolist() == list(range(12))
    bonds = pairs((a.index, b.index) for a, b in found.topology.bonds)
    # C-C, C-O, O-H and five C-H
    assert len(bonds) == 8 and {(0, 1), (1, 2)} <= bonds


def test_mdtraj_boxes_times_and_residues():
    pytest.importorskip("mdtraj")
    found, truth = WATERS.to_mdtraj(), written(WALK)
    np.testing.assert_allclose(found.xyz * 10, truth.x, atol=1e-5)
    lengths, angles = lengths_and_angles(truth.cells)
    np.testing.assert_allclose(found.unitcell_lengths * 10, lengths, rtol=1e-6)
    np.testing.assert_allclose(found.unitcell_angles, angles, rtol=1e-6)
    np.testing.assert_allclose(found.unitcell_vectors * 10, truth.cells, atol=1e-5)
    assert found.time.tolist() == [0.5 * frame for frame in range(16)]
    assert pairs((a.index, b.index) for a, b in found.topology.bonds) == WATER_BONDS
    assert [(atom.name, atom.residue.name, atom.residue.resSeq) for atom in found.topology.atoms][2:5] == [
        ("H3", "MOL", 1),
        ("O4", "MOL", 2),
        ("H5", "MOL", 2),
    ]


def test_mdtraj_equals_the_files_that_are_written(tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    export_molecules(tmp_path / "s.dcd", WATERS, progress=False, wrap="molecules")
    read, made = mdtraj.load(str(tmp_path / "s.dcd"), top=str(tmp_path / "s.pdb")), WATERS.to_mdtraj(wrap="molecules")
    np.testing.assert_allclose(made.xyz, read.xyz, atol=1e-6)
    np.testing.assert_allclose(made.unitcell_vectors, read.unitcell_vectors, atol=1e-6)


@pytest.mark.parametrize(("method", "holder"), [("to_mdtraj", "MDTraj"), ("to_mdanalysis", "MDAnalysis")])
def test_boxes_that_they_cannot_have_are_turned_or_left_out(method, holder):
    pytest.importorskip("mdtraj" if method == "to_mdtraj" else "MDAnalysis")
    with pytest.warns(
        UserWarning, match=rf"Samples\.{method}: {holder} has boxes whose first vector .* 2 trajectories"
    ):
        found = getattr(samples_of(TURNED), method)()
    truth = written(TURNED)
    x = found.xyz * 10 if method == "to_mdtraj" else np.array([ts.positions for ts in found.trajectory])
    distances = lambda x: np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
    np.testing.assert_allclose(distances(x), distances(truth.x), atol=1e-4)
    assert np.abs(x - truth.x).max() > 1  # it was turned
    with pytest.warns(UserWarning, match=r"without a box; \.xyz and ASE have it"):
        found = getattr(samples_of(WALK, pbc=(1, 1, 0)), method)()
    assert (found.unitcell_lengths if method == "to_mdtraj" else found.dimensions) is None
    with pytest.warns(UserWarning, match="positions are far from 0, where float32 blurs them"):
        getattr(dataclasses.replace(WATERS, origin=np.full((2, 3), 1e6)), method)()


def test_mdanalysis():
    pytest.importorskip("MDAnalysis")
    universe = ETHANOLS.to_mdanalysis()
    x = np.array([ts.positions.copy() for ts in universe.trajectory])
    assert x.dtype == np.float32 and np.array_equal(x, FLATTENED)
    assert universe.atoms.elements.tolist() == universe.atoms.types.tolist() == ["C", "C", "O", *"HHHHHH"]
    assert universe.atoms.masses[:3].tolist() == [12.011, 12.011, 15.999]
    assert [ts.time for ts in universe.trajectory] == list(range(48)) and universe.dimensions is None
    one = ETHANOLS.to_mdanalysis(graph=1, sample=1)
    assert np.array_equal([ts.positions.copy() for ts in one.trajectory], POSITIONS[1, 1])
    assert len(one.bonds) == 8 and len(one.atoms.fragments) == 1


def test_mdanalysis_boxes_times_and_residues():
    pytest.importorskip("MDAnalysis")
    universe, truth = WATERS.to_mdanalysis(), written(WALK)
    vectors = np.array([ts.triclinic_dimensions for ts in universe.trajectory])
    np.testing.assert_allclose(vectors, truth.cells, atol=1e-5)
    dimensions = np.array([ts.dimensions.copy() for ts in universe.trajectory])
    np.testing.assert_allclose(dimensions, np.concatenate(lengths_and_angles(truth.cells), axis=1), rtol=1e-6)
    assert [ts.time for ts in universe.trajectory] == [0.5 * frame for frame in range(16)]
    assert pairs(universe.bonds.indices) == WATER_BONDS
    assert (
        universe.residues.resnames.tolist() == ["MOL"] * 3
        and universe.atoms.resids.tolist() == [1] * 3 + [2] * 3 + [3] * 3
    )


def test_ase():
    pytest.importorskip("ase")
    frames = ETHANOLS.to_ase()
    assert np.array_equal(np.array([frame.positions for frame in frames]), FLATTENED.astype(np.float64))
    assert [(f.info["graph"], f.info["sample"], f.info["frame"]) for f in frames] == IN_ORDER
    assert [f.info["given"] for f in frames[:12]] == [True] * 4 + [False] * 8
    assert all(f.numbers.tolist() == ETHANOL.tolist() and not f.pbc.any() and "time" not in f.info for f in frames)
    one = ETHANOLS.to_ase(graph=1, sample=0)
    assert np.array_equal(np.array([frame.positions for frame in one]), POSITIONS[1, 0].astype(np.float64))


def test_ase_boxes_of_any_kind():
    pytest.importorskip("ase")
    truth = written(TURNED)
    frames = samples_of(TURNED, pbc=(1, 0, 1)).to_ase(wrap="atoms")
    cells = np.array([np.array(frame.cell) for frame in frames])
    assert np.array_equal(cells, truth.cells.astype(np.float32).astype(np.float64))
    assert all(frame.pbc.tolist() == [True, False, True] for frame in frames)
    assert [frame.info["time"] for frame in frames] == [0.5 * frame for frame in range(16)]
    expected = wrapped(truth.x.astype(np.float32), truth.cells, np.array([True, False, True]))
    np.testing.assert_allclose([frame.positions for frame in frames], expected, atol=1e-5)


def test_ase_takes_graphs_that_differ_and_the_others_say_so():
    pytest.importorskip("ase")
    mixed = dataclasses.replace(ETHANOLS, atomic_numbers=np.concatenate([ETHANOL, np.full(9, 18)]))
    assert {str(frame.symbols) for frame in mixed.to_ase()} == {"C2OH6", "Ar9"}
    pytest.importorskip("mdtraj")
    with pytest.raises(ValueError, match=r"Samples\.to_mdtraj: all graphs must be the same molecule, graph 1 is"):
        mixed.to_mdtraj()
    assert mixed.to_mdtraj(graph=1).topology.n_bonds == 0  # noble gases are alone


@pytest.mark.parametrize(("method", "package"), [("to_mdtraj", "mdtraj"), ("to_mdanalysis", "MDAnalysis")])
def test_graphs_of_the_same_elements_and_other_bonds_are_told(method, package, tmp_path):
    """In the second graph a carbon and the oxygen have changed places: C-O-C in place of C-C-O."""
    pytest.importorskip(package)
    swapped = np.arange(18)
    swapped[[10, 11]] = 11, 10
    arrays = {name: getattr(ETHANOLS, name) for name in ("samples", "target", "x_given")}
    moved = {name: x[:, swapped] if name == "samples" else x[swapped] for name, x in arrays.items()}
    isomers = dataclasses.replace(ETHANOLS, **moved)
    with pytest.raises(
        ValueError,
        match=rf"Samples\.{method}: all graphs must be the same molecule, graph 1 has no bond of atoms 0 and 1 by",
    ):
        getattr(isomers, method)()
    for graph, bonded in ((0, {(0, 1), (1, 2)}), (1, {(0, 2), (1, 2)})):
        assert bonded <= bonds_of(getattr(isomers, method)(graph=graph))
    # What a file says of them all is taken for all, and where nobody knows the first frames they are not compared.
    conect = "".join(f"CONECT{1:5d}{other:5d}\n" for other in range(2, 10))
    lines = "".join(
        f"HETATM{i + 1:5d}  {'CCOHHHHHH'[i]}{i:<2d} LIG A   1    {i:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           "
        f"{'CCOHHHHHH'[i]}\n"
        for i in range(9)
    )
    (tmp_path / "l.pdb").write_text(lines + conect + "END\n")
    assert bonds_of(getattr(isomers, method)(topology=tmp_path / "l.pdb")) == {(0, i) for i in range(1, 9)}
    free = {"x_given": isomers.x_given[..., :0], "cond_mask": np.zeros(8, bool), "target": isomers.target[..., :0]}
    assert getattr(dataclasses.replace(isomers, mode="uncond", **free), method)() is not None


@pytest.mark.parametrize(("method", "package"), [("to_mdtraj", "mdtraj"), ("to_mdanalysis", "MDAnalysis")])
def test_bonds_of_what_was_drawn_are_those_before_it_was_wrapped(method, package):
    pytest.importorskip(package)
    x = WATERS.forecasts()
    # The first oxygen is at a corner of the box: wrapped, its hydrogens are at the other end.
    x = x - x[:, :1, :, :1]
    free = {"x_given": x[0, ..., :0], "cond_mask": np.zeros(8, bool), "target": x[0, ..., :0], "samples": x}
    free |= {"mode": "uncond", "cell": WATERS.cell[:, :1]}
    found = getattr(dataclasses.replace(WATERS, **free), method)(graph=0, wrap="atoms")
    assert bonds_of(found) == WATER_BONDS


def test_ase_goes_in_again():
    """What `Model.forecast` and a data set take: the frames of one trajectory."""
    pytest.importorskip("ase")
    from geotdm_fast.data.convert import to_dataset

    item = to_dataset(ETHANOLS.to_ase(graph=1, sample=0), {}, "here")[0]
    assert item.origin is None
    np.testing.assert_allclose(item.x.numpy(), ETHANOLS.forecasts()[0, 9:], atol=1e-6)


def test_residues_and_names_of_a_topology_in_ase(tmp_path):
    pytest.importorskip("ase")
    pytest.importorskip("mdtraj")
    export_molecules(tmp_path / "s.xtc", WATERS, progress=False)
    frames = WATERS.to_ase(graph=0, topology=tmp_path / "s.pdb")
    assert frames[5].arrays["residuenames"].tolist() == ["MOL"] * 9
    assert frames[5].arrays["residuenumbers"].tolist() == [1] * 9
    assert frames[5].arrays["atomtypes"].tolist()[:4] == ["O1", "H2", "H3", "O4"]


@pytest.mark.parametrize(
    ("method", "package"), [("to_mdtraj", "mdtraj"), ("to_mdanalysis", "MDAnalysis"), ("to_ase", "ase")]
)
def test_what_cannot_be_told(method, package):
    pytest.importorskip(package)
    with pytest.raises(
        ValueError, match=rf"Samples\.{method}: samples must be molecules in three dimensions, got 'N-b"
    ):
        getattr(made_samples(), method)()
    with pytest.raises(ValueError, match=rf"Samples\.{method}: graph must be in 0\.\.1, got 2"):
        getattr(ETHANOLS, method)(graph=2)
    with pytest.raises(ValueError, match=rf"Samples\.{method}: wrap must be one of no, atoms, molecules; got 'yes'"):
        getattr(ETHANOLS, method)(wrap="yes")
    with pytest.raises(ValueError, match="wrap must be no for samples without a periodic box"):
        getattr(ETHANOLS, method)(wrap="atoms")
    drawn = ETHANOLS.samples.copy()
    drawn[1, 3] = np.nan
    broken = dataclasses.replace(ETHANOLS, samples=drawn)
    with pytest.raises(ValueError, match=rf"Samples\.{method}: positions must be finite .* sample 1 of graph 0"):
        getattr(broken, method)()
    assert getattr(broken, method)(graph=1) is not None
