"""What a shipped model's files hold, and what is not shipped."""

import importlib.util
import pathlib

import torch
from places import ROOT
from tiny_models import charged_config, tame_network

from geotdm_fast.checkpoint import load_checkpoint, save_checkpoint
from geotdm_fast.config.files import load_config, portable_config

spec = importlib.util.spec_from_file_location("ship_checkpoint", ROOT / "tools" / "ship_checkpoint.py")
ship_checkpoint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ship_checkpoint)


def run_folder(folder: pathlib.Path) -> pathlib.Path:
    config = charged_config(max_minutes=3.0)
    config["data"]["test"] |= {"root": "/somebody/here/data", "suffix": "test_x"}
    (folder / "train").mkdir(parents=True)
    save_checkpoint(folder / "train" / "best.safetensors", tame_network(config), config)
    (folder / "train" / "log.jsonl").write_text('{"step": 1}\n')
    return folder


def test_three_files_that_say_nothing_of_this_machine(tmp_path, capsys):
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"
    assert ship_checkpoint.main([str(run), "tiny_model", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("tiny_model.") == 3
    network, config = load_checkpoint(out / "tiny_model.safetensors")
    original, _ = load_checkpoint(run / "train" / "best.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), original.parameters(), strict=True))
    assert config["train"]["exp_name"] == "tiny_model" and config["train"]["max_minutes"] is None
    assert config["data"]["test"]["root"] == "data"
    assert load_config(out / "tiny_model.yaml") == config
    assert (out / "tiny_model.jsonl").read_text() == '{"step": 1}\n'


def test_how_it_is_best_drawn(tmp_path, capsys):
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"
    options = [str(run), "tiny_model", "--out", str(out)]
    assert ship_checkpoint.main([*options, "--method", "dpmpp_2m", "--steps", "5"]) == 0
    _, config = load_checkpoint(out / "tiny_model.safetensors")
    assert config["sampling"] == {"method": "dpmpp_2m", "steps": 5, "spacing": "uniform"}
    assert load_config(out / "tiny_model.yaml") == config
    assert ship_checkpoint.main([*options, "--method", "ddim", "--steps", "5", "--spacing", "log_snr"]) == 0
    _, config = load_checkpoint(out / "tiny_model.safetensors")
    assert config["sampling"] == {"method": "ddim", "steps": 5, "spacing": "log_snr"}
    capsys.readouterr()
    for words, message in (
        (["--method", "euler"], "tiny_model: sampling.method (of diffusion.kind gaussian) must be one of"),
        (["--method", "ddim", "--steps", "26"], "sampling.steps must be in 1..25"),
        (["--method", "ddim", "--spacing", "early"], "sampling.spacing (of diffusion.kind gaussian) must be one of"),
        (["--steps", "5"], "--steps must go with --method, got 5 alone"),
        (["--spacing", "log_snr"], "--spacing must go with --method, got log_snr alone"),
    ):
        assert ship_checkpoint.main([*options, *words]) == 2
        assert message in capsys.readouterr().err


def test_errors(tmp_path, capsys, monkeypatch):
    assert ship_checkpoint.main([str(tmp_path / "none"), "x"]) == 2
    assert "log.jsonl: no such file" in capsys.readouterr().err
    run = run_folder(tmp_path / "run")
    monkeypatch.setattr(ship_checkpoint, "MAX_BYTES", 1000)
    assert ship_checkpoint.main([str(run), "x", "--out", str(tmp_path / "out")]) == 2
    assert "must be under 0.001 MB to be shipped" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_configuration_without_places():
    config = charged_config()
    config["data"]["train"] |= {"path": "/a/b/c.npz"}
    config["data"]["test"] = config["data"]["train"] | {"path": ["/a/b/c.npz", "d/e.npz"]}
    portable = portable_config(config)
    assert portable["data"]["train"]["path"] == "c.npz" and config["data"]["train"]["path"] == "/a/b/c.npz"
    assert portable["data"]["test"]["path"] == ["c.npz", "e.npz"]
    assert portable_config(portable) == portable and portable["train"]["start_from"] is None
    config["train"]["start_from"] = "/home/me/outputs/liquid/best.safetensors"
    config["data"]["train"]["path"] = ["runs/*/traj.xtc", "/data/runs/[01]/traj.xtc", "/data/a.xtc"]
    config["data"]["val"] = {"kind": "file", "path": "/data/runs/*/traj.xtc", "topology": "{folder}/system.pdb"}
    config["data"]["test"] = {"kind": "pedestrian", "recordings": ["/data/now.txt"]}
    portable = portable_config(config)
    assert portable["train"]["start_from"] == "best.safetensors"
    assert portable["data"]["train"]["path"] == ["runs/*/traj.xtc", "[01]/traj.xtc", "a.xtc"]
    assert portable["data"]["val"]["path"] == "*/traj.xtc"
    assert portable["data"]["val"]["topology"] == "{folder}/system.pdb"
    assert portable["data"]["test"]["recordings"] == ["now.txt"] and portable_config(portable) == portable
