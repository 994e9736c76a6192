"""The algebra of Gaussian diffusion that needs no network (Ho et al. 2020), from float64 tables."""

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.diffusion.schedules import get_named_beta_schedule
from geotdm_fast.runtime.checks import check_tensor
from geotdm_fast.runtime.tensor_cache import normal_tensors


class GaussianDiffusion:
    """q(x_t | x_0) and q(x_{t-1} | x_t, x_0) for a named schedule; attributes are float64 arrays of length S.

    Tensors are [N, D, T]; t is [N] int64, 0 meaning one step of noise. Results have the dtype of the positions.
    """

    def __init__(self, beta_schedule_name: str, num_timesteps: int):
        betas = get_named_beta_schedule(beta_schedule_name, num_timesteps)
        self.num_timesteps = num_timesteps
        self.betas = betas
        self.alphas_cumprod = np.cumprod(1.0 - betas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])
        self.alphas_cumprod_next = np.append(self.alphas_cumprod[1:], 0.0)

        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.one_minus_alphas_cumprod = 1.0 - self.alphas_cumprod
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1.0 - self.alphas_cumprod)
        self.log_one_minus_alphas_cumprod = np.log(1.0 - self.alphas_cumprod)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1.0 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1.0 / self.alphas_cumprod - 1.0)

        remaining = self.one_minus_alphas_cumprod
        self.posterior_variance = betas * (1.0 - self.alphas_cumprod_prev) / remaining
        # The first posterior variance is 0, whose logarithm is not a number to compute with.
        second = self.posterior_variance[min(1, num_timesteps - 1)]
        self.posterior_log_variance_clipped = np.log(np.append(second, self.posterior_variance[1:]))
        self.posterior_mean_coef1 = betas * np.sqrt(self.alphas_cumprod_prev) / remaining
        self.posterior_mean_coef2 = (1.0 - self.alphas_cumprod_prev) * np.sqrt(1.0 - betas) / remaining
        self.fixed_large_variance = np.append(second, betas[1:])
        self.fixed_large_log_variance = np.log(self.fixed_large_variance)
        self._tables: dict[tuple, tuple[np.ndarray, Tensor]] = {}

    def table(self, values: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
        """values[t] in the dtype and shape of `like`: [N] to [N, D, T] by expansion."""
        chosen = self.whole_table(values, t.device, like.dtype)[t]
        return chosen.reshape(-1, *[1] * (like.dim() - 1)).expand(like.shape)

    def whole_table(self, values: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
        """values [S] as a tensor, made once."""
        key = (id(values), device, dtype)
        known = self._tables.get(key)
        # The array is kept beside its tensor, so that its id stays its own; a copy of this object has other ids.
        if known is None or known[0] is not values:
            with normal_tensors():
                known = self._tables[key] = (values, torch.from_numpy(values).to(dtype).to(device))
        return known[1]

    def q_mean_variance(self, x_start: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log variance of q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I)."""
        mean = self.table(self.sqrt_alphas_cumprod, t, x_start) * x_start
        variance = self.table(self.one_minus_alphas_cumprod, t, x_start)
        return mean, variance, self.table(self.log_one_minus_alphas_cumprod, t, x_start)

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise; the noise is drawn when it is not given."""
        if noise is None:
            noise = torch.randn_like(x_start)
        else:
            check_tensor("q_sample", "noise", noise, tuple(x_start.shape), integer=False)
        signal = self.table(self.sqrt_alphas_cumprod, t, x_start) * x_start
        return signal + self.table(self.sqrt_one_minus_alphas_cumprod, t, x_start) * noise

    def q_posterior_mean_variance(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, Eq. 6-7)."""
        coef1, coef2 = self.posterior_mean_coef1, self.posterior_mean_coef2
        mean = self.table(coef1, t, x_t) * x_start + self.table(coef2, t, x_t) * x_t
        variance = self.table(self.posterior_variance, t, x_t)
        return mean, variance, self.table(self.posterior_log_variance_clipped, t, x_t)

    def predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_0 = x_t / sqrt(abar_t) - sqrt(1 / abar_t - 1) eps."""
        return self._predict_xstart_from_eps(x_t, t, eps)

    def predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        """The inverse of `predict_xstart_from_eps`."""
        return self._predict_eps_from_xstart(x_t, t, pred_xstart)

    def predict_xstart_from_xprev(self, x_t: Tensor, t: Tensor, xprev: Tensor) -> Tensor:
        """x_0 whose posterior mean is `xprev`: (xprev - coef2 x_t) / coef1."""
        return self._predict_xstart_from_xprev(x_t, t, xprev)

    # The official names, which subclasses of the official class call and replace.

    def _predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        scaled = self.table(self.sqrt_recip_alphas_cumprod, t, x_t) * x_t
        return scaled - self.table(self.sqrt_recipm1_alphas_cumprod, t, x_t) * eps

    def _predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, pred_xstart: Tensor) -> Tensor:
        scaled = self.table(self.sqrt_recip_alphas_cumprod, t, x_t) * x_t
        return (scaled - pred_xstart) / self.table(self.sqrt_recipm1_alphas_cumprod, t, x_t)

    def _predict_xstart_from_xprev(self, x_t: Tensor, t: Tensor, xprev: Tensor) -> Tensor:
        shifted = xprev - self.table(self.posterior_mean_coef2, t, x_t) * x_t
        return shifted / self.table(self.posterior_mean_coef1, t, x_t)
