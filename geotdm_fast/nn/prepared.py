"""The denoising network in two parts: `EGTN.prepare`, once for a batch, and `denoise`, once for a diffusion step.

`EGTN.forward` is the one followed by the other. A chain of diffusion steps prepares once and calls `denoise` in every
step. `denoise` reads its arguments alone, so a CUDA graph can hold the call.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.conditioning import Frames
from geotdm_fast.graphs import Graph, GraphRule
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal, SpatialLayer, SpatialWeights, TemporalLayer
from geotdm_fast.nn.spatial import EGCLOnGraph, EGCLWeights
from geotdm_fast.nn.temporal import PreparedAttention
from geotdm_fast.runtime.checks import is_transformed


class Layer(NamedTuple):
    """One spatial layer with its graph, and the temporal layer that follows.

    Both are named tuples of tensors and numbers, which a CUDA graph can hold.
    """

    spatial: PreparedSpatial
    temporal: PreparedTemporal

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Apply both layers. y: [N, T, D] positions, z: [N, T, H] features; returns the same shapes."""
        y, z = self.spatial.run(y, z)
        return self.temporal.run(y, z)


class UnpreparedLayer(NamedTuple):
    """A pair of layers whose graph follows the positions: `on` gives the `Layer` for a graph."""

    spatial: SpatialWeights
    temporal: PreparedTemporal

    def on(self, graph: Graph, y: Tensor, z: Tensor) -> Layer:
        """The layer on `graph`, for positions y [N, T, D] and features z [N, T, H]."""
        edge_attr = None if graph.edge_attr is None else graph.edge_attr.to(y.dtype)
        return Layer(self.spatial.on(y, z, graph, edge_attr), self.temporal)


class CalledLayer(NamedTuple):
    """A pair of layers that are called as modules, because a part of them has hooks or comes from another package.

    edge_index: [2, E], or a `Graph` where two rows of indices do not say everything, see `as_called`
    edge_attr: [E, A], [E, A, T] or None
    batch: [N] int64 - the graph of each node
    frames: numbers of the frames that the temporal layer sees, None for 0..T-1
    """

    spatial: nn.Module
    temporal: nn.Module
    edge_index: Tensor | Graph | None
    edge_attr: Tensor | None
    batch: Tensor | None
    frames: tuple[int, ...] | None = None

    def on(self, graph: Graph, y: Tensor, z: Tensor) -> "CalledLayer":
        """The same layers on `graph`, with its edge features."""
        return self._replace(edge_index=graph, edge_attr=graph.edge_attr)

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Call both modules. y: [N, T, D] positions, z: [N, T, H] features; returns the same shapes."""
        x, h = self.spatial(y.transpose(1, 2), z.transpose(1, 2), self.edge_index, self.edge_attr, self.batch)
        x, h = self.temporal(x, h) if self.frames is None else self.temporal(x, h, frames=self.frames)
        return x.transpose(1, 2), h.transpose(1, 2)


def prepare_layers(
    pairs: Sequence[tuple[SpatialLayer, TemporalLayer]],
    x: Tensor,
    h: Tensor,
    graph: Graph,
    edge_attr: Tensor | None,
    owner: nn.Module | None,
) -> tuple[list[Layer], ops.LayerPairs | None]:
    """`pairs` on `graph`, for all positions [N, T, D] and features [N, T, H] like x and h, and the same as one op.

    The second is None where each layer has to run by itself.
    edge_attr: as for `SpatialLayer.prepare`; owner: as for `ops.prepare_layers`
    """
    read = [(spatial.weights, temporal.prepared) for spatial, temporal in pairs]
    options = []
    for weights, attention in read:
        if type(weights) is not EGCLWeights or type(attention) is not PreparedAttention:
            return [Layer(weights.on(x, h, graph, edge_attr), temporal) for weights, temporal in read], None
        about = ops.AttentionOptions(attention.params, attention.window, attention.precision)
        options.append(ops.PairOptions(weights.params, weights.options, about))
    prepared, in_one = ops.prepare_layers(x, h, graph, edge_attr, options, owner)
    return [Layer(EGCLOnGraph(egcl), temporal) for egcl, (_, temporal) in zip(prepared, read, strict=True)], in_one


class PreparedNetwork(Protocol):
    """A network with all that it has of a batch: a named tuple, which a CUDA graph can hold."""

    @property
    def num_frames(self) -> int:
        """T, given frames and noisy ones."""
        ...

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, D, T_noisy] and z [N, T, H], what the first layer makes of features and step, to the output.

        Returns the output [N, T_noisy, D], and features of the last layer. Nothing waits for the device.
        """
        ...


class PreparedSteps(NamedTuple):
    """What all steps of a chain have in common.

    features: [N, 1 or T, H] - what the first layer makes of the nodes' features
    rows: [R, H] - what it makes of the numbers of R steps: z is the sum of features and of the row of a step
    """

    network: PreparedNetwork
    features: Tensor
    rows: Tensor


class Prepared(NamedTuple):
    """What `EGTN.prepare` makes of a batch; `denoise` reads it.

    given: [N, T, D] - the scaled given frames in their places; the other places hold anything. None: no frame is given
    frames: which frames are given and which are noisy; None together with `given`
    num_frames: T
    layers: in the order of the network
    scale: the network sees positions multiplied by it
    rule: makes a graph of the positions in every call; None: every layer holds its graph
    pairs: `layers` as one op, where they can be
    """

    given: Tensor | None
    frames: Frames | None
    num_frames: int
    layers: tuple[Layer | UnpreparedLayer | CalledLayer, ...]
    scale: float
    rule: GraphRule | None = None
    pairs: ops.LayerPairs | None = None

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """`denoise` of this."""
        return denoise(self, x, z)


def denoise(prepared: Prepared, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The layers of the network, on noisy positions x and the embedding z of features and diffusion step.

        y = scale x, with the given frames in their places
        y, z = layer(y, z)                    for every layer
        output = (y - x) / scale              in the noisy frames

    x: [N, D, T_noisy] - noisy positions
    z: [N, T, H] - what the first, linear layer made of the features and the step
    Returns the output [N, T_noisy, D], and the features of all frames [N, T, H]. Nothing waits for the device: a CUDA
    graph may capture the call.
    """
    given, frames, _, layers, scale, rule, pairs = prepared
    start = y = x.transpose(1, 2)  # [N, T_noisy, D]
    if scale != 1:
        y = y * scale
    if frames is not None:
        y = frames.with_noisy(cast(Tensor, given), y, 1)  # [N, T, D]
    if rule is not None:
        graph = rule(y if scale == 1 else y / scale).scaled(scale)
        layers = tuple(cast(UnpreparedLayer, layer).on(graph, y, z) for layer in layers)
    # The one op has no way back, and what was prepared without gradients may be called with them.
    if pairs is not None and not torch.is_grad_enabled() and not is_transformed():
        y, z = pairs.run(y, z)
    else:
        for layer in layers:
            y, z = cast("Layer | CalledLayer", layer).run(y, z)
    if frames is not None:
        y = frames.noisy_of(y, 1)
    output = y - start
    return output if scale == 1 else output / scale, z
