"""Layers of the networks of Align Your Structures with all that a call reads, as tuples that a CUDA graph can hold.

A chain of diffusion steps makes them once for a batch and runs them in every step, as those of
`geotdm_fast.nn.prepared`; a call of a network makes them and runs them once.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geotdm_fast.ays.alignment import align_frames, align_to_first_frame
from geotdm_fast.ays.given import Given
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.given_graph import as_called
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal, SpatialLayer, TemporalLayer
from geotdm_fast.nn.plain import is_hooked, is_plain, why_not_plain
from geotdm_fast.reference.row_sums import num_graphs, remember_num_graphs


class Batch(NamedTuple):
    """What a call has beside the positions.

    graph: the edges; edge_attr: e [E, edge_dim] of them; batch: [N] int64; given: the given frames
    x: [N, M, 3] - noisy positions, of which shape, dtype and device are read alone; width: H
    """

    graph: Graph
    edge_attr: Tensor
    batch: Tensor
    given: Given
    x: Tensor
    width: int

    def spatial(self, layer: nn.Module, *, of_all: bool) -> PreparedSpatial:
        """A spatial layer on the graph, for all T frames or the noisy ones alone.

        It is called as torch calls it where it has hooks or foreign parts.
        """
        if not (isinstance(layer, SpatialLayer) and _is_ours(layer)):
            return CalledSpatial(layer, as_called(self.graph), self.edge_attr, self.batch)
        rows = len(self.x), self.given.num_frames if of_all else self.x.shape[1]
        like = lambda width: self.x.new_empty(1, 1, width).expand(*rows, -1)  # only what they look like
        return layer.prepare(like(3), like(self.width), self.graph, self.edge_attr)

    @property
    def turning(self) -> "Turning":
        """What turns the frames of every graph."""
        return Turning(self.batch, num_graphs(self.batch))


@functools.cache
def warn_not_prepared(where: str, why: str) -> None:
    """Warn, once for each reason, that a sampler calls the network anew in every step."""
    text = f"{where}: {why}: steps are neither prepared nor captured, and such modules are called, which is slower"
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def temporal(layer: nn.Module) -> PreparedTemporal:
    """A temporal layer, called as torch calls it where it has hooks or foreign parts."""
    if isinstance(layer, TemporalLayer) and _is_ours(layer):
        return layer.prepared
    return CalledTemporal(layer)


def _is_ours(layer: nn.Module) -> bool:
    return is_plain(layer) and why_not_plain(layer) is None


class CalledSpatial(NamedTuple):
    """A spatial layer that is called as a module: one with hooks, or of another package."""

    layer: nn.Module
    graph: Tensor | Graph
    edge_attr: Tensor
    batch: Tensor

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T, 3], h [N, T, H] to the same shapes."""
        x, h = self.layer(x.transpose(1, 2), h.transpose(1, 2), self.graph, self.edge_attr, self.batch)
        return x.transpose(1, 2), h.transpose(1, 2)


class CalledTemporal(NamedTuple):
    """A temporal layer in the same way."""

    layer: nn.Module

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, 3], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        numbers = {} if frames is None else {"frames": frames}
        x, h = self.layer(x.transpose(1, 2), h.transpose(1, 2), **numbers)
        return x.transpose(1, 2), h.transpose(1, 2)


class Norm(NamedTuple):
    """`nn.LayerNorm` over H, with weight and bias."""

    weight: Tensor
    bias: Tensor
    eps: float

    def run(self, z: Tensor) -> Tensor:
        return nn.functional.layer_norm(z, z.shape[-1:], self.weight, self.bias, self.eps)


class CalledNorm(NamedTuple):
    """A norm that is called as a module."""

    module: nn.Module

    def run(self, z: Tensor) -> Tensor:
        return self.module(z)


def norm_of(module: nn.Module) -> Norm | CalledNorm:
    """A norm over H, called as a module unless it is torch's with weight and bias, without hooks or another forward."""
    if type(module) is not nn.LayerNorm or is_hooked(module) or len(module.normalized_shape) != 1:
        return CalledNorm(module)
    if module.weight is None or module.bias is None:
        return CalledNorm(module)
    return Norm(module.weight, module.bias, module.eps)


class Turning(NamedTuple):
    """Turns the frames of every graph (`geotdm_fast.ays.alignment`), in the layout of the layers.

    batch: [N] int64; num_graphs: max(batch) + 1, which nobody reads from the device then
    """

    batch: Tensor
    num_graphs: int

    def to_first(self, y: Tensor) -> Tensor:
        """Every frame of y [N, T, 3] turned onto frame 0."""
        remember_num_graphs(self.batch, self.num_graphs)
        return align_to_first_frame(y.transpose(1, 2), self.batch).transpose(1, 2)

    def onto(self, y: Tensor, other: Tensor) -> Tensor:
        """Every frame of y [N, T, 3] turned onto the same one of `other` [N, T, 3]."""
        remember_num_graphs(self.batch, self.num_graphs)
        return align_frames(y.transpose(1, 2), other.transpose(1, 2), self.batch).transpose(1, 2)


def run_block(recompute: bool, block: Callable[..., Any], *state: Any) -> Any:
    """block(*state), computed again on the way back where `recompute` asks for it."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *state, use_reentrant=False, preserve_rng_state=False)
    return block(*state)


def turned(y: Tensor, turning: Turning | None, onto: Tensor | None = None) -> Tensor:
    """y [N, T, 3] turned by `turning` onto its frame 0, or onto the frames of `onto` [N, T, 3]; None: y as it is."""
    if turning is None:
        return y
    return turning.to_first(y) if onto is None else turning.onto(y, onto)


def normed(norm: Norm | CalledNorm | None, z: Tensor) -> Tensor:
    """norm(z); None: z as it is."""
    return z if norm is None else norm.run(z)


def displacement(y: Tensor, start: Tensor, scale: float, turning: Turning | None = None) -> Tensor:
    """(y - start) / scale: what a network returns. turning: y is turned onto start before."""
    moved = turned(y, turning, start) - start
    return moved if scale == 1 else moved / scale


def embedded(embedding: nn.Embedding, given: Given, device: torch.device) -> Tensor:
    """[T, H]: what the network is told of every frame, whether it is given or not."""
    return cast(Tensor, embedding(given.flags(device)))
