"""`geotdm train` on the command line."""

import numpy as np
import pytest
import yaml
from tiny_training import log_of, tiny_config

from geotdm_fast.cli import main
from geotdm_fast.data.sections import open_dataset


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
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--quiet"]) == 2
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
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    assert main(arguments) == 0, capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert {section["path"] for section in written["data"].values()} == {(tmp_path / "own.npz").as_posix()}
    assert "val" in written["data"]
    arguments[arguments.index(str(tmp_path / "run"))] = str(tmp_path / "without")
    assert main([*arguments, "--set", "data.val=null"]) == 0
    assert "no data.val" in capsys.readouterr().err
    assert "val" not in yaml.safe_load((tmp_path / "without" / "config.yaml").read_text())["data"]
    config.write_text(yaml.safe_dump(raw | {"data": raw["data"] | {"val": None}}))
    assert main(arguments) == 0, capsys.readouterr().err


def test_several_files_are_joined(tmp_path, capsys):
    files = []
    for seed, z in enumerate(([6, 8, 1], [6, 8, 6, 1])):
        place = 1.3 * np.arange(len(z))[:, None] * np.array([1.0, 0, 0])
        x = place + 0.01 * np.random.default_rng(seed).normal(size=(40, len(z), 3))
        files.append(str(tmp_path / f"{seed}.npz"))
        np.savez(files[-1], R=x, z=z)
    raw = tiny_config(num_steps=2)
    section = {"kind": "npz", "path": "none.npz", "span": 6, "atom_types": [1, 6, 8]}
    raw["data"] = {name: section | {"split": name} for name in ("train", "val")}
    raw["denoise_model"] |= {"node_dim": 9, "edge_dim": 4}
    config = tmp_path / "several.yaml"
    config.write_text(yaml.safe_dump(raw))
    arguments = ["train", str(config), "--out", str(tmp_path / "run"), "--quiet", "--data"]
    assert main([*arguments, *files]) == 0, capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert all(section["path"] == files for section in written["data"].values())
    assert main([*arguments, files[0], str(tmp_path)]) == 2
    assert f"--data: several paths must be files, got the folder {tmp_path}" in capsys.readouterr().err


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
        ("--keys", ("lr_decay_every", "kind: file", "  span ", "  selection ", "  topology ")),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["train", option])
        assert stopped.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)
