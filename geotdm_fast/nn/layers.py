"""What a spatial and a temporal layer are: parameters, and a tuple of all that a call reads.

A chain of diffusion steps makes the tuple once and runs it often, and a CUDA graph holds its tensors. So a tuple is a
`NamedTuple` of tensors, numbers, names and such tuples.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from geotdm_fast.graphs import Graph
from geotdm_fast.nn.given_graph import check_graph_given, check_values_given
from geotdm_fast.nn.plain import like, why_not_plain
from geotdm_fast.nn.precision import PrecisionMixin
from geotdm_fast.runtime.checks import check_same_device, check_same_dtype, check_tensor

# The types of parts whose weights a layer reads without a call of them.
Parts = tuple[type[nn.Module], ...]


class PreparedSpatial(Protocol):
    """A spatial layer with its parameters, on a graph."""

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes."""
        ...


class SpatialWeights(Protocol):
    """A spatial layer with its parameters, for any graph."""

    def on(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> PreparedSpatial:
        """The layer on a graph, for all x [N, T, D] and h [N, T, H] of these shapes, dtypes and devices.

        graph: edge_index [2, E], or a `Graph`; edge_attr: [E, A], [E, T, A] or None
        """
        ...


class PreparedTemporal(Protocol):
    """A temporal layer with its parameters."""

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        ...


class SpatialLayer(PrecisionMixin, nn.Module):
    """A layer that sees the nodes of a graph, each frame with its edges; a subclass says what `weights` are.

    node_dim: F, width of the node features; edge_dim: A, width of the edge features, 0 for none
    """

    # Beside `MLP`, `nn.Linear` and modules of this package. Other parts are foreign to the layer, so it is called.
    reads: ClassVar[Parts] = ()

    def __init__(self, node_dim: int, edge_dim: int):
        super().__init__()
        self.node_dim = node_dim
        self.edge_dim = edge_dim

    @property
    def weights(self) -> SpatialWeights:
        """The parameters as they are now, and what is computed with them."""
        raise NotImplementedError(f"{type(self).__name__}: a spatial layer must have the property `weights`")

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
        where = type(self).__name__
        check_tensor(where, "x", x, ("N", "D", "T"), integer=False)
        check_tensor(where, "h", h, (x.shape[0], self.node_dim, x.shape[2]))
        check_graph_given(where, edge_index, edge_attr, batch, x.shape[0], x.shape[2], self.edge_dim)
        weight = like(self)
        tensors = {"the layer": weight, "x": x, "h": h, "edge_index": edge_index, "edge_attr": edge_attr}
        check_same_device(where, **tensors)
        check_same_dtype(where, "x", x, weight)
        check_values_given(where, edge_index, None, x.shape[0])
        if edge_attr is not None:
            edge_attr = (edge_attr.transpose(1, 2) if edge_attr.dim() == 3 else edge_attr).to(x.dtype)
        run = self.rows if why_not_plain(self) is None else self.called_rows
        x, h = run(x.transpose(1, 2), h.to(x.dtype).transpose(1, 2), edge_index, edge_attr)
        return x.transpose(1, 2), h.transpose(1, 2)

    def rows(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer in the engine's layout, unchecked: x [N, T, D], h [N, T, F], edge_attr [E, A] or [E, T, A]."""
        return self.prepare(x, h, graph, edge_attr).run(x, h)

    def prepare(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> PreparedSpatial:
        """What the layer computes once for all x and h of these shapes and dtypes; arguments as for `rows`."""
        return self.weights.on(x, h, graph, edge_attr)

    def called_rows(
        self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the parts as they are: with hooks, or of somebody else. Raises TypeError if it cannot."""
        raise TypeError(f"{type(self).__name__}: {why_not_plain(self)}, which only spatial='egcl' calls")


class TemporalLayer(PrecisionMixin, nn.Module):
    """A layer that sees the frames of a node; a subclass says what is `prepared`.

    hidden_dim: H, width of the node features
    """

    # As for `SpatialLayer`.
    reads: ClassVar[Parts] = ()

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.hidden_dim = hidden_dim

    @property
    def prepared(self) -> PreparedTemporal:
        """The parameters as they are now, and what is computed with them."""
        raise NotImplementedError(f"{type(self).__name__}: a temporal layer must have the property `prepared`")

    def forward(self, x: Tensor, h: Tensor, *, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, D, T] and h [N, H, T] to the same shapes; frames: ascending numbers when not 0..T-1."""
        where = type(self).__name__
        check_tensor(where, "x", x, ("N", "D", "T"), integer=False)
        check_tensor(where, "h", h, (x.shape[0], self.hidden_dim, x.shape[2]))
        weight = like(self)
        check_same_device(where, **{"the layer": weight}, x=x, h=h)
        check_same_dtype(where, "x", x, weight)
        run = self.rows if why_not_plain(self) is None else self.called_rows
        x, h = run(x.transpose(1, 2), h.to(x.dtype).transpose(1, 2), frames)
        return x.transpose(1, 2), h.transpose(1, 2)

    def rows(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """The layer in the engine's layout, unchecked: x [N, T, D], h [N, T, H]; frames: numbers when not 0..T-1."""
        return self.prepared.run(x, h, frames)

    def called_rows(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the parts as they are: with hooks, or of somebody else. Raises TypeError if it cannot."""
        raise TypeError(f"{type(self).__name__}: {why_not_plain(self)}, which only temporal='attention' calls")


def check_silu(where: str, act_fn: object) -> None:
    """Raise ValueError unless `act_fn` is SiLU, the only activation that the ops compute."""
    if not isinstance(act_fn, nn.SiLU):
        raise ValueError(f"{where}: act_fn must be nn.SiLU(), got {act_fn!r}")
