"""What follows the gradient in a training step: clipping, Adam, the moving average of the weights."""

from typing import NamedTuple

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamState(NamedTuple):
    """Everything that a step of Adam moves: [P] float32 each but for `step`, [] float32.

    weights, gradient, exp_avg, exp_avg_sq; average: the moving average of the weights, or None
    """

    weights: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    average: Tensor | None


class AdamSettings(NamedTuple):
    """clip: the largest norm of a gradient; weight_decay: of the weights from number first_decayed on."""

    clip: float
    weight_decay: float = 0.0
    first_decayed: int = 0


def adam_step(state: AdamState, coefficients: Tensor, settings: AdamSettings) -> Tensor:
    """One step in place (Kingma and Ba 2015; decay as in Loshchilov and Hutter 2019); the gradient is 0 afterwards.

        n = |g|,  g <- min(1, clip / (n + 1e-6)) g,  m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        w <- (1 - rate weight_decay) w - rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + 1e-8),  a <- a + share (w - a)

    with b = (0.9, 0.999). coefficients: [2] float32 - rate, share
    Returns n [].
    """
    weights, gradient, exp_avg, exp_avg_sq, step, average = state
    rate, share = coefficients
    norm = torch.linalg.vector_norm(gradient)
    gradient.mul_((settings.clip / (norm + 1e-6)).clamp(max=1))
    step.add_(1)
    weights[settings.first_decayed :].mul_(1 - rate * settings.weight_decay)
    exp_avg.lerp_(gradient, 1 - BETAS[0])
    exp_avg_sq.lerp_(gradient * gradient, 1 - BETAS[1])
    of_first, of_second = (1 - beta ** step.double() for beta in BETAS)
    weights.sub_((rate / of_first) * exp_avg / ((exp_avg_sq / of_second).sqrt() + EPSILON))
    gradient.zero_()
    if average is not None:
        average.lerp_(weights, share)
    return norm
