"""Equivariant graph convolution on every frame of a trajectory: readable truth in any dtype."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from geotdm_fast.reference.envelope import check_cutoff, polynomial_envelope, smooth_count
from geotdm_fast.reference.linear import linear
from geotdm_fast.reference.row_sums import count_rows, sum_rows, take_rows


class EGCLParams(NamedTuple):
    """Weights [out, in] and biases [out] of the three MLPs, by the names of SPEC's equations."""

    edge_w1: Tensor  # [H, 2 F + 1 + A]: columns for h_i, h_j, d_ij, a_ij
    edge_b1: Tensor
    edge_w2: Tensor
    edge_b2: Tensor
    coord_w1: Tensor
    coord_b1: Tensor
    coord_w2: Tensor  # [1, H]
    coord_b2: Tensor
    node_w1: Tensor  # [H, F + H]
    node_b1: Tensor
    node_w2: Tensor
    node_b2: Tensor


@dataclasses.dataclass(frozen=True)
class EGCLOptions:
    """What `egcl` computes beside its weights say; each option is explained there."""

    normalize: bool = True
    pre_norm: bool = False
    precision: str = "fp32"
    cutoff: float | None = None
    envelope: str = "polynomial"
    residual: bool = True


def egcl(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    params: EGCLParams,
    *,
    normalize: bool = True,
    pre_norm: bool = False,
    precision: str = "fp32",
    cutoff: float | None = None,
    envelope: str = "polynomial",
    shift: Tensor | None = None,
    residual: bool = True,
) -> tuple[Tensor, Tensor]:
    """One EGCL layer (Satorras et al. 2021), run on every frame alone.

        r_ij = x_i - x_j,  d_ij = |r_ij|^2  (pre_norm: |r_ij|)
        m_ij = silu(W2 silu(P_i + Q_j + w_d d_ij + W_a a_ij) + b2),  P = W_i h + b1,  Q = W_j h
        g_ij = u2 . silu(U1 m_ij + e1) + e2,  divided by sqrt(|r_ij|^2 + 1e-8) + 1 if normalize and not pre_norm
        x_i' = x_i + (1 / max(deg_i, 1)) sum_j g_ij r_ij
        h_i' = V2 silu(V1 [h_i, sum_j m_ij] + c1) + c2

    With `cutoff` an edge counts by its length, u_ij = u(|r_ij| / cutoff), 1 at 0 and 0 from the cutoff on:

        x_i' = x_i + sum_j u_ij g_ij r_ij / sqrt(1 + (sum_j u_ij)^2)
        h_i' = V2 silu(V1 [h_i, sum_j u_ij m_ij] + c1) + c2

    In periodic boxes the sender of an edge is at x_j + s_ij, a lattice vector away, and r_ij = x_i - x_j - s_ij.

    An edge that is left out where |r_ij| >= cutoff changes nothing then, and results have two continuous derivatives
    by the positions. max(deg_i, 1) would jump by a whole edge where one appears, and max(sum_j u_ij, 1) has a kink;
    sqrt(1 + s^2) is smooth, is 1 for a node alone and s of many neighbours, so that positions move by a mean as without
    cutoff, whatever the density.

    x: [N, T, D] - positions; h: [N, T, F] - features
    edge_index: [2, E] int64 - receivers and senders in any order; self-loops, repeats and isolated nodes are allowed
    edge_attr: [E, A], or [E, T, A] when it changes from frame to frame, or None
    precision: rounding of the inputs of matrix products; distances and sums are not rounded
    cutoff: in the unit of x, or None; envelope: u by its name, `polynomial` (`polynomial_envelope`)
    residual: False gives x' - x in the place of x': what is added, not rounded to what x has room for
    shift: [E, D], or [E, T, D] when it changes from frame to frame - s_ij, by `geotdm_fast.graphs.Graph.shift`; None: 0
    Sums over neighbours are float32 at least, also for narrower dtypes.
    Returns x' [N, T, D] and h' [N, T, F]. On CUDA the sums over neighbours are not deterministic (atomics).
    Raises TypeError/ValueError for another cutoff than a finite one over 0, an unknown envelope and another D of shift.
    """
    check_cutoff("egcl", cutoff, envelope)
    options = EGCLOptions(normalize, pre_norm, precision, cutoff, envelope, residual)
    return egcl_with(x, h, edge_index, edge_attr, params, options, shift)


