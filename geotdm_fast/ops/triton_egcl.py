"""The Triton EGCL as ops that `torch.compile` knows: it traces those, but not the launches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference import EGCLOptions, EGCLParams


class EGCLGradients(NamedTuple):
    """x: [N, T, D]; h: [N, T, H]; params: in the order of EGCLParams.

    edge_term: [E, H], empty without one; shift: [E, D], empty where nobody wants it; both anything at places that have
    no edge
    """

    x: Tensor
    h: Tensor
    edge_term: Tensor
    shift: Tensor
    params: list[Tensor]


def forward(
    x: Tensor,
    h: Tensor,
    graph: tuple[Tensor, ...],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: tuple[Tensor, ...],
    options: EGCLOptions,
) -> list[Tensor]:
    """x', h', and what the backward wants, edge_term last if it is made: `kernels.egcl_launch.egcl_forward`."""
    if torch.compiler.is_compiling():
        return _forward_op(x, h, list(graph), edge_attr, edge_term, shift, list(params), *_values(options))
    return _forward(x, h, graph, edge_attr, edge_term, shift, params, options)


def backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: tuple[Tensor, ...],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: tuple[Tensor, ...],
    kept: tuple[Tensor, ...],
    options: EGCLOptions,
    wants_shift: bool,
) -> EGCLGradients:
    """Gradients of what `forward` took, of the shift where it is wanted: `egcl_backward` beside the above."""
    inputs = (grad_x_out, grad_h_out, x, h)
    if torch.compiler.is_compiling():
        lists = (list(graph), edge_attr, edge_term, shift, list(params), list(kept))
        grad_x, grad_h, grad_term, grad_shift, *grad_params = _backward_op(
            *inputs, *lists, *_values(options), wants_shift
        )
        return EGCLGradients(grad_x, grad_h, grad_term, grad_shift, grad_params)
    return _backward(*inputs, graph, edge_attr, edge_term, shift, params, kept, options, wants_shift)


def _values(options: EGCLOptions) -> tuple[bool, bool, str, float | None, bool]:
    """The options as the ops have them, one by one; there is one envelope."""
    return options.normalize, options.pre_norm, options.precision, options.cutoff, options.residual


def _forward(
    x: Tensor,
    h: Tensor,
    graph: Sequence[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: Sequence[Tensor],
    options: EGCLOptions,
) -> list[Tensor]:
    from geotdm_fast.kernels.egcl_launch import TritonTables, egcl_forward

    inputs = (x, h, TritonTables(*graph), edge_attr, edge_term, EGCLParams(*params), options)
    x_out, h_out, kept = egcl_forward(*inputs, shift=shift)
    return [x_out, h_out, *(kept[:4] if kept.edge_term is edge_term else kept)]


def _backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: Sequence[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: Sequence[Tensor],
    kept: Sequence[Tensor],
    options: EGCLOptions,
    wants_shift: bool,
) -> EGCLGradients:
    from geotdm_fast.kernels.egcl_backward_launch import egcl_backward
    from geotdm_fast.kernels.egcl_launch import Kept, TritonTables

    inputs = (grad_x_out, grad_h_out, x, h, TritonTables(*graph), edge_attr, EGCLParams(*params))
    kept = Kept(kept[0], kept[1], kept[2], kept[3], edge_term)
    grads = egcl_backward(*inputs, kept, options, shift=shift, wants_shift=wants_shift)
    tensor = lambda grad: x.new_empty(0) if grad is None else grad
    return EGCLGradients(grads.x, grads.h, tensor(grads.edge_term), tensor(grads.shift), grads.params)


@torch.library.custom_op("geotdm_fast::triton_egcl_forward", mutates_args=())
def _forward_op(
    x: Tensor,
    h: Tensor,
    graph: list[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: list[Tensor],
    normalize: bool,
    pre_norm: bool,
    precision: str,
    cutoff: float | None,
    residual: bool,
) -> list[Tensor]:
    options = EGCLOptions(normalize, pre_norm, precision, cutoff, residual=residual)
    return _forward(x, h, graph, edge_attr, edge_term, shift, params, options)


@_forward_op.register_fake
def _(
    x: Tensor,
    h: Tensor,
    graph: list[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: list[Tensor],
    normalize: bool,
    pre_norm: bool,
    precision: str,
    cutoff: float | None,
    residual: bool,
) -> list[Tensor]:
    from geotdm_fast.kernels.configurations import padded

    num_nodes, num_frames, width = h.shape
    size = padded(width)
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    pq, halved = h.new_empty(num_nodes, num_frames, 2, size, dtype=low), h.new_empty(2, size, size, dtype=low)
    term = [h.new_empty(edge_attr.shape[0], width)] if edge_term is None and edge_attr is not None else []
    moves = x.new_empty(0) if cutoff is None else x.new_empty(num_nodes, num_frames, 4)
    m_sum = h.new_empty(num_nodes, num_frames, size)
    return [torch.empty_like(x), torch.empty_like(h), pq, m_sum, halved, moves, *term]


@torch.library.custom_op("geotdm_fast::triton_egcl_backward", mutates_args=())
def _backward_op(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: list[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: list[Tensor],
    kept: list[Tensor],
    normalize: bool,
    pre_norm: bool,
    precision: str,
    cutoff: float | None,
    residual: bool,
    wants_shift: bool,
) -> list[Tensor]:
    inputs = (grad_x_out, grad_h_out, x, h, graph, edge_attr, edge_term, shift, params, kept)
    grads = _backward(*inputs, EGCLOptions(normalize, pre_norm, precision, cutoff, residual=residual), wants_shift)
    return [grads.x, grads.h, grads.edge_term, grads.shift, *grads.params]


@_backward_op.register_fake
def _(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: list[Tensor],
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    shift: Tensor | None,
    params: list[Tensor],
    kept: list[Tensor],
    normalize: bool,
    pre_norm: bool,
    precision: str,
    cutoff: float | None,
    residual: bool,
    wants_shift: bool,
) -> list[Tensor]:
    grad_term = x.new_empty(0) if edge_term is None else torch.empty_like(edge_term)
    grad_shift = torch.empty_like(shift) if shift is not None and wants_shift else x.new_empty(0)
    return [torch.empty_like(x), torch.empty_like(h), grad_term, grad_shift, *(p.new_empty(p.shape) for p in params)]
