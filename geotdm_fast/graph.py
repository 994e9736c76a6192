"""Sums over the nodes of each graph of a batch."""

import torch
from torch import Tensor

from geotdm_fast.tensor_cache import TensorCache

_num_graphs = TensorCache(lambda batch: int(batch.max()) + 1 if batch.numel() else 0)


def num_graphs(batch: Tensor) -> int:
    """max(batch) + 1. Reads the device once for each tensor, not once for each call."""
    return _num_graphs(batch)


def remember_num_graphs(batch: Tensor, number: int) -> None:
    """Tell `num_graphs` what it would find in `batch`, so that it need not wait for the device."""
    _num_graphs.remember(batch, number)


def sum_by_graph(value: Tensor, batch: Tensor) -> Tensor:
    """[N, ...] to [B, ...]: the sum over the nodes of each graph."""
    return value.new_zeros(num_graphs(batch), *value.shape[1:]).index_add(0, batch, value)


def mean_by_graph(value: Tensor, batch: Tensor) -> Tensor:
    """[N, ...] to [B, ...]: the mean over the nodes of each graph; a graph without nodes gives 0."""
    count = sum_by_graph(torch.ones_like(batch, dtype=value.dtype), batch).clamp(min=1)
    return sum_by_graph(value, batch) / count.reshape(-1, *[1] * (value.dim() - 1))


def zero_mean(x: Tensor, first: Tensor | None) -> Tensor:
    """x [N, D, T] minus its mean over the nodes and frames of each graph; x itself where first is None.

    first: [B + 1] int64 - the nodes of graph g are first[g] .. first[g + 1] - 1; nothing of it is read on the host
    """
    if first is None:
        return x
    nodes = first.diff()
    graph = torch.repeat_interleave(nodes, output_size=x.shape[0])
    total = x.new_zeros(len(nodes), x.shape[1]).index_add(0, graph, x.mean(dim=-1))
    return x - (total / nodes.clamp(min=1)[:, None])[graph].unsqueeze(-1)
