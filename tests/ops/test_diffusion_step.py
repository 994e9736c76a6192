"""The op `diffusion_step`: each implementation beside the reference, which is checked by the formula itself."""

import pytest
import torch
from native_cases import needs_native
from tolerances import assert_as_accurate, assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.ops import native

ROWS = 5


def arguments(
    sizes=(3, 0, 4), dim=3, num_frames=7, *, graphs=False, noise=True, ref_frames=7, dtype=torch.float32, device="cpu"
) -> dict:
    """sizes: nodes of each graph. output is a transposed view, as the network gives it."""
    num_nodes = sum(sizes)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64).to(device, dtype)
    first = torch.tensor([0, *torch.tensor(sizes).cumsum(0)], device=device)
    x_ref = None if graphs else draw(num_nodes, dim, ref_frames)
    made = {
        "x": draw(num_nodes, dim, num_frames),
        "before": draw(num_nodes, dim, num_frames),
        "positions": None if graphs else draw(num_nodes, dim, num_frames),
        "output": draw(num_nodes, num_frames, dim).transpose(1, 2),
        "noise": draw(num_nodes, dim, num_frames) if noise else None,
        "x_ref": x_ref,
        "first": first if graphs else None,
        "coefficients": draw(ROWS, 6),
        "step": torch.tensor([3], device=device),
    }
    if graphs:  # they are in the subspace already
        made |= {name: centred(made[name], first) for name in ("x", "before")}
    return made


def centred(x, first):
    parts = [x[i:j] for i, j in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)]
    return torch.cat([part - part.mean(dim=(0, 2), keepdim=True) for part in parts])


def doubled(made: dict) -> dict:
    is_float = lambda value: value is not None and value.is_floating_point()
    return {name: value.double() if is_float(value) else value for name, value in made.items()}


def written(op, made: dict, **changes) -> list[torch.Tensor]:
    """x, before and positions afterwards."""
    made = made | {name: made[name] if made[name] is None else made[name].clone() for name in WRITTEN} | changes
    op(**made)
    return [made[name] for name in WRITTEN if made[name] is not None]


WRITTEN = ("x", "before", "positions")


def by_formula(x, before, positions, output, noise, x_ref, first, coefficients, step):
    p, q, a, b, c, s = coefficients[step].flatten().tolist()
    project = (lambda v: v) if first is None else (lambda v: centred(v, first))
    x_0 = project(p * x + q * output)
    after = project(a * x + b * x_0 + c * before + (0 if noise is None else s * noise))
    return [after, x_0] + ([] if x_ref is None else [after + x_ref])


CASES = [
    {"graphs": False, "ref_frames": 1},
    {"graphs": False, "noise": False},
    {"graphs": True},
    {"graphs": True, "noise": False, "dim": 2, "sizes": (1, 400, 5)},
    {"graphs": False, "num_frames": 1, "ref_frames": 1, "sizes": (300,)},
]


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_the_formula(case):
    made = arguments(**case, dtype=torch.float64)
    for found, expected in zip(written(reference.diffusion_step, made), by_formula(**made), strict=True):
        assert_same(found, expected, 1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("implementation", ["auto", "triton"])
def test_implementations_are_as_accurate_as_the_reference(case, implementation, device):
    made = arguments(**case, device=device)
    exact = written(reference.diffusion_step, doubled(made))
    plain = written(reference.diffusion_step, made)
    with backend(implementation):
        ours = written(ops.diffusion_step, made)
    for found, rounded, truth in zip(ours, plain, exact, strict=True):
        assert_as_accurate(found, rounded, truth, "fp32")


def test_the_same_bits_on_any_number_of_threads_and_in_every_run(device):
    made = arguments((50, 3, 60), num_frames=30, graphs=True, device=device)
    runs = [written(ops.diffusion_step, made)]
    for count in (1, 3):
        torch.set_num_threads(count)
        runs.append(written(ops.diffusion_step, made))
    torch.set_num_threads(1)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_other_dtypes_and_no_nodes():
    made = arguments(dtype=torch.bfloat16) | {"coefficients": torch.randn(ROWS, 6)}
    exact = written(reference.diffusion_step, doubled(made))
    for found, truth in zip(written(ops.diffusion_step, made), exact, strict=True):
        assert found.dtype == torch.bfloat16
        assert_same(found, truth, 2**-8)
    for graphs in (False, True):
        empty = arguments((0, 0), graphs=graphs)
        assert all(v.numel() == 0 for v in written(ops.diffusion_step, empty))


def test_each_dtype_runs_what_it_should(monkeypatch):
    made, called = arguments(), []
    monkeypatch.setattr(reference, "diffusion_step", lambda *_: called.append("reference"))
    written(ops.diffusion_step, made)
    assert called == ([] if native.missing is None else ["reference"])
    with backend("reference"):
        written(ops.diffusion_step, made)
    double = doubled(made)
    written(ops.diffusion_step, double)
    assert called[-2:] == ["reference", "reference"]
    with (
        backend("triton"),
        pytest.raises(ValueError, match="diffusion_step: backend triton does not take the input: x"),
    ):
        written(ops.diffusion_step, double)


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    torch.library.opcheck(torch.ops.geotdm_fast.diffusion_step.default, tuple(arguments(**case).values()))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(7, 3)}, ValueError, r"x must be \[N, D, T\], got \[7, 3\]"),
        ({"before": torch.zeros(7, 3, 6)}, ValueError, r"before must be \[7, 3, 7\], got \[7, 3, 6\]"),
        ({"output": torch.zeros(7, 7, 3)}, ValueError, r"output must be \[7, 3, 7\], got \[7, 7, 3\]"),
        ({"noise": torch.zeros(7, 3, 1)}, ValueError, r"noise must be \[7, 3, 7\], got \[7, 3, 1\]"),
        ({"positions": None}, ValueError, "positions and x_ref must both be given, or none of them"),
        ({"x_ref": torch.zeros(7, 3, 2)}, ValueError, r"x_ref must be \[7, 3, 7\], got \[7, 3, 2\]"),
        ({"coefficients": torch.zeros(5, 4)}, ValueError, r"coefficients must be \[S, 6\], got \[5, 4\]"),
        ({"step": torch.zeros(1)}, TypeError, "step must be int64, got torch.float32"),
        ({"first": torch.zeros(3)}, TypeError, "first must be int64, got torch.float32"),
    ],
)
def test_wrong_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=f"diffusion_step: {message}"):
        ops.diffusion_step(**arguments() | changes)


@needs_native
def test_the_compiled_op_trusts_nothing():
    op = torch.ops.geotdm_fast.diffusion_step
    made = arguments(graphs=True)
    for changes, message in (
        ({"step": torch.tensor([5])}, "diffusion_step: step must be in 0..4, got 5"),
        ({"first": torch.tensor([0, 9])}, "first must ascend from 0 to 7"),
        ({"first": torch.zeros(0, dtype=torch.int64)}, r"first must hold one offset at least, got \[0\]"),
        ({"first": torch.zeros(2, 0, dtype=torch.int64)}, r"first must hold one offset at least, got \[2, 0\]"),
        ({"x": made["output"]}, "x must be contiguous, got strides"),
    ):
        with pytest.raises(ValueError, match=message):
            op(*(made | changes).values())
