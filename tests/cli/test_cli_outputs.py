"""No command replaces a file that it reads."""

import shutil

import numpy as np
import pytest
from tiny_models import ETHANOL, ETHANOL_POSITIONS, ethanol_config, write_checkpoint, write_ethanol

from geotdm_fast.cli import main


@pytest.fixture
def checkpoint(tmp_path):
    """A model of ethanol that is given 4 frames of 20."""
    write_ethanol(tmp_path / "ethanol.npz")
    return write_checkpoint(tmp_path / "model.safetensors", ethanol_config(tmp_path / "ethanol.npz", "cond"))


def refused(capsys, *words) -> str:
    assert main(["sample", *map(str, words), "--quiet"]) == 2
    return capsys.readouterr().err


def test_samples_do_not_replace_the_data(checkpoint, tmp_path, capsys):
    data = tmp_path / "mine.npz"
    shutil.copy(tmp_path / "ethanol.npz", data)
    before = data.read_bytes()
    expected = f"--out must not be a file that is read, got {data}, which is data.test.path and would be lost"
    for option in ("--data", "--given"):
        assert expected in refused(capsys, checkpoint, option, data, "--out", data)
    # By another name, and as the file of the checkpoint's own section.
    link = tmp_path / "link.npz"
    link.symlink_to(data)
    assert f"got {link}, which is data.test.path" in refused(capsys, checkpoint, "--data", data, "--out", link)
    assert "got ./ethanol.npz, which is" in refused_within(tmp_path, capsys, checkpoint, "--out", "./ethanol.npz")
    assert data.read_bytes() == before
    assert main(["sample", checkpoint, "--data", str(data), "--out", str(tmp_path / "new.npz"), "--quiet"]) == 0
    assert main(["sample", checkpoint, "--data", str(data), "--out", str(tmp_path / "new.npz"), "--quiet"]) == 0


def refused_within(folder, capsys, *words) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return refused(capsys, *words)


def test_exports_do_not_replace_trajectory_or_topology(checkpoint, tmp_path, capsys):
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("ETH", topology.add_chain())
    for i, number in enumerate(ETHANOL.tolist()):
        element = mdtraj.element.Element.getByAtomicNumber(number)
        topology.add_atom(f"{element.symbol}{i}", element, residue)
    jitter = 0.003 * np.random.default_rng(0).normal(size=(200, 9, 3))
    run = mdtraj.Trajectory(ETHANOL_POSITIONS / 10 + jitter, topology)
    run.save_xtc(str(tmp_path / "run.xtc"))
    run[0].save_pdb(str(tmp_path / "run.pdb"))
    before = [(tmp_path / name).read_bytes() for name in ("run.xtc", "run.pdb")]
    data = ["--data", tmp_path / "run.xtc", "--topology", tmp_path / "run.pdb", "--out", tmp_path / "s.npz"]
    xtc, dcd, pdb = (tmp_path / f"run.{suffix}" for suffix in ("xtc", "dcd", "pdb"))
    assert f"--xtc must not be a file that is read, got {xtc}" in refused(capsys, checkpoint, *data, "--xtc", xtc)
    message = f"the .pdb beside --dcd must not be a file that is read, got {pdb}, which is data.test.topology"
    assert message in refused(capsys, checkpoint, *data, "--dcd", dcd)
    assert [(tmp_path / name).read_bytes() for name in ("run.xtc", "run.pdb")] == before
    assert not dcd.exists() and not (tmp_path / "s.npz").exists()
