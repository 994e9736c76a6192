"""Inputs of the compiled ops, and their results and gradients beside the reference's."""

import functools
import json
import math
import re
import statistics
from collections.abc import Callable

import interpreter
import pytest
import torch
from tolerances import ROUNDOFF, TIMES_PLAIN, TIMES_PLAIN_FP32_GPU, relative_error
from torch import Tensor

from geotdm_fast import backend, ops
from geotdm_fast.ops import native
from geotdm_fast.reference import EGCLParams, GVFFParams, TemporalAttentionParams

needs_native = pytest.mark.skipif(native.build_info() is None, reason=f"geotdm_fast._C is {native.missing}")

DRAWS = 5
# A small call of each op: a self-loop, an edge that comes twice, a node that only sends.
NODES, FRAMES, WIDTH = 4, 3, 16
EDGES = torch.tensor([[2, 0, 1, 1, 0, 2, 1], [1, 0, 0, 0, 2, 3, 2]])


@pytest.fixture
def poisoned():
    """Fill memory that nobody wrote with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def draw(*shape: int, scale: float = 1) -> Tensor:
    return torch.randn(*shape) * scale


def graph(num_nodes: int, degrees: list[int]) -> Tensor:
    """Random senders, so with self-loops and repeats, for receivers of the given degrees; edges in random order."""
    row = torch.repeat_interleave(torch.arange(len(degrees)), torch.tensor(degrees, dtype=torch.int64))
    edges = torch.stack([row, torch.randint(0, max(num_nodes, 1), row.shape)])
    return edges[:, torch.randperm(len(row))]


def egcl_params(width: int, edge_dim: int = 0) -> EGCLParams:
    inputs = {"edge_w1": 2 * width + 1 + edge_dim, "node_w1": 2 * width}
    shape = lambda name: (1 if name.startswith("coord_") and name.endswith("2") else width,)
    columns = lambda name: (inputs.get(name, width),) if "_w" in name else ()
    return EGCLParams(*(_parameter(*shape(name), *columns(name)) for name in EGCLParams._fields))


def temporal_params(width: int, time_emb_dim: int = 13) -> TemporalAttentionParams:
    inputs = {"time_w": time_emb_dim}
    shape = lambda name: (1 if name in ("x_w2", "x_b2") else width,)
    columns = lambda name: (inputs.get(name, width),) if "_w" in name else ()
    return TemporalAttentionParams(*(_parameter(*shape(n), *columns(n)) for n in TemporalAttentionParams._fields))


def gv_ff_params(width: int, num_vectors: int = 4) -> GVFFParams:
    out = {"gate_w2": 1, "gate_b2": 1, "mix_w2": 1} | dict.fromkeys(
        ("vector_w1", "mix_w1", "gate_w1", "gate_b1", "vector_w2"), num_vectors
    )
    inputs = {"vector_w1": 1, "gate_w1": width, "gate_w2": width}
    inputs |= dict.fromkeys(("mix_w1", "vector_w2", "mix_w2"), num_vectors)
    columns = lambda name: (inputs.get(name, width + num_vectors),) if "_w" in name else ()
    return GVFFParams(*(_parameter(out.get(name, width), *columns(name)) for name in GVFFParams._fields))


def _parameter(*shape: int) -> Tensor:
    # As wide as torch's own initial values: a softmax of much sharper logits would measure chance.
    return draw(*shape, scale=(3 * shape[-1]) ** -0.5 if len(shape) > 1 else 0.3)


def egcl(x, h, edge_attr, *params, edge_index, **flags):
    """The op with its differentiable inputs first."""
    return ops.egcl(x, h, edge_index, edge_attr, EGCLParams(*params), **flags)


def temporal_attention(x, h, *params, **flags):
    return ops.temporal_attention(x, h, TemporalAttentionParams(*params), **flags)


def egcl_inputs(num_nodes, num_frames, dim, width, edge_dim, edge_index) -> list[Tensor | None]:
    edge_attr = draw(edge_index.shape[1], edge_dim) if edge_dim else None
    x, h = draw(num_nodes, num_frames, dim), draw(num_nodes, num_frames, width)
    return [x, h, edge_attr, *egcl_params(width, edge_dim)]


def temporal_inputs(num_nodes, num_frames, dim, width) -> list[Tensor]:
    return [draw(num_nodes, num_frames, dim), draw(num_nodes, num_frames, width), *temporal_params(width)]


def results(op: Callable, inputs: list[Tensor | None], cotangents: list[Tensor], dtype=None) -> list[Tensor]:
    """Both outputs of `op`, and the gradient of every input."""
    leaves = [None if v is None else v.detach().to(dtype or v.dtype).requires_grad_() for v in inputs]
    outputs = op(*leaves)
    wanted = [leaf for leaf in leaves if leaf is not None]
    gradients = torch.autograd.grad(outputs, wanted, [c.to(outputs[0].dtype) for c in cotangents])
    return [v.detach() for v in (*outputs, *gradients)]


def cotangents_of(inputs: list[Tensor | None]) -> list[Tensor]:
    return [torch.randn_like(inputs[0]), torch.randn_like(inputs[1])]


def assert_native_as_accurate(
    op: Callable,
    inputs: Callable[[], list],
    names: list[str],
    precision: str = "fp32",
    exact_op: Callable | None = None,
    implementation: str = "auto",
    draws: int = DRAWS,
):
    """Outputs and gradients of an op against the reference in float64, beside the reference in the op's precision.

    inputs: draws them. Few numbers have errors of much chance, so small inputs are drawn several times, and where that
        is not enough, five times as often: chance goes away so, a loss of accuracy stays.
    exact_op: what the reference runs in float64, if that is not `op`
    """
    first = inputs()
    is_small = first[1].numel() < 20_000
    errors_of = lambda draw: _errors(op, exact_op or op, draw, names, precision, implementation)
    errors = [errors_of(draw) for draw in (first, *(inputs() for _ in range(draws - 1 if is_small else 0)))]
    approximate = (first[0].is_cuda or interpreter.inexact) and precision == "fp32"
    times = TIMES_PLAIN_FP32_GPU if approximate else TIMES_PLAIN
    wrong = _less_accurate(errors, times, precision)
    if wrong and is_small and all(math.isfinite(value) for ours, _ in errors for value in ours.values()):
        errors += [errors_of(inputs()) for _ in range(4 * draws)]
        wrong = _less_accurate(errors, times, precision)
    assert not wrong, wrong


def _less_accurate(errors: list[tuple[dict, dict]], times: float, precision: str) -> str:
    """What of ours is further from float64 than plain PyTorch, nearly, by medians; nothing is the empty string."""
    ours, plain = zip(*errors, strict=True)
    size = lambda errors, name: statistics.median(e[name] for e in errors)
    allowed = {name: times * size(plain, name) + ROUNDOFF[precision] for name in plain[0]}
    wrong = [name for name in allowed if not size(ours, name) <= allowed[name]]
    return "; ".join(f"{name}: relative error {size(ours, name):.2e} is over {allowed[name]:.2e}" for name in wrong)


def _errors(
    op: Callable,
    exact_op: Callable,
    inputs: list[Tensor | None],
    names: list[str],
    precision: str,
    implementation: str,
) -> tuple[dict, dict]:
    cotangents = cotangents_of(inputs)
    with backend(implementation):
        ours = results(op, inputs, cotangents)
    with backend("reference"):
        plain = results(op, inputs, cotangents)
        exact = results(exact_op, inputs, cotangents, torch.float64)
    assert [a.dtype for a in ours] == [b.dtype for b in plain]
    names = ["x_out", "h_out", *(name for name, v in zip(names, inputs, strict=True) if v is not None)]
    ours, plain, exact = (by_layer(names, values) for values in (ours, plain, exact))
    # With one frame nothing depends on q and k: measured against the largest gradient.
    floor = max(1e-8, 1e-3 * max(float(exact[name].norm()) for name in exact if not name.endswith("_out")))
    errors = lambda values: {name: relative_error(values[name], exact[name], floor) for name in exact}
    return errors(ours), errors(plain)


def by_layer(names: list[str], values: list[Tensor]) -> dict[str, Tensor]:
    """Weight and bias of a layer in one row: the sum that a bias's gradient is may cancel to nothing."""
    layers = {}
    for name, value in zip(names, values, strict=True):
        layer = re.sub(r"_[wb](\d?)$", r"_\1", name)
        layers.setdefault(layer, []).append(value.flatten().double())
    return {layer: torch.cat(parts) for layer, parts in layers.items()}


EGCL_NAMES = ["x", "h", "edge_attr", *EGCLParams._fields]
TEMPORAL_NAMES = ["x", "h", *TemporalAttentionParams._fields]


def assert_same_bits(a: list[Tensor], b: list[Tensor], names: list[str]):
    """Equal to the last bit."""
    names = ["x_out", "h_out", *names]
    for name, first, second in zip(names, a, b, strict=True):
        assert torch.equal(first, second), f"{name}: {relative_error(first, second):.1e} apart"


def on_threads(count: int, function: Callable):
    """`function()` on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


bind = functools.partial


def peak_memory(function: Callable, path) -> int:
    """The most bytes that `function()` holds at once beyond those before it."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    profile.export_chrome_trace(str(path))
    events = [e["args"] for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    totals = [e["Total Allocated"] for e in events]
    return max(totals) - (totals[0] - events[0]["Bytes"])


def native_call(name: str) -> tuple[Callable, list[Tensor]]:
    """The small call: an op bound to its graph, and its inputs."""
    if name == "egcl":
        return bind(egcl, edge_index=EDGES), egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)
    return temporal_attention, temporal_inputs(NODES, FRAMES, 3, WIDTH)
