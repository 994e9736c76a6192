"""Values read from a tensor once and kept until the tensor changes or goes."""

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

Value = TypeVar("Value")


def version(tensor: Tensor) -> int | None:
    """How often `tensor` was changed in place; None for one born in `torch.inference_mode`, which does not count."""
    return None if tensor.is_inference() else tensor._version


class TensorCache(Generic[Value]):
    """`compute(tensor)`, run once for each tensor and again after a change in place.

    A tensor that does not count its changes is read on every call.
    """

    def __init__(self, compute: Callable[[Tensor], Value]):
        self._compute = compute
        self._known = WeakTensorKeyDictionary()

    def __call__(self, tensor: Tensor) -> Value:
        now = version(tensor)
        if now is None:
            return self._compute(tensor)
        known = self._known.get(tensor)
        if known is None or known[0] != now:
            known = (now, self._compute(tensor))
            self._known[tensor] = known
        return known[1]

    def remember(self, tensor: Tensor, value: Value) -> None:
        """Keep `value` for `tensor` as it is now: from one who knows it without reading the tensor."""
        self._known[tensor] = (version(tensor), value)
