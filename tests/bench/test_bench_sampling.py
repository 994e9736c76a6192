"""The benchmark of whole chains."""

import json

import pytest
import torch
from small_bench import SMALL

from bench.sampling import sample


def test_sample_compares_whole_chains(tmp_path, capsys):
    out = tmp_path / "sample.jsonl"
    words = [*SMALL, "--workload", "nbody", "--timesteps", "25", "--peer-steps", "5", "--steps", "8", "--no-compile"]
    words += ["--method", "dpmpp_2m", "--dtype", "float32", "mixed", "--repeats", "1", "--out", str(out)]
    assert sample.main(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 3
    ours, official, efficient = rows[:3]
    assert (ours["steps"], ours["method"], official["steps"], official["timed_steps"]) == (8, "dpmpp_2m", 25, 5)
    assert ours["trajectories_per_second"] == pytest.approx(2 / ours["seconds"])
    assert ours["times_official"] == pytest.approx(official["seconds"] / ours["seconds"])
    best = min(official["seconds"], efficient["seconds"])
    assert ours["times_best_peer"] == pytest.approx(best / ours["seconds"])
    own = 1000 * (ours["seconds"] - ours["calls_seconds"]) / 8
    assert ours["beside_calls_ms_per_step"] == pytest.approx(own)
    assert ours["ms_per_step"] == pytest.approx(1000 * ours["seconds"] / 8) and ours["error"] < 1e-5
    shown = capsys.readouterr().out
    assert f"ours, float32, dpmpp_2m in 8 steps: {ours['times_official']:.2f} times official eager" in shown


def test_the_host_is_timed_by_the_steps_that_half_a_chain_lacks(monkeypatch, capsys):
    args = sample._parser().parse_args([*SMALL, "--timesteps", "25", "--steps", "10"])
    chain = sample.Draw(sample.arguments.workload_of(args, "nbody"), "ours", "float32", args)
    assert chain._launch_seconds(chain.sampler, 2) > 0
    monkeypatch.setattr(sample.Draw, "_launch_seconds", lambda self, sampler, rounds: 0.01 + 3e-6 * sampler.num_steps)
    assert chain.host_seconds() == pytest.approx(3e-6)
    row = {"implementation": "ours", "dtype": "float32", "method": "ddpm", "steps": 10, "beside_calls_ms_per_step": 0.1}
    assert sample.sentence(row | {"host_us_per_step": 3.0}).endswith("costs 0.100 ms a step, the host 3.0 us")


def test_a_wrong_chain_is_not_timed(tmp_path, capsys, monkeypatch):
    right = sample.plain_loop
    monkeypatch.setattr(sample, "plain_loop", lambda *a: right(*a) * (1.001 if a[2].dtype == torch.float32 else 1))
    words = [*SMALL, "--workload", "nbody", "--timesteps", "25", "--no-compile", "--out", str(tmp_path / "x.jsonl")]
    assert sample.main(words) == 2
    assert "official in float32 is wrong, so nothing is timed: a chain of 5 steps" in capsys.readouterr().err
