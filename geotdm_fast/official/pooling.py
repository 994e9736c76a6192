"""From values of nodes to values of graphs, with the arguments of torch_geometric's pooling."""

import torch
from torch import Tensor

from geotdm_fast.reference.row_sums import num_graphs


def global_add_pool(x: Tensor, batch: Tensor | None, size: int | None = None) -> Tensor:
    """[N, ...] to [B, ...]: the sum over the nodes of each graph; a graph without nodes gives 0.

    batch: [N] int64 - the graph of each node, in any order; None: one graph
    size: B; None: max(batch) + 1
    Low precisions are summed in float32. Differentiable.
    """
    if batch is None:
        return x.sum(dim=0, keepdim=True)
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return wide.new_zeros(_size(x, batch, size), *x.shape[1:]).index_add(0, batch, wide).to(x.dtype)


def global_mean_pool(x: Tensor, batch: Tensor | None, size: int | None = None) -> Tensor:
    """The same for the mean."""
    if batch is None:
        return x.mean(dim=0, keepdim=True)
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    count = torch.bincount(batch, minlength=_size(x, batch, size)).clamp(min=1)
    total = global_add_pool(wide, batch, size)
    return (total / count.reshape(-1, *[1] * (x.dim() - 1))).to(x.dtype)


def global_max_pool(x: Tensor, batch: Tensor | None, size: int | None = None) -> Tensor:
    """The same for the largest value."""
    if batch is None:
        return x.amax(dim=0, keepdim=True)
    index = batch.reshape(-1, *[1] * (x.dim() - 1)).expand_as(x)
    empty = x.new_zeros(_size(x, batch, size), *x.shape[1:])
    return empty.scatter_reduce(0, index, x, "amax", include_self=False)


def _size(x: Tensor, batch: Tensor, size: int | None) -> int:
    if batch.shape != x.shape[:1]:
        raise ValueError(f"global pooling: batch must be [{x.shape[0]}] for x {list(x.shape)}, got {list(batch.shape)}")
    found = num_graphs(batch)
    if size is not None and size < found:
        raise ValueError(f"global pooling: size must be at least the {found} graphs of batch, got {size}")
    return found if size is None else size
