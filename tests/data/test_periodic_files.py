"""Periodic boxes of files go with the data, and atoms are followed through triclinic ones that change, as is known."""

import numpy as np
import pytest
from boxed import TRICLINIC, assert_followed, lower_triangular, waters
from molecule_frames import dump_text, pdb_text, xyz_text

from geotdm_fast.data import file_dataset, open_dataset
from geotdm_fast.data.convert import to_dataset
from geotdm_fast.data.molecule_files import formats

WALK = lower_triangular(waters(frames=40))
FIXED = waters(frames=40, changes=False)
LABELS = ["OHH"[i % 3] for i in range(15)]
MDANALYSIS = pytest.param(
    "mdanalysis", marks=pytest.mark.skipif(not formats.installed("mdanalysis"), reason="MDAnalysis is not installed")
)

pytestmark = pytest.mark.filterwarnings("ignore:.*(made whole|jumps across|molecule_graph)")


def write_pdb(path, walk, frames=slice(1), box=None):
    bonds = "".join(f"CONECT{a + 1:5d}{b + 1:5d}\n" for a, b in walk.bonds.tolist())
    names = [f"{label}{i % 3 + 1}" for i, label in enumerate(LABELS)]
    path.write_text(pdb_text(walk.wrapped[frames], names, "LIG", LABELS, box).replace("END\n", bonds + "END\n"))
    return path


def write_mdtraj(path, walk):
    mdtraj = pytest.importorskip("mdtraj")
    top = mdtraj.Topology()
    chain = top.add_chain()
    for i, label in enumerate(LABELS):
        if i % 3 == 0:
            residue = top.add_residue("HOH", chain)
        top.add_atom(f"{label}{i}", mdtraj.element.Element.getBySymbol(label), residue)
    made = mdtraj.Trajectory((walk.wrapped / 10).astype(np.float32), top)
    made.unitcell_vectors = (walk.cells / 10).astype(np.float32)
    made.save(str(path))


def write_dump(path, walk):
    """A general triclinic box: three vectors and an origin."""
    bounds = lambda t: "\n".join(" ".join(f"{v:.9f}" for v in [*row, 1.5]) for row in walk.cells[t])
    line = lambda t, i: f"{i + 1} {LABELS[i]} " + " ".join(f"{v:.7f}" for v in walk.wrapped[t, i])
    path.write_text(dump_text(walk.wrapped, "id element x y z", line, bounds, "abc origin pp pp pp"))


def write_extxyz(path, walk):
    lattice = lambda t: " ".join(f"{v:.9f}" for v in walk.cells[t].ravel())
    comment = lambda t: f'Lattice="{lattice(t)}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    path.write_text(xyz_text(walk.wrapped, LABELS, comment))


def atoms_of(walk, pbc=True):
    ase = pytest.importorskip("ase")
    return [ase.Atoms(LABELS, x, cell=cell, pbc=pbc) for x, cell in zip(walk.wrapped, walk.cells, strict=True)]


def write_ase(path, walk):
    frames = atoms_of(walk)
    with pytest.importorskip("ase.io").Trajectory(str(path), "w") as file:
        for atoms in frames:
            file.write(atoms)


def found(dataset):
    return dataset[0].x.permute(2, 0, 1).double().numpy()


@pytest.mark.parametrize("reader", ["mdtraj", MDANALYSIS])
@pytest.mark.parametrize(("suffix", "within"), [("xtc", 0.02), ("trr", 1e-4), ("dcd", 1e-3), ("nc", 1e-3)])
def test_trajectories_of_simulation_packages(tmp_path, suffix, within, reader):
    write_mdtraj(tmp_path / f"w.{suffix}", WALK)
    topology = write_pdb(tmp_path / "w.pdb", WALK)
    dataset = file_dataset(tmp_path / f"w.{suffix}", topology, reader=reader, span=40)
    # Far from its box an atom is off by its rounded vectors, so many times.
    assert_followed(found(dataset), WALK, within)
    assert dataset[0].pbc.tolist() == [True] * 3
    np.testing.assert_allclose(dataset[0].cell.numpy(), WALK.cells, atol=1e-4)
    without = file_dataset(tmp_path / f"w.{suffix}", topology, reader=reader, span=40, box="no")
    assert without[0].cell is None and np.allclose(found(without), found(dataset))


@pytest.mark.parametrize(("name", "write"), [("w.dump", write_dump), ("w.extxyz", write_extxyz), ("w.traj", write_ase)])
@pytest.mark.parametrize("walk", [waters(frames=40), lower_triangular(waters(frames=40)), FIXED])
def test_files_that_hold_any_box(tmp_path, name, write, walk):
    write(tmp_path / name, walk)
    dataset = file_dataset(tmp_path / name, span=40, bonds=walk.bonds)
    assert_followed(found(dataset), walk)
    if walk is FIXED:
        assert dataset[0].cell.shape == (3, 3)
        np.testing.assert_allclose(dataset[0].cell.numpy(), TRICLINIC, atol=1e-6)
    else:
        np.testing.assert_allclose(dataset[0].cell.numpy(), walk.cells, atol=1e-5)


def test_a_pdb_has_one_box_for_all_models(tmp_path):
    lengths = np.linalg.norm(TRICLINIC, axis=1)
    angle = lambda i, j: np.degrees(np.arccos(TRICLINIC[i] @ TRICLINIC[j] / lengths[i] / lengths[j]))
    box = [*lengths, angle(1, 2), angle(0, 2), angle(0, 1)]
    path = write_pdb(tmp_path / "w.pdb", FIXED, slice(None), box)
    dataset = file_dataset(path, span=40)
    assert_followed(found(dataset), FIXED, within=0.02)
    np.testing.assert_allclose(dataset[0].cell.numpy(), TRICLINIC, atol=5e-3)


