"""Conformers: single structures of molecules, of `.npz`, extended XYZ, SDF and formats of ASE."""

import re
import time
import warnings

import numpy as np
import pytest
import torch
from tiny_ays import WATER
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.data import conformer_dataset, open_dataset
from geotdm_fast.data.chemistry.atom_graph import parts

ETHANOL_SDF = """ethanol
  hand

  3  2  0  0  0  0  0  0  0  0999 V2000
   -1.1900   -0.3900    0.0000 C   0  0
    0.0000    0.5500    0.0000 C   0  0
    1.1900   -0.2200    0.0000 O   0  0
  1  2  1  0
  2  3  1  0
M  END
$$$$
"""
ETHENE_SDF = """ethene
  hand

  6  5  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.3300    0.0000    0.0000 C   0  0
   -0.5600    0.9300    0.0000 H   0  0
   -0.5600   -0.9300    0.0000 H   0  0
    1.8900    0.9300    0.0000 H   0  0
    1.8900   -0.9300    0.0000 H   0  0
  1  2  2  0
  1  3  1  0
  1  4  1  0
  2  5  1  0
  2  6  1  0
M  END
$$$$
"""


def test_conformers_of_an_npz(tmp_path):
    x = np.concatenate([ETHANOL_POSITIONS, WATER + 5, ETHANOL_POSITIONS * 1.01])
    z = np.concatenate([ETHANOL, [8, 1, 1], ETHANOL])
    about = {"x": x, "z": z, "ptr": [0, 9, 12, 21]}
    np.savez(tmp_path / "c.npz", **about)
    data = conformer_dataset(tmp_path / "c.npz")
    assert [item.x.shape for item in data] == [(9, 3, 1), (3, 3, 1), (9, 3, 1)]
    assert data.unit == "angstrom" and data.numbers_of(1).tolist() == [8, 1, 1]
    assert data[1].x.mean(0).abs().max() < 1e-6
    np.testing.assert_allclose(data[1].x[..., 0], WATER - WATER.mean(0), atol=1e-6)
    assert parts(data[1].h, data[1].edge_attr)[2].tolist() == [2, 2, 2, 23, 2, 23]
    heavy = conformer_dataset(tmp_path / "c.npz", with_h=False, split="train", split_ratio=[0.4, 0.3, 0.3])
    assert len(heavy) == 1 and heavy.numbers_of(0).tolist() == [6, 6, 8]
    typed = {"edge_index": [[9, 10], [10, 9]], "edge_attr": [4, 4], "h": np.arange(42.0).reshape(21, 2)}
    np.savez(tmp_path / "t.npz", **about, **typed)
    own = conformer_dataset(tmp_path / "t.npz", features=["own"])
    assert own[1].edge_index.tolist() == [[0, 1], [1, 0]] and own[1].edge_attr.tolist() == [[4], [4]]
    assert own[1].h[:, 1:].tolist() == [[18, 19], [20, 21], [22, 23]] and own[0].edge_index.shape == (2, 0)
    np.savez(tmp_path / "f.npz", R=np.stack([WATER, 1.1 * WATER]), z=[8, 1, 1], bonds=[[0, 1]])
    frames = conformer_dataset(tmp_path / "f.npz")
    assert [len(item.x) for item in frames] == [3, 3] and frames[1].edge_index.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(frames[1].x, 1.1 * frames[0].x)
    np.savez(tmp_path / "b.npz", **about, bonds=[[9, 10]])
    bonded = conformer_dataset(tmp_path / "b.npz")
    assert bonded[1].edge_index.tolist() == [[0, 1], [1, 0]]


