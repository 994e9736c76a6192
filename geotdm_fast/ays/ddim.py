"""The official DDIM sampler of Align Your Structures, with its end and its clip."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from geotdm_fast.diffusion.ays_ddim import clipped, ddim_timesteps, finite
from geotdm_fast.diffusion.chain import GradientFunction
from geotdm_fast.diffusion.inputs import check_loop
from geotdm_fast.diffusion.model_types import ModelMeanType
from geotdm_fast.diffusion.progress import Progress, falling_steps
from geotdm_fast.runtime.checks import check_tensor

if TYPE_CHECKING:
    from geotdm_fast.ays.diffusion import OurDiffusion


class OfficialDDIM:
    """`ddim_sample_loop` of `OurDiffusion`. `geotdm_fast.Sampler` has a DDIM that ends at the data."""

    @torch.no_grad()
    def ddim_sample_loop(
        self,
        model: nn.Module,
        shape: Sequence[int],
        steps: int = 100,
        eta: float = 0.0,
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """Draw the noisy frames [N, 3, M] by `steps` - 1 calls of the network.

            sigma = eta sqrt((1 - abar') / (1 - abar) (1 - abar / abar'))
            x' = sqrt(abar') x_0 + sqrt(1 - abar' - sigma^2) eps + sigma z

        for each pair (tau, tau') of `ddim_timesteps`, at projected x (Song et al. 2021). Then every node with an RMS
        over its 3 M numbers above 50 is scaled down to 50, and NaN becomes 0. z is drawn for eta = 0 too. It ends at
        step 0, not at the data: noise of size sqrt(beta_0) remains.
        eta: 0 .. 1; noise: x_S instead of a draw; cond_fn: as for `p_sample_loop`
        """
        loop = self.ddim_sample_loop_progressive(model, shape, steps, eta, noise, cond_fn, progress, model_kwargs)
        sample = None
        for out in loop:
            sample = out["sample"]
        return cast(Tensor, sample)

    def ddim_sample_loop_progressive(
        self,
        model: nn.Module,
        shape: Sequence[int],
        steps: int = 100,
        eta: float = 0.0,
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yield `sample` and `pred_xstart` after every step."""
        from geotdm_fast.ays.diffusion import with_sorted_graph

        this = cast("OurDiffusion", self)
        model_kwargs = with_sorted_graph(check_loop("ddim_sample_loop", "uncond", "shape", shape, model_kwargs))
        batch = model_kwargs["batch"]
        x = torch.randn(*shape, device=batch.device) if noise is None else noise
        check_tensor("ddim_sample_loop", "noise", x, tuple(shape), integer=False)
        x = x.float()
        tau = ddim_timesteps(this.num_timesteps, steps)
        for left in falling_steps(len(tau) - 1, progress):
            i = len(tau) - 2 - left
            with torch.no_grad():
                x, x_0 = self._ddim_step(model, x, int(tau[i]), int(tau[i + 1]), eta, cond_fn, model_kwargs)
            yield {"sample": x, "pred_xstart": x_0}

    def _ddim_step(
        self,
        model: nn.Module,
        x: Tensor,
        step: int,
        behind: int,
        eta: float,
        cond_fn: GradientFunction | None,
        model_kwargs: dict,
    ) -> tuple[Tensor, Tensor]:
        """x of the step `behind`, and x_0."""
        this = cast("OurDiffusion", self)
        x = this.project_to_subspace(x, model_kwargs["batch"])
        t = torch.full((len(x),), step, device=x.device)
        eps = self._ddim_eps(model, x, t, model_kwargs)
        if cond_fn is not None:
            spread = float(this.sqrt_one_minus_alphas_cumprod[step])
            eps = eps - spread * finite(cond_fn(x, this.scale_timesteps(t)))
        x_0 = finite(this.predict_xstart_from_eps(x, t, eps))
        abar, abar_behind = (float(np.float32(this.alphas_cumprod[s])) for s in (step, behind))
        sigma = eta * ((1 - abar_behind) / (1 - abar) * max(1 - abar / abar_behind, 0.0)) ** 0.5
        direction = max(1 - abar_behind - sigma**2, 0.0) ** 0.5
        z = torch.randn_like(x)
        return finite(clipped(abar_behind**0.5 * x_0 + direction * eps + sigma * z)), x_0

    def _ddim_eps(self, model: nn.Module, x: Tensor, t: Tensor, model_kwargs: dict) -> Tensor:
        this = cast("OurDiffusion", self)
        output, _ = model(x=x, diffusion_t=this.scale_timesteps(t), **model_kwargs)
        output = finite(this.project_to_subspace(output, model_kwargs["batch"]).float())
        if this.model_mean_type is ModelMeanType.EPSILON:
            return output
        if this.model_mean_type is ModelMeanType.PREVIOUS_X:
            output = this.predict_xstart_from_xprev(x, t, output)
        return finite(this.predict_eps_from_xstart(x, t, output))
