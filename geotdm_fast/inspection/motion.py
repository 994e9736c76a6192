"""How far nodes go from frame to frame, in words."""

from collections.abc import Sequence

import torch
from torch import Tensor

# A step so many times the usual one is named as a jump: atoms at rest and atoms that fly differ by less.
_OUT_OF_PROPORTION = 20.0
# Of long trajectories the usual step is that of so many frames.
_SAMPLE = 1000


def steps_in_words(parts: Sequence[Tensor], noun: str) -> str:
    """The usual and the largest step of x [B, N, D, T] of every part, and where the largest is.

    noun: what a node is called. Nodes that are not there (NaN) make no steps.
    """
    if all(x.shape[-1] < 2 for x in parts):
        return "none, there is one frame"
    usual, largest, place = [], -1.0, (0, 0, 0)
    first = 0
    for x in parts:
        every = max(1, (x.shape[-1] - 1) // _SAMPLE)
        usual.append(_lengths(x[..., :-1:every], x[..., 1::every]).median())
        for b in range(x.shape[0]):
            for n in range(x.shape[1]):
                steps = _lengths(x[b, n, None, :, :-1], x[b, n, None, :, 1:])[0]
                if len(steps) and float(steps.max()) > largest:
                    largest, place = float(steps.max()), (first + b, n, int(steps.argmax()))
        first += x.shape[0]
    median = float(torch.stack(usual).median())
    trajectory, node, frame = place
    of = f" of trajectory {trajectory}" if first > 1 else ""
    text = f"{median:.3g} as a rule, {largest:.3g} at most ({noun} {node}{of}, frame {frame} to {frame + 1})"
    jumps = median > 0 and largest > _OUT_OF_PROPORTION * median
    return text + (", which is out of all proportion" if jumps else "")


def _lengths(before: Tensor, after: Tensor) -> Tensor:
    """[..., T] - distances of [..., D, T]; 0 where a node is not there."""
    return (after - before).norm(dim=-2).nan_to_num(0.0)