def test_conformers_in_another_unit(tmp_path):
    """All pairs of a molecule in nm are within a bond's length: its graph would be complete, without a word."""
    rng = np.random.default_rng(0)
    x = np.concatenate([ETHANOL_POSITIONS, WATER] * 5) + 0.02 * rng.normal(size=(60, 3))
    about = {"z": np.concatenate([ETHANOL, [8, 1, 1]] * 5), "ptr": np.cumsum([0, *[9, 3] * 5])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.savez(tmp_path / "c.npz", x=x, **about)
        expected = conformer_dataset(tmp_path / "c.npz")
        np.savez(tmp_path / "nm.npz", x=x / 10, **about)
        with pytest.raises(
            ValueError, match=r"nm\.npz: distances look like nm: .*multiply positions by 10, or give unit"
        ):
            conformer_dataset(tmp_path / "nm.npz")
        stated = conformer_dataset(tmp_path / "nm.npz", unit="nm")
    for ours, right in zip(stated, expected, strict=True):
        torch.testing.assert_close(ours.x, right.x, atol=1e-5, rtol=0)
        assert torch.equal(ours.edge_index, right.edge_index)
    np.savez(tmp_path / "bohr.npz", x=x / 0.529177210903, **about)
    with pytest.warns(UserWarning, match="distances look like bohr: .*or give unit: bohr"):
        conformer_dataset(tmp_path / "bohr.npz")
    x[10] = x[9] + 0.1
    np.savez(tmp_path / "near.npz", x=x, **about)
    with pytest.warns(
        UserWarning, match=r"atoms 0 and 1 of molecule 1 of those read are 0\.173 angstrom apart, .* 2 of 60"
    ):
        conformer_dataset(tmp_path / "near.npz")


def test_ten_times_the_molecules_take_ten_times_as_long(tmp_path):
    """Of the CPU's time: a search of all edges for each molecule would make it a hundred times."""
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    times = []
    for count in (300, 3000):
        x, z = np.tile([[0.0, 0, 0], [1.3, 0, 0], [2.6, 0, 0]], (count, 1)), np.full(3 * count, 6)
        pairs = np.concatenate([edges + 3 * number for number in range(count)], axis=1)
        np.savez(tmp_path / "m.npz", x=x, z=z, ptr=3 * np.arange(count + 1), edge_index=pairs, bonds=pairs.T)
        begin = time.process_time()
        assert len(conformer_dataset(tmp_path / "m.npz")) == count
        times.append(time.process_time() - begin)
    assert times[1] < 40 * times[0]


def test_what_is_said_of_pieces_comes_before_an_error(tmp_path):
    along = np.array([0, 9, *(1.4 * np.arange(32))])  # two atoms far apart, and a chain too long for its hops
    np.savez(tmp_path / "p.npz", x=along[:, None] * [1.0, 0, 0], z=[6] * 34, batch=[0] * 2 + [1] * 32)
    with (
        pytest.warns(UserWarning, match="p.npz: 1 molecules, the first: .* 2 pieces"),
        pytest.raises(ValueError, match="molecule 1: max_hops must be at most 28, got a pair 31 bonds apart"),
    ):
        conformer_dataset(tmp_path / "p.npz", max_hops=31)


@pytest.mark.filterwarnings("ignore:.*pieces")
def test_conformers_of_a_format_of_ase(tmp_path):
    ase = pytest.importorskip("ase")
    from ase.io import write

    frames = [ase.Atoms("OH2", WATER), ase.Atoms(ETHANOL, ETHANOL_POSITIONS), ase.Atoms("OH2", WATER * 1.02)]
    for suffix in ("xyz", "traj"):
        write(tmp_path / f"c.{suffix}", frames)
        data = open_dataset({"kind": "conformers", "path": str(tmp_path / f"c.{suffix}")})
        assert [len(item.x) for item in data] == [3, 9, 3]
        np.testing.assert_allclose(data[2].x[..., 0], 1.02 * (WATER - WATER.mean(0)), atol=1e-5)
    both = {"kind": "conformers", "path": [str(tmp_path / "c.xyz"), str(tmp_path / "c.traj")], "ratio": [1, 3]}
    assert len(open_dataset(both)) == 6
    write(tmp_path / "n.traj", [ase.Atoms(), frames[0], ase.Atoms("OH2", WATER * 1e8)])
    with pytest.raises(ValueError, match=r"n\.traj: positions of molecule 2 must be finite"):
        conformer_dataset(tmp_path / "n.traj")


def cut_by(box, positions):
    """The positions with every atom put into the box."""
    return positions - np.floor(positions @ np.linalg.inv(box)) @ box


def test_conformers_that_their_box_cuts_are_made_whole(tmp_path):
    """Of extended XYZ, of a format of ASE and of an `.npz`, where boxes differ, and where some have none."""
    ase = pytest.importorskip("ase")
    from ase.io import write

    boxes = [np.diag([6.0, 7, 8]), np.array([[9.0, 0, 0], [2, 10, 0], [-3, 1, 11]])]
    molecules = [("OH2", WATER + 5.9), (ETHANOL, ETHANOL_POSITIONS)]
    cut = [cut_by(box, x) for box, (_, x) in zip(boxes, molecules, strict=True)]
    assert all(np.ptp(wrapped, axis=0).max() > 5 for wrapped in cut)
    frames = [ase.Atoms(z, x, cell=box, pbc=True) for (z, _), x, box in zip(molecules, cut, boxes, strict=True)]
    frames.append(ase.Atoms("OH2", WATER))
    for suffix in ("extxyz", "traj"):
        write(tmp_path / f"c.{suffix}", frames)
        with pytest.warns(UserWarning, match="made whole in 2 of 3 structures") as told:
            data = conformer_dataset(tmp_path / f"c.{suffix}")
        assert len(told) == 1
        for item, x in zip(data, [x for _, x in molecules] + [WATER], strict=True):
            np.testing.assert_allclose(item.x[..., 0], x - x.mean(0), atol=1e-4)
        with pytest.warns(UserWarning, match="made whole"):
            heavy = conformer_dataset(tmp_path / f"c.{suffix}", with_h=False)
        assert [len(item.x) for item in heavy] == [1, 3, 1] and heavy[1].edge_index.shape == (2, 6)
    z = np.concatenate([frame.numbers for frame in frames[:2]])
    arrays = {"x": np.concatenate(cut) / 10, "z": z, "ptr": [0, 3, 12], "pbc": [1, 1, 1]}
    np.savez(tmp_path / "c.npz", **arrays, cell=np.stack(boxes) / 10)
    with pytest.warns(UserWarning, match="made whole in 2 of 2 structures"):
        data = conformer_dataset(tmp_path / "c.npz", unit="nm")
    for item, (_, x) in zip(data, molecules, strict=True):
        np.testing.assert_allclose(item.x[..., 0], x - x.mean(0), atol=1e-4)
    # Both atoms of each bond in one frame of many, in a box that all share.
    np.savez(tmp_path / "f.npz", x=np.stack([WATER, cut[0]]), z=[8, 1, 1], cell=boxes[0], bonds=[[0, 1], [0, 2]])
    with pytest.warns(UserWarning, match="made whole in 1 of 2 structures"):
        data = conformer_dataset(tmp_path / "f.npz")
    np.testing.assert_allclose(data[1].x, data[0].x, atol=1e-5)


def test_boxes_of_conformers_that_cut_nothing(tmp_path):
    ase = pytest.importorskip("ase")
    from ase.io import write

    centred = WATER - WATER.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for more in ({"cell": np.eye(3) * 9, "pbc": True}, {"cell": np.eye(3) * 3, "pbc": False}):
            write(tmp_path / "c.xyz", ase.Atoms("OH2", centred, **more), format="extxyz")
            np.testing.assert_allclose(conformer_dataset(tmp_path / "c.xyz")[0].x[..., 0], centred, atol=1e-5)
    write(tmp_path / "one.xyz", ase.Atoms("OH2", centred, cell=np.eye(3), pbc=True), format="extxyz")
    with pytest.warns(UserWarning, match="boxes of 1 of 1 structures are passed over, lower than a bond"):
        data = conformer_dataset(tmp_path / "one.xyz")
    np.testing.assert_allclose(data[0].x[..., 0], centred, atol=1e-5)
    np.savez(tmp_path / "p.npz", x=WATER, z=[8, 1, 1], pbc=[1, 1, 1])
    with pytest.raises(ValueError, match=r"p\.npz: pbc must come with cell"):
        conformer_dataset(tmp_path / "p.npz")


def test_what_is_said_of_pieces_is_said_once(tmp_path):
    far = np.concatenate([WATER, WATER + 30, WATER, WATER - 30])
    np.savez(tmp_path / "p.npz", x=far, z=[8, 1, 1] * 4, ptr=[0, 6, 12])
    with pytest.warns(UserWarning, match="2 molecules, the first: .* 2 pieces") as told:
        conformer_dataset(tmp_path / "p.npz")
    assert len(told) == 1


def test_conformers_of_an_sdf(tmp_path):
    pytest.importorskip("rdkit.Chem")
    (tmp_path / "m.sdf").write_text(ETHANOL_SDF + ETHENE_SDF)
    data = conformer_dataset(tmp_path / "m.sdf", with_h=False)
    assert [item.h.shape for item in data] == [(3, 43), (2, 43)]
    assert parts(data[1].h, data[1].edge_attr)[2].tolist() == [3, 3]  # a double bond
    whole = conformer_dataset(tmp_path / "m.sdf", features=["hydrogens"], max_hops=2)
    assert whole[1].h.shape == (6, 6) and whole[1].h[:2, 1:].argmax(1).tolist() == [2, 2]
    (tmp_path / "bad.sdf").write_text(ETHANOL_SDF + ETHENE_SDF.replace("  1  2  2", "  1  9  2"))
    with pytest.warns(UserWarning, match="RDKit reads 1 of 2 molecules"):
        assert len(conformer_dataset(tmp_path / "bad.sdf")) == 1
    atoms = "".join(f"{1.5 * i:10.4f}    0.0000    0.0000 C   0  0\n" for i in range(32))
    bonds = "".join(f"{i + 1:3d}{i + 2:3d}  1  0\n" for i in range(31))
    chain = f"chain\n  hand\n\n 32 31  0  0  0  0  0  0  0  0999 V2000\n{atoms}{bonds}M  END\n$$$$\n"
    (tmp_path / "long.sdf").write_text(ETHENE_SDF.replace("  1  2  2", "  1  9  2") + ETHANOL_SDF + chain)
    with pytest.raises(ValueError, match=r"long\.sdf: molecule 2: max_hops must be at most"):
        conformer_dataset(tmp_path / "long.sdf", max_hops=40)
    (tmp_path / "no.sdf").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"no\.sdf must hold a molecule"):
        conformer_dataset(tmp_path / "no.sdf")


