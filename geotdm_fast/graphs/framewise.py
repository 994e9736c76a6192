"""From edges between nodes, in all T frames, to edges between rows (node, frame): edge e of frame t is e T + t."""

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables, by_sender


def framewise(edge_index: Tensor, num_frames: int) -> Tensor:
    """Edge (i, j) in every frame: (i T + t, j T + t) for t = 0 .. T - 1.

    edge_index: [2, E] int - receivers i and senders j, nodes; num_frames: T
    returns: [2, E T] int64 - rows, those of edge e at the places e T .. e T + T - 1
    """
    frame = torch.arange(num_frames, device=edge_index.device)
    return (edge_index.long()[:, :, None] * num_frames + frame).flatten(1)


def framewise_with_room(
    edge_index: Tensor, first: Tensor, num_nodes: int, num_frames: int
) -> tuple[Tensor, Tensor, EdgeTables]:
    """As `framewise`, for edges that are sorted by receiver and have unused places. Nothing waits for the device.

    edge_index: [2, E] int64 - both ends of an unused place are N; first: [N + 1] int64 - of its `EdgeTables`
    num_nodes, num_frames: N and T
    Returns
        rows: [2, E T] int64 - as `framewise` returns them; both ends of an unused place are N T
        order: [E T] int64 - edge k of the tables is edge order[k] of `rows`
        tables: `EdgeTables` of the N T rows
    """
    receiver, sender = edge_index
    num_edges, device = edge_index.shape[1], edge_index.device
    num_rows, frame = num_nodes * num_frames, torch.arange(num_frames, device=device)
    end = torch.cat([first[1:], first.new_full((1,), num_edges)])  # places without an edge are those of node N
    # The k-th edge of node i is the k-th one of every row i T + t.
    within = torch.arange(num_edges, device=device) - first[receiver]
    degree = (end - first)[receiver]
    place = ((first[receiver] * num_frames + within)[:, None] + frame * degree[:, None]).flatten()
    order = torch.empty_like(place).scatter_(0, place, torch.arange(place.numel(), device=device))
    is_edge = (receiver < num_nodes)[:, None]
    rows = [torch.where(is_edge, node[:, None] * num_frames + frame, num_rows) for node in (receiver, sender)]
    rows = torch.stack(rows).flatten(1)
    degree_of_row = first.diff().repeat_interleave(num_frames, output_size=num_rows)
    senders = rows[1][order]
    tables = EdgeTables(
        torch.cat([first.new_zeros(1), degree_of_row.cumsum(0)]),
        torch.where(senders < num_rows, senders, 0),
        *by_sender(senders.int(), num_rows),
    )
    return rows, order, tables
