"""Rollouts into folders of shards, by `geotdm sample --rollout`: killed, gone on with, exported, scored."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import warm_python
from shard_runs import RUN, TASK, content, into
from shard_runs import command as sample_command
from tiny_models import charged_config, ethanol_config, tiny_diffusion, write_checkpoint, write_ethanol

from geotdm_fast.checkpoint import build_diffusion
from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.model import Model
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.samples.shards import iterate_shards
from geotdm_fast.sampling import Rollout

NUM_SHARDS, FRAMES = 6, 20


def steady(config: dict) -> dict:
    """A model that predicts positions: what it draws stays near."""
    return normalise_config(config | {"diffusion": config["diffusion"] | {"model_mean_type": "start_x"}})


CONFIG = steady(charged_config())
PLAN = Rollout.of(TASK, 12, FRAMES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("model") / "charged.safetensors", CONFIG)


def roll_into(folder, **options):
    return into(folder, **{"config": CONFIG, "num_steps": 4, "rollout": PLAN} | options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert roll_into(folder) == (NUM_SHARDS, NUM_SHARDS)
    return folder


def command(checkpoint, folder, *more: str) -> list[str]:
    return sample_command(checkpoint, folder, "--steps", "4", "--rollout", str(FRAMES), *more)


def test_shards_hold_what_one_file_would(undisturbed):
    dataset = open_dataset(CONFIG["data"]["test"], progress=False)
    diffusion = tiny_diffusion(CONFIG)
    model = Model(diffusion.denoise_network, diffusion, TASK, CONFIG, "charged.safetensors")
    expected = model.rollout(dataset, FRAMES, 3, steps=4, batch_size=3)
    joined = read_samples(undisturbed)
    for field in dataclasses.fields(expected):
        same = np.array_equal(*(np.nan_to_num(np.asarray(getattr(s, field.name)), nan=7.0) if field.name == "target"
                                else getattr(s, field.name) for s in (joined, expected)))  # fmt: skip
        assert same, field.name
    assert joined.num_known == 8 and joined.samples.shape[-1] == FRAMES and joined.cond_mask.sum() == 4
    request = json.loads((undisturbed / "manifest.json").read_text())["request"]
    about = {"num_frames": 20, "window": 12, "overlap": 4, "bound": "1000.0", "recentres": True}
    assert request["rollout"] == about


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_and_shards_change_rounding_alone(undisturbed, tmp_path, batch_size):
    roll_into(tmp_path, batch_size=batch_size, shard_size=7)
    expected, joined = read_samples(undisturbed), read_samples(tmp_path)
    np.testing.assert_allclose(joined.samples, expected.samples, rtol=1e-4, atol=1e-4)


def test_killed_and_called_again(undisturbed, checkpoint, tmp_path, capsys):
    folder = tmp_path / "killed"
    killed = warm_python.run("-c", RUN, "np", "savez_compressed", "halfway", "3", "0", *command(checkpoint, folder))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(folder.glob("shard-*.npz"))) == 2
    assert main(command(checkpoint, folder)) == 0
    assert "in 6 shards, 2 of which were there\n" in capsys.readouterr().out
    assert content(folder) == content(undisturbed)
    assert main(["evaluate", str(folder), "--quiet"]) == 0
    assert (
        "8 frames from 4 given (12 frames behind them, where the data end, are not scored)" in capsys.readouterr().out
    )


def test_two_processes_draw_the_same(undisturbed, checkpoint, tmp_path):
    for done in warm_python.run_together(2, "-m", "geotdm_fast", *command(checkpoint, tmp_path / "two")):
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "two") == content(undisturbed)


def test_another_rollout_is_another_request(undisturbed):
    with pytest.raises(ValueError, match=r"rollout is \{.*\"num_frames\": 20.*there, asked for is \{.*: 21"):
        roll_into(undisturbed, rollout=Rollout.of(TASK, 12, 21))
    with pytest.raises(ValueError, match=r"rollout is \{.*\} there, asked for is nothing"):
        into(undisturbed, config=CONFIG, num_steps=4)


def test_a_shard_that_explodes_is_kept_and_told(tmp_path, monkeypatch):
    real = Sampler.draw

    def broken(self, shape, model_kwargs, noise, **kwargs):
        drawn = real(self, shape, model_kwargs, noise, **kwargs)
        return drawn.masked_fill((noise.counters.graph == 2)[..., None], float("nan"))

    monkeypatch.setattr(Sampler, "draw", broken)
    message = (
        r"shard-000002\.npz: 3 trajectories explode, the first, sample 0 of graph 2 in block 1 of 3: .*; they are NaN"
    )
    with pytest.warns(UserWarning, match=message) as told:
        assert roll_into(tmp_path) == (NUM_SHARDS, NUM_SHARDS)
    assert len([one for one in told if "explode" in str(one.message)]) == 1
    finite = [bool(np.isfinite(samples.samples).all()) for _, samples in iterate_shards(tmp_path)]
    assert finite == [True, True, False, True, True, True]


def test_shards_are_smaller_the_longer_the_rollout(tmp_path):
    roll_into(tmp_path / "a", shard_size=None, rollout=None, num_samples=1, num_steps=1)
    roll_into(tmp_path / "b", shard_size=None, num_samples=1, num_steps=1)
    sizes = [json.loads((tmp_path / f / "manifest.json").read_text())["request"]["shard_size"] for f in "ab"]
    assert sizes == [48_000 // 60, 48_000 // 60 // 3]


def test_molecules_into_a_file_and_its_exports(tmp_path, capsys):
    pytest.importorskip("ase")
    pytest.importorskip("mdtraj")
    from ase.io import read
    from mdtraj.formats import DCDTrajectoryFile

    write_ethanol(tmp_path / "ethanol.npz")
    config = steady(ethanol_config(tmp_path / "ethanol.npz", "cond"))
    checkpoint = write_checkpoint(tmp_path / "ethanol.safetensors", config)
    out = ["--out", str(tmp_path / "s.npz"), "--xyz", str(tmp_path / "s.xyz"), "--dcd", str(tmp_path / "s.dcd")]
    options = ["--rollout", "40", "--steps", "3", "--num-graphs", "2", "--set", "data.span=30", "--quiet"]
    assert main(["sample", checkpoint, *options, *out, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "1 samples of 2 graphs, 40 frames each" in said and said.count("88 structures") == 2
    samples = read_samples(tmp_path / "s.npz")
    assert samples.num_known == 26 and samples.forecasts().shape == (1, 18, 3, 44)
    frames = read(tmp_path / "s.xyz", ":")
    assert [frame.info["given"] for frame in frames[:44]] == [True] * 4 + [False] * 40
    np.testing.assert_allclose(frames[43].positions, samples.forecasts()[0, :9, :, 43], atol=1e-6)
    with DCDTrajectoryFile(str(tmp_path / "s.dcd")) as file:
        assert file.read()[0].shape == (88, 9, 3)
    assert main(["evaluate", str(tmp_path / "s.npz"), "--quiet"]) == 0
    np.savez(
        tmp_path / "last.npz", R=np.load(tmp_path / "ethanol.npz")["R"][-6:], z=np.load(tmp_path / "ethanol.npz")["z"]
    )
    given = ["--rollout", "20", "--steps", "2", "--given", str(tmp_path / "last.npz"), "--device", "cpu", "--quiet"]
    assert main(["sample", checkpoint, *given, "--out", str(tmp_path / "future")]) == 0
    future = read_samples(tmp_path / "future")
    assert not future.has_target and future.samples.shape == (1, 9, 3, 20)
    last = np.load(tmp_path / "last.npz")["R"][-4:].transpose(1, 2, 0)
    np.testing.assert_allclose(future.forecasts()[0, :, :, :4], last, atol=1e-5)
    capsys.readouterr()
    assert main(["plot", str(tmp_path / "s.npz"), "--out", str(tmp_path / "s.gif"), "--quiet"]) == 0
    assert "the last 14 frames, of which there is no truth, are left out" in capsys.readouterr().err
    for name in ("s.png", "s.html"):
        assert main(["plot", str(tmp_path / "s.npz"), "--out", str(tmp_path / name)]) == 0
    assert "the truth of the last 14 frames is not known" in (tmp_path / "s.html").read_text()
    assert main(["plot", str(tmp_path / "future"), "--out", str(tmp_path / "future.html")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "5"], "--overlap is of a rollout: give --rollout FRAMES with it"),
        (["--bound", "5"], "--bound is of a rollout: give --rollout FRAMES with it"),
        (["--rollout", "9", "--overlap", "2"], "rollout: overlap must be in 4..11,"),
        (["--rollout", "9", "--bound", "-1"], "rollout: bound must be above 0, got -1.0"),
    ],
)
def test_options_that_do_not_fit(checkpoint, tmp_path, capsys, options, message):
    assert main(["sample", checkpoint, "--out", str(tmp_path / "s.npz"), "--device", "cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_help_and_models_that_cannot_go_on(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "--rollout FRAMES" in shown and "--overlap N" in shown and "--bound FACTOR" in shown
    write_ethanol(tmp_path / "ethanol.npz")
    checkpoint = write_checkpoint(tmp_path / "ethanol.safetensors", ethanol_config(tmp_path / "ethanol.npz"))
    for out in ("s.npz", "folder"):
        assert main(["sample", checkpoint, "--rollout", "40", "--out", str(tmp_path / out), "--device", "cpu"]) == 2
        assert "ethanol.safetensors is a model that would make trajectories of 20 frames; a" in capsys.readouterr().err


def test_memory_is_tried_with_two_blocks(monkeypatch):
    """A rollout of a thousand blocks is not drawn to find out what fits."""
    from geotdm_fast.sampling import batches
    from geotdm_fast.sampling.rollout import RolloutDrawer

    dataset = open_dataset(CONFIG["data"]["test"], progress=False)
    diffusion = build_diffusion(tiny_diffusion(CONFIG).denoise_network, CONFIG, "cpu")
    drawer = RolloutDrawer(Sampler(diffusion), collate(dataset), TASK, 0, Rollout.of(TASK, 12, 8000))
    assert drawer.num_steps == 1000 * 25
    calls, real = [], Sampler.draw

    def counted(self, *args, **kwargs):
        calls.append(self.num_steps)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Sampler, "draw", counted)
    monkeypatch.setattr(batches, "measured_batch_size", lambda draw, most, device: draw(2) or most)
    monkeypatch.setattr(drawer, "device", type("Cuda", (), {"type": "cuda"})())
    assert drawer.fitting_batch_size(batches.Block(range(6), range(3))) == 18
    assert calls == [2, 2]
