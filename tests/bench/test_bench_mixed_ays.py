"""What captured steps of Align Your Structures are worth: the program on tiny molecules, with a tape as CUDA graph."""

import json

from tape import TapeRecorder

from bench import gpu_table
from bench.training import mixed_ays

TRIAL = ["--graphs", "2", "--frames", "3", "--layers", "1", "--hidden-dim", "8", "--repeats", "1", "--quiet"]


def test_a_trial(tmp_path, capsys):
    out, record = tmp_path / "mixed.jsonl", TapeRecorder(warm_up=0)
    assert mixed_ays.main([*TRIAL, "--out", str(out)], record) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["workload"], row["implementation"], row["captured"]) for row in rows] == [
        ("ays training", "ours", True),
        ("ays training", "eager", False),
        ("ays sampling", "ours", True),
        ("ays sampling", "eager", False),
    ]
    assert 1 <= rows[0]["captures"] <= 16 and rows[2]["captures"] == 1 and rows[2]["error"] < 1e-5
    assert rows[0]["said"][0].startswith("train: the graphs of data.train differ")
    assert capsys.readouterr().out.count("times as fast as eager") == 2
    assert gpu_table.mixed_cells(rows[2])[:4] == ["W-ays sampling", "fp32", "ours", "1"]


def test_steps_that_do_not_agree_are_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mixed_ays, "CLOSE", {"fp32": -1.0})
    assert mixed_ays.main([*TRIAL, "--out", str(tmp_path / "mixed.jsonl")]) == 2
    assert "the captured step is wrong, so nothing is timed" in capsys.readouterr().err
