"""Shapes and dtypes of what the compiled ops return, for tracing without data."""

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Fake = TypeVar("Fake", bound=Callable[..., Any])
# By the name of the op. Their arguments are those of the sources, so they tell a module that was made of others.
FAKES: dict[str, Callable[..., Any]] = {}


def register() -> None:
    """Tell torch of all of them, of a loaded module in which `other_op` finds nothing."""
    for name, function in FAKES.items():
        torch.library.register_fake(f"geotdm_fast::{name}")(function)


def other_op() -> str | None:
    """The first op that the loaded module lacks, or has with other arguments than these, and how; None if all fit."""
    functions: dict[str, Callable[..., Any]] = {"build_info": build_info, **FAKES}
    for name, function in functions.items():
        op = getattr(torch.ops.geotdm_fast, name, None)
        if op is None:
            return f"it has no op {name}"
        expected, came = list(inspect.signature(function).parameters), [a.name for a in op.default._schema.arguments]
        if came != expected:
            return f"the arguments of its op {name} must be {', '.join(expected)}, got {', '.join(came)}"
    return None


@functools.cache
def build_info() -> dict[str, str | int]:
    """What the loaded module says of its build; see `native.build_info`. It is asked once: tracing could not ask it."""
    return json.loads(torch.ops.geotdm_fast.build_info())


def _fake(function: Fake) -> Fake:
    FAKES[function.__name__.removeprefix("_")] = function
    return function


