"""`simulate_md` from settings to the file: what is in it, and that a stop changes nothing."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from geotdm_fast.data import open_dataset
from geotdm_fast.runtime.files import read_npz, write_npz
from geotdm_fast.simulation import MDSettings, simulate_md
from geotdm_fast.simulation.argon import OwnArgon

SMALL = {"engine": "own", "num_particles": 56, "equilibrate": 0.5, "every": 0.05, "num_frames": 63, "seed": 3}
# In blocks of 100 steps: one that melts, one that equilibrates, six of 10 frames and one of 3.
NUM_BLOCKS = 9


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("geotdm_fast.simulation.blocks.BLOCK_STEPS", 100)
        yield


def settings(**other):
    return MDSettings("argon", **SMALL | other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small_blocks):
    path = tmp_path_factory.mktemp("md") / "argon.npz"
    done = simulate_md(path, settings(), progress=False)
    assert done.new and done.num_atoms == 56
    return path


class Killed(BaseException):
    """In the place of a kill: nothing catches it."""


def stopped_after(monkeypatch, blocks):
    """Let `OwnArgon.run` end so many blocks, and break off in the next."""
    whole, calls = OwnArgon.run, []

    def run(self, state, block, told):
        calls.append(block)
        if len(calls) > blocks:
            raise Killed
        return whole(self, state, block, told)

    monkeypatch.setattr(OwnArgon, "run", run)
    return calls


def test_the_file_is_what_readers_of_molecules_understand(undisturbed):
    found = read_npz(undisturbed)
    edge = settings().run().box_edge
    assert found["R"].shape == (63, 56, 3) and found["R"].dtype == np.float32
    assert (found["z"] == 18).all() and found["z"].shape == (56,) and "bonds" not in found
    np.testing.assert_allclose(found["time"], 0.05 * np.arange(1, 64))
    np.testing.assert_allclose(found["cell"], edge * np.eye(3))
    assert found["pbc"].tolist() == [True, True, True] and found["unit"] == "angstrom"
    assert found["temperature"].mean() == pytest.approx(94.4, abs=60)
    assert json.loads(str(found["simulation"]))["seed"] == 3
    # Unwrapped: no atom jumps by half of the box from frame to frame.
    assert np.abs(np.diff(found["R"], axis=0)).max() < edge / 2
    assert found["R"].mean(axis=1).std(axis=0).max() < 1e-4  # and the whole does not drift
    bonds = [[i, i + 1] for i in range(55)]  # argon has none, and the reader asks for them
    section = {"kind": "npz", "path": str(undisturbed), "span": 10, "atom_types": [18], "bonds": bonds}
    assert open_dataset(section, progress=False)[0].x.shape == (56, 3, 10)
    assert not undisturbed.with_name("argon.npz.parts").exists()


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
def test_stopped_anywhere_it_ends_with_the_same_file(undisturbed, tmp_path, monkeypatch, blocks):
    out, parts = tmp_path / "argon.npz", tmp_path / "argon.npz.parts"
    with monkeypatch.context() as patched:
        stopped_after(patched, blocks)
        with pytest.raises(Killed):
            simulate_md(out, settings(), progress=False)
    assert not out.exists() and len(list(parts.glob("block-*.npz"))) == blocks
    with monkeypatch.context() as patched:
        calls = stopped_after(patched, 99)
        simulate_md(out, settings(), progress=False)
    assert len(calls) == NUM_BLOCKS - blocks
    assert out.read_bytes() == undisturbed.read_bytes()
    assert os.listdir(tmp_path) == ["argon.npz"]


# What a process runs that kills itself within a block, or as it has written one aside and not yet renamed it.
KILLED = """
import os, signal, sys
from geotdm_fast.cli import main
from geotdm_fast.simulation import argon, blocks

blocks.BLOCK_STEPS = 100
calls = []

def killed(whole, number):
    def call(*args):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*args)
    return call

place, *words = sys.argv[1:]
if place == "block":
    argon.lennard_jones = killed(argon.lennard_jones, 450)
if place == "rename":
    os.replace = killed(os.replace, 4)  # the third block's, behind the request's
