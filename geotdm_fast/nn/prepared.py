"""The denoising network in two parts: what a batch decides once, and what the noisy positions and the step change.

`EGTN.forward` is one after the other; a chain of diffusion steps prepares once and calls `denoise` for every step. All
that `denoise` reads is in its arguments, so a CUDA graph can hold it.
"""

from typing import NamedTuple, cast

from torch import Tensor, nn

from geotdm_fast.conditioning import Frames
from geotdm_fast.graphs import Graph, GraphRule
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal, SpatialWeights


class Layer(NamedTuple):
    """A spatial layer, and the temporal one behind it, as tuples that a CUDA graph can hold."""

    spatial: PreparedSpatial
    temporal: PreparedTemporal

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions y [N, T, D] and features z [N, T, H] to the same shapes."""
        y, z = self.spatial.run(y, z)
        return self.temporal.run(y, z)


class UnpreparedLayer(NamedTuple):
    """The same where the graph changes with the positions: parameters, for `Layer` once it is there."""

    spatial: SpatialWeights
    temporal: PreparedTemporal

    def on(self, graph: Graph, y: Tensor, z: Tensor) -> Layer:
        """The layer on `graph`, for positions y [N, T, D] and features z [N, T, H]."""
        edge_attr = None if graph.edge_attr is None else graph.edge_attr.to(y.dtype)
        return Layer(self.spatial.on(y, z, graph, edge_attr), self.temporal)


class CalledLayer(NamedTuple):
    """The same as modules, called as torch calls them: for layers that have hooks or parts of somebody else.

    edge_index: [2, E], or the graph where that does not say all of it (`as_called`)
    edge_attr: [E, A], [E, A, T] or None
    """

    spatial: nn.Module
    temporal: nn.Module
    edge_index: Tensor | Graph | None
    edge_attr: Tensor | None
    batch: Tensor | None
    frames: tuple[int, ...] | None = None

    def on(self, graph: Graph, y: Tensor, z: Tensor) -> "CalledLayer":
        """The layer on `graph`."""
        return self._replace(edge_index=graph, edge_attr=graph.edge_attr)

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Positions y [N, T, D] and features z [N, T, H] to the same shapes."""
        x, h = self.spatial(y.transpose(1, 2), z.transpose(1, 2), self.edge_index, self.edge_attr, self.batch)
        x, h = self.temporal(x, h) if self.frames is None else self.temporal(x, h, frames=self.frames)
        return x.transpose(1, 2), h.transpose(1, 2)


class Prepared(NamedTuple):
    """What `EGTN.prepare` found.

    given: [N, T, D] - scaled given frames in their places, anything elsewhere; None: all frames are noisy
    frames: which are noisy, None with `given`; num_frames: T
    rule: makes the graph of every call from its positions; None: the layers have theirs
    """

    given: Tensor | None
    frames: Frames | None
    num_frames: int
    layers: tuple[Layer | UnpreparedLayer | CalledLayer, ...]
    scale: float
    rule: GraphRule | None = None


def denoise(prepared: Prepared, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy positions x [N, D, T_noisy] and the first layer's result z [N, T, H] to the network's results.

    Returns (positions after the last layer - x) / scale, [N, T_noisy, D], and the features of all frames, [N, T, H].
    """
    given, frames, _, layers, scale, rule = prepared
    start = y = x.transpose(1, 2)  # [N, T_noisy, D]
    if scale != 1:
        y = y * scale
    if frames is not None:
        y = frames.with_noisy(cast(Tensor, given), y, 1)  # [N, T, D]
    if rule is not None:
        graph = rule(y if scale == 1 else y / scale).scaled(scale)
        layers = tuple(cast(UnpreparedLayer, layer).on(graph, y, z) for layer in layers)
    for layer in layers:
        y, z = cast("Layer | CalledLayer", layer).run(y, z)
    if frames is not None:
        y = frames.noisy_of(y, 1)
    output = y - start
    return output if scale == 1 else output / scale, z
