"""From values of nodes to values of graphs."""

import torch
from torch import Tensor

from geotdm_fast.reference.row_sums import sum_rows


def graph_mean(where: str, values: Tensor, batch: Tensor, scored: Tensor | None = None) -> Tensor:
    """Mean over the nodes that count of each graph.

    where: the caller, for messages
    values: [..., N] float
    batch: [N] int64 - the graph of each node
    scored: [M] int64 - the nodes that count; None: all of them
    returns: [..., B]

    Raises ValueError for wrong shapes, for a node out of range and for a graph none of whose nodes count.
    """
    total, count = _graph_sum(where, values, batch, scored)
    return (total / count).to(values.dtype)


def graph_sum(where: str, values: Tensor, batch: Tensor, scored: Tensor | None = None) -> Tensor:
    """Sum over the nodes that count of each graph; arguments, returns and errors as in `graph_mean`."""
    return _graph_sum(where, values, batch, scored)[0].to(values.dtype)


def _graph_sum(where: str, values: Tensor, batch: Tensor, scored: Tensor | None) -> tuple[Tensor, Tensor]:
    num_graphs = check_batch(where, batch, values.shape[-1])
    if scored is not None:
        check_scored(where, scored, values.shape[-1])
        values, batch = values[..., scored], batch[scored]
    count = torch.bincount(batch, minlength=num_graphs)
    if not bool(count.all()):
        graph = int((count == 0).nonzero()[0])
        raise ValueError(f"{where}: every graph must have a node that counts, graph {graph} has none")
    total = sum_rows(values.movedim(-1, 0), batch, num_graphs).movedim(0, -1)
    return total, count


def by_graph(values: Tensor, batch: Tensor) -> Tensor:
    """Lay values of nodes out by graph: [N, ...] -> [B, N / B, ...]; all graphs must have the same number of nodes.

    values: [N, ...] - of each node
    batch: [N] int64 - the graph of each node; the order of the nodes within a graph is kept
    Raises ValueError for wrong shapes and for graphs of different sizes.
    """
    num_graphs = check_batch("by_graph", batch, values.shape[0])
    sizes = torch.bincount(batch, minlength=num_graphs)
    if not bool((sizes == sizes[0]).all()):
        other = int((sizes != sizes[0]).nonzero()[0])
        raise ValueError(
            f"by_graph: all graphs must have the same number of nodes, got {int(sizes[0])} in graph 0 "
            f"and {int(sizes[other])} in graph {other}"
        )
    order = batch.argsort(stable=True)
    return values[order].reshape(num_graphs, int(sizes[0]), *values.shape[1:])


def check_batch(where: str, batch: Tensor, num_nodes: int) -> int:
    """The number of graphs; ValueError if `batch` is not one graph index for each node."""
    if batch.shape != (num_nodes,) or batch.dtype != torch.int64:
        raise ValueError(f"{where}: batch must be [{num_nodes}] int64, got {list(batch.shape)} {_short(batch)}")
    if num_nodes == 0:
        raise ValueError(f"{where}: batch must hold at least one node, got none")
    if int(batch.min()) < 0:
        raise ValueError(f"{where}: batch must not be negative, got {int(batch.min())}")
    return int(batch.max()) + 1


def check_scored(where: str, scored: Tensor, num_nodes: int) -> None:
    """ValueError if `scored` is not a list of nodes."""
    if scored.dim() != 1 or scored.dtype != torch.int64:
        raise ValueError(f"{where}: scored must be [M] int64, got {list(scored.shape)} {_short(scored)}")
    if scored.numel() and not 0 <= int(scored.min()) <= int(scored.max()) < num_nodes:
        raise ValueError(
            f"{where}: scored must name nodes 0..{num_nodes - 1}, got {int(scored.min())}..{int(scored.max())}"
        )


def check_finite(where: str, name: str, values: Tensor) -> None:
    """ValueError if `values` are not finite floats."""
    if not values.is_floating_point():
        raise TypeError(f"{where}: {name} must be floating point, got {_short(values)}")
    wrong = values.numel() - int(values.isfinite().sum())
    if wrong:
        raise ValueError(f"{where}: {name} must be finite, got {wrong} NaN or Inf of {values.numel()} numbers")


def _short(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
