"""Periodic boxes and times in extended XYZ, DCD and XTC, wrapped or not, read back by ASE and MDTraj."""

import dataclasses
import struct

import numpy as np
import pytest
from boxed import TRICLINIC, lattice_shifts, lower_triangular, waters
from tiny_models import ethanol_config, made_samples, write_checkpoint, write_ethanol

from geotdm_fast.cli import main
from geotdm_fast.data import array_dataset, collate, file_dataset
from geotdm_fast.data.molecule_files.boxes import heights
from geotdm_fast.samples.molecule_exports import export_molecules
from geotdm_fast.samples.npz import read_samples, write_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.samples.wrapping import lengths_and_angles, molecules_of, wrapped
from geotdm_fast.samples.wrapping import lower_triangular as turned_lower
from geotdm_fast.task import Task

GIVEN, SPAN = 3, 8
TIMES = np.arange(16) * 0.5
WITHIN = {"xyz": 1e-5, "dcd": 2e-5, "xtc": 6e-3}


def samples_of(walk, pbc=(1, 1, 1), **more):
    """Two graphs and one sample, which is the truth; the boxes are those that the network was told."""
    of = {"z": walk.z, "bonds": walk.bonds, "cell": walk.cells, "pbc": pbc, "times": TIMES}
    dataset = array_dataset(walk.x, **of, span=SPAN, stride=8)
    batch = collate([*dataset])
    samples = make_samples(batch.x[None, ..., GIVEN:], batch, dataset, Task(given=[[0, GIVEN]]), seed=0, checkpoint="a")
    return dataclasses.replace(samples, **more)


def written(walk):
    """The truth as it is written: [T, N, 3] of both graphs, in the boxes that are known then."""
    known = [8 * g + min(t, GIVEN - 1) for g in range(2) for t in range(SPAN)]
    return walk._replace(cells=walk.cells[known])


def read(path):
    """Positions [T, N, 3], boxes' lengths and angles, and times."""
    if path.suffix == ".xyz":
        frames = pytest.importorskip("ase.io").read(path, index=":")
        cells = np.array([frame.cell.cellpar() for frame in frames])
        x = np.array([frame.positions for frame in frames])
        return x, cells[:, :3], cells[:, 3:], np.array([frame.info["time"] for frame in frames])
    mdtraj = pytest.importorskip("mdtraj")
    found = mdtraj.load(str(path), top=str(path.with_suffix(".pdb")))
    return found.xyz * 10, found.unitcell_lengths * 10, found.unitcell_angles, found.time


