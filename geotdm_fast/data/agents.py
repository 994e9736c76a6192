"""Trajectories whose graphs differ in size: nodes that are not there, and graphs side by side."""

import itertools
import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.checks import check_array
from geotdm_fast.data.given_graph import CheckedGraph
from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.positions import Kept
from geotdm_fast.data.windows import Joined, Windows, places_of


def graph_ends(
    where: str, batch: ArrayLike | Tensor | None, ptr: ArrayLike | Tensor | None, shape: Sequence[int]
) -> np.ndarray | None:
    """Where each graph's nodes end, [G] int64, of graphs side by side in x [frames, N, D]; None where there is one.

    Raises ValueError/TypeError for a batch that does not ascend by 1 from 0, a ptr that is not from 0 to N, and both.
    """
    if batch is None and ptr is None:
        return None
    name, value = ("batch", batch) if ptr is None else ("ptr", ptr)
    if batch is not None and ptr is not None:
        raise ValueError(f"{where}: batch and ptr must not be given both, they say the same")
    if len(shape) != 3:
        raise ValueError(f"{where}: {name} is for graphs side by side in x [frames, N, D], got x {list(shape)}")
    num_nodes = shape[1]
    value = check_array(where, name, cast(ArrayLike, value), "N" if name == "batch" else "G + 1")
    if value.dtype.kind not in "iu":
        raise TypeError(f"{where}: {name} must hold whole numbers, got {value.dtype}")
    value = value.astype(np.int64)
    if name == "ptr":
        if value[0] != 0 or value[-1] != num_nodes or (np.diff(value) <= 0).any():
            raise ValueError(
                f"{where}: ptr must ascend from 0 to {num_nodes}, the nodes of x, got {value[:8].tolist()}"
            )
        return value[1:]
    if len(value) != num_nodes:
        raise ValueError(f"{where}: batch must be [{num_nodes}], the graph of each node of x, got [{len(value)}]")
    if value[0] != 0 or not np.isin(np.diff(value), (0, 1)).all():
        raise ValueError(f"{where}: batch must ascend from 0 without a gap, got {value[:8].tolist()}")
    return np.append(np.flatnonzero(np.diff(value)) + 1, num_nodes)


def ragged_windows(
    where: str,
    kept: Kept,
    nodes: Sequence[range],
    graph: CheckedGraph,
    graph_frame: np.ndarray,
    starts: np.ndarray,
    span: int,
    project: bool | str,
    boxes: Boxes | None = None,
) -> tuple[Joined, list[Tensor] | None]:
    """Windows of graphs side by side, and for molecules the atomic numbers of each window.

    kept: x [1, N', D, T] - of the nodes of these graphs alone
    nodes: those of each graph, as numbered in `graph` and in `graph_frame` [N, D]
    starts: where windows begin, of every graph
    boxes: of the frames of `kept`, the same for all graphs; None: they have none
    """
    parts: list[Windows] = []
    numbers: list[Tensor] = []
    first = 0
    for own in nodes:
        own_graph = graph.part(np.asarray(own), len(graph_frame))
        h, edge_index, edge_attr = own_graph.tensors(
            where, graph_frame[own.start : own.stop], one_molecule=boxes is None
        )
        x = kept.x[:, first : first + len(own)]
        first += len(own)
        places = places_of(1, starts)
        edge_attr = None if edge_attr is None else edge_attr[None]
        parts.append(Windows(x, places, span, h[None], edge_index, edge_attr, project, kept.origin, boxes=boxes))
        if graph.z is not None:
            numbers += [torch.from_numpy(cast(np.ndarray, own_graph.z).astype(np.int64))] * len(places)
    return Joined(parts), numbers if graph.z is not None else None


def absent_windows(where: str, name: str, windows: Windows, graph: CheckedGraph) -> Windows | Joined:
    """`windows` whose x holds NaN for nodes that are not there, without these nodes.

    windows: with h [B, N, F] and edge_attr [B, E, A] of all nodes; graph: the checked one that they have
    Of one long trajectory a node that is there in a part of a window is left out of it with a warning, of many it is
    an error. Windows that nobody is in are left out. Raises ValueError where nothing remains.
    """
    gone = torch.isnan(windows.x).any(dim=2).numpy()  # [B, N, T]
    if not gone.any():
        return windows
    # How often each node was gone before frame t: [B, N, T + 1].
    count = np.concatenate([np.zeros_like(gone[..., :1], dtype=np.int32), gone.cumsum(axis=2, dtype=np.int32)], axis=2)
    missed = [count[b, :, t + windows.span] - count[b, :, t] for b, t in windows.places]
    partly = [i for i, m in enumerate(missed) if ((m > 0) & (m < windows.span)).any()]
    if partly:
        _tell_partly(where, name, windows, gone, missed, partly)
    kept, alike = [], lambda i: (missed[i] == 0).tobytes()
    for _, run in itertools.groupby(range(len(missed)), key=alike):
        run = list(run)
        there = np.flatnonzero(missed[run[0]] == 0)
        if len(there):
            kept.append(_without(windows, [windows.places[i] for i in run], there, graph))
    if not kept:
        place = [0] * (3 if len(windows.x) == 1 else 4)
        raise ValueError(f"{where}: {name} must be finite, got nan at {place}, and for every node of every window")
    return Joined(kept)


def _tell_partly(
    where: str, name: str, windows: Windows, gone: np.ndarray, missed: list[np.ndarray], partly: list[int]
) -> None:
    trajectory, start = map(int, windows.places[partly[0]])
    m = missed[partly[0]]
    node = int(np.flatnonzero((m > 0) & (m < windows.span))[0])
    frame = start + int(np.flatnonzero(gone[trajectory, node, start:])[0])
    if len(windows.x) > 1:
        raise ValueError(
            f"{where}: {name} must be finite, got nan at [{trajectory}, {frame}, {node}]; "
            f"a node that is not there must be nan in all {windows.span} frames of the window"
        )
    warnings.warn(
        f"{where}: {name} is nan in some frames of {len(partly)} of {len(missed)} windows, first at [{frame}, {node}]; "
        "these nodes are left out of these windows",
        stacklevel=5,
    )


def _without(windows: Windows, places: list[tuple[int, int]], there: np.ndarray, graph: CheckedGraph) -> Windows:
    """Windows at these places, of the nodes that are there; no more of x than they need."""
    first, last = min(b for b, _ in places), max(b for b, _ in places)
    begin, end = min(t for _, t in places), max(t for _, t in places) + windows.span
    own = slice(first, last + 1)
    # The order of the edges that remain is that of `part`.
    part = graph.part(there, windows.x.shape[1])
    nodes = torch.from_numpy(there)
    _, edge_index, _ = part.tensors("", np.zeros((len(there), windows.x.shape[2])))
    edge_attr = None
    if windows.edge_attr is not None:
        edge_attr = torch.from_numpy(cast(np.ndarray, part.edge_attr))
        edge_attr = edge_attr[None].expand(len(windows.x), -1, -1) if edge_attr.dim() == 2 else edge_attr
        edge_attr = edge_attr[own]
    return Windows(
        windows.x[own, nodes, :, begin:end].contiguous(),
        [(b - first, t - begin) for b, t in places],
        windows.span,
        windows.h[own, nodes],
        edge_index,
        edge_attr,
        windows.project,
        None if windows.origin is None else windows.origin[own],
        boxes=None if windows.boxes is None else windows.boxes.cut(own, begin, end),
    )
