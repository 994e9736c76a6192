"""Whether the operations compute what they should on a device: each against its float64 reference.

For every output and gradient

    error = ||ours - exact|| / max(||exact||, floor),  allowed = m e_plain + u

exact: the reference in float64; e_plain: the error of the reference in the op's own precision, which is plain PyTorch;
m = `TIMES_PLAIN`; u: one roundoff of the precision, for what plain PyTorch happens to hit. A gradient is measured
against a thousandth of the largest one at least (`floor`): one that is nothing but rounding (keys' biases, which the
softmax does not see) says nothing. Weight and bias of a layer count as one.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.graphs import Graph
from geotdm_fast.reference import EGCLParams, TemporalAttentionParams
from geotdm_fast.scores.equivariance import ROUNDOFF

# A fused op against float64: at most this many times the error of plain PyTorch in the same precision.
TIMES_PLAIN = 2
# The same for float32 on a GPU, where Triton's exp and division are off by two units in the last place, and the matrix
# units cut off the sums of float32's parts: about three times plain PyTorch's error was the most on an H100, 5e-7.
TIMES_PLAIN_FP32_GPU = 3
OPS = ("egcl", "temporal_attention")
DIRECTIONS = ("forward", "gradients")
FLOOR, FLOOR_SHARE = 1e-8, 1e-3
# Nodes, frames, H, D, and whether edges have features: one that a processor does in a few tiles, and one of odd sizes.
SIZES = ((48, 20, 64, 3, True), (7, 5, 48, 2, False))
# Few numbers have errors of much chance: each size is drawn this often, and the mean error counts.
DRAWS = 3


class Verdict(NamedTuple):
    """What one op does in one precision and direction.

    implementation: what ran, as `geotdm doctor` names it
    where: the output or layer whose error is the largest share of what is allowed
    error, allowed: there
    """

    op: str
    precision: str
    direction: str
    implementation: str
    where: str
    error: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the error is within what is allowed; neither may be infinite or no number."""
        return math.isfinite(self.error) and math.isfinite(self.allowed) and self.error <= self.allowed