def test_stored_positions_come_with_their_boxes(tmp_path):
    write_extxyz(tmp_path / "w.xyz", WALK)
    section = {"kind": "file", "path": str(tmp_path / "w.xyz"), "span": 5, "stride": 5, "unwrap": "no"}
    dataset = open_dataset(section | {"bonds": WALK.bonds.tolist(), "frames": [3, None, 2]}, progress=False)
    chosen = slice(3, None, 2)
    np.testing.assert_allclose(dataset[2].x.permute(2, 0, 1), WALK.wrapped[chosen][10:15], atol=1e-4)
    np.testing.assert_allclose(dataset[2].cell.numpy(), WALK.cells[chosen][10:15], atol=1e-5)


def test_splits_have_the_boxes_of_their_frames(tmp_path):
    write_extxyz(tmp_path / "w.xyz", WALK)
    for split, first in (("train", 0), ("val", 24), ("test", 32)):
        dataset = file_dataset(tmp_path / "w.xyz", split=split, span=5, bonds=WALK.bonds)
        np.testing.assert_allclose(dataset[1].cell.numpy(), WALK.cells[first + 1 : first + 6], atol=1e-5)


@pytest.mark.parametrize("walk", [WALK, FIXED])
def test_a_list_of_atoms_is_in_its_box(walk):
    dataset = to_dataset(atoms_of(walk))
    item = dataset[0]
    np.testing.assert_allclose(item.cell.numpy(), TRICLINIC if walk is FIXED else walk.cells, rtol=1e-6)
    alone = to_dataset([atoms_of(walk), atoms_of(walk)], {"kind": "file", "unwrap": "no"})
    assert len(alone) == 2
    np.testing.assert_allclose(found(alone), walk.wrapped, atol=1e-4)
    assert to_dataset(atoms_of(walk), {"kind": "npz", "box": "no"})[0].cell is None
    assert to_dataset(atoms_of(walk, pbc=False))[0].cell is None


def test_atoms_that_change_their_periodic_directions():
    frames = atoms_of(WALK)
    frames[3].pbc = [True, False, True]
    with pytest.raises(ValueError, match=r"frame 3 of trajectory 0 must have the periodic directions of the first"):
        to_dataset(frames)


def test_in_memory_the_advice_is_what_the_caller_can_do():
    """unwrap and box are no arguments of `Model.forecast`."""
    flat = [atoms.copy() for atoms in atoms_of(WALK)[:3]]
    for atoms in flat:
        atoms.set_cell(np.ones((3, 3)))
    for data, arrays, advice in (
        (atoms_of(WALK), {}, "atoms whose pbc is False are taken as they are"),
        (WALK.wrapped, {"z": WALK.z, "cell": WALK.cells}, "positions without cell are taken as they are"),
        (WALK.wrapped[None], {"z": WALK.z, "cell": WALK.cells}, "positions without cell are taken as they are"),
    ):
        with pytest.warns(UserWarning, match="jumps across the box were mended") as told:
            to_dataset(data, {}, "forecast", **arrays)
        (said,) = [str(w.message) for w in told if "jumps" in str(w.message)]
        assert advice in said and "unwrap" not in said
    with pytest.raises(ValueError, match=r"forecast: cell .*; atoms whose pbc is False are taken as they are") as told:
        to_dataset(flat, {}, "forecast")
    assert "unwrap" not in str(told.value)
    with pytest.raises(ValueError, match=r"forecast: cell .*; positions without cell are taken as they are"):
        to_dataset(np.ones((3, 2, 3)), {"kind": "nbody", "system": "gravity"}, "forecast", cell=np.ones((3, 3)))
    steps = np.diff(found(to_dataset(atoms_of(WALK, pbc=False))), axis=0)
    np.testing.assert_allclose(steps, np.diff(WALK.wrapped, axis=0), atol=1e-4)


def test_positions_in_memory_with_a_box():
    dataset = to_dataset(WALK.wrapped, z=WALK.z, bonds=WALK.bonds, cell=WALK.cells, pbc=[True] * 3)
    assert_followed(found(dataset), WALK)
    system = {"kind": "nbody", "system": "gravity", "split": "test"}
    item = to_dataset(WALK.x[:, ::3], system, cell=WALK.cells)[0]
    np.testing.assert_allclose(item.cell.numpy(), WALK.cells, rtol=1e-6)


@pytest.mark.parametrize(
    ("cell", "message"),
    [(np.full((3, 3), np.nan), "the cell must be finite"), (np.ones((3, 3)), "the cell must span a volume")],
)
def test_boxes_that_are_none(tmp_path, cell, message):
    walk = FIXED._replace(cells=np.broadcast_to(cell, (40, 3, 3)))
    write_extxyz(tmp_path / "w.xyz", walk)
    with pytest.raises(ValueError, match=rf"w\.xyz: {message}, got .* in frame 0; unwrap: no .* box: no"):
        file_dataset(tmp_path / "w.xyz", span=40)
    dataset = file_dataset(tmp_path / "w.xyz", span=40, unwrap="no", box="no", bonds=FIXED.bonds)
    assert dataset[0].cell is None


def test_a_box_that_ends(tmp_path):
    cells = TRICLINIC * np.ones((40, 1, 1))
    cells[25:] = 0
    write_extxyz(tmp_path / "w.xyz", FIXED._replace(cells=cells))
    for more in ({}, {"unwrap": "no"}, {"box": "no"}):
        with pytest.raises(ValueError, match="every frame must have a box, as the first has; got none in frames 0 to"):
            file_dataset(tmp_path / "w.xyz", span=40, bonds=FIXED.bonds, **more)
