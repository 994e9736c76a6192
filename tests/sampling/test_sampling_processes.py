"""Under torchrun: one, two and three processes leave the same files, also when one of them dies.

torchrun itself starts them once; the others have its environment.
"""

import contextlib
import signal

import pytest
import torch
import warm_python
from shard_runs import CONFIG, NUM_SHARDS, RUN, command, content, into
from tiny_models import write_checkpoint

from geotdm_fast.cli import main
from geotdm_fast.runtime.processes import Processes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "charged.safetensors", CONFIG)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    into(folder)
    return content(folder)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_shards(checkpoint, alone, tmp_path, processes):
    words = ["-m", "geotdm_fast", *command(checkpoint, tmp_path / "samples")]
    words.remove("--quiet")
    done = [warm_python.torchrun(2, *words)] if processes == 2 else warm_python.run_together(processes, *words)
    stdout, stderr = ("".join(getattr(one, name) for one in done) for name in ("stdout", "stderr"))
    assert not any(one.returncode for one in done), stderr
    assert content(tmp_path / "samples") == alone
    assert stdout.count("3 samples of 6 graphs in 6 shards") == 1, "one of them speaks"
    assert "18/18" in stderr and stderr.count("100%") >= 1


def test_a_process_that_dies_leaves_the_others_shards(checkpoint, alone, tmp_path):
    """The second process dies in the midst of its second shard; one process finishes the rest."""
    folder = tmp_path / "samples"
    deadly = ["np", "savez_compressed", "halfway", "2", "1"]
    left_over, died = warm_python.run_together(2, "-c", RUN, *deadly, *command(checkpoint, folder))
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert left_over.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), left_over.stderr
    left = content(folder)
    whole = {name for name in left if name.startswith("shard-")}
    assert "shard-000001.npz" in whole and not {"shard-000003.npz", "shard-000005.npz"} & whole
    assert all(left[name] == alone[name] for name in {"manifest.json", *whole})
    assert main(command(checkpoint, folder)) == 0
    assert content(folder) == alone
    assert len(whole) < NUM_SHARDS


def test_errors_reach_every_process(checkpoint, tmp_path):
    into(tmp_path / "samples", seed=1)
    for done in warm_python.run_together(2, "-m", "geotdm_fast", *command(checkpoint, tmp_path / "samples")):
        assert done.returncode != 0
        assert done.stderr.count("geotdm sample: error:") == 1
        assert "seed is 1 there, asked for is 0" in done.stderr


def test_one_file_is_for_one_process(tmp_path, monkeypatch, capsys):
    two = contextlib.nullcontext(Processes(0, 2, torch.device("cpu")))
    monkeypatch.setattr("geotdm_fast.runtime.processes.processes", lambda *args, **options: two)
    (tmp_path / "model.safetensors").touch()
    assert main(["sample", str(tmp_path / "model.safetensors"), "--out", "one.npz"]) == 2
    assert "--out must be a folder for the 2 processes of torchrun to share, got 'one.npz'" in capsys.readouterr().err
