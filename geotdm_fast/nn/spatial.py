"""The spatial layer of the paper: message passing on the graph of every frame."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.graphs import Graph
from geotdm_fast.graphs.graph import as_graph
from geotdm_fast.nn.layers import SpatialLayer, check_silu
from geotdm_fast.nn.mlp import MLP
from geotdm_fast.reference import EGCLOptions, EGCLParams, check_cutoff, polynomial_envelope
from geotdm_fast.reference.egcl import moved, relative_positions
from geotdm_fast.reference.row_sums import sum_rows, take_rows


class EGCLOnGraph(NamedTuple):
    """`ESLayer` on a graph."""

    prepared: ops.PreparedEGCL

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, F] to the same shapes."""
        return ops.run_egcl(x, h, self.prepared)


class EGCLWeights(NamedTuple):
    """`ESLayer` for any graph."""

    params: EGCLParams
    options: EGCLOptions

    def on(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> EGCLOnGraph:
        """The layer on a graph, for all x [N, T, D] and h [N, T, F] of these shapes and dtypes."""
        return EGCLOnGraph(ops.prepare_egcl(x, h, graph, edge_attr, self.params, self.options))


class ESLayer(SpatialLayer):
    """Equivariant graph convolution layer (EGCL), run on every frame alone; formula in `geotdm_fast.reference.egcl`.

    node_dim: F, width of the node features; edge_dim: A, width of the edge features, 0 for none
    hidden_dim: H, width of the messages; act_fn: nn.SiLU()
    normalize: divide the coordinate gate by |r| + 1; pre_norm: feed |r| instead of |r|^2 to the edge MLP
    cutoff: an edge counts less the longer it is, and nothing from this length on, in the unit of x; None: all the same
    envelope: by its name, how much an edge counts within the cutoff; `polynomial`
    """

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        act_fn: nn.Module,
        normalize: bool = True,
        pre_norm: bool = False,
        *,
        cutoff: float | None = None,
        envelope: str = "polynomial",
    ):
        super().__init__(node_dim, edge_dim)
        check_silu("ESLayer", act_fn)
        check_cutoff("ESLayer", cutoff, envelope)
        self.edge_mlp = MLP(2 * node_dim + 1 + edge_dim, hidden_dim, hidden_dim, act_fn, last_act=True)
        self.coord_mlp = MLP(hidden_dim, hidden_dim, 1, act_fn)
        self.node_mlp = MLP(node_dim + hidden_dim, hidden_dim, node_dim, act_fn)
        self.normalize = normalize
        self.pre_norm = pre_norm
        self.cutoff = cutoff
        self.envelope = envelope

    @property
    def weights(self) -> EGCLWeights:
        """The parameters as they are now, and what is computed with them."""
        params = EGCLParams(*self.edge_mlp.tensors, *self.coord_mlp.tensors, *self.node_mlp.tensors)
        options = EGCLOptions(self.normalize, self.pre_norm, self.precision, self.cutoff, self.envelope)
        return EGCLWeights(params, options)

    def called_rows(
        self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None, *, residual: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the MLPs as they are: with hooks, or parts of somebody else.

        residual: False gives x' - x in the place of x'
        """
        graph = as_graph(graph, x.shape[0])
        (edge_index,), layout = graph.tables("reference"), graph.layout("reference")
        x_rows, h_rows = layout.rows(x), layout.rows(h)  # [M, T, ...]
        row, col = edge_index
        edges = relative_positions(x_rows, edge_index, self.pre_norm, graph.shift(x.shape[1]))
        inputs = [take_rows(h_rows, row), take_rows(h_rows, col), edges.distance]  # [E, T, ...]
        if edge_attr is not None:
            inputs.append(edge_attr if edge_attr.dim() == 3 else edge_attr[:, None].expand(-1, x_rows.shape[1], -1))
        m = self.edge_mlp(torch.cat(inputs, dim=-1))
        near = None if self.cutoff is None else polynomial_envelope(edges.square, self.cutoff)
        normalize = self.normalize and not self.pre_norm
        x_out = moved(x_rows, edges, self.coord_mlp(m), row, normalize, near, residual)
        m_sum = sum_rows(m if near is None else near * m, row, len(x_rows)).to(m.dtype)
        h_out = self.node_mlp(torch.cat([h_rows, m_sum], dim=-1))
        return layout.back(x_out, *x.shape[:2]), layout.back(h_out, *x.shape[:2])
