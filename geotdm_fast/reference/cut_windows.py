"""A batch cut out of a data set that lies in a few tensors on the device."""

from typing import NamedTuple

import torch
from torch import Tensor


class WindowTables(NamedTuple):
    """A data set: windows of shared tensors.

    first: [W, 4] int64 - of every window: its first position in x, positions between two rows there, its first row of h
        and of edge_attr
    x: [*] float32 - rows of frames, one for each node and axis; h: [*, ...], edge_attr: [*, A] or None
    dim, num_frames: D and T of every window
    """

    first: Tensor
    x: Tensor
    h: Tensor
    edge_attr: Tensor | None
    dim: int
    num_frames: int


class BatchLayout(NamedTuple):
    """Who belongs to whom in a batch, all int64 but for the last.

    batch, node: [N] - the graph of each node, and its number there; graph_of_edge, edge: [E] - the same of each edge
    graph_of_scored: [M] - the graph of each scored node; share_of_scored: [M] float32 - 1 / (scored nodes of it)
    """

    batch: Tensor
    node: Tensor
    graph_of_edge: Tensor
    edge: Tensor
    graph_of_scored: Tensor
    share_of_scored: Tensor


class CutBatch(NamedTuple):
    """x: [N, D, T]; h: [N, ...]; edge_attr: [E, A] or None; steps: [N] int64 and weight: [M], or None."""

    x: Tensor
    h: Tensor
    edge_attr: Tensor | None
    steps: Tensor | None
    weight: Tensor | None


def cut_windows(
    tables: WindowTables,
    layout: BatchLayout,
    items: Tensor,
    steps: Tensor | None = None,
    weight: Tensor | None = None,
) -> CutBatch:
    """The windows `items` [B] int64 side by side; steps [B] int64 given to nodes, weight [B] float32 to scored nodes.

    A scored node's weight is that of its graph times its share.
    """
    rows = tables.first[items]  # [B, 4]
    of_node = rows[layout.batch]
    places = layout.node[:, None] * tables.dim + torch.arange(tables.dim, device=items.device)  # [N, D]
    first = of_node[:, 0, None] + places * of_node[:, 1, None]
    edge_attr = None
    if tables.edge_attr is not None:
        edge_attr = tables.edge_attr[rows[layout.graph_of_edge, 3] + layout.edge]
    return CutBatch(
        x=tables.x.unfold(0, tables.num_frames, 1)[first],
        h=tables.h[of_node[:, 2] + layout.node],
        edge_attr=edge_attr,
        steps=None if steps is None else steps[layout.batch],
        weight=None if weight is None else weight[layout.graph_of_scored] * layout.share_of_scored,
    )
