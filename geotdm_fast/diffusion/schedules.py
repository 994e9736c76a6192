"""Noise schedules by name."""

import itertools
import math
from collections.abc import Callable

import numpy as np

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown


def _linear(num_steps: int) -> np.ndarray:
    """Evenly spaced betas of Ho et al. 2020, scaled so that any number of steps adds about the same noise."""
    scale = 1000 / num_steps
    return np.linspace(scale * 1e-4, scale * 2e-2, num_steps, dtype=np.float64)


def _from_alpha_bar(alpha_bar: Callable[[float], float], max_beta: float = 0.999) -> Callable[[int], np.ndarray]:
    """beta_i = 1 - alpha_bar((i + 1) / S) / alpha_bar(i / S), at most `max_beta`."""

    def betas(num_steps: int) -> np.ndarray:
        grid = [alpha_bar(i / num_steps) for i in range(num_steps + 1)]
        return np.array([min(1 - after / before, max_beta) for before, after in itertools.pairwise(grid)])

    return betas


def _quadratic(num_steps: int) -> np.ndarray:
    """Betas whose square roots are evenly spaced."""
    scale = 1000 / num_steps
    return np.linspace(math.sqrt(scale * 1e-4), math.sqrt(scale * 2e-2), num_steps, dtype=np.float64) ** 2


def _sigmoid(num_steps: int) -> np.ndarray:
    """Betas on a logistic curve from -6 to 6."""
    scale = 1000 / num_steps
    rise = 1 / (1 + np.exp(-np.linspace(-6, 6, num_steps, dtype=np.float64)))
    return scale * (1e-4 + (2e-2 - 1e-4) * rise)


# Nichol & Dhariwal 2021.
_cosine = _from_alpha_bar(lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2)

SCHEDULES = {"linear": _linear, "cosine": _cosine, "quadratic": _quadratic, "sigmoid": _sigmoid}


# Diffusion steps. Their tables are computed in Python: more take long, and no model was trained with so many.
MOST_STEPS = 100_000


def get_named_beta_schedule(name: str, num_steps: int) -> np.ndarray:
    """betas [num_steps] float64 in (0, 1) of the schedule `linear`, `cosine`, `quadratic` or `sigmoid`.

    Raises ValueError for an unknown name, for more than 100,000 steps, and for so few steps that a beta would reach 1
    (no signal would be left).
    """
    check_choice("get_named_beta_schedule: name", name, SCHEDULES)
    if num_steps < 1:
        raise ValueError(f"get_named_beta_schedule: num_steps must be at least 1, got {num_steps}")
    if num_steps > MOST_STEPS:
        raise ValueError(f"get_named_beta_schedule: num_steps must be at most {MOST_STEPS}, got {shown(num_steps)}")
    betas = SCHEDULES[name](num_steps)
    if betas.max() >= 1:
        least = next(steps for steps in itertools.count(num_steps + 1) if SCHEDULES[name](steps).max() < 1)
        raise ValueError(f"get_named_beta_schedule: num_steps must be at least {least} for '{name}', got {num_steps}")
    return betas
