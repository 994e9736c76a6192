"""Weights of pairs of layers as the op `layer_pairs` reads them, kept from one preparation of a network to the next."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast.runtime.tensor_cache import normal_tensors

if TYPE_CHECKING:
    from geotdm_fast.ops.layer_pairs import LayerPairs


class PairWeights(NamedTuple):
    """The arguments of the op `packed_layer_pair` for one pair of layers: float32 and contiguous."""

    egcl_params: Sequence[Tensor]
    attention_params: Sequence[Tensor]
    turns: Tensor
    low_precision: bool
    precision: int

    @property
    def settings(self) -> tuple:
        """For which sizes and options they are packed."""
        return self.turns.shape, [weight.shape for weight in self.weights], self.low_precision, self.precision

    @property
    def weights(self) -> list[Tensor]:
        return [*self.egcl_params, *self.attention_params]


class _Packed(NamedTuple):
    """What was packed.

    settings: of each pair; numbers: [n] - of all weights, and parts: of each pair's
    sizes: [weights, 2] int64 - of each weight, with 0 columns for a vector
    packed: the results
    """

    settings: list[tuple]
    numbers: Tensor
    sizes: Tensor
    parts: tuple[Tensor, ...]
    packed: tuple[Tensor, ...]


class MadeLayers(NamedTuple):
    """What `ops.prepare_layers` made last, but for what it had of the graph.

    about: what it depends on beside the weights
    edge_rows: [L, 1, H] - W_a of each of L pairs where edges have one feature: then W_a a is one product of numbers for
        all pairs, with the bits of the matrix product, the sign of a zero aside; None: more features, or none
    """

    about: tuple
    pairs: "LayerPairs"
    edge_rows: Tensor | None


class PackedPairs:
    """The packed weights of some pairs of layers: a pair is packed anew when one of its weights has changed, and for
    another number of frames, width or precision than the last time.

    Every call compares the weights, bit by bit, with a copy of those that were packed. So it sees whatever changed
    them: an optimiser, `load_state_dict`, other weights for an evaluation, writes through `.data` or through numpy,
    which leave `Tensor._version` as it is, and another tensor in a parameter's place. The copy and the packed weights
    take about twice the memory of the weights, on the CPU, while the module lives. A packed tensor is never written
    again: what was prepared with it stays.
    """

    def __init__(self) -> None:
        self._kept: _Packed | None = None
        self.made: MadeLayers | None = None

    @classmethod
    def of(cls, owner: nn.Module) -> "PackedPairs":
        """Those of the pairs of one module, kept as long as it lives; a copy of the module has its own."""
        return _OF_OWNER.setdefault(owner, cls())

    def unchanged(self, weights: Sequence[Tensor], packed: tuple[Tensor, ...]) -> bool:
        """Whether `packed` was made last, and these weights, of all pairs in order, have the dtype, sizes and bits of
        then, and are contiguous."""
        kept = self._kept
        return kept is not None and kept.packed is packed and _same(weights, kept.numbers, kept.sizes)

    def packed(self, pairs: Sequence[PairWeights]) -> tuple[Tensor, ...]:
        """The result of the op `packed_layer_pair` for each pair."""
        settings, kept = [pair.settings for pair in pairs], self._kept
        # As a rule nothing has changed, and one comparison of all weights says so.
        weights = [weight for pair in pairs for weight in pair.weights]
        if kept is not None and kept.settings == settings and _same(weights, kept.numbers, kept.sizes):
            return kept.packed
        before = [] if kept is None else list(zip(kept.settings, kept.parts, kept.packed, strict=True))
        packed: list[Tensor] = []
        with normal_tensors():
            numbers = torch.cat([weight.detach().flatten() for weight in weights])
            parts = numbers.split([sum(weight.numel() for weight in pair.weights) for pair in pairs])
            for number, (pair, part) in enumerate(zip(pairs, parts, strict=True)):
                then, then_part, then_packed = before[number] if number < len(before) else ((), part, part)
                is_same = then == settings[number] and _same([part], then_part, _sizes([then_part]))
                packed.append(then_packed if is_same else torch.ops.geotdm_fast.packed_layer_pair(*pair))
            sizes = _sizes(weights)
        self._kept = made = _Packed(settings, numbers, sizes, parts, tuple(packed))
        return made.packed  # another thread may have packed others meanwhile


def _same(weights: Sequence[Tensor], numbers: Tensor, sizes: Tensor) -> bool:
    try:
        return torch.ops.geotdm_fast.same_numbers.default(weights, numbers, sizes)
    except NotImplementedError:  # weights are quantised or sparse now
        return False


def _sizes(weights: Sequence[Tensor]) -> Tensor:
    return torch.tensor([[*weight.shape, 0][:2] for weight in weights], device="cpu")


_OF_OWNER: weakref.WeakKeyDictionary[nn.Module, PackedPairs] = weakref.WeakKeyDictionary()
