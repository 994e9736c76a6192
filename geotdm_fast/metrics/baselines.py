"""Forecasts without a model: what every score should be read against."""

import torch
from torch import Tensor

from geotdm_fast.runtime.choices import check_choice

BASELINES = (
    *("standing_still", "mean_of_given", "constant_velocity", "persistent_velocity", "constant_acceleration"),
    "linear",
)

# How many of the last given frames each extrapolation looks at: a polynomial of one degree less runs through them.
_FRAMES_USED = {"standing_still": 1, "constant_velocity": 2, "constant_acceleration": 3}
_PERSISTENT = "persistent_velocity"


def baseline_forecast(name: str, x_given: Tensor, cond_mask: Tensor) -> Tensor:
    """Continue, or fill in, trajectories without a model.

    With x_0 the last given frame, x_1 and x_2 those before it, v = x_0 - x_1, a = x_0 - 2 x_1 + x_2, k frames later:
        standing_still:        x_0
        mean_of_given:         the mean of all given frames: for what moves about a place
        constant_velocity:     x_0 + k v
        persistent_velocity:   x_0 + (b + b^2 + ... + b^k) v, b in 0 .. 1 fitted to v_t = b v_{t-1} by least squares
                               over all nodes and given frames: velocities are forgotten, as in liquids
        constant_acceleration: x_0 + k v + k (k + 1) / 2 a      (the parabola through the three frames)
        linear:                the straight line between the neighbouring given frames (interpolation)

    name: one of `BASELINES`
    x_given: [N, D, T] float - positions; frames that are not given are not looked at
    cond_mask: [1, 1, T] or [T] - 1 = given; `linear` needs given frames at both ends,
        `mean_of_given` any, the others a prefix
    returns: [N, D, T_noisy] - the frames that are not given, in order

    Raises ValueError for an unknown name, wrong shapes and a mask that the baseline cannot use.
    """
    where = "baseline_forecast"
    check_choice(f"{where}: name", name, BASELINES)
    if x_given.dim() != 3:
        raise ValueError(f"{where}: x_given must be [N, D, T], got {list(x_given.shape)}")
    num_frames = x_given.shape[-1]
    if cond_mask.numel() != num_frames or cond_mask.shape[-1] != num_frames:
        raise ValueError(f"{where}: cond_mask must be [1, 1, {num_frames}], got {list(cond_mask.shape)}")
    given = cond_mask.reshape(-1).bool()
    if bool(given.all()) or not bool(given.any()):
        raise ValueError(f"{where}: cond_mask must mark some frames as given and some not, got {_text(given)}")
    if name == "linear":
        return _interpolate(where, x_given, given)
    if name == "mean_of_given":
        mean = x_given[..., given].mean(-1, keepdim=True)
        return mean.repeat(1, 1, num_frames - int(given.sum()))
    if name == _PERSISTENT:
        return _persist(where, x_given, given)
    return _extrapolate(where, name, x_given, given)


def _num_given(where: str, name: str, given: Tensor, num_used: int) -> int:
    """How many frames are given; ValueError unless they come first and are enough."""
    num_given = int(given.sum())
    if not bool(given[:num_given].all()):
        raise ValueError(f"{where}: {name} needs the given frames first, got cond_mask {_text(given)}; use 'linear'")
    if num_given < num_used:
        raise ValueError(f"{where}: {name} needs {num_used} given frames, got {num_given}")
    return num_given


def _persist(where: str, x_given: Tensor, given: Tensor) -> Tensor:
    num_given = _num_given(where, _PERSISTENT, given, 3)
    v = x_given[..., :num_given].diff(dim=-1)
    before, after = v[..., :-1].double(), v[..., 1:].double()
    size = (before * before).sum()
    share = ((before * after).sum() / torch.where(size > 0, size, 1)).clamp(0, 1).to(x_given.dtype)
    k = torch.arange(1, len(given) - num_given + 1, device=x_given.device, dtype=x_given.dtype)
    return x_given[..., num_given - 1 : num_given] + v[..., -1:] * (share**k).cumsum(0)


def _extrapolate(where: str, name: str, x_given: Tensor, given: Tensor) -> Tensor:
    num_used = _FRAMES_USED[name]
    num_given = _num_given(where, name, given, num_used)
    k = torch.arange(1, len(given) - num_given + 1, device=x_given.device, dtype=x_given.dtype)
    last = x_given[..., num_given - num_used : num_given]
    # Newton's backward differences: the n-th of the last frame, times k (k + 1) ... (k + n - 1) / n!.
    forecast, factor = torch.zeros_like(last[..., -1:] * k), torch.ones_like(k)
    for n in range(num_used):
        forecast = forecast + factor * last.diff(n=n, dim=-1)[..., -1:]
        factor = factor * (k + n) / (n + 1)
    return forecast


def _interpolate(where: str, x_given: Tensor, given: Tensor) -> Tensor:
    if not (given[0] and given[-1]):
        raise ValueError(f"{where}: linear needs the first and the last frame given, got cond_mask {_text(given)}")
    frames = given.nonzero()[:, 0]
    wanted = (~given).nonzero()[:, 0]
    after = torch.searchsorted(frames, wanted)
    left, right = frames[after - 1], frames[after]
    share = (wanted - left).to(x_given.dtype) / (right - left)  # divided in the positions' precision
    return torch.lerp(x_given[..., left], x_given[..., right], share)


def _text(given: Tensor) -> str:
    return "".join("1" if g else "0" for g in given.tolist())
