"""Sums over rows that one index brings together: the neighbours of a node, the nodes of a graph.

A running sum of bfloat16 ones stops at 256, of float16 ones at 2048: sums are float32 there, and counts are integers.
"""

import torch
from torch import Tensor

from geotdm_fast.runtime.tensor_cache import TensorCache

_NARROW = (torch.bfloat16, torch.float16)
_num_graphs = TensorCache(lambda batch: int(batch.max()) + 1 if batch.numel() else 0)


def sum_rows(value: Tensor, index: Tensor, size: int) -> Tensor:
    """[M, ...] to [size, ...]: out_i = sum of the rows m with index_m = i; float32 for a narrower dtype of `value`."""
    value = value.float() if value.dtype in _NARROW else value
    return value.new_zeros(size, *value.shape[1:]).index_add(0, index, value)


def count_rows(index: Tensor, size: int) -> Tensor:
    """[size] int64: how often each number is in `index`. Reads nothing on the host."""
    return index.new_zeros(size, dtype=torch.int64).index_add(0, index, torch.ones_like(index, dtype=torch.int64))


def receivers(first: Tensor, num_places: int) -> Tensor:
    """[num_places] int64: whose edge is at every place, where those of node i begin at first[i]; N from first[N] on.

    first: [N + 1] int64, ascending from 0
    """
    return torch.searchsorted(first[1:], torch.arange(num_places, device=first.device), right=True)


def take_rows(value: Tensor, index: Tensor) -> Tensor:
    """value[index], whose gradient, a sum over the places that took a row, adds up in float32 for a narrower dtype."""
    if value.dtype in _NARROW and torch.is_grad_enabled() and value.requires_grad:
        return value.float()[index].to(value.dtype)
    return value[index]


def num_graphs(batch: Tensor) -> int:
    """max(batch) + 1. Reads the device once for each tensor, not once for each call."""
    return _num_graphs(batch)


def remember_num_graphs(batch: Tensor, number: int) -> None:
    """Tell `num_graphs` what it would find in `batch`, so that it need not wait for the device."""
    _num_graphs.remember(batch, number)


def sum_by_graph(value: Tensor, batch: Tensor) -> Tensor:
    """[N, ...] to [B, ...]: the sum over the nodes of each graph, added up in float32 at least."""
    return sum_rows(value, batch, num_graphs(batch)).to(value.dtype)


def count_by_graph(batch: Tensor) -> Tensor:
    """[B] int64: the nodes of each graph."""
    return count_rows(batch, num_graphs(batch))


def mean_by_graph(value: Tensor, batch: Tensor) -> Tensor:
    """[N, ...] to [B, ...]: the mean over the nodes of each graph; a graph without nodes gives 0."""
    count = count_by_graph(batch).clamp(min=1)
    mean = sum_rows(value, batch, len(count)) / count.reshape(-1, *[1] * (value.dim() - 1))
    return mean.to(value.dtype) if value.is_floating_point() else mean


def zero_mean(x: Tensor, first: Tensor | None) -> Tensor:
    """x [N, D, T] minus its mean over the nodes and frames of each graph; x itself where first is None.

    first: [B + 1] int64 - the nodes of graph g are first[g] .. first[g + 1] - 1; nothing of it is read on the host
    """
    if first is None:
        return x
    nodes = first.diff()
    graph = torch.repeat_interleave(nodes, output_size=x.shape[0])
    total = sum_rows(x.mean(dim=-1), graph, len(nodes))
    return x - (total / nodes.clamp(min=1)[:, None]).to(x.dtype)[graph].unsqueeze(-1)