WALK = lower_triangular(waters(frames=16, molecules=3))
TURN = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
TURN *= np.linalg.det(TURN)
TURNED = WALK._replace(x=WALK.x @ TURN, cells=WALK.cells @ TURN)
LEFT = TURNED._replace(cells=TURNED.cells * np.array([1, 1, -1])[:, None])


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
def test_boxes_and_times_are_read_back(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    assert export_molecules(path, samples_of(WALK), progress=False) == 16
    x, lengths, angles, times = read(path)
    truth = written(WALK)
    np.testing.assert_allclose(x, truth.x, atol=WITHIN[suffix])
    expected = lengths_and_angles(truth.cells)
    np.testing.assert_allclose(lengths, expected[0], atol=1e-4)
    np.testing.assert_allclose(angles, expected[1], atol=1e-3)
    if suffix == "dcd":
        header = path.read_bytes()[:48]
        assert header[4:8] == b"CORD" and struct.unpack("<f", header[44:48])[0] == pytest.approx(0.5 / 0.0488882129)
    else:
        np.testing.assert_allclose(times, TIMES)


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
@pytest.mark.parametrize("walk", [TURNED, LEFT], ids=["turned", "left-handed"])
def test_boxes_of_any_orientation_are_turned_with_their_positions(tmp_path, suffix, walk):
    path = tmp_path / f"s.{suffix}"
    samples = samples_of(walk)
    if suffix == "xyz":
        export_molecules(path, samples, progress=False)
        ase_io = pytest.importorskip("ase.io")
        frames = ase_io.read(path, index=":")
        np.testing.assert_allclose([frame.positions for frame in frames], walk.x, atol=1e-5)
        np.testing.assert_allclose([np.array(frame.cell) for frame in frames], written(walk).cells, atol=1e-5)
        assert all(frame.pbc.all() for frame in frames)
        return
    with pytest.warns(
        UserWarning, match=rf"s\.{suffix}: this format has boxes whose first vector is along x .* 2 traj"
    ):
        export_molecules(path, samples, progress=False)
    x, lengths, angles, _ = read(path)
    mdtraj = pytest.importorskip("mdtraj")
    cells = mdtraj.load(str(path), top=str(tmp_path / "s.pdb")).unitcell_vectors * 10
    # Places in the box and distances are those of the truth, and so is the box but for its orientation.
    truth = written(walk)
    np.testing.assert_allclose(np.linalg.det(cells), np.abs(np.linalg.det(truth.cells)), rtol=1e-4)
    np.testing.assert_allclose(lengths, np.linalg.norm(truth.cells, axis=-1), atol=1e-4)
    expected = lengths_and_angles(truth.cells)[1]
    expected[:, :2] = 180 - expected[:, :2] if walk is LEFT else expected[:, :2]
    np.testing.assert_allclose(angles, expected, atol=1e-3)
    flip = np.array([1, 1, -1 if walk is LEFT else 1])
    fractional = truth.x @ np.linalg.inv(truth.cells) * flip
    np.testing.assert_allclose(x, fractional @ cells, atol=max(WITHIN[suffix], 1e-3))
    distances = lambda p: np.linalg.norm(p[:, :, None] - p[:, None], axis=-1)
    np.testing.assert_allclose(distances(x), distances(truth.x), atol=2.1 * WITHIN[suffix])


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
@pytest.mark.parametrize("wrap", ["atoms", "molecules"])
def test_wrapped(tmp_path, suffix, wrap):
    path = tmp_path / f"s.{suffix}"
    export_molecules(path, samples_of(WALK), progress=False, wrap=wrap)
    x, *_ = read(path)
    truth = written(WALK)
    shifts = lattice_shifts(x, truth, 2 * WITHIN[suffix] + 1e-4)
    assert shifts.any()
    fractional = x @ np.linalg.inv(truth.cells)
    if wrap == "molecules":
        np.testing.assert_array_equal(shifts, shifts[:, WALK.molecule * 3])
        fractional = fractional.reshape(16, 3, 3, 3).mean(axis=2)
    assert fractional.min() > -1e-3 and fractional.max() < 1 + 1e-3


def test_files_of_samples_hold_boxes_and_times_unwrapped(tmp_path):
    samples = samples_of(WALK)
    write_samples(tmp_path / "s.npz", samples)
    back = read_samples(tmp_path / "s.npz")
    assert back.frame_time == 0.5
    np.testing.assert_array_equal(back.samples, samples.samples)
    write_samples(tmp_path / "s.npz", dataclasses.replace(samples, frame_time=-1.0))
    with pytest.raises(ValueError, match="frame_time must be a positive, finite number, got -1"):
        read_samples(tmp_path / "s.npz")
    write_samples(tmp_path / "s.npz", dataclasses.replace(samples, frame_time=None))
    assert read_samples(tmp_path / "s.npz").frame_time is None


@pytest.mark.parametrize("suffix", ["xyz", "xtc"])
def test_our_own_reader_follows_what_was_wrapped(tmp_path, suffix):
    path = tmp_path / f"s.{suffix}"
    export_molecules(path, samples_of(WALK), progress=False, wrap="atoms")
    more = {} if suffix == "xyz" else {"topology": tmp_path / "s.pdb"}
    with pytest.warns(UserWarning, match="jumps across the box were mended|made whole"):
        dataset = file_dataset(path, **more, bonds=WALK.bonds, span=16)
    assert dataset.frame_time == 0.5
    shifts = lattice_shifts(dataset[0].x.permute(2, 0, 1).double().numpy(), written(WALK), 0.02)
    np.testing.assert_array_equal(shifts[0], shifts[0][WALK.molecule * 3])
    np.testing.assert_array_equal(shifts[:8], np.broadcast_to(shifts[:1], (8, 9, 3)))


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
def test_a_box_that_is_open_is_left_out_with_a_warning(tmp_path, suffix):
    mdtraj = pytest.importorskip("mdtraj")
    path = tmp_path / f"s.{suffix}"
    samples = samples_of(WALK, pbc=(1, 1, 0))
    with pytest.warns(UserWarning, match=r"these are so in \[True, True, False\]: positions are written without a box"):
        export_molecules(path, samples, progress=False)
    assert mdtraj.load(str(path), top=str(tmp_path / "s.pdb")).unitcell_lengths is None
    samples.pbc[1] = True
    message = "periodic in all directions or none of them, graph 1 is so in"
    with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="without a box"):
        export_molecules(path, samples, progress=False)


