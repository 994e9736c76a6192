"""What a model is asked: which frames of a trajectory are given, and which are to be drawn."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geotdm_fast.conditioning import cond_mask, frames_of, known_cell, remember_frames
from geotdm_fast.runtime.choices import require_sections
from geotdm_fast.runtime.shown import shown
from geotdm_fast.runtime.tensor_cache import normal_tensors

if TYPE_CHECKING:
    from geotdm_fast.data.trajectory import Batch


@dataclass(frozen=True)
class Task:
    """Which frames are given (a forecast, an interpolation), or that none is (whole trajectories are made).

    given: half-open ranges (start, stop) of given frames; none for an unconditional model
    num_frames: T, how many frames a trajectory has; None: as many as the data have
    tells_noise: whether the network is told how noisy the given frames are, as a last node feature
        (`train.context_noise_told`): 0 or more, in the unit of the stored positions
    told_level: what it is told where no batch says it, when samples are drawn
    Raises TypeError or ValueError for anything else than such ranges, and for ranges outside of num_frames.
    """

    given: tuple[tuple[int, int], ...] = ()
    num_frames: int | None = None
    tells_noise: bool = False
    told_level: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", _ranges(self.given))
        if self.num_frames is not None and (type(self.num_frames) is not int or self.num_frames < 1):
            raise ValueError(f"task: num_frames must be a whole number of at least 1, got {shown(self.num_frames)}")
        if self.told_level and not self.tells_noise:
            raise ValueError("task: told_level is for a model that is told of noise on its given frames")
        if not 0 <= self.told_level < float("inf"):
            raise ValueError(f"task: told_level must be at least 0 and finite, got {shown(self.told_level)}")
        if self.given and self.num_frames is not None:
            cond_mask(self.given, self.num_frames)

    @classmethod
    def of_config(cls, config: Mapping) -> "Task":
        """The task of a configuration: diffusion.mode, with train.cond_mask or train.tot_len.

        Raises ValueError or TypeError naming the section or key that is missing or is something else.
        """
        require_sections("config", config, "diffusion", "train")
        train = config["train"]
        if config["diffusion"].get("mode", "cond") == "uncond":
            return cls(num_frames=train.get("tot_len"))
        if train.get("cond_mask") is None:
            raise ValueError("config: train.cond_mask must be frame ranges [[first, last + 1], ...], got nothing")
        return cls(given=train["cond_mask"], tells_noise=train.get("context_noise_told", False))

    @property
    def is_conditional(self) -> bool:
        return len(self.given) > 0

    @property
    def mode(self) -> str:
        """`cond` or `uncond`, as `GeoTDM` calls it."""
        return "cond" if self.is_conditional else "uncond"

    def check_mode(self, where: str, mode: str) -> None:
        """Raise ValueError unless the diffusion is of this task's mode, `cond` or `uncond`."""
        if self.mode != mode:
            given = f"give frames {list(self.given)}" if self.given else "give no frame"
            raise ValueError(f"{where}: task must be one for a model of mode '{mode}', got one that would {given}")

    @property
    def given_frames(self) -> tuple[int, ...]:
        """The numbers of the given frames, ascending."""
        return tuple(sorted({t for start, stop in self.given for t in range(start, stop)}))

    @property
    def num_told(self) -> int:
        """Node features that the network has beside those of the data."""
        return int(self.tells_noise)

    def with_level(self, h: Tensor, level: Tensor | None = None) -> Tensor:
        """h [N, F] or [N, F, T] with the level of noise [N] of the given frames as a last feature, where it is told.

        level: None: `told_level` of every node
        """
        if not self.tells_noise:
            return h
        level = h.new_full((len(h),), self.told_level) if level is None else level.to(h.dtype)
        column = level[:, None] if h.dim() == 2 else level[:, None, None].expand(-1, -1, h.shape[2])
        return torch.cat([h, column], dim=1)

    def num_noisy(self, num_frames: int) -> int:
        """How many frames of data with `num_frames` frames are drawn. ValueError for a task that does not fit them."""
        if self.is_conditional:
            return len(frames_of(self.mask(num_frames)).noisy)
        if (self.num_frames or 0) > num_frames:
            raise ValueError(
                f"train.tot_len must be at most the {num_frames} frames of the data, got {self.num_frames}"
            )
        return self.num_frames or num_frames

    def window(self, num_noisy: int) -> int:
        """T, the frames of a trajectory of which `num_noisy` are drawn, where the data do not say it."""
        if not self.is_conditional:
            return self.num_frames or num_noisy
        return max(len(self.given_frames) + num_noisy, self.given_frames[-1] + 1)

    def without_history(self, length: int, num_blocks: int) -> int:
        """T of a window of training of `length` = G + (K + 1) (T - G) frames with K = num_blocks blocks of history."""
        given = len(self.given_frames)
        return given + (length - given) // (1 + num_blocks)

    def mask(self, num_frames: int) -> Tensor:
        """[1, 1, T] float32: 1 on given frames, as `GeoTDM` takes it. ValueError for ranges that do not fit."""
        return cond_mask(self.given, num_frames)

    def split(self, batch: "Batch") -> tuple[Tensor, dict]:
        """The frames to draw, x_start [N, D, T_noisy], and the keyword arguments of the network for `GeoTDM`.

        An unconditional task takes the first num_frames frames. Where boxes change from frame to frame, those of frames
        that are drawn are what the given frames tell, see `known_cell`. The mask is made once for a device and T, and
        nothing is read back from the device. Raises ValueError for a batch that has too few frames.
        """
        model_kwargs, num_frames = batch.model_kwargs(), batch.x.shape[-1]
        if not self.is_conditional:
            length = self.num_noisy(num_frames)
            if batch.h.dim() == 3:
                model_kwargs["h"] = batch.h[..., :length]
            # Nothing is given, but graphs of the data's first frame.
            x = batch.x[..., :length]
            if "cell" in model_kwargs:
                vectors = known_cell(model_kwargs["cell"].vectors[:, :length], ())
                model_kwargs["cell"] = model_kwargs["cell"]._replace(vectors=vectors)
            return x, model_kwargs | {"x_given": x}
        mask, version = _mask_on(self.given, num_frames, batch.x.device)
        if mask._version != version:  # somebody changed the mask of an earlier call in place
            _mask_on.cache_clear()
            mask, _ = _mask_on(self.given, num_frames, batch.x.device)
        if self.tells_noise:
            level = batch["context_level"][batch.batch] if "context_level" in batch else None
            model_kwargs["h"] = self.with_level(batch.h, level)
        model_kwargs.update(cond_mask=mask, x_given=batch.x)
        if "cell" in model_kwargs:
            vectors = known_cell(model_kwargs["cell"].vectors, self.given_frames)
            model_kwargs["cell"] = model_kwargs["cell"]._replace(vectors=vectors)
        return frames_of(mask).noisy_of(batch.x, 2), model_kwargs


