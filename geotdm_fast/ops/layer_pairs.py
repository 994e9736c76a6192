"""All layers of a network in one call: `egcl` and `temporal_attention` in turn, without a way back."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.graphs.graph import RowLayout
from geotdm_fast.ops import native
from geotdm_fast.ops.egcl import PreparedEGCL
from geotdm_fast.ops.temporal_attention import EVERY_FRAME, why_not_compiled
from geotdm_fast.ops.time_phases import time_phases
from geotdm_fast.reference import PRECISIONS, EGCLOptions, TemporalAttentionParams


class AttentionOptions(NamedTuple):
    """What a call of `temporal_attention` has beside positions, features and numbers of frames."""

    params: TemporalAttentionParams
    window: int | None
    precision: str


class LayerPairs(NamedTuple):
    """Some pairs of layers on a graph, as the op `layer_pairs` takes them.

    first, sender: of the sorted edges; shift: [E, D] float32 or None; edge_terms: [E, H] of each pair, or none
    packed: one tensor of weights for each pair, for the number of frames T and the processor that it was packed for
    phases: sines and cosines that a frame's time is told by, an even number
    options: of every `egcl`; window: of every attention; precision: its number, 0 float32 or 2 bfloat16
    """

    first: Tensor
    sender: Tensor
    shift: Tensor | None
    edge_terms: tuple[Tensor, ...]
    packed: tuple[Tensor, ...]
    phases: int
    options: EGCLOptions
    window: int
    precision: int

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T, D] and h [N, T, H] float32 after every pair: bit for bit those of the ops one by one."""
        options = self.options
        return torch.ops.geotdm_fast.layer_pairs(
            x.contiguous(),
            h.contiguous(),
            self.first,
            self.sender,
            self.edge_terms,
            self.shift,
            self.packed,
            self.phases,
            options.normalize,
            options.pre_norm,
            options.cutoff,
            self.window,
            options.precision == "bf16",
            self.precision,
        )


def prepare_layer_pairs(
    x: Tensor, h: Tensor, pairs: Sequence[tuple[PreparedEGCL, AttentionOptions]]
) -> LayerPairs | None:
    """`pairs` for calls with x and h of these shapes and dtypes; None where they are not for one call of the C++ op.

    Those are: gradients, `torch.compile`, inputs that are not float32 on the CPU, whatever the ops do not run by the
    C++ module, frames with edges of their own, graphs with spare rows, `residual=False`, and pairs whose options
    differ. The weights are those of now.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not pairs:
        return None
    if x.dtype != torch.float32 or h.dtype != torch.float32:
        return None
    if any(spatial.implementation != "native" for spatial, _ in pairs):
        return None
    spatial, temporal = pairs[0]
    tables, options, low = spatial.tables[:2], spatial.options, _is_low(h, temporal)
    for one, attention in pairs:
        is_one_graph = one.tables[0] is tables[0] and one.tables[1] is tables[1] and one.layout == _WHOLE_NODES
        if one.options != options or not options.residual or not is_one_graph:
            return None
        if (one.edge_term is None) != (spatial.edge_term is None):
            return None
        if attention.window != temporal.window or _is_low(h, attention) != low:
            return None
        if why_not_compiled(x, h, attention.params, None, attention.window) is not None:
            return None
    window = EVERY_FRAME if temporal.window is None else min(temporal.window, EVERY_FRAME)
    precision = PRECISIONS.index("bf16" if low else "fp32")
    packed: list[Tensor] = []
    phases = 0
    for one, attention in pairs:
        weights = [param.float() for param in attention.params]
        turns = time_phases(h, weights[-2].shape[1])
        low_egcl = options.precision == "bf16"
        if packed and turns.shape[1] != phases:
            return None
        phases = turns.shape[1]
        packed.append(torch.ops.geotdm_fast.packed_layer_pair(one.params, weights, turns, low_egcl, precision))
    edge_terms = tuple(one.edge_term for one, _ in pairs if one.edge_term is not None)
    first, sender = tables
    return LayerPairs(first, sender, spatial.shift, edge_terms, tuple(packed), phases, options, window, precision)


_WHOLE_NODES = RowLayout(by_row=False, spare=False)


def _is_low(h: Tensor, attention: AttentionOptions) -> bool:
    return native.low_precision(attention.precision, h, *attention.params)