def _rows(h: Tensor) -> Tensor:
    """[N, T, H up to a whole panel]: rows that a forward keeps for its backward."""
    panel = int(build_info()["panel"])
    return h.new_empty(*h.shape[:2], -(-h.shape[2] // panel) * panel)


@_fake
def _edge_tables(edge_index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    numbers = lambda size: edge_index.new_empty(size)
    num_edges, ordered = edge_index.shape[1], torch.library.get_ctx().new_dynamic_size()
    return (numbers(ordered), numbers(num_rows + 1), numbers(num_edges), numbers(num_rows + 1), numbers(num_edges))


@_fake
def _egcl_forward(
    x: Tensor,
    h: Tensor,
    first: Tensor,
    sender: Tensor,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: Sequence[Tensor],
    normalize: bool,
    pre_norm: bool,
    cutoff: float | None,
    residual: bool,
    keep: bool,
    low_precision: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    moves = [] if cutoff is None else [h.new_empty(*h.shape[:2], 4)]
    return torch.empty_like(x), torch.empty_like(h), [*(_rows(h) for _ in range(4)), *moves] if keep else []


@_fake
def _egcl_backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    first: Tensor,
    sender: Tensor,
    sender_first: Tensor,
    by_sender: Tensor,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: Sequence[Tensor],
    kept: Sequence[Tensor],
    wants_shift: bool,
    wants_params: bool,
    normalize: bool,
    pre_norm: bool,
    cutoff: float | None,
    residual: bool,
    low_precision: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    grad_edge_term = h.new_empty(0 if edge_term is None else sender.shape[0], h.shape[2])
    grad_shift = x.new_empty(sender.shape[0] if wants_shift else 0, x.shape[2])
    grad_params = [p.new_empty(p.shape) for p in params] if wants_params else []
    return torch.empty_like(x), torch.empty_like(h), grad_edge_term, grad_shift, grad_params


@_fake
def _gv_ff_forward(k: Tensor, u: Tensor, params: Sequence[Tensor], low_precision: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(k), torch.empty_like(u)


@_fake
def _gv_ff_backward(
    grad_q: Tensor,
    grad_w: Tensor,
    k: Tensor,
    u: Tensor,
    params: Sequence[Tensor],
    wants_params: bool,
    low_precision: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    grad_params = [p.new_empty(p.shape) for p in params] if wants_params else []
    return torch.empty_like(k), torch.empty_like(u), grad_params


@_fake
def _temporal_attention_forward(
    x: Tensor, h: Tensor, turns: Tensor, params: Sequence[Tensor], window: int, keep: bool, precision: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    kept = []
    if keep and h.device.type == "cpu":  # CUDA's backward computes anew
        rows = _rows(h)
        kept = [_rows(h), _rows(h), rows, rows.new_empty(4, *rows.shape), h.new_empty(h.shape[:2])]
    return torch.empty_like(x), torch.empty_like(h), kept


@_fake
def _temporal_attention_backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    turns: Tensor,
    params: Sequence[Tensor],
    kept: Sequence[Tensor],
    window: int,
    precision: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return torch.empty_like(x), torch.empty_like(h), [p.new_empty(p.shape) for p in params]


@_fake
def _packed_layer_pair(
    egcl_params: Sequence[Tensor],
    attention_params: Sequence[Tensor],
    turns: Tensor,
    low_precision: bool,
    precision: int,
) -> Tensor:
    width, (num_frames, phases), panel = egcl_params[1].shape[0], turns.shape, int(build_info()["panel"])
    up = lambda n, to: -(-n // to) * to
    matrix = lambda k, n: up(k, 32) * up(n, panel)
    time = matrix(num_frames, phases) + matrix(phases, num_frames) + matrix(width, phases) + matrix(phases, width)
    time += num_frames * up(phases, panel)
    return turns.new_empty(2 * panel + 14 * matrix(width, width) + time + 16 * up(width, panel))


@_fake
def _same_numbers(tensors: Sequence[Tensor], kept: Tensor, sizes: Tensor) -> bool:
    return False  # nobody knows without the numbers, and what is packed anew is right


@_fake
def _layer_pairs(
    x: Tensor,
    h: Tensor,
    first: Tensor,
    sender: Tensor,
    edge_terms: Sequence[Tensor],
    shift: Tensor | None,
    packed: Sequence[Tensor],
    phases: int,
    normalize: bool,
    pre_norm: bool,
    cutoff: float | None,
    window: int,
    low_precision: bool,
    precision: int,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(h)


@_fake
def _layer_pairs_step(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    step: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first_node: Tensor | None,
    coefficients: Tensor,
    given: Tensor | None,
    noisy: Tensor | None,
    scale: float,
    features: Tensor,
    rows: Tensor,
    first_edge: Tensor,
    sender: Tensor,
    edge_terms: Sequence[Tensor],
    shift: Tensor | None,
    packed: Sequence[Tensor],
    phases: int,
    normalize: bool,
    pre_norm: bool,
    cutoff: float | None,
    window: int,
    low_precision: bool,
    precision: int,
) -> None:
    return None


@_fake
def _diffusion_step(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    output: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    return None


@_fake
def _reference_frame(y: Tensor, z: Tensor, ws: Tensor) -> Tensor:
    return y.new_empty(y.shape[0], y.shape[2], ws.shape[0])


@_fake
def _radius_graph(x: Tensor, batch: Tensor | None, cutoff: float, loop: bool) -> tuple[Tensor, Tensor]:
    num_edges = torch.library.get_ctx().new_dynamic_size()
    num_rows = x.shape[0] * x.shape[1]
    return x.new_empty(2, num_edges, dtype=torch.int64), x.new_empty(num_rows, dtype=torch.int32)


@_fake
def _radius_neighbours(
    x: Tensor, batch: Tensor | None, cutoff: float, capacity: int, loop: bool
) -> tuple[Tensor, Tensor]:
    num_rows = x.shape[0] * x.shape[1]
    return x.new_empty(num_rows, capacity, dtype=torch.int32), x.new_empty(num_rows, dtype=torch.int32)


@_fake
def _radius_graph_periodic(
    x: Tensor,
    batch: Tensor | None,
    vectors: Tensor,
    inverse: Tensor,
    pbc: Tensor,
    images: list[int],
    most_boxes_away: int,
    cutoff: float,
    loop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    edge_index, degree = _radius_graph(x, batch, cutoff, loop)
    return edge_index, x.new_empty(edge_index.shape[1], 3, dtype=torch.int8), degree


@_fake
def _radius_neighbours_periodic(
    x: Tensor,
    batch: Tensor | None,
    vectors: Tensor,
    inverse: Tensor,
    pbc: Tensor,
    images: list[int],
    most_boxes_away: int,
    cutoff: float,
    capacity: int,
    loop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    sender, degree = _radius_neighbours(x, batch, cutoff, capacity, loop)
    return sender, x.new_empty(*sender.shape, 3, dtype=torch.int8), degree