sys.exit(main(words))
"""


@pytest.mark.parametrize(("place", "whole_blocks"), [("block", 5), ("rename", 2)])
def test_killed_by_the_system_it_ends_with_the_same_file(undisturbed, tmp_path, place, whole_blocks):
    out = tmp_path / "argon.npz"
    words = ["simulate", "md:argon", "--engine", "own", "--num-atoms", "56", "--equilibrate", "0.5", "--every", "0.05"]
    words = [*words, "--frames", "63", "--seed", "3", "--quiet", "--out", str(out)]
    first = subprocess.run([sys.executable, "-c", KILLED, place, *words])
    assert first.returncode == -signal.SIGKILL and not out.exists()
    kept = [path.name for path in (tmp_path / "argon.npz.parts").glob("*block-*")]
    assert len([name for name in kept if not name.startswith(".")]) == whole_blocks
    assert (place == "rename") == any(name.startswith(".") for name in kept)
    subprocess.run([sys.executable, "-c", KILLED, "nowhere", *words], check=True)
    assert out.read_bytes() == undisturbed.read_bytes()
    assert os.listdir(tmp_path) == ["argon.npz"]


def test_a_damaged_block_is_simulated_again(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "argon.npz"
    with monkeypatch.context() as patched:
        stopped_after(patched, 3)
        with pytest.raises(Killed):
            simulate_md(out, settings(), progress=False)
    block = tmp_path / "argon.npz.parts" / "block-000002.npz"
    block.write_bytes(block.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"block-000002.npz .* this block is simulated again"):
        simulate_md(out, settings(), progress=False)
    assert out.read_bytes() == undisturbed.read_bytes()


def test_equal_seeds_alone_give_equal_files(undisturbed, tmp_path):
    simulate_md(tmp_path / "again.npz", settings(), progress=False)
    assert (tmp_path / "again.npz").read_bytes() == undisturbed.read_bytes()
    simulate_md(tmp_path / "other.npz", settings(seed=4), progress=False)
    assert np.abs(read_npz(tmp_path / "other.npz")["R"] - read_npz(undisturbed)["R"]).max() > 0.5


def test_a_file_that_is_whole_is_left_alone(undisturbed):
    before = os.stat(undisturbed).st_mtime_ns
    assert not simulate_md(undisturbed, settings(), progress=False).new
    assert os.stat(undisturbed).st_mtime_ns == before


def test_another_request_is_refused_until_it_starts_anew(undisturbed, tmp_path, monkeypatch):
    message = r"argon.npz holds another simulation: .*num_frames is 63 there, not 2.*start anew \(--restart\)"
    with pytest.raises(ValueError, match=message):
        simulate_md(undisturbed, settings(num_frames=2), progress=False)
    foreign = tmp_path / "foreign.npz"
    write_npz(foreign, R=np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"foreign.npz holds another simulation: system is nothing there"):
        simulate_md(foreign, settings(num_frames=2), progress=False)

    out = tmp_path / "x.npz"
    with monkeypatch.context() as patched:
        stopped_after(patched, 1)
        with pytest.raises(Killed):
            simulate_md(out, settings(), progress=False)
    with pytest.raises(ValueError, match=r"x.npz.parts holds another simulation: temperature is 94.4 there, not 100.0"):
        simulate_md(out, settings(temperature=100.0), progress=False)
    assert simulate_md(out, settings(num_frames=2), restart=True, progress=False).new
    assert read_npz(out)["R"].shape[0] == 2
    with monkeypatch.context() as patched:
        stopped_after(patched, 2)
        with pytest.raises(Killed):
            simulate_md(out, settings(), restart=True, progress=False)
    with monkeypatch.context() as patched:
        calls = stopped_after(patched, 99)
        simulate_md(out, settings(), progress=False)
    assert len(calls) == NUM_BLOCKS - 2 and out.read_bytes() == undisturbed.read_bytes()


def test_a_damaged_request_is_told(tmp_path, monkeypatch):
    out = tmp_path / "x.npz"
    with monkeypatch.context() as patched:
        stopped_after(patched, 1)
        with pytest.raises(Killed):
            simulate_md(out, settings(), progress=False)
    (tmp_path / "x.npz.parts" / "request.json").write_text("{")
    with pytest.raises(ValueError, match=r"request.json must be JSON, .*start anew \(--restart\)"):
        simulate_md(out, settings(), progress=False)


def test_what_fails_before_the_first_block_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="a smaller timestep"), np.errstate(all="ignore"):
        simulate_md(tmp_path / "x.npz", settings(timestep=0.5, every=0.5, equilibrate=100.0), progress=False)
    assert list(tmp_path.iterdir()) == []