def test_an_open_box_in_xyz(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    export_molecules(tmp_path / "s.xyz", samples_of(WALK, pbc=(1, 0, 1)), progress=False, wrap="atoms")
    frames = ase_io.read(tmp_path / "s.xyz", index=":")
    assert frames[0].pbc.tolist() == [True, False, True]
    truth = written(WALK)
    moved = (np.array([frame.positions for frame in frames]) - truth.x) @ np.linalg.inv(truth.cells)
    np.testing.assert_allclose(moved[..., 1], 0, atol=1e-4)
    assert np.abs(moved[..., [0, 2]]).max() > 0.5


def test_wrap_needs_a_box(tmp_path):
    molecules = made_samples(nodes=9)
    with pytest.raises(ValueError, match=r"s\.xyz: wrap must be no for samples without a periodic box, got atoms"):
        export_molecules(tmp_path / "s.xyz", molecules, progress=False, wrap="atoms")
    with pytest.raises(ValueError, match="wrap must be one of no, atoms, molecules"):
        export_molecules(tmp_path / "s.xyz", molecules, progress=False, wrap="residues")
    assert not list(tmp_path.iterdir())


def test_molecules_are_what_edges_join():
    edges = np.array([[0, 4, 4, 2, 5], [4, 0, 2, 4, 5]])
    assert molecules_of(edges, np.ones(6), np.zeros((6, 3))).tolist() == [0, 1, 0, 2, 0, 3]
    chain = np.stack([np.arange(1, 50), np.arange(49)])
    assert not molecules_of(chain, np.ones(50), np.zeros((50, 3))).any()
    complete = np.argwhere(~np.eye(15, dtype=bool)).T
    walk = waters(frames=1)
    apart = walk.x[0] + 20 * walk.molecule[:, None]
    assert molecules_of(complete, walk.z, apart).tolist() == walk.molecule.tolist()
    assert molecules_of(np.zeros((2, 0), np.int64), np.full(3, 18), np.zeros((3, 3))).tolist() == [0, 1, 2]


def test_wrapping_keeps_the_dtype_and_far_places():
    x = np.array([[[1e7 + 0.25, 2, 3.0]]])
    found = wrapped(x, np.diag([10.0, 10, 10])[None], np.array([True] * 3))
    np.testing.assert_allclose(found, [[[0.25, 2, 3]]], atol=1e-6)
    assert found.dtype == np.float64 and wrapped(x.astype(np.float32), np.eye(3)[None], np.ones(3)).dtype == np.float32


@pytest.mark.parametrize("seed", range(5))
def test_boxes_turned_lower_triangular_are_the_same_lattice(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(4, 3, 3)) + 2 * np.eye(3)
    x = rng.normal(size=(4, 6, 3))
    turned_x, turned, was = turned_lower(x, cell)
    assert was and (turned[:, [0, 1, 2], [0, 1, 2]] > 0).all() and not turned[:, [0, 0, 1], [1, 2, 2]].any()
    flip = np.where(np.linalg.det(cell) < 0, -1, 1)[:, None] * np.array([0, 0, 1]) + np.array([1, 1, 0])
    np.testing.assert_allclose(turned_x @ np.linalg.inv(turned), x @ np.linalg.inv(cell) * flip[:, None], atol=1e-9)
    again, same, was = turned_lower(turned_x, turned)
    assert not was and again is turned_x and np.array_equal(same, turned)
    np.testing.assert_allclose(heights(turned), heights(cell), rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(turned_x, axis=-1), np.linalg.norm(x, axis=-1))


def test_lengths_and_angles():
    lengths, angles = lengths_and_angles(TRICLINIC[None])
    ase_geometry = pytest.importorskip("ase.geometry")
    np.testing.assert_allclose([*lengths[0], *angles[0]], ase_geometry.cell_to_cellpar(TRICLINIC), rtol=1e-12)


def test_wrap_of_the_command_is_for_what_has_a_box(tmp_path, capsys):
    pytest.importorskip("ase")
    write_ethanol(tmp_path / "ethanol.npz")
    checkpoint = write_checkpoint(tmp_path / "e.safetensors", ethanol_config(tmp_path / "ethanol.npz"))
    command = ["sample", checkpoint, "--out", str(tmp_path / "s.npz"), "--quiet", "--wrap", "atoms"]
    assert main(command) == 2
    assert "--wrap atoms is for --xyz, --dcd or --xtc, got none of them" in capsys.readouterr().err
    assert main([*command, "--xyz", str(tmp_path / "s.xyz")]) == 2
    assert "--wrap atoms: the data must have a periodic box, got 'ethanol' without one" in capsys.readouterr().err
    assert not (tmp_path / "s.npz").exists()
