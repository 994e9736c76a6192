"""Shares of a trained interpolator, moved towards the structure model."""

from collections.abc import Mapping

import torch
from torch import Tensor


def scale_alphas(state_dict: Mapping[str, Tensor], lmbda: float) -> dict[str, Tensor]:
    """A state dict whose shares are those of `lmbda` of the new layers: 1 as trained, 0 the structure model alone.

        alpha becomes logit(lmbda sigmoid(alpha) + 1 - lmbda)

    state_dict: of an interpolator, bare or with `denoiser.` before its keys; other entries come back as they are
    Raises ValueError unless 0 <= lmbda <= 1. At lmbda = 0 alphas are infinite, whose sigmoid is 1.
    """
    if not 0 <= lmbda <= 1:
        raise ValueError(f"scale_alphas: lmbda must be in 0..1, got {lmbda}")
    return {key: _scaled(value, lmbda) if is_alpha(key) else value for key, value in state_dict.items()}


def is_alpha(key: str) -> bool:
    """Whether a key is that of a share: `alpha_x_t.0`, say."""
    return key.removeprefix("denoiser.").startswith("alpha_")


def _scaled(alpha: Tensor, lmbda: float) -> Tensor:
    if lmbda == 1:
        return alpha
    # 1 - sigmoid(alpha') = lmbda (1 - sigmoid(alpha)): by logarithms, since shares come close to 1.
    log_rest = torch.nn.functional.logsigmoid(-alpha.double()) + torch.log(torch.tensor(float(lmbda)).double())
    return (torch.log1p(-log_rest.exp()) - log_rest).to(alpha.dtype)
