"""`geotdm doctor --verify`: what is right passes, and every kind of wrong number is told with exit status 1."""

import re
import resource

import pytest
import torch
from native_cases import needs_native

from geotdm_fast.cli import main
from geotdm_fast.ops import native
from geotdm_fast.scores import verification
from geotdm_fast.scores.verification import Verdict, precisions, relative_error, verify_ops

CPU = torch.device("cpu")


def test_both_ops_are_right_here_in_every_precision():
    found = list(verify_ops(CPU))
    assert [v[:3] for v in found] == [
        (op, precision, direction)
        for op in ("egcl", "temporal_attention")
        for precision in ("fp32", "bf16")
        for direction in ("forward", "gradients")
    ]
    assert all(v.holds for v in found), found
    assert found == list(verify_ops(CPU)), "the same in every run"
    assert all(0 < v.allowed < (1e-5 if v.precision == "fp32" else 0.05) for v in found)
    assert all(v.where in ("x_out", "h_out") for v in found if v.direction == "forward")
    if native.build_info() is not None:
        assert {v.implementation for v in found} == {f"cpu ({native.build_info()['isa']})"}


def test_the_command_prints_a_table_in_a_few_seconds(capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert main(["doctor", "--verify", "--device", "cpu"]) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 30  # 20 s on two cores
    text = capsys.readouterr().out
    assert "vector instructions" in text and "errors against float64 on cpu" in text
    rows = re.findall(r"^(egcl|temporal_attention) +(fp32|bf16) +(forward|gradients) .* ok$", text, re.MULTILINE)
    assert len(rows) == 8 and text.endswith("right: all 8 errors are within what is allowed\n")


def _times(factor: float):
    return lambda value: value * factor


def _holed(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value.view(-1)[-1] = float("nan")
    return value


@needs_native
@pytest.mark.parametrize("op", ["egcl", "temporal_attention"])
@pytest.mark.parametrize(
    ("direction", "place", "wrong"),
    [
        ("forward", 0, _times(1 + 1e-5)),
        ("forward", 1, _times(1 + 1e-5)),
        ("forward", 1, _holed),
        ("gradients", 0, _times(1 + 1e-5)),
        ("gradients", -1, lambda grads: [*grads[:4], grads[4] * 1.01, *grads[5:]]),
    ],
)
def test_an_op_that_is_off_is_told_with_exit_status_1(op, direction, place, wrong, monkeypatch, capsys):
    name = f"{op}_{'forward' if direction == 'forward' else 'backward'}"
    right = getattr(torch.ops.geotdm_fast, name)

    def broken(*args, **options):
        found = list(right(*args, **options))
        found[place] = wrong(found[place])
        return tuple(found)

    monkeypatch.setattr(torch.ops.geotdm_fast, name, broken)
    assert main(["doctor", "--verify", "--device", "cpu"]) == 1
    text = capsys.readouterr().out
    assert re.search(rf"^{op} +fp32 +{direction} .* OFF$", text, re.MULTILINE)
    other = "temporal_attention" if op == "egcl" else "egcl"
    assert not re.search(rf"^{other} .* OFF$", text, re.MULTILINE)
    assert "\nNOT right: " in text and text.endswith(" of 8 errors are larger than allowed\n")


def test_without_the_module_the_reference_is_verified(monkeypatch):
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "missing", "not built")
    found = list(verify_ops(CPU))
    assert {v.implementation for v in found} == {"reference"} and all(v.holds for v in found)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_everywhere_does_not_pass(number, monkeypatch, capsys):
    """As of a device that answers so to whatever it is asked: the reference is off there as well."""
    right = verification._results
    wrong = lambda *a, **k: {name: torch.full_like(value, number) for name, value in right(*a, **k).items()}
    monkeypatch.setattr(verification, "_results", wrong)
    found = list(verify_ops(CPU))
    assert len(found) == 8 and not any(v.holds for v in found)
    assert main(["doctor", "--verify", "--device", "cpu"]) == 1
    assert "NOT right: 8 of 8 errors are larger than allowed" in capsys.readouterr().out


def test_one_row_of_no_number_is_the_worst(monkeypatch):
    rows = {"forward": [(1e-9, 1e-6, "x_out"), (float("inf"), float("inf"), "h_out"), (2e-9, 1e-6, "other")]}
    monkeypatch.setattr(verification, "_measure", lambda *_: rows | {"gradients": [(1e-9, float("nan"), "x")] * 2})
    for verdict in verify_ops(CPU):
        assert verdict.where in ("h_out", "x") and not verdict.holds


def test_a_verdict_of_no_number_does_not_hold():
    verdict = Verdict("egcl", "fp32", "forward", "cpu", "x_out", float("nan"), 1e-6)
    assert not verdict.holds and verdict._replace(error=1e-6).holds
    for number in (float("nan"), float("inf")):
        assert not verdict._replace(error=number, allowed=number).holds
        assert not verdict._replace(error=1e-6, allowed=number).holds
    ours, exact = torch.tensor([1.0, float("nan")]), torch.ones(2)
    assert relative_error(ours, exact) == float("inf") == relative_error(torch.ones(3), exact)
    assert relative_error(torch.tensor([1.0, 2.0]), exact) == pytest.approx(0.5**0.5)


def test_precisions_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert precisions(torch.device("cuda")) == ("fp32", "tf32", "bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert precisions(torch.device("cuda")) == ("fp32", "bf16") == precisions(CPU)


def test_a_device_without_verify_is_refused(capsys):
    assert main(["doctor", "--device", "cpu"]) == 2
    assert "--device must come with --verify" in capsys.readouterr().err
    assert verification.OPS == ("egcl", "temporal_attention")
