"""Negative log-likelihood of whole graphs."""

from torch import Tensor

from geotdm_fast.metrics.graphs import graph_sum


def nll_per_graph(total_bpd: Tensor, batch: Tensor, scored: Tensor | None = None) -> Tensor:
    """Bound on the negative log-likelihood of each graph: the sum over its nodes that count.

    total_bpd: [N] float (nat) - `GeoTDM.calc_bpd_loop(...)["total_bpd"]`, summed over frames and dimensions of a node
    batch: [N] int64 - the graph of each node
    scored: [M] int64 - the nodes that count (pedestrians: the person asked about); None: all of them
    returns: [B] float (nat)

    Raises ValueError for wrong shapes and for a graph none of whose nodes count.
    Source: the official evaluation, which sums nodes for N-body and MD17 and takes one person for pedestrians.
    """
    if total_bpd.dim() != 1:
        raise ValueError(f"nll_per_graph: total_bpd must be [N], got {list(total_bpd.shape)}")
    return graph_sum("nll_per_graph", total_bpd, batch, scored)
