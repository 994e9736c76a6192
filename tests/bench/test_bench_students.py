"""Students by pairs and by consistency: trained, scored, and scored again as the training that they had."""

import json

import pytest
import torch
from tiny_models import charged_config, write_checkpoint

from bench.training import students
from geotdm_fast import load


def a_request(tmp_path, by):
    """The words of a small training by a tiny teacher into the folder `by`."""
    config = charged_config()
    config["diffusion"]["model_mean_type"] = "start_x"
    checkpoint = write_checkpoint(tmp_path / "teacher.safetensors", config)
    words = ["--checkpoint", checkpoint, "--folder", str(tmp_path / by), "--by", by, "--num-steps", "3", "--pairs", "6"]
    words += ["--batch-size", "3", "--num-graphs", "2", "--num-samples", "2", "--threads", "1", "--quiet"]
    return [*words, "--out", str(tmp_path / "students.jsonl")]


@pytest.mark.parametrize("by", ["pairs", "consistency"])
def test_a_student_is_trained_once_and_scored(by, tmp_path, capsys, curves):
    words = a_request(tmp_path, by)
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
    teacher = load(tmp_path / "teacher.safetensors", device="cpu").network.state_dict()
    learned = [name for name, weight in student.network.state_dict().items() if not torch.equal(weight, teacher[name])]
    assert learned and (by == "pairs") == any(name.startswith("s_modules_ref") for name in learned)


def test_a_folder_is_not_scored_as_another_training(tmp_path, capsys):
    words = a_request(tmp_path, "consistency")
    assert students.main(words) == 0
    rows = (tmp_path / "students.jsonl").read_text()

    def complaint(*changes):
        capsys.readouterr()
        assert students.main([*words, *changes]) == 2
        assert (tmp_path / "students.jsonl").read_text() == rows
        return capsys.readouterr().err

    assert "--by must be consistency, got pairs\n" in complaint("--by", "pairs")
    assert "--seed must be 1, got 2\n" in complaint("--seed", "2")
    both = complaint("--num-steps", "4", "--teacher-steps", "2")
    assert "--num-steps must be 3, got 4; --teacher-steps must be 5, got 2\n" in both
    assert students.main([*words, "--pairs", "7"]) == 0  # which consistency does not read
    rows = (tmp_path / "students.jsonl").read_text()
    write_checkpoint(tmp_path / "teacher.safetensors", charged_config())
    assert "--checkpoint must be teacher.safetensors, SHA-256" in complaint()
    (tmp_path / "consistency" / "cost.json").write_text('{"cpu_seconds": 3.0}')
    assert "must say which training it is of (training), got cpu_seconds alone" in complaint()


def test_wrong_requests_are_told_in_a_line(tmp_path, capsys):
    assert students.main(["--checkpoint", "none", "--folder", str(tmp_path), "--by", "pairs"]) == 2
    assert "none" in capsys.readouterr().err
