"""Molecule files as ASE writes them, and arguments that cannot be."""

import importlib.util
import re

import ase
import ase.io
import numpy as np
import pytest

from geotdm_fast.data import file_dataset
from geotdm_fast.runtime.packages import how_to_install

LINE = np.array([[0.0, 0, 0], [1.1, 0, 0], [2.3, 0, 0], [3.3, 0, 0]])
LINE = LINE + 0.01 * np.random.default_rng(0).standard_normal((50, 4, 3))


def write_frames(path, symbols="HCOH", number=40, file_format=None):
    ase.io.write(path, [ase.Atoms(symbols, positions=LINE[t]) for t in range(number)], format=file_format)
    return path


@pytest.mark.parametrize(
    "name, file_format, tolerance",
    [
        ("m.extxyz", None, 1e-6),
        ("m.xyz", "xyz", 1e-6),
        ("m.traj", None, 1e-6),
        ("m.pdb", "proteindatabank", 1e-3),
        ("m.xyz.gz", "xyz", 1e-6),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "ase"])
def test_what_ase_writes(tmp_path, name, file_format, tolerance, reader):
    path = write_frames(tmp_path / name, file_format=file_format)
    dataset = file_dataset(path, reader=reader)
    assert len(dataset) == 11
    np.testing.assert_allclose(dataset[3].x.permute(2, 0, 1), LINE[3:33], atol=tolerance)
    assert dataset.atomic_numbers.tolist() == [1, 6, 8, 1]
    assert dataset.name == name[: name.rindex(".")]
    assert dataset[0].edge_index.shape == (2, 12)
    heavy = file_dataset(path, split="train", span=8, with_h=False, bonds=[[0, 1], [2, 1]])
    assert heavy.atomic_numbers.tolist() == [6, 8]
    assert heavy[0].edge_index.tolist() == [[0, 1], [1, 0]]


def test_files_of_vasp(tmp_path):
    """In a box, at constant volume; the atoms follow the motion."""
    x = LINE + 2 + np.arange(50)[:, None, None] * np.array([0.3, 0, 0])
    frames = [ase.Atoms("HCOH", positions=np.mod(frame, 12), cell=[12] * 3, pbc=True) for frame in x]
    ase.io.write(tmp_path / "XDATCAR", frames, format="vasp-xdatcar")
    with pytest.warns(UserWarning, match="jumps across the box were mended"):
        dataset = file_dataset(tmp_path / "XDATCAR", span=50)
    found = dataset[0].x.permute(2, 0, 1).numpy()
    np.testing.assert_allclose(found - found[0, 1], x - x[0, 1], atol=1e-5)


BAD_ARGUMENTS = [
    ({"reader": "asee"}, r"m\.extxyz: reader must be one of .* got 'asee'; did you mean 'ase'"),
    ({"topology": "m.extxyz", "reader": "ase"}, r"m\.extxyz: topology must be None for ASE"),
    ({"selection": "name CA", "reader": "ase"}, r"m\.extxyz: selection must be None for ASE"),
    ({"selection": "name CA"}, r"m\.extxyz: selection must be None without MDTraj or MDAnalysis"),
    ({"span": 41}, r"m\.extxyz must have at least span=41 frames, got 40$"),
    ({"unwrap": "yes"}, r"m\.extxyz: unwrap must be one of auto, no; got 'yes'"),
    ({"format": "xzy"}, r"m\.extxyz: format must be one of .* got 'xzy'; did you mean 'xyz'"),
    ({"split_ratio": (0.5, 0.5)}, r"m\.extxyz: split_ratio must be three numbers"),
    ({"types": "names"}, r"m\.extxyz: types must be element, name, or the names of the beads, got 'names'"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, message", BAD_ARGUMENTS)
def test_bad_arguments(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "m.extxyz")
    with pytest.raises(ValueError, match=message):
        file_dataset("m.extxyz", **arguments)


def test_bad_files(tmp_path):
    path = write_frames(tmp_path / "m.extxyz")
    with pytest.raises(FileNotFoundError, match=r"absent\.extxyz: no such file"):
        file_dataset(tmp_path / "absent.extxyz")
    with pytest.raises(FileNotFoundError, match=r"absent\.pdb: no such file"):
        file_dataset(path, tmp_path / "absent.pdb")
    with pytest.raises(ValueError, match=r"must have atoms left after selection=None and with_h=False, got none"):
        file_dataset(write_frames(tmp_path / "h.xyz", "HHHH"), with_h=False)
    for name in ("m.txt", "m.pckl"):
        (tmp_path / name).write_text("4")
        with pytest.raises(ValueError, match=r"must be of a format that ASE knows, got '(txt|pckl)'; format: names"):
            file_dataset(tmp_path / name, reader="ase")
    (tmp_path / "broken.traj").write_text("this is no trajectory\n")
    with pytest.raises(ValueError, match=r"broken\.traj must be readable by ASE"):
        file_dataset(tmp_path / "broken.traj")
    for name in ("mixed.extxyz", "mixed.traj"):
        mixed = [ase.Atoms("HC", positions=LINE[0, :2]), ase.Atoms("CH", positions=LINE[1, :2])]
        ase.io.write(tmp_path / name, mixed)
        with pytest.raises(ValueError, match=r"must have the same atoms in every frame, got others in frame 1"):
            file_dataset(tmp_path / name, span=2)


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    path, pdb = write_frames(tmp_path / "m.xyz"), write_frames(tmp_path / "m.pdb", file_format="proteindatabank")
    for name in ("m.traj", "m.xtc", "m.gro"):
        (tmp_path / name).write_text("x")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("ase", "mdtraj", "MDAnalysis") else found(name)
    )
    assert len(file_dataset(path)) == len(file_dataset(pdb)) == 11  # they need no other package
    with pytest.raises(ModuleNotFoundError, match=rf"needs ase, .* {re.escape(how_to_install('molecules'))}"):
        file_dataset(tmp_path / "m.traj")
    with pytest.raises(ModuleNotFoundError, match=rf"m\.xtc needs mdtraj, .* {re.escape(how_to_install('md'))}"):
        file_dataset(tmp_path / "m.xtc", pdb)
    with pytest.raises(ModuleNotFoundError, match=rf"m\.gro needs mdtraj, .* {re.escape(how_to_install('md'))}"):
        file_dataset(tmp_path / "m.xtc", tmp_path / "m.gro")
    with pytest.raises(ModuleNotFoundError, match=rf"needs MDAnalysis, .* {re.escape(how_to_install('md'))}"):
        file_dataset(path, reader="mdanalysis")
