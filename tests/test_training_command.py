"""`geotdm train` on the command line."""

import numpy as np
import pytest
import yaml
from tiny_training import log_of, tiny_config

from geotdm_fast.cli import main
from geotdm_fast.data.open import open_dataset


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(num_steps=4, output_base_path=str(tmp_path / "runs"))))
    return path


def test_trains_and_goes_on(config_file, tmp_path, capsys):
    assert main(["train", str(config_file), "--set", "train.num_steps=2", "--device", "cpu"]) == 0
    folder = tmp_path / "runs" / "tiny"
    out, err = capsys.readouterr()
    assert f"weights for use: {folder / 'last.safetensors'}" in out
    assert "simulating 6 charged systems" in err and "train: 100%" in err
    assert main(["train", str(config_file), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "at step 2" in err and "%" not in err
    steps = [record["step"] for record in log_of(folder)]
    assert steps == [2, 3, 4]
    assert main(["train", str(config_file), "--quiet", "--no-resume", "--max-minutes", "10"]) == 0
    assert [record["step"] for record in log_of(folder)] == [3, 4]
    assert {path.name for path in folder.iterdir()} == {
        "best.safetensors", "config.yaml", "last.safetensors", "log.jsonl", "loss.png", "state.safetensors",
    }  # fmt: skip


def test_data_replaces_every_path(tmp_path, capsys):
    raw = tiny_config(num_steps=1)
    raw["data"] = {name: {"kind": "npz", "path": "none.npz", "span": 6, "split": name} for name in ("train", "val")}
    raw["denoise_model"] |= {"node_dim": 1, "edge_dim": 0}
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(raw))
    assert main(["train", str(config), "--output", str(tmp_path / "run"), "--quiet"]) == 2
    assert "none.npz" in capsys.readouterr().err
    x = np.random.default_rng(0).normal(size=(60, 3, 3)).cumsum(0)
    np.savez(tmp_path / "own.npz", x=x)
    sizes = open_dataset({"kind": "npz", "path": str(tmp_path / "own.npz"), "span": 6, "split": "val"})[0]
    raw["denoise_model"] |= {
        "node_dim": sizes.h.shape[1],
        "edge_dim": 0 if sizes.edge_attr is None else sizes.edge_attr.shape[1],
    }
    config.write_text(yaml.safe_dump(raw))
    arguments = [
        "train",
        str(config),
        "--data",
        str(tmp_path / "own.npz"),
        "--output",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main(arguments) == 0, capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {section["path"] for section in written["data"].values()} == {(tmp_path / "own.npz").as_posix()}


def test_errors_are_one_line(config_file, tmp_path, capsys):
    for arguments, expected in (
        (["--set", "train.lrr=1"], "unknown key 'lrr'; did you mean 'lr'"),
        (["--set", "denoise_model.num_w=7"], "denoise_model.num_w must be 3, the frames to predict, got 7"),
        (["--data", str(tmp_path / "absent.npz")], "absent.npz: no such file or folder"),
        (["--set", "train.output_base_path=" + str(config_file)], "tiny.yaml"),
    ):
        assert main(["train", str(config_file), "--quiet", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("geotdm train: error: ") and expected in err and err.count("\n") == 1
    assert main(["train", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: no such file" in capsys.readouterr().err


def test_help_teaches(capsys):
    for option, words in (
        ("--help", ("torchrun", "state.safetensors", "--no-resume")),
        ("--keys", ("lr_decay_every",)),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["train", option])
        assert stopped.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)
