"""Trajectories longer than a network's frames: block by block, each given the last frame of the one before."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from geotdm_fast.diffusion.chain import GradientFunction
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.runtime.checks import check_tensor

if TYPE_CHECKING:
    from geotdm_fast.ays.diffusion import OurDiffusion


class Rollouts:
    """The rollouts of `OurDiffusion`; all return every frame, [N, 3, frames], given ones included.

    shape: of a block's noisy frames, [N, 3, M]
    noise: of the first block, in place of a draw; the others draw theirs
    """

    def ar_block_diffusion(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
        ddim: bool = False,
        ddim_steps: int = 100,
        eta: float = 0.0,
        num_blocks: int = 4,
    ) -> Tensor:
        """Frame 0, then M frames a block, each given the last frame of the one before as it is.

        ddim: draw by `ddim_sample_loop` with ddim_steps and eta
        """
        if ddim:
            loop = cast("OurDiffusion", self).ddim_sample_loop
            draw = _drawing(loop, model, shape, steps=ddim_steps, eta=eta, cond_fn=cond_fn, progress=progress)
        else:
            draw = self._ancestral(model, shape, cond_fn, progress)
        return _blocks("ar_block_diffusion", draw, noise, model_kwargs, num_blocks)

    def uncond_block_diffusion(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
        num_blocks: int = 4,
    ) -> Tensor:
        """The same with `uncond=True` in the first block; the true frame 0 is put in front all the same."""
        draw = self._ancestral(model, shape, cond_fn, progress)
        return _blocks("uncond_block_diffusion", draw, noise, model_kwargs, num_blocks, is_free=True)

    def autoreg_diffusion(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
        num_blocks: int = 500,
    ) -> Tensor:
        """Frame 0, then the last frame of every block: for networks with T = 2."""
        draw = self._ancestral(model, shape, cond_fn, progress)
        return _blocks("autoreg_diffusion", draw, noise, model_kwargs, num_blocks, keeps=1)

    def uncond_autoreg_diffusion(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
        num_blocks: int = 20,
    ) -> Tensor:
        """The same with `uncond=True` in the first block."""
        draw = self._ancestral(model, shape, cond_fn, progress)
        return _blocks("uncond_autoreg_diffusion", draw, noise, model_kwargs, num_blocks, is_free=True, keeps=1)

    def interpolation_diffusion(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """The two given frames at the ends and M frames between."""
        frames = _frames("interpolation_diffusion", model_kwargs)
        sample = self._ancestral(model, shape, cond_fn, progress)(noise, cast(dict, model_kwargs))
        return torch.cat([frames[..., :1], sample, frames[..., -1:]], dim=-1)

    def _ancestral(
        self, model: nn.Module, shape: Sequence[int], cond_fn: GradientFunction | None, progress: Progress
    ) -> Callable[[Tensor | None, dict], Tensor]:
        return _drawing(cast("OurDiffusion", self).p_sample_loop, model, shape, cond_fn=cond_fn, progress=progress)


def _drawing(
    loop: Callable[..., Tensor], model: nn.Module, shape: Sequence[int], **about: Any
) -> Callable[[Tensor | None, dict], Tensor]:
    """What draws a block by `loop`, of its noise and model_kwargs."""

    def draw(noise: Tensor | None, model_kwargs: dict) -> Tensor:
        return loop(model, shape, noise=noise, model_kwargs=model_kwargs, **about)

    return draw


def _blocks(
    where: str,
    draw: Callable[[Tensor | None, dict], Tensor],
    noise: Tensor | None,
    model_kwargs: dict | None,
    num_blocks: int,
    is_free: bool = False,
    keeps: int | None = None,
) -> Tensor:
    """Frame 0 and what every block draws.

    is_free: the first block sees no frame; keeps: of a block the last so many; None: all
    """
    if num_blocks < 1:
        raise ValueError(f"{where}: num_blocks must be at least 1, got {num_blocks}")
    frames = _frames(where, model_kwargs)
    given = dict(cast(dict, model_kwargs))
    parts = [frames[..., :1]]
    for block in range(num_blocks):
        if is_free:
            given["uncond"] = block == 0
        sample = draw(noise if block == 0 else None, given)
        parts.append(sample if keeps is None else sample[..., -keeps:])
        last = torch.nan_to_num(sample[..., -1:], nan=0.0, posinf=1e6, neginf=-1e6)
        given["original_frames"] = torch.cat([last, torch.zeros_like(frames[..., 1:])], dim=-1)
    return torch.cat(parts, dim=-1)


def _frames(where: str, model_kwargs: dict | None) -> Tensor:
    frames = (model_kwargs or {}).get("original_frames")
    return check_tensor(where, "model_kwargs['original_frames']", frames, ("N", 3, "T"), integer=False)
