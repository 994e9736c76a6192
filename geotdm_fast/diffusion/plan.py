"""Which steps a chain visits, and what every one of them multiplies."""

from typing import NamedTuple

import numpy as np

from geotdm_fast.diffusion.gaussian import GaussianDiffusion
from geotdm_fast.diffusion.model_types import ModelMeanType, ModelVarType


class Plan(NamedTuple):
    """A chain of n steps, in float64.

    timesteps: [n], falling - int64; of a `Flow` real numbers in (0, S], float64
    coefficients: [n, 6] - the rows (p, q, a, b, c, s) of `geotdm_fast.reference.diffusion_step`
    guidance: [n, 2] - what a gradient of a log probability is multiplied by to move x' and x_0
    """

    timesteps: np.ndarray
    coefficients: np.ndarray
    guidance: np.ndarray

    @property
    def is_random(self) -> bool:
        """Whether any step adds noise."""
        return bool(self.coefficients[:, 5].any())


def ancestral_plan(
    diffusion: GaussianDiffusion, mean_type: ModelMeanType, var_type: ModelVarType, num_steps: int
) -> Plan:
    """The model's own chain from step num_steps - 1 on (Ho et al. 2020, Algorithm 2); guidance moves the mean."""
    timesteps = np.arange(num_steps - 1, -1, -1)
    is_large = var_type is ModelVarType.FIXED_LARGE
    log_variance = diffusion.fixed_large_log_variance if is_large else diffusion.posterior_log_variance_clipped
    variance = diffusion.fixed_large_variance if is_large else diffusion.posterior_variance
    deviation = np.where(timesteps > 0, np.exp(0.5 * log_variance[timesteps]), 0)
    current, clean = diffusion.posterior_mean_coef2[timesteps], diffusion.posterior_mean_coef1[timesteps]
    method = np.stack([current, clean, np.zeros(num_steps), deviation], axis=1)
    guidance = np.stack([variance[timesteps], np.zeros(num_steps)], axis=1)
    return Plan(timesteps, _with_outputs(diffusion, mean_type, timesteps, method), guidance)


def method_plan(
    diffusion: GaussianDiffusion, mean_type: ModelMeanType, timesteps: np.ndarray, method: np.ndarray, moves_mean: bool
) -> Plan:
    """The chain of a method, from its rows (a, b, c, s) [n, 4] for the steps [n].

    moves_mean: guidance moves the mean by s^2 (Sohl-Dickstein et al. 2015); else the prediction of the noise, and so
        x_0 by (1 - abar) / sqrt(abar) (Song et al. 2020)
    """
    abar = diffusion.alphas_cumprod[timesteps]
    on_clean = (1 - abar) / np.sqrt(abar)
    guidance = np.stack([method[:, 1] * on_clean, on_clean], axis=1)
    if moves_mean:
        guidance = np.stack([method[:, 3] ** 2, np.zeros(len(timesteps))], axis=1)
    return Plan(timesteps, _with_outputs(diffusion, mean_type, timesteps, method), guidance)


def _with_outputs(
    diffusion: GaussianDiffusion, mean_type: ModelMeanType, timesteps: np.ndarray, method: np.ndarray
) -> np.ndarray:
    """p and q of x_0 = p x_t + q output before the method's rows."""
    if mean_type is ModelMeanType.EPSILON:
        p, q = diffusion.sqrt_recip_alphas_cumprod[timesteps], -diffusion.sqrt_recipm1_alphas_cumprod[timesteps]
    elif mean_type is ModelMeanType.START_X:
        p, q = np.zeros(len(timesteps)), np.ones(len(timesteps))
    else:
        scale = 1 / diffusion.posterior_mean_coef1[timesteps]
        p, q = -diffusion.posterior_mean_coef2[timesteps] * scale, scale
    return np.concatenate([p[:, None], q[:, None], method], axis=1)
