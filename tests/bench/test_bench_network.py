"""The benchmarks of a call of the network: its time beside its peers', and its memory."""

import json

import pytest
import torch
import warm_python
from small_bench import SMALL

from bench.common.workloads import make_workload
from bench.network import contenders, memory, step
from bench.network.contenders import bytes_needed, split_by_memory
from bench.sampling import sample
from bench.training import train


def test_a_peer_that_does_not_fit_is_left_out(monkeypatch):
    long = make_workload("long")
    # Three tensors [176, 128, 512, 512] of 22 GiB in every layer.
    assert bytes_needed(long, "official", "float32", "training") > 200 * 2**30
    monkeypatch.setattr(contenders, "free_memory", lambda device: 20 * 2**30)
    fit, refused = split_by_memory(long, ["ours", "official"], ["float32"], "inference")
    assert fit == [("ours", "float32")]
    assert refused == {("official", "float32"): "needs about 88 GiB, 16 are free"}


def test_memory_of_a_call_is_what_the_structure_holds():
    spec = {"name": "long", "num_graphs": 1, "num_frames": 192, "n_layers": 1, "hidden_dim": 32}

    def peak_of(implementation):
        order = {"spec": spec, "implementation": implementation, "dtype": "float32", "device": "cpu", "threads": 1}
        done = warm_python.run("-m", "bench.network.memory", "--child", json.dumps(order))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]

    peak, pairs = peak_of("official"), 22 * 32 * 192**2 * 4
    assert 3 * pairs < peak < 9 * pairs
    assert peak_of("ours") < peak / 2


def test_a_failure_of_the_measuring_process_is_told():
    with pytest.raises(RuntimeError, match=r"memory of ours at nbody: TypeError: .*'nothing'"):
        memory.measure({"name": "nbody", "nothing": 1}, "ours", "float32")


def test_step_writes_lines_and_a_table_last(tmp_path, capsys):
    out = tmp_path / "step.jsonl"
    words = [*SMALL, "--workload", "nbody", "md", "--repeats", "1", "--no-compile", "--out", str(out)]
    assert step.main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    ours = [row for row in rows if row["implementation"] == "ours"]
    for row in ours:
        peers = [r for r in rows if (r["workload"], r["mode"]) == (row["workload"], row["mode"]) and r is not row]
        best = min(peers, key=lambda peer: peer["seconds"])
        assert row["best_peer"] == best["implementation"]
        assert row["times_best_peer"] == pytest.approx(best["seconds"] / row["seconds"])
        assert row["floor_seconds"] == pytest.approx(row["gflop"] / row["matrix_gflops"])
        assert row["error"] < 1e-4 and row["machine"]["threads"] == 1 and row["commit"] and row["date"]
    shown = capsys.readouterr().out
    assert "W-md: graphs 2, nodes 42, edges 360" in shown
    assert f"inference, float32: {ours[0]['times_best_peer']:.2f} times as fast as the best peer" in shown
    assert shown.index("torch ") < shown.index("W-nbody") < shown.index("lines added")


def test_memory_sweeps(tmp_path, capsys, monkeypatch):
    # 2 MiB a frame and implementation; the processes that measure have their own test.
    monkeypatch.setattr(memory, "measure", lambda spec, *_: {"peak_bytes": 2**21 * spec["num_frames"]})
    out = tmp_path / "memory.jsonl"
    words = ["--points", "8", "16", "--hidden-dim", "16", "--layers", "1", "--threads", "1", "--quiet"]
    assert memory.main([*words, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["implementation"], row["sizes"]["frames"]) for row in rows] == [
        (name, frames) for frames in (8, 16) for name in ("ours", "official", "efficient")
    ]
    shown = capsys.readouterr().out
    assert "frames  ours  official  efficient  ours, MiB per frame more" in shown
    assert "    16    32        32         32                     2.000" in shown


@pytest.mark.parametrize("program", [step, sample, memory, train])
def test_a_users_error_is_one_line(program, tmp_path, capsys, monkeypatch):
    words = ["--device", "cuda", "--quiet", "--out", str(tmp_path / "x.jsonl")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(words) == 2
    error = capsys.readouterr().err
    assert error == f"{program.__name__}: error: --device cuda: torch finds no usable GPU\n"


def test_help_says_what_is_measured(capsys):
    with pytest.raises(SystemExit, match="0"):
        step.main(["--help"])
    shown = capsys.readouterr().out
    for word in ("A B C D E", "floor", "median", "--threads", "official_compiled", "aspirin", "1e-4"):
        assert word in shown, word
