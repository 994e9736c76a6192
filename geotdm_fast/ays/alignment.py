"""Rigid alignment of the frames of every graph, without a loop over graphs."""

import torch
from torch import Tensor

from geotdm_fast.ays.kabsch import turns
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.reference.row_sums import mean_by_graph, sum_by_graph, take_rows


def align_jointly(x: Tensor, y: Tensor, batch: Tensor) -> Tensor:
    """x turned and moved onto y by one rotation and one shift for all frames of a graph.

        a = x - mean x,  b = y - mean y,  sum a b^T = U S V^T,  R = V U^T,  result R a + mean y

    with means and the sum over the nodes and frames of each graph (Kabsch 1976).
    x, y: [N, 3, T]; batch: [N] int64
    R may be a reflection: no determinant is looked at, as in the official code. Where several R fit alike,
    `geotdm_fast.ays.kabsch.turns` says which one it is. R is a constant for gradients.
    `torch.autocast` changes nothing here, and the sum of positions in a narrower dtype is float32.
    Raises ValueError for other shapes. Deterministic where `index_add` is. A CUDA graph may capture the call.
    Source: arXiv 2604.03911 and its code.
    """
    _check("align_jointly", x, y, batch)
    mean_x = take_rows(mean_by_graph(x.mean(dim=-1), batch), batch).unsqueeze(-1)
    mean_y = take_rows(mean_by_graph(y.mean(dim=-1), batch), batch).unsqueeze(-1)
    a, b = x - mean_x, y - mean_y
    with no_autocast(x.device.type):
        rotation = turns(_covariance("ndt,net->nde", a, b, batch)).to(a.dtype)  # [B, 3, 3]
        return take_rows(rotation, batch) @ a + mean_y


def align_frames(x: Tensor, y: Tensor, batch: Tensor) -> Tensor:
    """`align_jointly` of every frame alone: x [N, 3, T] onto y [N, 3, T], a rotation and a shift for each frame."""
    _check("align_frames", x, y, batch)
    mean_x, mean_y = (take_rows(mean_by_graph(v, batch), batch) for v in (x, y))  # [N, D, T]
    a, b = x - mean_x, y - mean_y
    with no_autocast(x.device.type):
        rotation = turns(_covariance("ndt,net->ntde", a, b, batch)).to(a.dtype)  # [B, T, 3, 3]
        return torch.einsum("nted,ndt->net", take_rows(rotation, batch), a) + mean_y


def align_to_first_frame(x: Tensor, batch: Tensor) -> Tensor:
    """Every frame of x [N, 3, T] turned and moved onto frame 0 of its graph."""
    return align_frames(x, x[..., :1].expand_as(x), batch)


def _covariance(products: str, a: Tensor, b: Tensor, batch: Tensor) -> Tensor:
    """sum a b^T over the nodes of each graph, a constant in float32 at least.

    In bfloat16 rounding would hide which one fits, a rotation or a reflection. products: an `einsum` of a and b
    """
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return sum_by_graph(torch.einsum(products, a.detach().to(wide), b.detach().to(wide)), batch)


def _check(where: str, x: Tensor, y: Tensor, batch: Tensor) -> None:
    if x.dim() != 3 or x.shape[1] != 3 or x.shape != y.shape:
        raise ValueError(f"{where}: x and y must be [N, 3, T] alike, got {list(x.shape)} and {list(y.shape)}")
    if batch.shape != x.shape[:1]:
        raise ValueError(f"{where}: batch must be [{len(x)}], got {list(batch.shape)}")