def egcl_with(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    params: EGCLParams,
    options: EGCLOptions,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`egcl` with its keywords in one object."""
    precision = options.precision
    row, col = edge_index
    num_nodes, _, num_features = h.shape
    w_receiver, w_sender, w_distance, w_attr = params.edge_w1.tensor_split(
        [num_features, 2 * num_features, 2 * num_features + 1], dim=1
    )
    # The first layer is split by columns: h_i and h_j pass through it once per node, not once per edge.
    p = linear(h, w_receiver, params.edge_b1, precision)  # [N, T, H]
    q = linear(h, w_sender, None, precision)  # [N, T, H]

    edges = relative_positions(x, edge_index, options.pre_norm, shift)
    pre = take_rows(p, row) + take_rows(q, col) + edges.distance * w_distance[:, 0]
    if edge_attr is not None:
        a = linear(edge_attr, w_attr, None, precision)
        pre = pre + (a[:, None] if a.dim() == 2 else a)
    m = silu(linear(silu(pre), params.edge_w2, params.edge_b2, precision))  # [E, T, H]

    gate = silu(linear(m, params.coord_w1, params.coord_b1, precision))
    g = linear(gate, params.coord_w2, params.coord_b2, precision)  # [E, T, 1]
    near = None if options.cutoff is None else polynomial_envelope(edges.square, options.cutoff)  # u, [E, T, 1]
    x_out = moved(x, edges, g, row, options.normalize and not options.pre_norm, near, options.residual)

    m_sum = sum_rows(m if near is None else near * m, row, num_nodes).to(m.dtype)  # [N, T, H]
    hidden = silu(linear(torch.cat([h, m_sum], dim=-1), params.node_w1, params.node_b1, precision))
    return x_out, linear(hidden, params.node_w2, params.node_b2, precision)


class RelativePositions(NamedTuple):
    """r_ij [E, T, D], |r_ij|^2 [E, T, 1] and d_ij [E, T, 1] of the edges."""

    r: Tensor
    square: Tensor
    distance: Tensor


def relative_positions(x: Tensor, edge_index: Tensor, pre_norm: bool, shift: Tensor | None = None) -> RelativePositions:
    """What an edge knows of the positions x [N, T, D] of its ends, the sender's moved by shift [E, D] or [E, T, D]."""
    row, col = edge_index
    if shift is None:
        r = take_rows(x, row) - take_rows(x, col)
    else:
        if shift.shape[-1] != x.shape[-1]:
            expected = f"[E, {x.shape[-1]}] or [E, T, {x.shape[-1]}]"
            raise ValueError(f"egcl: shift must be {expected} for these positions, got {list(shift.shape)}")
        # In the wider of both dtypes: r is small beside a box.
        wide = x.to(torch.promote_types(x.dtype, shift.dtype))
        shift = shift if shift.dim() == 3 else shift[:, None]
        r = (take_rows(wide, row) - take_rows(wide, col) - shift).to(x.dtype)
    square = (r * r).sum(-1, keepdim=True)
    return RelativePositions(r, square, torch.linalg.vector_norm(r, dim=-1, keepdim=True) if pre_norm else square)


def moved(
    x: Tensor,
    edges: RelativePositions,
    g: Tensor,
    row: Tensor,
    normalize: bool,
    near: Tensor | None = None,
    residual: bool = True,
) -> Tensor:
    """x' of x [N, T, D] by the gates g [E, T, 1]; normalize: divide them by |r_ij| + 1; near: u_ij [E, T, 1].

    residual: False gives x' - x
    """
    if normalize:
        g = g / ((edges.square + 1e-8).sqrt() + 1)
    num_nodes = x.shape[0]
    if near is None:
        divisor = count_rows(row, num_nodes).clamp(min=1)[:, None, None]
    else:
        g, divisor = near * g, smooth_count(sum_rows(near, row, num_nodes))
    move = (sum_rows(g * edges.r, row, num_nodes) / divisor).to(x.dtype)
    return x + move if residual else move
