"""A system at a time: the worker's answers, and rows of two builds in turns."""

import io
import json
import shutil

import pytest
import torch

from bench.sampling import small, small_worker


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_worker_draws_as_often_as_it_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n1\n"))
    small_worker.main("nbody_charged_small", "2", "dpmpp_2m", "2", "1")
    ready, two, one = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(two["seconds"]) == 2 and len(one["seconds"]) == 1
    assert min(two["seconds"]) > 0 and two["cpu"] > 0
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    small_worker.main("nbody_charged_small", "2", "dpmpp_2m", "2", "1")
    assert json.loads(capsys.readouterr().out) == ready  # the same numbers every time


def test_two_builds_in_turns(tmp_path, capsys):
    """Both of them this one, in processes of their own."""
    out = tmp_path / "small.jsonl"
    checkpoint = tmp_path / "copied.safetensors"
    shutil.copy(small.CHECKPOINT, checkpoint)
    options = ["--checkpoint", str(checkpoint)]
    options += ["--beside", str(small.record.ROOT), "--draws", "2", "--repeats", "2", "--steps", "2", "--threads", "1"]
    assert small.main([*options, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["build"] for row in rows] == ["this", "beside"]
    assert all(row["draws"] == 4 and 0 < row["seconds_least"] <= row["seconds"] for row in rows)
    assert rows[1]["times_beside"] == 1 and rows[0]["times_beside"] == rows[1]["seconds"] / rows[0]["seconds"]
    assert rows[0]["build_commit"] == rows[1]["build_commit"]
    assert "times beside" in capsys.readouterr().out


def test_other_numbers_and_other_packages_are_not_timed(tmp_path):
    with pytest.raises(ValueError, match="the builds must draw the same numbers, got sums of"):
        small.check_same({"this": 1.0, "beside": 1.1})
    small.check_same({"this": 100.0, "beside": 100.01})
    with pytest.raises(
        ValueError, match=r"--beside must be a checkout with its modules built, got .*: .* was imported"
    ):
        small.check_package(small_worker.geotdm_fast.__file__, tmp_path)
    small.check_package(small_worker.geotdm_fast.__file__, small.record.ROOT)
