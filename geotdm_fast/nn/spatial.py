"""The spatial layer: message passing on the graph of every frame."""

from typing import Any

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.graphs import Graph
from geotdm_fast.graphs.graph import as_graph
from geotdm_fast.nn.given_graph import check_graph_given, check_values_given
from geotdm_fast.nn.mlp import MLP
from geotdm_fast.nn.plain import like, why_not_plain
from geotdm_fast.nn.precision import PrecisionMixin
from geotdm_fast.reference import EGCLOptions, EGCLParams, check_cutoff, polynomial_envelope
from geotdm_fast.reference.egcl import moved, relative_positions
from geotdm_fast.reference.row_sums import sum_rows, take_rows
from geotdm_fast.runtime.checks import (
    check_same_device,
    check_same_dtype,
    check_tensor,
)


class ESLayer(PrecisionMixin, nn.Module):
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
        super().__init__()
        check_silu("ESLayer", act_fn)
        check_cutoff("ESLayer", cutoff, envelope)
        self.edge_mlp = MLP(2 * node_dim + 1 + edge_dim, hidden_dim, hidden_dim, act_fn, last_act=True)
        self.coord_mlp = MLP(hidden_dim, hidden_dim, 1, act_fn)
        self.node_mlp = MLP(node_dim + hidden_dim, hidden_dim, node_dim, act_fn)
        self.node_dim = node_dim
        self.edge_dim = edge_dim
        self.normalize = normalize
        self.pre_norm = pre_norm
        self.cutoff = cutoff
        self.envelope = envelope

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        edge_index: Tensor | Graph,
        edge_attr: Tensor | None,
        batch: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """x [N, D, T] and h [N, F, T] to the same shapes.

        edge_index: [2, E], or a `Graph`
        edge_attr: [E, A], or [E, A, T] where the edges are the same in all frames, or None
        batch and further keywords are accepted as in the official layer, unused
        """
        check_tensor("ESLayer", "x", x, ("N", "D", "T"), integer=False)
        check_tensor("ESLayer", "h", h, (x.shape[0], self.node_dim, x.shape[2]))
        check_graph_given("ESLayer", edge_index, edge_attr, batch, x.shape[0], x.shape[2], self.edge_dim)
        weight = like(self)
        tensors = {"the layer": weight, "x": x, "h": h, "edge_index": edge_index, "edge_attr": edge_attr}
        check_same_device("ESLayer", **tensors)
        check_same_dtype("ESLayer", "x", x, weight)
        check_values_given("ESLayer", edge_index, None, x.shape[0])
        if edge_attr is not None:
            edge_attr = (edge_attr.transpose(1, 2) if edge_attr.dim() == 3 else edge_attr).to(x.dtype)
        run = self.rows if why_not_plain(self) is None else self._called_rows
        x, h = run(x.transpose(1, 2), h.to(x.dtype).transpose(1, 2), edge_index, edge_attr)
        return x.transpose(1, 2), h.transpose(1, 2)

    def rows(self, x: Tensor, h: Tensor, edge_index: Tensor | Graph, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer in the engine's layout, unchecked: x [N, T, D], h [N, T, F], edge_attr [E, A] or [E, T, A]."""
        return ops.run_egcl(x, h, self.prepare(x, h, edge_index, edge_attr))

    def _called_rows(
        self, x: Tensor, h: Tensor, edge_index: Tensor | Graph, edge_attr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the MLPs as they are: with hooks, or parts of somebody else."""
        graph = as_graph(edge_index, x.shape[0])
        (edge_index,), layout = graph.tables("reference"), graph.layout("reference")
        x_rows, h_rows = layout.rows(x), layout.rows(h)  # [M, T, ...]
        row, col = edge_index
        edges = relative_positions(x_rows, edge_index, self.pre_norm, graph.shift(x.shape[1]))
        inputs = [take_rows(h_rows, row), take_rows(h_rows, col), edges.distance]  # [E, T, ...]
        if edge_attr is not None:
            inputs.append(edge_attr if edge_attr.dim() == 3 else edge_attr[:, None].expand(-1, x_rows.shape[1], -1))
        m = self.edge_mlp(torch.cat(inputs, dim=-1))
        near = None if self.cutoff is None else polynomial_envelope(edges.square, self.cutoff)
        x_out = moved(x_rows, edges, self.coord_mlp(m), row, self.normalize and not self.pre_norm, near)
        m_sum = sum_rows(m if near is None else near * m, row, len(x_rows)).to(m.dtype)
        h_out = self.node_mlp(torch.cat([h_rows, m_sum], dim=-1))
        return layout.back(x_out, *x.shape[:2]), layout.back(h_out, *x.shape[:2])

    def prepare(self, x: Tensor, h: Tensor, edge_index: Tensor | Graph, edge_attr: Tensor | None) -> ops.PreparedEGCL:
        """What the layer computes once for all x and h of these shapes and dtypes; arguments as for `rows`."""
        return ops.prepare_egcl(x, h, edge_index, edge_attr, *self.weights)

    @property
    def weights(self) -> tuple[EGCLParams, EGCLOptions]:
        """The parameters as they are now, and what is computed with them."""
        params = EGCLParams(*self.edge_mlp.tensors, *self.coord_mlp.tensors, *self.node_mlp.tensors)
        return params, EGCLOptions(self.normalize, self.pre_norm, self.precision, self.cutoff, self.envelope)


def check_silu(where: str, act_fn: object) -> None:
    """Raise ValueError unless `act_fn` is SiLU, the only activation that the ops compute."""
    if not isinstance(act_fn, nn.SiLU):
        raise ValueError(f"{where}: act_fn must be nn.SiLU(), got {act_fn!r}")
