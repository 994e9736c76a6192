"""Align Your Structures by the command line: the commands of docs/ays.md, exports, shards, official files, refusals."""

import re
import shlex

import numpy as np
import pytest
import torch
import yaml
from ays_trainings import folder_of_runs
from places import ROOT
from tiny_ays import ETHENE, SPAN, interpolator_config, structure_config, tame_network
from tiny_models import write_ethanol
from tiny_training import tiny_config

from geotdm_fast.checkpoint import load_tensors, save_checkpoint
from geotdm_fast.cli import main
from geotdm_fast.config.files import load_config
from geotdm_fast.data import open_dataset
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.samples.shards import present_shards

PAGE = (ROOT / "docs" / "ays.md").read_text(encoding="utf-8")
# What makes a training of the configurations one of a blink.
TINY = {
    "denoise_model": {"n_layers": 1, "node_dim": 6, "hidden_dim": 16, "time_emb_dim": 8},
    "diffusion": {"num_timesteps": 60},
    "train": {"num_steps": 3, "batch_size": 4, "eval_graphs": 4, "warmup_steps": 0},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*pieces")


def commands() -> list[list[str]]:
    """Every command of the page."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


def tiny(words: list[str]) -> list[str]:
    """A command of the page, made one of a blink."""
    words = [word.replace("configs/", f"{ROOT}/configs/") for word in words[1:]]
    if words[0] == "train":
        sets = [f"{section}.{key}={value}" for section, keys in TINY.items() for key, value in keys.items()]
        span = 1 if "structure" in words[1] else 6
        sets += [f"data.{split}.span={span}" for split in ("train", "val", "test")]
        words += [word for text in sets for word in ("--set", text)] + ["--device", "cpu", "--quiet"]
    if words[0] == "sample":
        words += ["--device", "cpu", "--quiet", "--num-graphs", "3"]
        words = ["11" if word == "124" else word for word in words]
    if words[0] == "check-equivariance":
        words = ["2" if word == "20" else word for word in words]
        words += ["--device", "cpu", "--quiet", "--precision", "float64"]
    return words + (["--quiet"] if words[0] == "evaluate" else [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def model(folder):
    """A checkpoint that predicts x_0, of weights that learned nothing."""
    config = interpolator_config(folder)
    config["diffusion"]["model_mean_type"] = "start_x"
    save_checkpoint(folder / "model.safetensors", tame_network(config), config)
    return str(folder / "model.safetensors")


def test_the_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_ethanol("my_molecule.npz", 120)
    said = {}
    for words in commands():
        assert words[0] == "geotdm" and main(tiny(words)) == 0, words
        said.setdefault(words[1], []).append(capsys.readouterr().out)
    assert "ft_dim: 13" in said["inspect"][0] and "type: interpolator" in said["inspect"][0]
    samples = read_samples("ays.npz")
    assert samples.samples.shape == (4, 9 * samples.num_graphs, 3, 5) and samples.is_molecule
    assert np.isfinite(samples.samples).all()
    assert len(present_shards(tmp_path / "ays_long")) >= 1
    assert "ADE" in said["evaluate"][0] and "bond" in said["evaluate"][0]
    structure, _ = load_tensors("outputs/ays_structure_small/best.safetensors")
    learned, _ = load_tensors("outputs/ays_interpolator_small/last.safetensors")
    assert all(torch.equal(value, learned[name]) for name, value in structure.items())
    python = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    names = {}
    exec(compile(python.replace('small")', 'small", device="cpu")'), "docs/ays.md", "exec"), names)
    assert names["samples"].samples.shape == (4, 9, 3, 5)


def test_shards_are_gone_on_with_and_exported(folder, model, tmp_path, capsys):
    out, words = tmp_path / "shards", ["sample", model, "--device", "cpu", "--quiet", "--num-samples", "3"]
    words += ["--method", "ays_ddim", "--steps", "4", "--shard-size", "2", "--batch-size", "2", "--out", str(out)]
    assert main(words) == 0
    first = read_samples(out)
    shard = out / "shard-000001.npz"
    before = shard.read_bytes()
    shard.unlink()
    xyz = tmp_path / "s.xyz"
    assert main([*words, "--xyz", str(xyz)]) == 0 and shard.read_bytes() == before
    assert xyz.read_text().count("Properties") == first.num_samples * first.num_graphs * SPAN
    assert main([*words, "--seed", "1"]) == 2
    assert "seed" in capsys.readouterr().err


def test_given_frames_and_rollouts(folder, model, tmp_path):
    about = ["--device", "cpu", "--quiet", "--method", "ddim", "--steps", "3"]
    given = ["--given", str(folder / "water.npz"), "--out", str(tmp_path / "given.npz")]
    assert main(["sample", model, *about, *given]) == 0
    samples = read_samples(tmp_path / "given.npz")
    assert not samples.has_target and samples.samples.shape == (1, 3, 3, SPAN - 1)
    assert np.abs(samples.x_given.mean(0)).max() < 1e-4
    rollout = ["--rollout", "9", "--num-graphs", "1", "--out", str(tmp_path / "long.npz")]
    assert main(["sample", model, *about, *rollout]) == 0
    assert read_samples(tmp_path / "long.npz").samples.shape[-1] == 9


def test_a_checkpoint_is_scored(model, capsys):
    words = ["--num-samples", "2", "--method", "ddim", "--steps", "3", "--device", "cpu", "--quiet"]
    assert main(["evaluate", model, "--scores", "ade,nll", *words]) == 0
    said = capsys.readouterr().out
    assert "4 frames from 1 given; 2 graphs x 2 samples" in said and "NLL at most" in said


def test_nothing_is_given(folder, tmp_path, capsys):
    config = interpolator_config(folder, "unconditional_forward")
    config["diffusion"]["model_mean_type"] = "start_x"
    save_checkpoint(folder / "both.safetensors", tame_network(config), config)
    words = [
        "sample",
        str(folder / "both.safetensors"),
        "--device",
        "cpu",
        "--quiet",
        "--method",
        "ddim",
        "--steps",
        "3",
    ]
    assert main([*words, "--free", "--out", str(tmp_path / "f.npz")]) == 0
    samples = read_samples(tmp_path / "f.npz")
    assert samples.mode == "uncond" and samples.samples.shape[-1] == SPAN
    assert main([*words, "--out", str(tmp_path / "g.npz")]) == 0
    assert read_samples(tmp_path / "g.npz").samples.shape[-1] == SPAN - 1
    assert main(["sample", "nbody_charged_small", "--free", "--out", "a.npz", "--device", "cpu"]) == 2
    assert "--free is for a model of Align Your Structures" in capsys.readouterr().err


def test_a_structure_model_is_sampled_for_another_file(folder, tmp_path, capsys):
    config = structure_config(folder)
    config["diffusion"]["model_mean_type"] = "start_x"
    save_checkpoint(folder / "structure.safetensors", tame_network(config), config)
    words = ["sample", str(folder / "structure.safetensors"), "--device", "cpu", "--quiet", "--method", "ddim"]
    words += ["--steps", "3", "--data", str(folder / "water.npz"), "--set", "data.split=val"]
    assert main([*words, "--out", str(tmp_path / "s.npz")]) == 0
    samples = read_samples(tmp_path / "s.npz")
    assert samples.samples.shape == (1, 24, 3, 1) and samples.mode == "uncond"


def official(folder, kind: str) -> dict:
    """An official file whose data are those of `folder`."""
    names = ["degree", "formal_charge"]
    dataset = {"type": "conformer", "dataset": "QM9", "features": names, "transforms": ["edge_order|3"], "seed": 3}
    dataset |= {"train_conf_path": "${AYS_ROOT}/train.pkl", "val_conf_path": "${AYS_ROOT}/train.pkl"}
    network = {"type": "basic_es", "n_layers": 1, "node_dim": 6, "ft_dim": 12, "edge_dim": 4, "hidden_dim": 16}
    raw = {
        "dataset": dataset | {"remove_hs": True, "num_frames": 1, "subsample": None},
        "denoiser": network | {"time_emb_dim": 8, "conditioning": "none"},
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 25, "use_kabsch_alignment": True},
        "optim": {"lr": 1e-3, "weight_decay": 0},
        "train": {"max_epochs": 1, "batch_size": 2, "accum_grad": 2, "check_val_every_n_epoch": 1},
        "eval": {"batch_size": 4},
        "wandb": {"entity": "e", "project": "p", "name": f"official_{kind}"},
    }
    if kind == "runs":
        runs = {"train_traj_dir": "${AYS_ROOT}/runs", "val_traj_dir": "${AYS_ROOT}/runs"}
        raw["dataset"] |= runs | {"type": "trajectory", "expected_time_dim": 4, "num_frames": 8, "frame_rate": 2}
        raw["dataset"] |= {"start_frame": None, "random_frame": True}
        raw["denoiser"] |= {
            "type": "interpolator",
            "conditioning": "forward",
            "freeze_spatial": False,
            "use_mha": False,
        }
    return raw


def test_official_files_are_trained_and_sampled(tmp_path, monkeypatch, capsys):
    pytest.importorskip("rdkit.Chem")
    mdtraj = pytest.importorskip("mdtraj")
    monkeypatch.setenv("AYS_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.sdf").write_text("".join(ETHENE.format(x=1.3 + 0.01 * i) for i in range(6)))
    (tmp_path / "structure.yaml").write_text(yaml.safe_dump(official(tmp_path, "structure")))
    assert main(["train", "structure.yaml", "--device", "cpu", "--quiet", "--max-minutes", "5"]) == 0
    assert "pickles are not read, files .sdf of the same names are" in capsys.readouterr().err
    config = load_config(tmp_path / "outputs" / "official_structure" / "config.yaml")
    assert config["train"]["batch_size"] == 4 and config["train"]["accumulate"] == 2
    assert config["denoise_model"]["type"] == "basic_es"
    for name in ("a", "b"):
        run = tmp_path / "runs" / "gen" / f"CC_{name}"
        run.mkdir(parents=True)
        topology = mdtraj.Topology()
        residue = topology.add_residue("LIG", topology.add_chain())
        for number in range(2):
            topology.add_atom(f"C{number}", mdtraj.element.carbon, residue)
        x = np.random.default_rng(0).normal(size=(30, 2, 3)) * 0.002 + np.array([[0.0, 0, 0], [0.133, 0, 0]])
        trajectory = mdtraj.Trajectory(x, topology, time=np.arange(30.0))
        trajectory.save(str(run / "traj.xtc"))
        trajectory[0].save(str(run / "system.pdb"))
        (run / "mol.sdf").write_text(ETHENE.format(x=1.33))
    raw = official(tmp_path, "runs")
    raw["denoiser"] |= {"pretrain_ckpt": "outputs/official_structure", "freeze_spatial": True}
    (tmp_path / "runs.yaml").write_text(yaml.safe_dump(raw))
    assert main(["train", "runs.yaml", "--device", "cpu", "--quiet"]) == 0
    trained = load_config(tmp_path / "outputs" / "official_runs" / "config.yaml")["data"]["train"]
    assert trained["phases"] and trained["every"] == 2 and trained["span"] == 4 and not trained["with_h"]
    windows = open_dataset(trained, progress=False)
    assert len(windows) == 2 * (30 - 6)  # of 7 frames each, from any frame on
    about = [
        "--device",
        "cpu",
        "--quiet",
        "--split",
        "val",
        "--num-graphs",
        "2",
        "--method",
        "ays_ddim",
        "--steps",
        "3",
    ]
    assert main(["sample", "outputs/official_runs", *about, "--out", "s.npz"]) == 0
    assert read_samples("s.npz").samples.shape == (1, 4, 3, 3)
    weights, _ = load_tensors("outputs/official_runs/best.safetensors")
    torch.save({"state_dict": {f"denoiser.{name}": value for name, value in weights.items()}}, "official.ckpt")
    assert main(["sample", "official.ckpt", "--config", "runs.yaml", *about, "--out", "o.npz"]) == 0
    assert np.array_equal(read_samples("o.npz").samples, read_samples("s.npz").samples)
    monkeypatch.delenv("AYS_ROOT")
    assert main(["train", "runs.yaml", "--device", "cpu", "--quiet", "--out", "other"]) == 2
    assert "${AYS_ROOT}/runs/*/*/traj.xtc: no file has such a name" in capsys.readouterr().err
    assert load_config("runs.yaml")["train"]["cond_mask"] == [[0, 1]]


def test_data_without_the_bond_orders_of_the_training_are_refused(folder, tmp_path, capsys):
    """Every bond would be single, and nothing would say so."""
    config = interpolator_config(folder)
    config["diffusion"]["model_mean_type"] = "start_x"
    for section in config["data"].values():
        section["molecule"] = "mol.sdf"
    path, ethene = tmp_path / "of_sdf.safetensors", tmp_path / "ethene.npz"
    save_checkpoint(path, tame_network(config), config)
    x = np.array([[0.0, 0, 0], [1.33, 0, 0]]) + 0.01 * np.random.default_rng(0).normal(size=(8, 2, 3))
    np.savez(ethene, R=x, z=[6, 6])
    words = ["sample", str(path), "--device", "cpu", "--quiet", "--method", "ddim", "--steps", "2"]
    words += ["--data", str(ethene), "--set", "data.split=null", "--out", str(tmp_path / "s.npz")]
    for more in ([], ["--set", "data.kind=conformers"]):
        assert main([*words, "--set", "data.molecule=null", *more]) == 2
        said = capsys.readouterr().err
        assert "was trained with bond orders, of 'mol.sdf', and" in said and "ethene.npz' has none" in said
        assert "--set data.molecule=FILE.sdf" in said
    pytest.importorskip("rdkit.Chem")
    (tmp_path / "mol.sdf").write_text(ETHENE.format(x=1.33))
    assert main([*words, "--set", f"data.molecule={tmp_path / 'mol.sdf'}"]) == 0
    assert np.unique(read_samples(tmp_path / "s.npz").edge_attr).tolist() == [3]  # a double bond


def test_keys_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--keys"])
    said = capsys.readouterr().out
    assert "models of Align Your Structures have these instead" in said
    own = said.partition("models of Align Your Structures have these instead")[2]
    assert "null: epsilon) (one of epsilon, start_x, previous_x;" in own and "time_power" not in own
    for key in ("freeze_spatial", "use_kabsch_alignment", "molecule", "kind: conformers"):
        assert key in said


def test_conformers_are_inspected(folder, capsys):
    assert main(["inspect", str(folder / "conformers.npz"), "--set", "data.kind=conformers"]) == 0
    said = capsys.readouterr().out
    assert (
        "molecules   12" in said and "elements    H, C, O" in said and "type: basic_es" in said and "ft_dim: 13" in said
    )


def test_refusals(folder, model, tmp_path, capsys):
    geotdm = tmp_path / "geotdm.yaml"
    geotdm.write_text(yaml.safe_dump(tiny_config(start_from=model)))
    for words, message in (
        (["sample", model, "--out", "a.npz", "--method", "ays_ddims"], "did you mean 'ays_ddim'"),
        (["sample", "nbody_charged_small", "--out", "a.npz", "--method", "ays_ddim"], "is of mode 'uncond'"),
        (["sample", model, "--out", "a.npz", "--set", "conditions.t=3"], "conditions"),
        (["sample", model, "--out", "a.npz", "--context-level", "1"], "context_noise_told"),
        (["check-equivariance", model, "--kind", "nbody"], "kinds must be one of molecule; got 'nbody'"),
        (["check-equivariance", model, "--free"], "is a model of conditioning 'forward'"),
        (["check-equivariance", "nbody_charged_small", "--free"], "--free is for a model of Align Your Structures"),
        (["train", str(geotdm), "--out", str(tmp_path / "o")], "this is a checkpoint of Align Your Structures"),
    ):
        assert main([*words, *([] if words[0] == "train" else ["--device", "cpu"]), "--quiet"]) == 2, words
        assert message in capsys.readouterr().err, words
