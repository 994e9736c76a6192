"""Students by pairs and by consistency: trained, scored, and scored again without a training."""

import json

import pytest
import torch
from tiny_models import charged_config, write_checkpoint

from bench.training import students
from geotdm_fast import load


@pytest.mark.parametrize("by", ["pairs", "consistency"])
def test_a_student_is_trained_once_and_scored(by, tmp_path, capsys, curves):
    config = charged_config()
    config["diffusion"]["model_mean_type"] = "start_x"
    checkpoint = write_checkpoint(tmp_path / "teacher.safetensors", config)
    words = ["--checkpoint", checkpoint, "--folder", str(tmp_path / by), "--by", by, "--num-steps", "3", "--pairs", "6"]
    words += ["--batch-size", "3", "--num-graphs", "2", "--num-samples", "2", "--threads", "1", "--quiet"]
    words += ["--out", str(tmp_path / "students.jsonl")]
    assert students.main(words) == 0
    trained = (tmp_path / by / "best.safetensors").read_bytes()
    assert students.main(words) == 0
    assert (tmp_path / by / "best.safetensors").read_bytes() == trained
    first, second = (json.loads(line) for line in (tmp_path / "students.jsonl").read_text().splitlines())
    scores = ("teacher", "student", "squared_distance", "cpu_seconds", "by", "seed", "num_steps")
    assert all(first[name] == second[name] for name in scores)
    assert {"ade_mean", "fde_mean", "ade_best", "fde_best", "variety"} <= first["student"].keys()
    assert first["cpu_seconds"] > 0 and first["squared_distance"] > 0 and first["by"] == by
    assert f"by {by}, seed 1" in capsys.readouterr().out
    student = load(tmp_path / by, device="cpu")
    assert student.sampler().num_steps == 1
    teacher = load(checkpoint, device="cpu").network.state_dict()
    learned = [name for name, weight in student.network.state_dict().items() if not torch.equal(weight, teacher[name])]
    assert learned and (by == "pairs") == any(name.startswith("s_modules_ref") for name in learned)


def test_wrong_requests_are_told_in_a_line(tmp_path, capsys):
    assert students.main(["--checkpoint", "none", "--folder", str(tmp_path), "--by", "pairs"]) == 2
    assert "none" in capsys.readouterr().err
