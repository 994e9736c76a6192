"""Samples of molecules as extended XYZ, DCD and XTC."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from full_disk import assert_earlier_file_survives, full_disk
from shard_runs import into
from tiny_models import ethanol_config, made_samples, write_checkpoint, write_ethanol

from geotdm_fast.cli import main
from geotdm_fast.data import file_dataset
from geotdm_fast.runtime.packages import how_to_install
from geotdm_fast.samples.molecule_exports import export_molecules
from geotdm_fast.samples.npz import read_samples, write_samples

SAMPLES = made_samples(graphs=2, nodes=9, num_samples=2)
DCD_HEADER = 276
# [graphs, K, T, N, 3]
POSITIONS = SAMPLES.forecasts().reshape(2, 2, 9, 3, 12).transpose(1, 0, 4, 2, 3)


def test_xyz_is_read_back_by_ase(tmp_path):
    ase_io = pytest.importorskip("ase.io")
    assert export_molecules(tmp_path / "s.xyz", SAMPLES, progress=False) == 48
    frames = ase_io.read(tmp_path / "s.xyz", index=":")
    assert len(frames) == 2 * 2 * 12
    last = frames[-1]
    assert last.info["graph"] == 1 and last.info["sample"] == 1 and last.info["frame"] == 11
    assert [bool(f.info["given"]) for f in frames[:12]] == [True] * 4 + [False] * 8
    assert last.numbers.tolist() == SAMPLES.atomic_numbers[9:].tolist()
    assert np.allclose([frame.positions for frame in frames], POSITIONS.reshape(-1, 9, 3), atol=1e-6)


@pytest.mark.parametrize("name", ["s.npz", "s.traj", "s.pdb", "s"])
def test_a_suffix_of_another_format_is_refused(tmp_path, name):
    """It would have been an XTC of that name."""
    with pytest.raises(ValueError, match=rf"{name}: the suffix must be one of \.xyz, \.extxyz, \.dcd, \.xtc, got '"):
        export_molecules(tmp_path / name, SAMPLES, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "tolerance"), [("dcd", 1e-5), ("xtc", 5.1e-3)])
def test_md_files_are_read_back_with_their_topology(tmp_path, suffix, tolerance):
    mdtraj = pytest.importorskip("mdtraj")
    assert export_molecules(tmp_path / f"s.{suffix}", SAMPLES, progress=False) == 48
    read = mdtraj.load(str(tmp_path / f"s.{suffix}"), top=str(tmp_path / "s.pdb"))
    assert [atom.element.atomic_number for atom in read.topology.atoms] == SAMPLES.atomic_numbers[:9].tolist()
    np.testing.assert_allclose(read.xyz * 10, POSITIONS.reshape(-1, 9, 3), atol=tolerance)
    if suffix == "xtc":
        assert read.time.tolist() == list(range(48))


def test_our_own_reader_takes_them(tmp_path):
    pytest.importorskip("mdtraj")
    one = dataclasses.replace(SAMPLES, samples=SAMPLES.samples[1:])  # two of a graph would begin with the same frames
    export_molecules(tmp_path / "s.dcd", one, progress=False)
    windows = file_dataset(tmp_path / "s.dcd", tmp_path / "s.pdb", span=12, stride=12)
    assert windows.atomic_numbers.tolist() == SAMPLES.atomic_numbers[:9].tolist()
    assert np.allclose(windows[1].x.numpy(), POSITIONS[1, 1].transpose(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
def test_shards_give_the_file_that_one_file_of_samples_gives(tmp_path, suffix):
    pytest.importorskip("ase" if suffix == "xyz" else "mdtraj")
    write_ethanol(tmp_path / "ethanol.npz")
    config = ethanol_config(tmp_path / "ethanol.npz", mode="cond")
    into(tmp_path / "samples", config=config, shard_size=2)
    joined = read_samples(tmp_path / "samples")
    frames = export_molecules(tmp_path / f"a.{suffix}", tmp_path / "samples", progress=False)
    assert frames == export_molecules(tmp_path / f"b.{suffix}", joined, progress=False) == 6 * 3 * 20
    a, b = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    header = DCD_HEADER if suffix == "dcd" else 0  # it holds the date
    assert len(a) > header and a[header:] == b[header:]


def test_a_source_that_is_no_folder_of_samples_is_told_as_such(tmp_path):
    write_samples(tmp_path / "samples.npz", SAMPLES)
    with pytest.raises(ValueError, match=r"samples\.npz must be a folder of `geotdm sample`, got a file; read_samples"):
        export_molecules(tmp_path / "s.xyz", tmp_path / "samples.npz")
    with pytest.raises(FileNotFoundError, match=r"none must be a folder of `geotdm sample`, got one without manifest"):
        export_molecules(tmp_path / "s.xyz", tmp_path / "none")


def test_only_molecules_in_space(tmp_path):
    with pytest.raises(ValueError, match="must be molecules in three dimensions, got 'N-body charged'"):
        export_molecules(tmp_path / "s.xyz", made_samples())
    flat = dataclasses.replace(
        SAMPLES, **{n: getattr(SAMPLES, n)[..., :2, :] for n in ("samples", "target", "x_given")}
    )
    with pytest.raises(ValueError, match="must be molecules in three dimensions"):
        export_molecules(tmp_path / "s.xyz", flat)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -3e7])
def test_positions_that_no_format_holds(tmp_path, suffix, value):
    """XTC would hold -21474838 angstrom for them, and DCD a number that is none."""
    pytest.importorskip("ase" if suffix == "xyz" else "mdtraj")
    path = tmp_path / f"s.{suffix}"
    export_molecules(path, SAMPLES, progress=False)
    before = path.read_bytes()
    broken = SAMPLES.samples.copy()
    broken[1, 9 + 4, 2, 5] = value
    place = rf"got {value:g} for atom 4 in frame 9 of sample 1 of graph 1".replace("+", r"\+")
    with pytest.raises(
        ValueError, match=rf"s\.{suffix}: positions must be finite and below 2\.1e\+07 angstrom, {place}"
    ):
        export_molecules(path, dataclasses.replace(SAMPLES, samples=broken), progress=False)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1 + (suffix != "xyz")


def test_bare_positions_need_one_molecule(tmp_path):
    pytest.importorskip("mdtraj")
    numbers = SAMPLES.atomic_numbers.copy()
    numbers[9] = 7
    with pytest.raises(ValueError, match="all graphs must be the same molecule, graph 1 is another"):
        export_molecules(tmp_path / "s.dcd", dataclasses.replace(SAMPLES, atomic_numbers=numbers), progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["xyz", "dcd", "xtc"])
def test_full_disk(tmp_path, suffix):
    pytest.importorskip("ase" if suffix == "xyz" else "mdtraj")
    path = tmp_path / f"s.{suffix}"
    if suffix == "xyz":
        export_molecules(path, SAMPLES, progress=False)
        assert_earlier_file_survives(
            path, lambda path: export_molecules(path, SAMPLES, progress=False), lambda path: path.read_bytes()
        )
        return
    export_molecules(path, SAMPLES, progress=False)
    before = path.read_bytes()
    assert len(before) > 4096
    with full_disk(4096), pytest.raises(OSError, match=rf"cannot write .*s\.{suffix} .*the earlier file is unchanged"):
        export_molecules(path, SAMPLES, progress=False)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("option", "package", "extra"), [("xyz", "ase", "molecules"), ("dcd", "mdtraj", "md")])
def test_what_is_missing_is_told_first(tmp_path, monkeypatch, capsys, option, package, extra):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    out = ["--out", str(tmp_path / "s.npz"), f"--{option}", str(tmp_path / f"s.{option}")]
    (tmp_path / "empty.safetensors").touch()
    assert main(["sample", str(tmp_path / "empty.safetensors"), *out]) == 2
    assert f"needs {package}, which is not installed: {how_to_install(extra)}" in capsys.readouterr().err


def test_command(tmp_path, capsys):
    pytest.importorskip("ase")
    pytest.importorskip("mdtraj")
    write_ethanol(tmp_path / "ethanol.npz")
    checkpoint = write_checkpoint(tmp_path / "e.safetensors", ethanol_config(tmp_path / "ethanol.npz"))
    files = [word for suffix in ("xyz", "dcd", "xtc") for word in (f"--{suffix}", str(tmp_path / f"s.{suffix}"))]
    assert main(["sample", checkpoint, "--num-graphs", "2", "--out", str(tmp_path / "s"), *files, "--quiet"]) == 0
    said = capsys.readouterr().out
    assert said.count(": 40 structures") == 3 and "s.xyz: 40 structures\n" in said
    assert said.count(f"structures, their atoms in {tmp_path / 's.pdb'}\n") == 2
    assert main(["sample", checkpoint, "--out", str(tmp_path / "s"), "--dcd", "s.xtc"]) == 2
    assert "--dcd must end in .dcd; got 's.xtc'" in capsys.readouterr().err
