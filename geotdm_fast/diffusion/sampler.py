"""Sampling a `GeoTDM` by any method, on any subset of its steps."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.diffusion import ays_ddim
from geotdm_fast.diffusion.chain import Chain, GradientFunction, NoiseFunction
from geotdm_fast.diffusion.geotdm import GeoTDM
from geotdm_fast.diffusion.inputs import check_loop, check_ref_frame, check_start
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.model_types import ModelVarType
from geotdm_fast.diffusion.official_names import replaced_parts, warn_of_replaced_parts
from geotdm_fast.diffusion.plan import Plan, method_plan
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.diffusion.step_subsets import choose_steps
from geotdm_fast.runtime.choices import check_choice

# Every method, by name.
NAMES = (*METHODS, ays_ddim.NAME)


class Sampler:
    """Draws trajectories from a `GeoTDM`.

    method: `ddpm` - ancestral, as the model was made and the paper samples; `ddim`; `dpmpp_2m`; `dpmpp_2m_sde`; and
        `ays_ddim`, the DDIM of Align Your Structures: it ends at the model's step 0 and not at the data, so that noise
        of size sqrt(beta_0) remains, and scales a node down whose RMS is above 50 (`diffusion.ays_ddim`). It is of mode
        `uncond`, and `draw` alone. Where the network gives NaN the whole graph becomes 0 instead of one number
    num_steps: calls of the network, 1 ... S; default S. Of `ays_ddim` at most S - 1, one less than its official `steps`
    spacing: which steps: `uniform`, `quadratic` or `log_snr`; `ays_ddim` has its own, by the name `uniform`
    eta: noise of `ddim` and `ays_ddim`, 0 ... 1

    Every method keeps the model's equivariance: a step is a sum of equivariant terms with scalar factors.
    Raises ValueError for names and numbers out of range.
    """

    def __init__(
        self,
        diffusion: GeoTDM,
        method: str = "ddpm",
        num_steps: int | None = None,
        spacing: str = "uniform",
        eta: float = 0.0,
    ):
        check_choice("Sampler: method", method, NAMES)
        total = diffusion.num_timesteps
        if method == ays_ddim.NAME:
            _check_ays_ddim(diffusion, num_steps, spacing)
            num_steps = num_steps or total - 1
        if num_steps is not None and not 1 <= num_steps <= total:
            raise ValueError(f"Sampler: num_steps must be in 1..{total}, the model's steps, got {num_steps}")
        if not 0 <= eta <= 1:
            raise ValueError(f"Sampler: eta must be in 0..1, got {eta}")
        if eta and method not in ("ddim", ays_ddim.NAME):
            raise ValueError(f"Sampler: eta is of the method 'ddim' alone, got {eta} with '{method}'")
        warn_of_replaced_parts("Sampler", replaced_parts(diffusion, GeoTDM))
        self.diffusion, self.method, self.spacing, self.eta = diffusion, method, spacing, eta
        self.num_steps = num_steps or total
        self.plan = self._plan(total)

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

        shape: [N, D, T_noisy]; model_kwargs: as for `GeoTDM.p_sample_loop`
        noise: where the noise comes from; default: torch's global generator of the diffusion's device
        cond_fn: (x_t, t) to the gradient of a log probability; it moves the mean of `ddpm` (Sohl-Dickstein et al. 2015)
                 and the prediction of the other methods (Song et al. 2020)
        x_ref: [N, D, 1 or T_noisy] - of mode `cond`, if it is known, as where samples share it; default: the prior's
        """
        diffusion = self.diffusion
        check_loop("Sampler.draw", diffusion.mode, "shape", shape, model_kwargs)
        model_kwargs = diffusion.with_graph(model_kwargs)
        if x_ref is None:
            x_ref = diffusion.get_ref_frame(model_kwargs)
        else:
            check_ref_frame("Sampler.draw", diffusion.mode, x_ref, shape)
        start = torch.randn(*shape, device=diffusion.device, dtype=diffusion.dtype) if noise is None else noise(0)
        chain = Chain(diffusion, self.plan, start, x_ref, model_kwargs, noise, cond_fn)
        if self.method == ays_ddim.NAME:
            for _ in chain.steps(progress):
                chain.x.copy_(ays_ddim.finite(ays_ddim.clipped(chain.x)))
            return chain.x
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
        if self.method == ays_ddim.NAME:
            raise ValueError(f"Sampler.refine: method must end at the data, got '{self.method}'")
        if not 1 <= noised_steps <= total:
            raise ValueError(f"Sampler.refine: noised_steps must be in 1..{total}, got {noised_steps}")
        check_start("Sampler.refine", diffusion.mode, x_start, model_kwargs)
        model_kwargs = diffusion.with_graph(model_kwargs)
        x_ref = diffusion.get_ref_frame(model_kwargs)
        x_start = diffusion.to_relative(x_start, x_ref, model_kwargs["batch"])
        start = torch.randn_like(x_start) if noise is None else noise(0)
        if diffusion.mode == "uncond":
            start = diffusion.project_to_subspace(start, model_kwargs["batch"])
        t = torch.full((x_start.shape[0],), noised_steps - 1, device=x_start.device)
        x_t = diffusion.q_sample(x_start, t, noise=start)
        chain = Chain(diffusion, self._plan(noised_steps), x_t, x_ref, model_kwargs, noise, cond_fn)
        return diffusion.to_absolute(chain.finish(progress), x_ref)

    def _plan(self, noised_steps: int) -> Plan:
        """The chain from step noised_steps - 1 down to the data."""
        abar = self.diffusion.alphas_cumprod[:noised_steps]
        if self.method == ays_ddim.NAME:
            timesteps = ays_ddim.ddim_timesteps(noised_steps, self.num_steps + 1)
            rows = METHODS["ddim"](abar[timesteps], self.eta, False)
            return method_plan(self.diffusion, self.diffusion.model_mean_type, timesteps[:-1], rows, False)
        timesteps = choose_steps(min(self.num_steps, noised_steps), abar, self.spacing)
        levels = np.append(abar[timesteps], 1.0)
        is_large = self.diffusion.model_var_type is ModelVarType.FIXED_LARGE
        rows = METHODS[self.method](levels, self.eta, is_large)
        return method_plan(self.diffusion, self.diffusion.model_mean_type, timesteps, rows, self.method == "ddpm")


def _check_ays_ddim(diffusion: GeoTDM, num_steps: int | None, spacing: str) -> None:
    """ValueError where the method `ays_ddim` cannot be."""
    if diffusion.mode != "uncond":
        raise ValueError(f"Sampler: method 'ays_ddim' is of mode 'uncond', got a model of mode '{diffusion.mode}'")
    if spacing != "uniform":
        raise ValueError(f"Sampler: method 'ays_ddim' has a spacing of its own, by the name 'uniform', got '{spacing}'")
    most = diffusion.num_timesteps - 1
    if num_steps is not None and not 1 <= num_steps <= most:
        raise ValueError(f"Sampler: num_steps must be in 1..{most} for 'ays_ddim', got {num_steps}")