def verify_ops(device: torch.device) -> Iterator[Verdict]:
    """Every op forward and backward on `device`, in every precision that it has: a verdict for each.

    fp32 and bf16, and on a GPU of compute capability 8.0 or more tf32, as `geotdm_fast.set_precision` has them. The
    inputs are random and the same in every run. Reads and changes no settings of the caller.
    """
    active = {row.op: row.active for row in ops.status()}  # a GPU's rows come last
    if device.type == "cpu":
        active = {row.op: row.active for row in reversed(ops.status())}
    for op in OPS:
        for precision in precisions(device):
            measured = [_measure(op, precision, device, size) for size in SIZES]
            for direction in DIRECTIONS:
                error, allowed, where = max(
                    (e for found in measured for e in found[direction]), key=lambda e: _share(e[0], e[1])
                )
                yield Verdict(op, precision, direction, active[op], where, error, allowed)


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions of matrix products in which the ops differ on `device`; the CPU takes tf32 for fp32."""
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return ("fp32", "tf32", "bf16") if has_tf32 else ("fp32", "bf16")


def relative_error(ours: Tensor, exact: Tensor, floor: float = FLOOR) -> float:
    """||ours - exact|| / max(||exact||, floor); infinite when a shape differs or ours is not finite."""
    ours, exact = ours.detach().double(), exact.detach().double()
    if ours.shape != exact.shape or not bool(ours.isfinite().all()):
        return math.inf
    return float((ours - exact).norm() / exact.norm().clamp_min(floor))


def _share(error: float, allowed: float) -> float:
    """The error as a share of what is allowed; infinite where either is not finite, so that a maximum finds it."""
    return error / allowed if math.isfinite(error) and math.isfinite(allowed) else math.inf


def _measure(
    op: str, precision: str, device: torch.device, size: tuple[int, int, int, int, bool]
) -> dict[str, list[tuple[float, float, str]]]:
    """By direction: (error, what is allowed, where) of every output and layer, as means over the draws."""
    sums: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        call, names, inputs = _case(op, size, precision, generator)
        inputs = [value.to(device) for value in inputs]
        cotangents = [torch.randn(value.shape, generator=generator).to(device) for value in inputs[:2]]
        ours = _results(call, names, inputs, cotangents)
        with ops.backend("reference"):
            plain = _results(call, names, inputs, cotangents)
            exact = _results(_case(op, size, "fp32", generator)[0], names, inputs, cotangents, torch.float64)
        largest = max(float(value.norm()) for name, value in exact.items() if not name.endswith("_out"))
        for name, value in exact.items():
            floor = FLOOR if name.endswith("_out") else max(FLOOR, FLOOR_SHARE * largest)
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += relative_error(ours[name], value, floor) / DRAWS
            total[1] += relative_error(plain[name], value, floor) / DRAWS
    times = TIMES_PLAIN_FP32_GPU if precision == "fp32" and device.type == "cuda" else TIMES_PLAIN
    rows = {name: (ours, times * plain + ROUNDOFF[precision], name) for name, (ours, plain) in sums.items()}
    return {
        "forward": [row for name, row in rows.items() if name.endswith("_out")],
        "gradients": [row for name, row in rows.items() if not name.endswith("_out")],
    }


def _case(
    op: str, size: tuple[int, int, int, int, bool], precision: str, generator: torch.Generator
) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[str], list[Tensor]]:
    """A call of an op, which takes the inputs that have gradients; their names, and random ones."""
    num_nodes, num_frames, width, dim, has_features = size
    draw = functools.partial(torch.randn, generator=generator)
    inputs = {"x": draw(num_nodes, num_frames, dim), "h": draw(num_nodes, num_frames, width)}
    if op == "temporal_attention":
        shapes = _temporal_shapes(width)
        inputs |= {name: _parameter(draw, shape) for name, shape in shapes.items()}
        window = None if has_features else 2

        def attend(x: Tensor, h: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
            return ops.temporal_attention(x, h, TemporalAttentionParams(*params), window=window, precision=precision)

        return attend, list(inputs), list(inputs.values())
    edges = _edges(num_nodes)
    edge_dim = 2 if has_features else 0
    if has_features:
        inputs["edge_attr"] = draw(edges.shape[1], edge_dim)
    inputs |= {name: _parameter(draw, shape) for name, shape in _egcl_shapes(width, edge_dim).items()}

    def pass_messages(x: Tensor, h: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        edge_attr, params = (others[0], others[1:]) if has_features else (None, others)
        graph = Graph.static(edges.to(x.device), num_nodes)
        cutoff = 4.0 if has_features else None
        return ops.egcl(x, h, graph, edge_attr, EGCLParams(*params), cutoff=cutoff, precision=precision)

    return pass_messages, list(inputs), list(inputs.values())


def _edges(num_nodes: int) -> Tensor:
    """[2, E]: six senders for every receiver but the last, which is isolated, and one edge twice."""
    receiver = torch.arange(num_nodes - 1).repeat_interleave(6)
    sender = (receiver + torch.arange(1, 7).repeat(num_nodes - 1)) % num_nodes
    edges = torch.stack([receiver, sender])
    return torch.cat([edges, edges[:, :1]], dim=1)


def _egcl_shapes(width: int, edge_dim: int) -> dict[str, tuple[int, ...]]:
    columns = {"edge_w1": 2 * width + 1 + edge_dim, "node_w1": 2 * width}
    rows = {"coord_w2": 1, "coord_b2": 1}
    return _shapes(EGCLParams._fields, width, rows, columns)


def _temporal_shapes(width: int, time_emb_dim: int = 13) -> dict[str, tuple[int, ...]]:
    return _shapes(TemporalAttentionParams._fields, width, {"x_w2": 1, "x_b2": 1}, {"time_w": time_emb_dim})


def _shapes(
    names: Sequence[str], width: int, rows: dict[str, int], columns: dict[str, int]
) -> dict[str, tuple[int, ...]]:
    """Of weights `..._w` [rows, columns] and biases [rows], both of H unless told."""
    return {name: (rows.get(name, width), *((columns.get(name, width),) if "_w" in name else ())) for name in names}


def _parameter(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    """As wide as torch's own initial values: a softmax of much sharper logits would measure chance."""
    return draw(shape) * ((3 * shape[-1]) ** -0.5 if len(shape) > 1 else 0.3)


def _results(
    call: Callable[..., tuple[Tensor, Tensor]],
    names: list[str],
    inputs: list[Tensor],
    cotangents: list[Tensor],
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """x_out, h_out, and the gradient of every input, those of a layer's weight and bias in one row."""
    leaves = [value.detach().to(dtype).requires_grad_() for value in inputs]
    outputs = call(*leaves)
    gradients = torch.autograd.grad(outputs, leaves, [c.to(dtype) for c in cotangents])
    layers: dict[str, list[Tensor]] = {}
    for name, gradient in zip(names, gradients, strict=True):
        layers.setdefault(re.sub(r"_[wb](\d?)$", r"_\1", name).rstrip("_"), []).append(gradient.flatten())
    found = dict(zip(("x_out", "h_out"), outputs, strict=True))
    return found | {name: torch.cat(parts) for name, parts in layers.items()}
