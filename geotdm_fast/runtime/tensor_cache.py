"""Values read from a tensor once and kept until the tensor changes or goes."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Value = TypeVar("Value")


def version(tensor: Tensor) -> int | None:
    """How often `tensor` was changed in place; None for one born in `torch.inference_mode`, which does not count."""
    return None if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def normal_tensors() -> Iterator[None]:
    """What is made in the block may be changed, counted and kept for a backward, also within `torch.inference_mode`.

    Gradients stay on or off.
    """
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


class TensorCache(Generic[Value]):
    """`compute(tensor, *key)`, run once for each tensor and key, and again after a change of the tensor in place.

    A tensor that does not count its changes is read on every call. Within `torch.inference_mode` the values are normal
    tensors: a later training may keep them for its backward.

    Raises ValueError where a value is the tensor, or a view of it, or a tuple, list or dictionary that holds one: it
    would keep the tensor, and the entry of the tensor would never go.
    """

    def __init__(self, compute: Callable[..., Value]):
        self._compute = compute
        self._known = WeakTensorKeyDictionary()

    def __call__(self, tensor: Tensor, *key: Hashable) -> Value:
        if version(tensor) is None:
            return self._compute(tensor, *key)
        values = self._values(tensor)
        if key not in values:
            with normal_tensors():
                values[key] = _without(tensor, self._compute(tensor, *key))
        return values[key]

    def remember(self, tensor: Tensor, value: Value, *key: Hashable) -> None:
        """Keep `value` for `tensor` as it is now: from one who knows it without reading the tensor."""
        if version(tensor) is not None:
            self._values(tensor)[key] = _without(tensor, value)

    def _values(self, tensor: Tensor) -> dict[tuple, Value]:
        """By key, what is known of `tensor` as it is now."""
        now = version(tensor)
        known = self._known.get(tensor)
        if known is None or known[0] != now:
            known = self._known[tensor] = (now, {})
        return known[1]


def _without(tensor: Tensor, value: Value) -> Value:
    """The value, once it is known that it keeps no `tensor`."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor) and (leaf is tensor or leaf._base is tensor):
            came = "the tensor itself" if leaf is tensor else "a view of the tensor"
            raise ValueError(f"TensorCache: a value must not share memory with its tensor, got {came}: clone it")
    return value
