"""A CUDA graph's manners on the CPU: what was recorded is repeated on the same memory, without its Python."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Where a value is read on the host, or a size depends on values: a capture fails there.
WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.bincount", "aten.masked_select", "aten.equal")
WAITS += ("aten._unique2", "aten.unique_dim", "aten.unique_consecutive")


class Tape(TorchDispatchMode):
    """Every operation with the tensors that it took and gave; they are kept, so no memory is used twice."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        if name in WAITS:
            raise AssertionError(f"{name} waits for the device")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.steps.append((func, args, kwargs, out))
        return out

    def play(self) -> None:
        """Do all of it again: results are written where they were."""
        with torch.no_grad():
            for func, args, kwargs, out in self.steps:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if _place(old) != _place(new):
                        old.copy_(new)

    def read_from_outside(self, static: Any) -> list[Tensor]:
        """What the call read that is neither `static` nor its own: a graph would read whatever lies there later."""
        known, outside = {_place(tensor) for tensor in _tensors(static)}, []
        for _, args, kwargs, out in self.steps:
            outside += [tensor for tensor in _tensors((args, kwargs)) if _place(tensor) not in known]
            known |= {_place(tensor) for tensor in _tensors((args, kwargs, out))}
        return outside

    def spoil(self, static: Any) -> None:
        """Fill with NaN, or a number far away, all that the call made: a replay must make it anew."""
        kept = {_place(tensor) for tensor in _tensors(static)}
        for *_, out in self.steps:
            for tensor in _tensors(out):
                if _place(tensor) not in kept:
                    with torch.no_grad():
                        tensor.fill_(float("nan") if tensor.is_floating_point() else 77)


class TapeRecorder:
    """In the place of `CUDAGraphRecorder`; tapes: what was recorded. warm_up: calls before the recorded one."""

    def __init__(self, warm_up: int = 1):
        self.warm_up, self.tapes, self.replays = warm_up, [], 0

    def __call__(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        state = torch.get_rng_state()
        for _ in range(self.warm_up):
            call()
        tape = Tape()
        with tape:
            results = call()
        torch.set_rng_state(state)
        self.tapes.append(tape)
        return results, lambda: self._replay(tape)

    def _replay(self, tape: Tape) -> None:
        self.replays += 1
        tape.play()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
