"""All layers of a network in one call: `egcl` and `temporal_attention` in turn, without a way back."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast.graphs.graph import RowLayout
from geotdm_fast.ops import native
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.egcl import PreparedEGCL
from geotdm_fast.ops.packed_pairs import PackedPairs, PairWeights
from geotdm_fast.ops.temporal_attention import EVERY_FRAME, why_not_compiled
from geotdm_fast.ops.time_phases import time_phases
from geotdm_fast.reference import PRECISIONS, EGCLOptions, TemporalAttentionParams
from geotdm_fast.runtime.checks import is_transformed


class AttentionOptions(NamedTuple):
    """What a call of `temporal_attention` has beside positions, features and numbers of frames."""

    params: TemporalAttentionParams
    window: int | None
    precision: str


class StepState(NamedTuple):
    """What a diffusion step reads and writes beside the network, as `ops.diffusion_step` documents it.

    step: [1] int64, counted up by one; first_node: its `first`
    """

    x: Tensor
    before: Tensor
    positions: Tensor | None
    step: Tensor
    noise: Tensor | None
    x_ref: Tensor | None
    first_node: Tensor | None
    coefficients: Tensor


class StepNetwork(NamedTuple):
    """What is around the layers in a step.

    given: [N, T, D] - the given frames in their places, scaled; noisy: [T_noisy] int64, the places of the others.
        None, both, where no frame is given
    scale: the layers see positions multiplied by it
    features: [N, 1 or T, H] and rows: [R, H] - the layers see features + rows[step]
    """

    given: Tensor | None
    noisy: Tensor | None
    scale: float
    features: Tensor
    rows: Tensor


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
        return torch.ops.geotdm_fast.layer_pairs.default(x.contiguous(), h.contiguous(), *self._arguments)

    def step(self, network: StepNetwork) -> Callable[[StepState], None]:
        """A function that does a whole diffusion step in place: what is before the layers, the layers,
        `ops.diffusion_step`, and the count.

        Bit for bit what `geotdm_fast.nn.prepared.denoise` and `ops.diffusion_step` give. Only where `takes_step` holds.
        """
        op, arguments = torch.ops.geotdm_fast.layer_pairs_step.default, (*network, *self._arguments)
        return lambda state: op(*state, *arguments)

    @property
    def _arguments(self) -> tuple:
        """Of both ops, from the edges on."""
        options = self.options
        return (
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


def takes_step(state: StepState, network: StepNetwork) -> bool:
    """Whether `LayerPairs.step` takes these tensors as they are. It has no gradient.

    The backend is asked here alone, so a chain keeps the one that it was made under.
    """
    if is_transformed() or current_backend() != "auto":
        return False
    tensors = (*state, network.features, network.rows, network.given)
    if any(t is not None and t.dtype not in (torch.float32, torch.int64) for t in tensors):
        return False
    return all(t is None or t.is_contiguous() for t in (state.x, state.before, state.positions, network.rows))


def prepare_layer_pairs(
    x: Tensor, h: Tensor, pairs: Sequence[tuple[PreparedEGCL, AttentionOptions]], owner: nn.Module | None = None
) -> LayerPairs | None:
    """`pairs` for calls with x and h of these shapes and dtypes; None where they are not for one call of the C++ op.

    Those are: gradients, `torch.compile`, inputs that are not float32 on the CPU, whatever the ops do not run by the
    C++ module, frames with edges of their own, graphs with spare rows, `residual=False`, and pairs whose options
    differ. The weights are those of now.

    owner: the module whose layers they are, with which their packed weights are kept; None: they are packed anew
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
    low_egcl, weights = options.precision == "bf16", []
    for one, attention in pairs:
        params = native.as_kernels_read(attention.params)
        weights.append(PairWeights(one.params, params, time_phases(h, params[-2].shape[1]), low_egcl, precision))
    phases = weights[0].turns.shape[1]
    if any(pair.turns.shape[1] != phases for pair in weights):
        return None
    packed = (PackedPairs() if owner is None else PackedPairs.of(owner)).packed(weights)
    edge_terms = tuple(one.edge_term for one, _ in pairs if one.edge_term is not None)
    first, sender = tables
    return LayerPairs(first, sender, spatial.shift, edge_terms, packed, phases, options, window, precision)


_WHOLE_NODES = RowLayout(by_row=False, spare=False)


def _is_low(h: Tensor, attention: AttentionOptions) -> bool:
    return native.low_precision(attention.precision, h, *attention.params)
