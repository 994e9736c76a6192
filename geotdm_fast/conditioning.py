"""Which frames are given and which are to be drawn."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.runtime.tensor_cache import TensorCache


class Frames(NamedTuple):
    """The frames that a mask gives, as numbers and as index tensors on the mask's device."""

    given: tuple[int, ...]
    noisy: tuple[int, ...]
    given_index: Tensor
    noisy_index: Tensor

    def given_of(self, x: Tensor, dim: int) -> Tensor:
        """The given frames of x, whose axis `dim` has all: a view where they follow one another."""
        return _select(x, dim, self.given, self.given_index)

    def noisy_of(self, x: Tensor, dim: int) -> Tensor:
        """The noisy frames in the same way."""
        return _select(x, dim, self.noisy, self.noisy_index)

    def with_noisy(self, given: Tensor, noisy: Tensor, dim: int) -> Tensor:
        """A copy of `given`, whose axis `dim` has all frames, with `noisy` in their places."""
        if not _is_run(self.noisy):
            return given.index_copy(dim, self.noisy_index, noisy)
        first, behind = self.noisy[0], self.noisy[-1] + 1
        parts = (given.narrow(dim, 0, first), noisy, given.narrow(dim, behind, given.shape[dim] - behind))
        return torch.cat([part for part in parts if part.shape[dim]], dim)

    @property
    def by_index(self) -> "Frames":
        """The same frames without their numbers: always chosen by the tensors, whose values a captured graph leaves
        open."""
        return self._replace(given=(), noisy=())


def _select(x: Tensor, dim: int, frames: tuple[int, ...], index: Tensor) -> Tensor:
    return x.narrow(dim, frames[0], len(frames)) if _is_run(frames) else x.index_select(dim, index)


def _is_run(frames: tuple[int, ...]) -> bool:
    return len(frames) > 0 and frames[-1] - frames[0] + 1 == len(frames)


def frames_of(cond_mask: Tensor) -> Frames:
    """Split the frames of `cond_mask` [1, 1, T] (non-zero = given) into given and noisy ones.

    Reads the mask back from the device once for each tensor, not once for each call.
    Raises ValueError for another shape and for a mask that gives all frames or none.
    """
    if not isinstance(cond_mask, Tensor):
        raise TypeError(f"cond_mask must be a tensor [1, 1, T], got {type(cond_mask).__name__}")
    return _frames_of_mask(cond_mask)


def remember_frames(cond_mask: Tensor, ranges: Iterable[Sequence[int]], num_frames: int) -> None:
    """Tell `frames_of` what it would find in `cond_mask`, made of these ranges: the device need not be waited for."""
    given = {t for start, stop in ranges for t in range(start, stop)}
    _frames_of_mask.remember(cond_mask, _frames([t in given for t in range(num_frames)], cond_mask.device))


def _split_mask(cond_mask: Tensor) -> Frames:
    if cond_mask.dim() == 0 or cond_mask.numel() != cond_mask.shape[-1]:
        raise ValueError(f"cond_mask must be [1, 1, T], got {list(cond_mask.shape)}")
    return _frames(cond_mask.reshape(-1).bool().tolist(), cond_mask.device)


def _frames(flags: Sequence[bool], device: torch.device) -> Frames:
    given = tuple(t for t, flag in enumerate(flags) if flag)
    noisy = tuple(t for t, flag in enumerate(flags) if not flag)
    if not given or not noisy:
        raise ValueError(f"cond_mask must give some frames and leave some, got {len(given)} given of {len(flags)}")
    index = lambda frames: torch.tensor(frames, device=device)
    return Frames(given, noisy, index(given), index(noisy))


_frames_of_mask = TensorCache(_split_mask)


def frames_known(given: Sequence[int], num_frames: int) -> list[int]:
    """For each of `num_frames` frames the one that it has its box from, which nobody has to know the future for.

    A given frame has its own; a frame that is to be drawn that of the last given frame before it, of the first given
    one where none is before it; without given frames all have that of frame 0.
    given: their numbers, ascending
    """
    before = [[g for g in given if g <= t] for t in range(num_frames)]
    return [own[-1] if own else given[0] if given else 0 for own in before]


def known_cell(cell: Tensor, given: Sequence[int]) -> Tensor:
    """The boxes that a network may see of boxes that change: of frames that it draws, what the given ones tell.

    The box of frame t is that of frame `frames_known(given, T)[t]`: all frames that a forecast draws have the box of
    the last given frame. Views and one copy, no wait.
    cell: [G, 1 or T, 3, 3]; given: the numbers of the given frames, ascending; none: all are drawn. Comes back as it is
    where it does not change with the frames.
    """
    num_frames = cell.shape[1]
    if num_frames == 1:
        return cell
    runs = [(t, len(list(run))) for t, run in itertools.groupby(frames_known(given, num_frames))]
    return torch.cat([cell[:, t : t + 1].expand(-1, length, -1, -1) for t, length in runs], dim=1)


def cond_mask(ranges: Iterable[Sequence[int]], num_frames: int) -> Tensor:
    """[1, 1, T] float32 mask that is 1 on the frames of every half-open range [start, stop) of `ranges`.

    Raises ValueError for a range outside 0..T, and for a mask that gives all frames or none.
    """
    mask = torch.zeros(1, 1, num_frames)
    for interval in ranges:
        start, stop = interval
        if not 0 <= start < stop <= num_frames:
            raise ValueError(f"cond_mask: ranges must lie in 0..{num_frames} with start < stop, got [{start}, {stop}]")
        mask[..., start:stop] = 1
    frames_of(mask)
    return mask
