"""The spatial layers of Align Your Structures: EGCL, and what becomes of its features and its shift."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.ays.vectors import GV_FF
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.layers import SpatialLayer
from geotdm_fast.nn.spatial import ESLayer as EGCL
from geotdm_fast.reference import EGCLOptions, EGCLParams, GVFFParams


class ShiftOnGraph(NamedTuple):
    """EGCL on a graph, whose positions are the shifts alone."""

    prepared: ops.PreparedEGCL
    gv_ff: GVFFParams | None
    precision: str

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T, 3], h [N, T, H] to the same shapes."""
        # Of a view, whose gradient is whole before that of x + w comes to it: so the order of terms is the same where
        # the op adds a row to x, as it does for a graph with room.
        u, k = ops.run_egcl(x.view_as(x), h, self.prepared)
        if self.gv_ff is None:
            return x + normalized_over_time(u), k
        q, w = ops.gv_ff(k, u, self.gv_ff, precision=self.precision)
        return x + w, k + q


class ShiftWeights(NamedTuple):
    """The same for any graph. gv_ff: None where the shift is normalised over time."""

    params: EGCLParams
    gv_ff: GVFFParams | None
    options: EGCLOptions

    def on(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> ShiftOnGraph:
        """The layer on a graph, for all x [N, T, 3] and h [N, T, H] of these shapes and dtypes."""
        prepared = ops.prepare_egcl(x, h, graph, edge_attr, self.params, self.options)
        return ShiftOnGraph(prepared, self.gv_ff, self.options.precision)


class _ShiftLayer(SpatialLayer):
    """EGCL's parameters under the official names."""

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        act_fn: nn.Module,
        normalize: bool = True,
        pre_norm: bool = False,
    ):
        super().__init__(node_dim, edge_dim)
        # Its MLPs become this layer's: the official names have no level between.
        egcl = EGCL(node_dim, edge_dim, hidden_dim, act_fn, normalize, pre_norm)
        self.edge_mlp, self.coord_mlp, self.node_mlp = egcl.edge_mlp, egcl.coord_mlp, egcl.node_mlp
        self.normalize, self.pre_norm = normalize, pre_norm

    cutoff, envelope = None, "polynomial"

    @property
    def weights(self) -> ShiftWeights:
        """The parameters as they are now, and what is computed with them."""
        params = EGCLParams(*self.edge_mlp.tensors, *self.coord_mlp.tensors, *self.node_mlp.tensors)
        options = EGCLOptions(self.normalize, self.pre_norm, self.precision, residual=False)
        return ShiftWeights(params, self._gv_ff_params(), options)

    def _gv_ff_params(self) -> GVFFParams | None:
        return None

    def called_rows(
        self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the parts as they are: with hooks, or of somebody else."""
        # The shift itself, not x' - x: far out that would be rounded to what x has room for.
        u, k = EGCL.called_rows(self, x, h, graph, edge_attr, residual=False)  # type: ignore[arg-type]  # has all of it
        return self._finish(x, u, k)

    def _finish(self, x: Tensor, u: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class BasicESLayer(_ShiftLayer):
    """EGCL, and a gated feed-forward on its features k and its shift u in every row.

        h' = k + q,    x' = x + w,    (q, w) = gv_ff(k, u)

    node_dim: H; edge_dim: A, width of the edge features, 0 for none; hidden_dim: H; act_fn: nn.SiLU()
    normalize: divide the coordinate gate by |r| + 1; pre_norm: feed |r| instead of |r|^2 to the edge MLP
    Formulas: `geotdm_fast.reference.egcl` and `geotdm_fast.reference.gv_ff`. Arguments and keys are the official ones.
    """

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        act_fn: nn.Module,
        normalize: bool = True,
        pre_norm: bool = False,
    ):
        super().__init__(node_dim, edge_dim, hidden_dim, act_fn, normalize, pre_norm)
        if node_dim != hidden_dim:
            raise ValueError(f"BasicESLayer: hidden_dim must equal node_dim {node_dim}, got {hidden_dim}")
        self.gv_ff = GV_FF(hidden_dim, hidden_dim, hidden_dim, 1, 4, 1)

    def _gv_ff_params(self) -> GVFFParams:
        return self.gv_ff.params

    def _finish(self, x: Tensor, u: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, w = self.gv_ff(k, u.unsqueeze(-2))
        return x + w.squeeze(-2), k + q


class ESLayer(_ShiftLayer):
    """EGCL whose shift is normalised over the frames of a node: the layer of the baseline `geotdm_fast.ays.EGTN`.

        c_t = u_t - mean_s u_s,    x' = x + c / (|c| + 1e-5),    h' = k

    with |c| over the 3 T numbers of a node. Arguments as for `BasicESLayer`. The parameters are called as those of
    `geotdm_fast.ESLayer`, which computes something else with them.
    """

    def _finish(self, x: Tensor, u: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return x + normalized_over_time(u), k


def normalized_over_time(u: Tensor) -> Tensor:
    """c / (|c| + 1e-5) of u [N, T, 3], c = u - its mean over the frames, |c| over frames and axes."""
    c = u - u.mean(dim=1, keepdim=True)
    return c / (torch.linalg.vector_norm(c, dim=(1, 2), keepdim=True) + 1e-5)
