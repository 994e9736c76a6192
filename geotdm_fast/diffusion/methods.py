"""Sampling methods as coefficients: every one of them is linear in positions, predictions and noise.

A step from the signal level abar to the next one, abar', is

    x' = a x + b x_0 + c x_0^before + s z,

x_0 being the network's prediction of the clean positions, x_0^before that of the step before and z ~ N(0, I). A method
is a function from levels to the rows (a, b, c, s). In its terms alpha = sqrt(abar), sigma = sqrt(1 - abar) and
lambda = log(alpha / sigma).
"""

from collections.abc import Callable

import numpy as np

# levels [n + 1], eta, is_large -> rows [n, 4]
Method = Callable[[np.ndarray, float, bool], np.ndarray]


def ddpm(levels: np.ndarray, eta: float, is_large: bool) -> np.ndarray:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2), on a subset of the steps as in Nichol & Dhariwal 2021, Sec. 4.

    is_large: the variance is beta = 1 - abar / abar' and not that of q(x' | x, x_0)
    """
    now, after = levels[:-1], levels[1:]
    beta = 1 - now / after
    clean = np.sqrt(after) * beta / (1 - now)
    current = (1 - after) * np.sqrt(1 - beta) / (1 - now)
    variance = beta if is_large else beta * (1 - after) / (1 - now)
    return _rows(current, clean, 0, np.where(after < 1, np.sqrt(variance), 0))  # the last step adds no noise


def ddim(levels: np.ndarray, eta: float, is_large: bool) -> np.ndarray:
    """Song et al. 2021 (DDIM), Eq. 12 and 16: deterministic for eta = 0, the small variance of `ddpm` for eta = 1."""
    now, after = levels[:-1], levels[1:]
    noise = eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
    current = np.sqrt((1 - after - noise**2) / (1 - now))
    return _rows(current, np.sqrt(after) - current * np.sqrt(now), 0, noise)


def dpmpp_2m(levels: np.ndarray, eta: float, is_large: bool) -> np.ndarray:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): second order, one call a step.

    First order where nothing came before, and into abar' = 1, where lambda is infinite.
    """
    shrink = _shrink(levels)
    gain, weight = np.sqrt(levels[1:]) * (1 - shrink), _weight_of_before(shrink)
    current = np.sqrt((1 - levels[1:]) / (1 - levels[:-1]))
    return _rows(current, gain * (1 + weight), -gain * weight, 0)


def dpmpp_2m_sde(levels: np.ndarray, eta: float, is_large: bool) -> np.ndarray:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Sec. 5): the same for the reverse SDE."""
    shrink = _shrink(levels)
    gain, weight = np.sqrt(levels[1:]) * (1 - shrink**2), _weight_of_before(shrink)
    current = np.sqrt((1 - levels[1:]) / (1 - levels[:-1])) * shrink
    return _rows(current, gain * (1 + weight), -gain * weight, np.sqrt((1 - levels[1:]) * (1 - shrink**2)))


METHODS: dict[str, Method] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m, "dpmpp_2m_sde": dpmpp_2m_sde}


def _shrink(levels: np.ndarray) -> np.ndarray:
    """exp(-h), h = lambda' - lambda."""
    now, after = levels[:-1], levels[1:]
    return np.sqrt(now * (1 - after) / ((1 - now) * after))


def _weight_of_before(shrink: np.ndarray) -> np.ndarray:
    """1 / (2 r), r = h_before / h; 0 where a step is of first order."""
    weight = np.zeros_like(shrink)
    finite = shrink[1:] > 0
    steps = -np.log(shrink[:-1])
    weight[1:][finite] = -np.log(shrink[1:][finite]) / (2 * steps[finite])
    return weight


def _rows(*columns: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)
