"""The private names of the official `GeoTDM`, which its subclasses call and replace.

The public methods go through them, so a subclass may replace either. A subclass that replaces part of a step is sampled
step by step through its methods (`MethodChain`), where `GeoTDM` itself computes whole chains from tables.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from geotdm_fast.diffusion import likelihood
from geotdm_fast.diffusion.progress import Progress, falling_steps

if TYPE_CHECKING:
    from geotdm_fast.diffusion.chain import GradientFunction
    from geotdm_fast.diffusion.geotdm import GeoTDM

# What `Chain` computes without calling it.
_STEP = (
    "p_sample",
    "p_mean_variance",
    "condition_mean",
    "q_posterior_mean_variance",
    "project_to_subspace",
    "predict_xstart_from_eps",
    "predict_xstart_from_xprev",
    "_predict_xstart_from_eps",
    "_predict_xstart_from_xprev",
)


class OfficialNames:
    """Methods of `GeoTDM` under their official private names."""

    num_timesteps: int
    rescale_timesteps: bool

    def _scale_timesteps(self, t: Tensor) -> Tensor:
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def _prior_bpd(self, x_start: Tensor) -> Tensor:
        """[N] KL(q(x_S | x_0) || N(0, I)) in nats; x_start relative to x_ref."""
        return likelihood.prior_kl(cast("GeoTDM", self), x_start)

    def _vb_terms_bpd(
        self, x_start: Tensor, x_t: Tensor, t: Tensor, model_kwargs: dict | None = None
    ) -> dict[str, Tensor]:
        """One term of the bound in nats: `output` [N], and `pred_xstart` [N, D, T_noisy].

        x_start, x_t: relative to x_ref in mode `cond`. (`num_nodes` in model_kwargs is not needed.)
        """
        output, pred_xstart = likelihood.bound_term(cast("GeoTDM", self), x_start, x_t, t, model_kwargs or {})
        return {"output": output, "pred_xstart": pred_xstart}


def replaced_parts(diffusion: object, base: type, names: Sequence[str] = _STEP) -> list[str]:
    """The parts of a step (or `names`) that the subclass of `base`, or the object itself, has of its own."""

    def changed(name: str) -> bool:
        return name in vars(diffusion) or getattr(type(diffusion), name) is not getattr(base, name)

    return [name for name in names if changed(name)]


def warn_of_replaced_parts(where: str, parts: list[str]) -> None:
    """Say that `where` does not call parts of a step that are the diffusion's own."""
    if parts:
        warnings.warn(
            f"{where} does not call {', '.join(parts)}, which this diffusion has of its own; its p_sample_loop does",
            stacklevel=3,
        )


class MethodChain:
    """`Chain` out of what methods return for each step: for diffusions that have parts of a step of their own.

    outputs: progress to the results of `p_sample`, step by step; x: the start
    """

    def __init__(self, outputs: Callable[[Progress], Iterable[dict[str, Tensor]]], x: Tensor | None = None):
        self._outputs = outputs
        # None until the first step, before which nobody asks.
        self.x, self.x_0 = cast(Tensor, x), cast(Tensor, None)

    def steps(self, progress: Progress = False) -> Iterator[None]:
        """Do a step and yield, until all are done."""
        for out in self._outputs(progress):
            self.x, self.x_0 = out["sample"], out["pred_xstart"]
            yield

    def finish(self, progress: Progress = False) -> Tensor:
        """Do all steps: x."""
        for _ in self.steps(progress):
            pass
        return self.x


def sampled_steps(
    diffusion: "GeoTDM",
    num_steps: int,
    x: Tensor,
    model_kwargs: dict,
    cond_fn: "GradientFunction | None",
    progress: Progress,
) -> Iterator[dict[str, Tensor]]:
    """The results of the diffusion's `p_sample` for steps num_steps - 1, ..., 0, from x on."""
    with diffusion._holding_ref_frame(model_kwargs):
        for step in falling_steps(num_steps, progress):
            t = torch.full((x.shape[0],), step, device=x.device)
            with torch.no_grad():
                out = diffusion.p_sample(x, t, cond_fn=cond_fn, model_kwargs=model_kwargs)
            yield out
            x = out["sample"]
