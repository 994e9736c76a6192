"""`--cache` of train, sample and evaluate."""

import pytest
import yaml
from molecule_frames import motion, write, xyz_text
from tiny_training import tiny_config

from geotdm_fast.checkpoint import CONFIG_KEY, load_tensors
from geotdm_fast.cli import main
from geotdm_fast.cli.data_options import with_cache


def config_file(tmp_path):
    raw = tiny_config(num_steps=2, batch_size=4, checkpoint_every_steps=2)
    keys = {"kind": "file", "path": "absent.xyz", "span": 4, "split_ratio": [0.6, 0.2, 0.2]}
    raw["data"] = {split: keys | {"split": split} for split in ("train", "val", "test")}
    raw["denoise_model"] |= {"node_dim": 30, "edge_dim": 4, "num_w": 2}
    raw["train"]["cond_mask"] = [[0, 2]]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def test_train_and_sample_with_a_cache_of_several_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
    for number in range(2):
        write(tmp_path / f"run{number}.xyz", xyz_text(motion(30, seed=number)))
    data = ["--data", str(tmp_path / "run*.xyz"), "--cache", str(tmp_path / "cache"), "--quiet"]
    assert main(["train", config_file(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu", *data]) == 0
    assert len([*(tmp_path / "cache").iterdir()]) == 4, "of train and val, two runs each"
    _, metadata = load_tensors(tmp_path / "out" / "last.safetensors")
    assert f'"cache": "{tmp_path / "cache"}"' in metadata[CONFIG_KEY], "kept as the paths of the data are"
    out = tmp_path / "samples.npz"
    sample = ["sample", str(tmp_path / "out"), "--out", str(out), "--num-graphs", "1", "--num-samples", "1", *data]
    assert main([*sample, "--device", "cpu", "--method", "ddim", "--steps", "2"]) == 0, capsys.readouterr().err
    assert out.is_file() and len([*(tmp_path / "cache").iterdir()]) == 6


def test_what_cannot_have_a_cache(tmp_path, capsys):
    sections = {"data.train": {"kind": "nbody"}, "data.val": {"kind": "file"}}
    with_cache(sections, "frames")
    assert sections == {"data.train": {"kind": "nbody"}, "data.val": {"kind": "file", "cache": "frames"}}
    with pytest.raises(ValueError, match=r"--cache goes with files of molecules .* got data\.train of kind nbody"):
        with_cache({"data.train": {"kind": "nbody"}}, "frames")
    with_cache({"data.train": {"kind": "nbody"}}, None)
    file = write(tmp_path / "a.xyz", xyz_text(motion(30)))
    assert main(["train", config_file(tmp_path), "--data", str(file), "--cache", str(file)]) == 2
    assert f"--cache {file} must be a folder, got a file" in capsys.readouterr().err
    assert main(["train", config_file(tmp_path), "--data", str(tmp_path / "none*.xyz")]) == 2
    assert "none*.xyz: no such file or folder" in capsys.readouterr().err
