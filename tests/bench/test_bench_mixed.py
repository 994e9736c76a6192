"""What a step on molecules of different size costs: the program on tiny ones, with a tape for the CUDA graph."""

import json

from tape import TapeRecorder

from bench import gpu_table
from bench.training import mixed

TRIAL = ["--graphs", "2", "--frames", "3", "--layers", "1", "--hidden-dim", "8", "--repeats", "1", "--quiet"]


def test_a_trial(tmp_path, capsys):
    out, record = tmp_path / "mixed.jsonl", TapeRecorder(warm_up=0)
    assert mixed.main([*TRIAL, "--out", str(out)], record) == 0
    ours, eager = (json.loads(line) for line in out.read_text().splitlines())
    assert (ours["implementation"], ours["captured"]) == ("ours", True)
    assert (eager["implementation"], eager["captured"]) == ("eager", False)
    assert 1 <= ours["captures"] <= 16 and len(record.tapes) >= ours["captures"] and record.replays >= 4 * 4
    assert ours["sizes"]["graphs"] == 2 and ours["said"][0].startswith("train: the graphs of data.train differ")
    shown = capsys.readouterr().out
    assert "ours (captured)" in shown and "times as fast as eager" in shown
    assert gpu_table.mixed_cells(ours)[:4] == ["W-molecules", "fp32", "ours", str(ours["captures"])]


def test_steps_that_do_not_agree_are_not_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mixed, "CLOSE", {"fp32": -1.0})
    assert mixed.main([*TRIAL, "--out", str(tmp_path / "mixed.jsonl")]) == 2
    assert "the captured step is wrong, so nothing is timed" in capsys.readouterr().err