BAD_CONFORMERS = [
    ({"x": np.zeros((3, 3))}, "must hold the positions as one of x and R, and z, got x"),
    ({"x": np.zeros((3, 3)), "z": [1, 1]}, r"z must be \[3\], got \[2\]"),
    ({"x": WATER, "z": [8, 1, 100]}, "z must be atomic numbers from 0 to 99, got 100"),
    ({"x": WATER, "z": [-1, 6, 6]}, "z must be atomic numbers from 0 to 99, got -1"),
    ({"x": WATER[None], "z": 8}, r"z must be \[N\], got 8 without a dimension"),
    ({"x": WATER[None], "z": [8, 1]}, r"z must be \[3\], got \[2\]"),
    ({"x": WATER[None], "z": [8, 1, 1], "edge_attr": 2.0}, r"edge_attr must be \[E\] or \[E, A\], got 2.0 without"),
    ({"x": WATER[None], "z": [8, 1, 1], "bonds": [0, 1]}, r"bonds must be \[M, 2\], got \[2\]"),
    ({"x": np.stack([WATER] * 2), "z": [8, 1, 1], "bonds": [[0, 3]]}, "bonds must be node indices from 0 to 2, got 3"),
    ({"x": WATER, "z": [6.7, 8.2, 1]}, "z must be atomic numbers, whole ones, got 6.7"),
    ({"x": WATER, "z": [8, np.inf, 1]}, "z must be atomic numbers, whole ones, got inf"),
    ({"x": np.full((2, 3), np.nan), "z": [1, 1]}, "x must be finite"),
    ({"x": WATER, "z": [8, 1, 1], "ptr": [0, 2]}, "ptr must ascend from 0 to 3"),
    ({"x": WATER, "z": [8, 1, 1], "edge_attr": [1]}, "edge_attr must come with edge_index"),
    ({"x": WATER, "z": [8, 1, 1], "edge_index": [[0], [3]]}, "edge_index must be node indices from 0 to 2, got 3"),
    ({"x": WATER, "z": [8, 1, 1], "ptr": [0, 2, 3], "edge_index": [[0], [2]]}, "must join atoms of one molecule"),
]


