"""What the layers check of a graph, whichever way it is given."""

from torch import Tensor

from geotdm_fast.graphs import Graph
from geotdm_fast.runtime.checks import check_graph, check_graph_values, check_tensor, reads_values


def check_graph_given(
    where: str,
    edge_index: Tensor | Graph,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    num_nodes: int,
    num_frames: int,
) -> None:
    """Raise TypeError / ValueError unless the graph is one of these nodes and frames, with these edge features.

    edge_attr: [E, A], or [E, A, num_frames] where the edges are the same in all frames
    """
    if not isinstance(edge_index, Graph):
        check_graph(where, num_nodes, edge_index, edge_attr, batch, num_frames)
        return
    graph = edge_index
    graph.check_fits(where, num_nodes, num_frames)
    if edge_attr is not None:
        changes = graph.num_frames is None and getattr(edge_attr, "ndim", 2) == 3
        check_tensor(where, "edge_attr", edge_attr, (graph.num_edges, "A", *((num_frames,) if changes else ())))
    if batch is not None:
        check_tensor(where, "batch", batch, (num_nodes,), integer=True)


def check_values_given(where: str, edge_index: Tensor | Graph, batch: Tensor | None, num_nodes: int) -> None:
    """`check_graph_values`, on the CPU alone. The edges of every frame, which a search found, are not looked at."""
    edges: Tensor | None
    if isinstance(edge_index, Graph):
        edges = edge_index.edge_index if edge_index.num_frames is None else None
    else:
        edges = edge_index
    given = batch if edges is None else edges
    if given is not None and reads_values(given):
        check_graph_values(where, num_nodes, edges, batch)
