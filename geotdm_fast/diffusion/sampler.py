"""Sampling a `GeoTDM` by any method, on any subset of its steps."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.checks import trusted
from geotdm_fast.diffusion.geotdm import GeoTDM, GradientFunction
from geotdm_fast.diffusion.inputs import check_loop, check_start
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.model_types import ModelVarType
from geotdm_fast.diffusion.progress import Progress, falling_steps
from geotdm_fast.diffusion.step_subsets import choose_steps
from geotdm_fast.keys import check_choice

# k to z ~ N(0, I) [N, D, T_noisy]: k = 0 for the start, then one for each step.
NoiseFunction = Callable[[int], Tensor]


class Plan(NamedTuple):
    """timesteps: [n] int64, falling; coefficients: [n, 4] float64, the rows (a, b, c, s) of `methods`."""

    timesteps: np.ndarray
    coefficients: np.ndarray


class Sampler:
    """Draws trajectories from a `GeoTDM`.

    method: `ddpm` - ancestral, as the model was made and the paper samples; `ddim`; `dpmpp_2m`; `dpmpp_2m_sde`
    num_steps: calls of the network, 1 ... S; default S
    spacing: which steps: `uniform`, `quadratic` or `log_snr`
    eta: noise of `ddim`, 0 ... 1

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
        check_choice("Sampler: method", method, METHODS)
        total = diffusion.num_timesteps
        if num_steps is not None and not 1 <= num_steps <= total:
            raise ValueError(f"Sampler: num_steps must be in 1..{total}, the model's steps, got {num_steps}")
        if not 0 <= eta <= 1:
            raise ValueError(f"Sampler: eta must be in 0..1, got {eta}")
        if eta and method != "ddim":
            raise ValueError(f"Sampler: eta is of the method 'ddim' alone, got {eta} with '{method}'")
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
    ) -> Tensor:
        """Trajectories [N, D, T_noisy], with x_ref added in mode `cond`, in the network's dtype.

        shape: [N, D, T_noisy]; model_kwargs: as for `GeoTDM.p_sample_loop`
        noise: where the noise comes from; default: torch's global generator of the diffusion's device
        cond_fn: (x_t, t) to the gradient of a log probability; it moves the mean of `ddpm` (Sohl-Dickstein et al. 2015)
                 and the prediction of the other methods (Song et al. 2020)
        """
        check_loop("Sampler.draw", self.diffusion.mode, "shape", shape, model_kwargs)
        noise = noise or self._global_noise(shape)
        self.diffusion.clear_ref_frame()
        x_ref = self.diffusion.get_ref_frame(model_kwargs)
        x = self._chain(self._in_subspace(noise(0), model_kwargs), self.plan, noise, cond_fn, progress, model_kwargs)
        self.diffusion.clear_ref_frame()
        return self.diffusion.to_absolute(x, x_ref)

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
        if not 1 <= noised_steps <= total:
            raise ValueError(f"Sampler.refine: noised_steps must be in 1..{total}, got {noised_steps}")
        check_start("Sampler.refine", diffusion.mode, x_start, model_kwargs)
        noise = noise or self._global_noise(x_start.shape)
        diffusion.clear_ref_frame()
        x_ref = diffusion.get_ref_frame(model_kwargs)
        x_start = diffusion.to_relative(x_start, x_ref, model_kwargs["batch"])
        t = torch.full((x_start.shape[0],), noised_steps - 1, device=x_start.device)
        x = diffusion.q_sample(x_start, t, noise=self._in_subspace(noise(0), model_kwargs))
        x = self._chain(x, self._plan(noised_steps), noise, cond_fn, progress, model_kwargs)
        diffusion.clear_ref_frame()
        return diffusion.to_absolute(x, x_ref)

    def _plan(self, noised_steps: int) -> Plan:
        """The chain from step noised_steps - 1 down to the data."""
        abar = self.diffusion.alphas_cumprod[:noised_steps]
        timesteps = choose_steps(min(self.num_steps, noised_steps), abar, self.spacing)
        levels = np.append(abar[timesteps], 1.0)
        is_large = self.diffusion.model_var_type is ModelVarType.FIXED_LARGE
        return Plan(timesteps, METHODS[self.method](levels, self.eta, is_large))

    def _chain(
        self,
        x: Tensor,
        plan: Plan,
        noise: NoiseFunction,
        cond_fn: GradientFunction | None,
        progress: Progress,
        model_kwargs: dict,
    ) -> Tensor:
        before = None
        num_steps = len(plan.timesteps)
        for left in falling_steps(num_steps, progress):
            k = num_steps - 1 - left
            t = torch.full((x.shape[0],), int(plan.timesteps[k]), device=x.device)
            draw = functools.partial(noise, k + 1)
            with trusted():
                x, before = self._step(x, before, t, plan.coefficients[k], draw, cond_fn, model_kwargs)
        return x

    def _step(
        self,
        x: Tensor,
        before: Tensor | None,
        t: Tensor,
        coefficients: np.ndarray,
        noise: Callable[[], Tensor],
        cond_fn: GradientFunction | None,
        model_kwargs: dict,
    ) -> tuple[Tensor, Tensor]:
        """x' and x_0. Noise is asked for only where it counts."""
        a, b, c, s = map(float, coefficients)
        out = self.diffusion.p_mean_variance(x, t, model_kwargs=model_kwargs)
        shift = None
        if cond_fn is not None and self.method == "ddpm":
            shift = s**2 * cond_fn(x, self.diffusion.scale_timesteps(t)).to(x.dtype)
        elif cond_fn is not None:
            out = self.diffusion.condition_score(cond_fn, out, x, t)
        clean = out["pred_xstart"]
        after = a * x + b * clean
        if c:
            after = after + c * before
        if s:
            after = after + s * noise()
        if shift is not None:
            after = after + shift
        return self._in_subspace(after, model_kwargs), clean

    def _in_subspace(self, x: Tensor, model_kwargs: dict) -> Tensor:
        return self.diffusion.project_to_subspace(x, model_kwargs["batch"]) if self.diffusion.mode == "uncond" else x

    def _global_noise(self, shape: Sequence[int]) -> NoiseFunction:
        parameter = next(self.diffusion.denoise_network.parameters(), None)
        dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
        return lambda k: torch.randn(*shape, device=self.diffusion.device, dtype=dtype)
