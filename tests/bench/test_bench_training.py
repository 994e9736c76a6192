"""The benchmark of training steps."""

import json

import pytest
import torch
from small_bench import SMALL, small

from bench.common.workloads import make_workload
from bench.training import train, trainers


def test_training_steps_are_timed_end_to_end(tmp_path, capsys):
    out = tmp_path / "train.jsonl"
    words = [*SMALL, "--frames", "6", "--repeats", "1", "--no-compile", "--out", str(out)]
    assert train.main([*words, "--workload", "nbody", "ped", "--precision", "fp32", "bf16"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert row["steps_per_second"] == pytest.approx(1 / row["seconds"]) and not row["captured"]
        assert row["error"] < (1e-4 if row["precision"] == "fp32" else 0.1) and row["commit"]
    ours = rows[0]
    assert ours["implementation"] == "ours" and ours["times_best_peer"] == pytest.approx(
        min(row["seconds"] for row in rows[1:6] if row["precision"] == "fp32" and row["implementation"] != "ours")
        / ours["seconds"]
    )
    shown = capsys.readouterr().out
    assert f"fp32: {ours['times_best_peer']:.2f} times as fast as the best peer" in shown
    assert "target" not in shown, "the targets are for the whole network"


def test_peers_train_as_we_do(tmp_path):
    """From the same weights, on the same draws: the same weights after some steps, but for rounding."""
    workload = small("nbody")
    dataset = trainers.dataset_of(workload)
    ours = trainers.OurTrainer(workload, dataset, "fp32", "cpu")
    plain = trainers.PlainTrainer(workload, dataset, "efficient", "fp32", "cpu")
    for number in range(3):
        (draw,) = ours.source.training(number)
        plain.gradient(draw)
        torch.nn.utils.clip_grad_norm_(plain.plain.parameters(), trainers.CLIP)
        plain.optimizer.step()
        ours.train()
    state = ours.step.named_state()
    for name, parameter in plain.plain.named_parameters():
        clear = state[f"adam.exp_avg_sq.{name}"].sqrt() > 1e-6
        torch.testing.assert_close(state[f"weights.{name}"][clear], parameter[clear], rtol=1e-4, atol=1e-6)
    plain.train()  # its own draws
    assert len(plain.order) == len(dataset) - 2 and int(plain.average.n_averaged) == 1


def test_a_training_step_that_is_wrong_is_not_timed(tmp_path, capsys, monkeypatch):
    words = [*SMALL, "--frames", "6", "--repeats", "1", "--workload", "nbody", "--out", str(tmp_path / "train.jsonl")]
    words += ["--implementations", "ours"]
    right = trainers.PlainTrainer.loss
    monkeypatch.setattr(trainers.PlainTrainer, "loss", lambda *args: 1.01 * right(*args))
    assert train.main(words) == 2
    assert "ours in float32 is wrong, so nothing is timed: training" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(trainers.OurTrainer, "train", lambda self: None)
    assert train.main(words) == 2
    assert "our step is wrong, so nothing is timed: loss and gradient norm are [0.0, 0.0]" in capsys.readouterr().err


def test_targets_are_told_where_they_apply():
    h100 = {"precision": "bf16", "seconds": 0.9e-3}
    nbody = make_workload("nbody", num_graphs=128)
    assert train.verdicts(nbody, h100, "NVIDIA H100 80GB HBM3") == ["0.90 ms; target 1 ms: met"]
    assert train.verdicts(nbody, h100 | {"seconds": 2e-3}, "NVIDIA H100") == ["2.00 ms; target 1 ms: missed"]
    assert train.verdicts(nbody, h100 | {"precision": "fp32"}, "NVIDIA H100") == []
    on_cpu = {"precision": "fp32", "seconds": 1.0, "times_best_peer": 1.9, "best_peer": "efficient_compiled"}
    (said,) = train.verdicts(make_workload("nbody"), on_cpu, "")
    assert said == "1.90 times as fast as the best peer (efficient compiled); target 2: missed"
