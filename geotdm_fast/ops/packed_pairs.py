"""Weights of pairs of layers as the op `layer_pairs` reads them, kept from one preparation of a network to the next."""

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast.runtime.tensor_cache import normal_tensors


class _Packed(NamedTuple):
    """What was packed: for which sizes and options, the numbers of the weights [n], and the result."""

    settings: tuple
    numbers: Tensor
    packed: Tensor


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
        self._kept: dict[int, _Packed] = {}

    @classmethod
    def of(cls, owner: nn.Module) -> "PackedPairs":
        """Those of the pairs of one module, kept as long as it lives; a copy of the module has its own."""
        return _OF_OWNER.setdefault(owner, cls())

    def packed(
        self,
        number: int,
        egcl_params: Sequence[Tensor],
        attention_params: Sequence[Tensor],
        turns: Tensor,
        low_precision: bool,
        precision: int,
    ) -> Tensor:
        """The result of the op `packed_layer_pair` for pair `number`, whose arguments these are: float32 and
        contiguous."""
        settings = (turns.shape, egcl_params[0].shape, low_precision, precision)
        weights = [*egcl_params, *attention_params]
        kept = self._kept.get(number)
        same = torch.ops.geotdm_fast.same_numbers
        if kept is not None and kept.settings == settings and same(weights, kept.numbers):
            return kept.packed
        with normal_tensors():
            numbers = torch.cat([weight.detach().flatten() for weight in weights])
            packed = torch.ops.geotdm_fast.packed_layer_pair(
                egcl_params, attention_params, turns, low_precision, precision
            )
        self._kept[number] = _Packed(settings, numbers, packed)
        return packed


_OF_OWNER: weakref.WeakKeyDictionary[nn.Module, PackedPairs] = weakref.WeakKeyDictionary()
