"""Which frames of a trajectory a network is given, and how they are put together with the noisy ones."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.conditioning import Frames, frames_of
from geotdm_fast.runtime.checks import check_finite, check_tensor, reads_values
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.tensor_cache import TensorCache

# Conditioning by its official name: how many frames may be given.
COUNTS = {
    "none": (0,),
    "forward": (1,),
    "interpolation": (2,),
    "unconditional_forward": (0, 1),
}
# Names that one network has, for frames drawn one by one and for both.
AUTOREGRESSIVE = {"forward_autoreg": (1,), "unconditional_forward_autoreg": (0, 1)}
SIMPLE = {"none": (0,), "forward": (1,), "interpolation": (2,), "forward_uncond": (0, 1)}


class Given(NamedTuple):
    """The given frames of a call.

    frames: which are given; None: none are
    positions: [N, T, 3] - the given frames in their places, anything elsewhere; None: none are
    num_frames: T
    """

    frames: Frames | None
    positions: Tensor | None
    num_frames: int

    def noisy(self, value: Tensor) -> Tensor:
        """The noisy frames of value [N, T, ...]: a view where they follow one another."""
        return value if self.frames is None else self.frames.noisy_of(value, 1)

    def put(self, value: Tensor, noisy: Tensor) -> Tensor:
        """value [N, T, ...] with `noisy` in the places of the noisy frames."""
        return noisy if self.frames is None else self.frames.with_noisy(value, noisy, 1)

    def start(self, noisy: Tensor) -> Tensor:
        """All frames [N, T, 3], of noisy positions [N, M, 3]."""
        return noisy if self.frames is None else self.put(cast(Tensor, self.positions), noisy)

    @property
    def noisy_range(self) -> tuple[int, int] | None:
        """The first noisy frame and how many there are, or None where they do not follow one another."""
        if self.frames is None:
            return 0, self.num_frames
        noisy = self.frames.noisy
        return (noisy[0], len(noisy)) if noisy[-1] - noisy[0] + 1 == len(noisy) else None

    def flags(self, device: torch.device) -> Tensor:
        """[T] int64: 1 for a given frame."""
        flags = torch.zeros(self.num_frames, dtype=torch.int64, device=device)
        return flags if self.frames is None else flags.index_fill(0, self.frames.given_index, 1)


def given_frames(
    where: str,
    conditioning: str,
    counts: dict[str, tuple[int, ...]],
    x: Tensor,
    cond_mask: Tensor | None,
    original_frames: Tensor | None,
    uncond: bool = False,
) -> Given:
    """What a call gives. counts: how many frames each kind of conditioning may give

    x: [N, 3, M] - noisy positions; cond_mask: [T], true on the given frames of original_frames [N, 3, T]; None: nothing
    uncond: leave out frame 0 of both, where the conditioning has room for no given frame
    Raises ValueError where sizes do not fit or the number of given frames is not that of the conditioning.
    """
    num_noisy = x.shape[2]
    if cond_mask is None:
        frames, num_frames = None, num_noisy
    else:
        if cond_mask.dim() != 1:
            raise ValueError(f"{where}: cond_mask must be [T], got {list(cond_mask.shape)}")
        frames, num_frames = _frames_of_mask(cond_mask), len(cond_mask)
    count = 0 if frames is None else len(frames.given)
    if count not in counts[conditioning]:
        expected = " or ".join(map(str, counts[conditioning]))
        raise ValueError(f"{where}: conditioning '{conditioning}' takes {expected} given frames, got {count}")
    if uncond:
        if 0 not in counts[conditioning] or conditioning == "none":
            raise ValueError(f"{where}: uncond=True is of conditioning 'unconditional_forward', got '{conditioning}'")
        if frames is not None and frames.given != (0,):
            raise ValueError(f"{where}: uncond=True leaves out frame 0, but frame {frames.given[0]} is given")
        frames, num_frames = None, num_frames - (cond_mask is not None)
    if num_noisy != num_frames - (0 if frames is None else count):
        expected = f"{num_frames - (0 if frames is None else count)} noisy of {num_frames} frames"
        raise ValueError(f"{where}: x must have {expected}, got {num_noisy}")
    if frames is None:
        return Given(None, None, num_frames)
    check_tensor(where, "original_frames", original_frames, (x.shape[0], 3, num_frames), integer=False)
    original_frames = cast(Tensor, original_frames).to(x.dtype)
    if reads_values(original_frames):
        check_finite(where, "the given frames of original_frames", frames.given_of(original_frames, 2))
    return Given(frames, original_frames.transpose(1, 2), num_frames)


def check_conditioning(where: str, conditioning: str, counts: dict[str, tuple[int, ...]]) -> None:
    """Raise ValueError for a name that is none of `counts`."""
    check_choice(f"{where}: conditioning", conditioning, counts)


def remember_given(cond_mask: Tensor, frames: Frames) -> None:
    """Tell `given_frames` what it would find in cond_mask [T] bool: the device need not be waited for."""
    _frames_of_mask.remember(cond_mask, frames)


_frames_of_mask = TensorCache(lambda mask: frames_of(mask) if bool(mask.any()) else None)