@functools.lru_cache(maxsize=64)
def _mask_on(given: tuple[tuple[int, int], ...], num_frames: int, device: torch.device) -> tuple[Tensor, int]:
    """The mask on a device, its frames known so that nobody waits to read them, and its version."""
    with normal_tensors():
        mask = cond_mask(given, num_frames).to(device)
        remember_frames(mask, given, num_frames)
    return mask, mask._version


def _ranges(given: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """`given` as tuples of whole numbers."""

    def is_pair(r: object) -> bool:
        return isinstance(r, (list, tuple)) and len(r) == 2 and all(type(t) is int for t in r)

    if not isinstance(given, (list, tuple)) or not all(is_pair(r) for r in given):
        raise TypeError(f"task: given must be ranges [[start, stop], ...] of frames, got {shown(given)}")
    return tuple((start, stop) for start, stop in given)


def without_history(section: Mapping, config: Mapping) -> dict:
    """A data section whose windows are the model's, without the history before them (`train.block_history`).

    config: of the model. A section with windows of another length than data.train's stays: a long one is for rollouts.
    """
    blocks, trained = config.get("train", {}).get("block_history", 0), config["data"].get("train", {})
    long = trained.get("span") or trained.get("num_frames")
    keys = [key for key in ("span", "num_frames") if type(section.get(key)) is int]
    if not blocks or any(section[key] != long for key in keys):
        return dict(section)
    task = Task.of_config(config)
    return {**section, **{key: task.without_history(section[key], blocks) for key in keys}}
