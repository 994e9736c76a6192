"""Sampling a `GeoTDM` or a `Flow` by any of its methods, in as many calls of the network as one likes."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast.diffusion import ays_ddim
from geotdm_fast.diffusion.chain import Chain, GradientFunction, NoiseFunction
from geotdm_fast.diffusion.framed import FramedDiffusion
from geotdm_fast.diffusion.inputs import check_loop, check_ref_frame, check_start
from geotdm_fast.diffusion.official_names import warn_of_replaced_parts
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.diffusion.sampler_options import OptionNames, checked_options
from geotdm_fast.nn.plain import looked_at_once
from geotdm_fast.runtime.checks import check_whole, trusted

# What errors call the arguments.
NAMES = OptionNames.of("Sampler", "num_steps")
# What `check_loop` does not look into, and the network that computes the prior does.
_UNCHECKED = ("graph", "conditions")


class Sampler:
    """Draws trajectories from a `GeoTDM` or a `Flow`.

    method: of a `GeoTDM`: `ddpm` - ancestral, as the model was made and the paper samples; `ddim`; `dpmpp_2m`;
        `dpmpp_2m_sde`; and `ays_ddim`, the DDIM of Align Your Structures: it ends at the model's step 0 and not at the
        data, so that noise of size sqrt(beta_0) remains, and scales a node down whose RMS is above 50
        (`diffusion.ays_ddim`). It is of mode `uncond`, and `draw` alone. Where the network gives NaN the whole graph
        becomes 0 instead of one number. Of a `Flow`: `euler`, `heun`, `ab2`. None: the first of them
    num_steps: calls of the network, 1 ... S; default S; of `ays_ddim` at most S - 1, one less than its official `steps`
        and of a student of `geotdm distill` 1, by whatever method: all are the same in one call
    spacing: which steps: `uniform`, `quadratic`; of a `GeoTDM` also `log_snr`, of a `Flow` `early`; `ays_ddim` has its
        own, by the name `uniform`
    eta: noise of `ddim` and `ays_ddim`, 0 ... 1; of a student 0
    names: what the messages of errors call the options

    Every method keeps the model's equivariance: a step is a sum of equivariant terms with scalar factors.
    Raises ValueError for names and numbers out of range, TypeError for num_steps that is no whole number.
    """

    def __init__(
        self,
        diffusion: FramedDiffusion,
        method: str | None = None,
        num_steps: int | None = None,
        spacing: str = "uniform",
        eta: float = 0.0,
        names: OptionNames = NAMES,
    ):
        method, num_steps = checked_options(diffusion, method, num_steps, spacing, eta, names)
        warn_of_replaced_parts("Sampler", diffusion.replaced_parts())
        self.diffusion, self.method, self.num_steps, self.spacing, self.eta = diffusion, method, num_steps, spacing, eta
        self.plan = diffusion.plan(method, self.num_steps, spacing, eta, diffusion.noised_steps)

    @torch.no_grad()
    def draw(
        self,
        shape: Sequence[int],
        model_kwargs: dict,
        noise: NoiseFunction | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        x_ref: Tensor | None = None,
    ) -> Tensor:
        """Trajectories [N, D, T_noisy], with x_ref added in mode `cond`, in the network's dtype.

        shape: [N, D, T_noisy]; model_kwargs: as for `GeoTDM`
        noise: where the noise comes from; default: torch's global generator of the diffusion's device
        cond_fn: (x_t, t) to the gradient of a log probability; it moves the mean of `ddpm` (Sohl-Dickstein et al. 2015)
                 and the prediction of the other methods (Song et al. 2020)
        x_ref: [N, D, 1 or T_noisy] - of mode `cond`, if it is known, as where samples share it; default: the prior's
        Raises ValueError for a cond_fn of a student of a flow: its one call is at the prior, where that has no weight.
        """
        diffusion = self.diffusion
        if cond_fn is not None and diffusion.calls is not None and not self.plan.guidance.any():
            raise ValueError(
                "Sampler.draw: cond_fn must be None where guidance has no weight, as in the one call of a student of a "
                f"flow, which starts from the prior, got {cond_fn!r}"
            )
        check_loop("Sampler.draw", diffusion.mode, "shape", shape, model_kwargs)
        is_checked = all(model_kwargs.get(name) is None for name in _UNCHECKED)
        model_kwargs = diffusion.with_graph(model_kwargs)
        with looked_at_once():
            if x_ref is None:
                with trusted() if is_checked else contextlib.nullcontext():
                    x_ref = diffusion.get_ref_frame(model_kwargs)
            else:
                check_ref_frame("Sampler.draw", diffusion.mode, x_ref, shape)
            z = torch.randn(*shape, device=diffusion.device, dtype=diffusion.dtype) if noise is None else noise(0)
            start = diffusion.start(z, model_kwargs)
            guided = self._guided_by(cond_fn, model_kwargs)
            chain = Chain(diffusion, self.plan, start, x_ref, model_kwargs, noise, guided)
        if self.method == ays_ddim.NAME:
            return chain.finish(progress, ays_ddim.bounded)
        return diffusion.to_absolute(chain.finish(progress), x_ref)

    @torch.no_grad()
    def refine(
        self,
        x_start: Tensor,
        noised_steps: int,
        model_kwargs: dict,
        noise: NoiseFunction | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
    ) -> Tensor:
        """Noise x_start [N, D, T_noisy] by `noised_steps` of the model's steps, and denoise it again.

        The chain visits at most `num_steps` of them. Arguments and return as in `draw`.
        """
        diffusion, total = self.diffusion, self.diffusion.num_timesteps
        diffusion.check_has_steps("Sampler.refine")
        if self.method == ays_ddim.NAME:
            raise ValueError(f"Sampler.refine: method must end at the data, got '{self.method}'")
        noised_steps = check_whole("Sampler.refine", "noised_steps", noised_steps)
        if not 1 <= noised_steps <= total:
            raise ValueError(f"Sampler.refine: noised_steps must be in 1..{total}, got {noised_steps}")
        check_start("Sampler.refine", diffusion.mode, x_start, model_kwargs)
        model_kwargs = diffusion.with_graph(model_kwargs)
        x_ref = diffusion.get_ref_frame(model_kwargs)
        x_start = diffusion.to_relative(x_start, x_ref, model_kwargs["batch"])
        start = torch.randn_like(x_start) if noise is None else noise(0)
        if diffusion.mode == "uncond":
            start = diffusion.project_to_subspace(start, model_kwargs["batch"])
        x_t = diffusion.noised(x_start, noised_steps, start, model_kwargs)
        plan = diffusion.plan(self.method, self.num_steps, self.spacing, self.eta, noised_steps)
        chain = Chain(diffusion, plan, x_t, x_ref, model_kwargs, noise, self._guided_by(cond_fn, model_kwargs))
        return diffusion.to_absolute(chain.finish(progress), x_ref)

    def _guided_by(self, cond_fn: GradientFunction | None, model_kwargs: dict) -> GradientFunction | None:
        return None if cond_fn is None else self.diffusion.guided_by(cond_fn, model_kwargs)