@pytest.mark.parametrize("arrays, message", BAD_CONFORMERS)
def test_bad_conformers(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises((ValueError, TypeError), match=rf"bad\.npz.*{message}"):
        conformer_dataset(tmp_path / "bad.npz")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("none.npz: no such file")):
        conformer_dataset(tmp_path / "none.npz")
    for name, content in (("a.qqq", "x"), ("a.traj", "x"), ("a.xyz", "x y\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}( must be|: frame 0 must begin with the number of its atoms)"):
            conformer_dataset(tmp_path / name)


BAD_XYZ = [
    ("", "must have a frame, got none"),
    ("1\n\nXx 0 0 0\n", "atoms of frame 0 must be elements, got 'Xx'"),
    ("2\n\nH 0 0 0\n", "must have 2 lines of atoms in frame 0, got 1 lines"),
    ("1\n\nH 0 0 0\n1\n\nH 0 0\n", "must have 1 lines of atoms in frame 1, got 'H 0 0'"),
    ("1\n\nH 0 0 a\n", "atoms of frame 0 must have three coordinates"),
    ("1\nProperties=pos:R:3\n0 0 0\n", "Properties of frame 0 must have species"),
    ("1\n\nH 0 0 0\n\n1\n", "frame 1 must begin with a number, got a blank line"),
    ('1\nLattice="1 2 3"\nH 0 0 0\n', "Lattice of frame 0 must be nine numbers, got '1 2 3'"),
    ('1\nLattice="9 0 0 9 0 0 0 0 9"\nH 0 0 0\n', "the cell must span a volume, got .* of molecule 0; remove the box"),
    ("1\n\nH 0 0 1e9\n", r"positions of molecule 0 must be finite and below 2\.1e\+07 angstrom"),
]


@pytest.mark.parametrize("text, message", BAD_XYZ)
def test_bad_xyz(tmp_path, text, message):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.xyz.*{message}"):
        conformer_dataset(tmp_path / "a.xyz")
