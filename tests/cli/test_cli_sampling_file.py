"""The official sampling files through `geotdm sample`, beside trainings of ours and of the official code."""

import pathlib

import numpy as np
import pytest
import torch
import yaml
from official_data import SUFFIX, write_md17, write_nbody
from tiny_ays import SPAN, interpolator_config, write_runs
from tiny_ays import tame_network as tame_atoms
from tiny_models import charged_config, tame_network, tiny_diffusion, write_checkpoint

from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.cli import main
from geotdm_fast.cli.sampling_file import agreed
from geotdm_fast.config.files import normalise_config
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.task import Task

NETWORK = {"n_layers": 1, "hidden_dim": 16, "time_emb_dim": 8, "n_layers_ref": 1, "num_w": 6, "pre_norm": True}
EVAL = {"train_exp_name": "run", "model_ckpt": "best", "eval_exp_name": None, "output_base_path": "outputs/",
        "cond_mask": None, "seed": 100, "model": "GeoTDM", "batch_size": 128, "sampling_timesteps": 25}  # fmt: skip
WANDB = {"wandb_usr": "someone", "no_wandb": True, "project": "any"}
DATA = {
    "nbody": {"root": "datagen", "name": "nbody_test", "suffix": f"test_{SUFFIX}", "span": 10, "return_index": True},
    "md17": {
        "root": "md17", "molecule_name": "ethanol", "down_sample_every": 2, "with_h": True, "span": 10, "mode": "test",
        "force_length": 4, "return_index": True,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that everything is relative to, with the data."""
    monkeypatch.chdir(tmp_path)
    write_nbody(tmp_path / "datagen", "test", 4)
    write_md17(tmp_path / "md17")
    return tmp_path


def training(kind: str, conditional: bool) -> dict:
    """A training file with the official keys."""
    sizes = {"node_dim": 1, "edge_dim": 1} if kind == "nbody" else {"node_dim": 30, "edge_dim": 4}
    frames = {"cond_mask": [[0, 4]]} if conditional else {"tot_len": 6}
    return {
        "data": {"train": DATA[kind] | {"project": not conditional}},
        "denoise_model": NETWORK | sizes | {"learn_ref_frame": conditional},
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 25}
        | ({} if conditional else {"mode": "uncond"}),
        "train": {"exp_name": "run", "num_epochs": 1, "K": 5, "final_test": True} | frames,
    }


def write_official_run(kind: str, conditional: bool) -> dict:
    """outputs/run as the official trainer leaves it: ckpt_best.pt of a wrapped network, and its YAML."""
    run = pathlib.Path("outputs/run")
    run.mkdir(parents=True)
    config = training(kind, conditional)
    (run / f"{kind}_train.yaml").write_text(yaml.safe_dump(config | {"wandb": WANDB}))
    state = tame_network(normalise_config(config)).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, run / "ckpt_best.pt")
    return config


def sampling(kind: str, conditional: bool, **changes) -> str:
    content = {"data": DATA[kind] | {"project": not conditional}, "wandb": WANDB}
    content["eval"] = EVAL | {"cond": conditional} | changes
    pathlib.Path("sampling.yaml").write_text(yaml.safe_dump(content))
    return "sampling.yaml"


@pytest.mark.parametrize("kind", ["nbody", "md17"])
@pytest.mark.parametrize("conditional", [True, False])
def test_official_runs_are_sampled(kind, conditional):
    write_official_run(kind, conditional)
    assert main(["sample", sampling(kind, conditional), "--quiet", "--device", "cpu"]) == 0
    samples = read_samples("outputs/run_eval/samples.npz")
    assert samples.samples.shape == (1, 4 * (5 if kind == "nbody" else 9), 3, 6)
    assert (samples.mode, samples.seed, samples.checkpoint) == (
        "cond" if conditional else "uncond",
        100,
        "ckpt_best.pt",
    )
    assert samples.cond_mask.tolist() == ([True] * 4 + [False] * 6 if conditional else [False] * 6)
    assert main(["evaluate", "outputs/run_eval/samples.npz", "--scores", "ade" if conditional else "marginal"]) == 0


def test_runs_of_ours_are_sampled_and_options_go_before(folder):
    pathlib.Path("outputs/run").mkdir(parents=True)
    write_checkpoint("outputs/run/best.safetensors", normalise_config(training("nbody", True)))
    about = ["--quiet", "--device", "cpu"]
    assert main(["sample", sampling("nbody", True, K=2, eval_exp_name="mine"), *about]) == 0
    first = read_samples("outputs/mine/samples.npz")
    assert first.num_samples == 2 and first.checkpoint == "best.safetensors"
    assert main(["sample", "sampling.yaml", "--num-samples", "1", "--seed", "0", "--out", "s.npz", *about]) == 0
    other = read_samples("s.npz")
    assert (other.num_samples, other.seed) == (1, 0) and not np.array_equal(other.samples[0], first.samples[0])


def test_another_mask(capsys):
    write_official_run("nbody", True)
    assert main(["sample", sampling("nbody", True, cond_mask=[[0, 2], [8, 10]]), "--quiet", "--device", "cpu"]) == 0
    mask = read_samples("outputs/run_eval/samples.npz").cond_mask
    assert np.flatnonzero(mask).tolist() == [0, 1, 8, 9]


def test_steps_that_the_model_was_not_trained_with_are_named(capsys):
    write_official_run("nbody", True)
    assert main(["sample", sampling("nbody", True, sampling_timesteps=1000), "--quiet", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "eval.sampling_timesteps is 1000, but the model was trained with 25 steps" in said
    assert main(["sample", "sampling.yaml", "--method", "ddim", "--steps", "5", "--quiet", "--device", "cpu"]) == 0
    assert "sampling_timesteps" not in capsys.readouterr().err


def test_what_the_file_says_goes_before_what_the_model_recommends(capsys):
    """A file that names no steps leaves the model its method."""
    pathlib.Path("outputs/run").mkdir(parents=True)
    config = normalise_config(training("nbody", True) | {"sampling": {"method": "dpmpp_2m", "steps": 5}})
    write_checkpoint("outputs/run/best.safetensors", config)

    def drawn(timesteps, *more: str) -> tuple[str | None, int | None, bool]:
        words = [sampling("nbody", True, sampling_timesteps=timesteps), "--quiet", "--device", "cpu", *more]
        assert main(["sample", *words]) == 0
        samples = read_samples("outputs/run_eval/samples.npz")
        return samples.method, samples.num_steps, "sampling_timesteps" in capsys.readouterr().err

    assert drawn(25) == ("ddpm", 25, False) and drawn(1000) == ("ddpm", 25, True)
    assert drawn(None) == ("dpmpp_2m", 5, False) and drawn(25, "--steps", "7") == ("ddpm", 7, False)
    assert drawn(25, "--method", "dpmpp_2m") == ("dpmpp_2m", 25, False)


def test_the_steps_of_a_student_are_one_call(recwarn):
    config = charged_config() | {"distill": {"pairs": "pairs"}}
    config["diffusion"]["calls"] = 1
    settings = {"file": "f.yaml", "cond": None, "cond_mask": None, "sampling_timesteps": 25}
    with pytest.warns(UserWarning, match="is 25, but the model is a student, and is sampled in one call"):
        agreed(settings, tiny_diffusion(config), Task.of_config(config), None)
    agreed(settings | {"sampling_timesteps": 1}, tiny_diffusion(config), Task.of_config(config), None)
    assert not recwarn


def test_what_is_wrong_is_named(capsys):
    def said(*words: str) -> str:
        assert main(["sample", *words, "--quiet", "--device", "cpu"]) == 2
        return capsys.readouterr().err

    config = write_official_run("nbody", True)
    assert "sampling.yaml: eval.cond must be true (or left out) for a model of mode 'cond', got false" in said(
        sampling("nbody", False)
    )
    error = said(sampling("nbody", True, model_ckpt=400))
    assert "eval.model_ckpt: '400' must be the weights of a training in outputs/run" in error
    assert "outputs/run/epoch_400.safetensors nor outputs/run/ckpt_400.pt" in error
    pathlib.Path("outputs/run/other.yaml").write_text(yaml.safe_dump(config))
    assert "one alone, got nbody_train.yaml, other.yaml; --config FILE.yaml says which" in said(sampling("nbody", True))
    assert main(["sample", "sampling.yaml", "--config", "outputs/run/other.yaml", "--quiet", "--device", "cpu"]) == 0
    for path in pathlib.Path("outputs/run").glob("*.yaml"):
        path.unlink()
    assert "must hold the YAML file of the training beside its weights, got none" in said("sampling.yaml")
    assert "--out must be given: FILE.npz, or a folder" in said("outputs/run/ckpt_best.pt")


def test_a_model_of_align_your_structures(folder, capsys):
    """Its diffusion has one mode for all tasks: whether frames are given is the task's to say."""
    write_runs(folder)
    config = interpolator_config(folder)
    config["diffusion"]["model_mean_type"] = "start_x"
    pathlib.Path("outputs/run").mkdir(parents=True)
    save_checkpoint("outputs/run/best.safetensors", tame_atoms(config), config)
    request = {"data": config["data"]["test"], "eval": EVAL | {"cond": True, "cond_mask": [[0, 1]], "K": 2}}
    about = ["--method", "ddim", "--steps", "3", "--quiet", "--device", "cpu"]
    pathlib.Path("sampling.yaml").write_text(yaml.safe_dump(request))
    assert main(["sample", "sampling.yaml", *about]) == 0
    samples = read_samples("outputs/run_eval/samples.npz")
    assert samples.mode == "cond" and samples.samples.shape[::3] == (2, SPAN - 1)
    assert samples.cond_mask.tolist() == [True] + [False] * (SPAN - 1)
    for mask in ([[2, 3]], [[0, 1], [SPAN - 1, SPAN]]):
        other = request | {"eval": request["eval"] | {"cond_mask": mask}}
        pathlib.Path("sampling.yaml").write_text(yaml.safe_dump(other))
        assert main(["sample", "sampling.yaml", *about]) == 2
        expected = "[[0, 1]] (or left out), the frames that denoise_model.conditioning of the model gives"
        assert f"sampling.yaml: eval.cond_mask must be {expected}, got {mask}" in capsys.readouterr().err
    request["eval"]["cond"] = False
    pathlib.Path("sampling.yaml").write_text(yaml.safe_dump(request))
    assert main(["sample", "sampling.yaml", *about]) == 2
    assert "eval.cond must be true (or left out) for a model of mode 'cond', got false" in capsys.readouterr().err
