"""Solvers of a flow's equation as rows of coefficients, for the same chain as the methods of a diffusion.

A flow moves from the prior at level 1 to the data at level 0 along dx/d(-level) = u. A call of the network at the level
l gives the velocity u, and a row (a, b, c) the state of the next call,

    x' = a x + b u + c u^before,

u^before being the velocity of the call before. A solver is a function from the number of calls, the first level and the
spacing to the levels of its calls and their rows.
"""

from collections.abc import Callable

import numpy as np

from geotdm_fast.runtime.choices import check_choice

# num_calls, level, spacing -> levels [n] of the calls, rows [n, 3]
Solver = Callable[[int, float, str], tuple[np.ndarray, np.ndarray]]


def _uniform(share: np.ndarray) -> np.ndarray:
    return share


def _quadratic(share: np.ndarray) -> np.ndarray:
    """Closer towards the data."""
    return share**2


def _early(share: np.ndarray) -> np.ndarray:
    """Closer towards the prior: the last step is the longest, and its prediction the nearest to a mean."""
    return 1 - (1 - share) ** 3


FLOW_SPACINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "early": _early,
}


def flow_levels(num_steps: int, level: float, spacing: str) -> np.ndarray:
    """Levels [num_steps + 1] from `level` down to 0. Raises ValueError for a spacing that is not of a flow."""
    check_choice("spacing (of a flow)", spacing, FLOW_SPACINGS)
    return level * FLOW_SPACINGS[spacing](np.arange(num_steps, -1, -1) / num_steps)


def euler(num_calls: int, level: float, spacing: str) -> tuple[np.ndarray, np.ndarray]:
    """x' = x + h u, h = l - l': first order."""
    levels = flow_levels(num_calls, level, spacing)
    return levels[:-1], _rows(-np.diff(levels), 0.0)


def ab2(num_calls: int, level: float, spacing: str) -> tuple[np.ndarray, np.ndarray]:
    """Adams-Bashforth: x' = x + h ((1 + w) u - w u^before), w = h / (2 h^before): second order, one call a step.

    The first step is Euler's. (Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, Sec. III.5.)
    """
    levels = flow_levels(num_calls, level, spacing)
    steps = -np.diff(levels)
    weight = np.zeros(num_calls)
    weight[1:] = steps[1:] / (2 * steps[:-1])
    return levels[:-1], _rows(steps * (1 + weight), -steps * weight)


def heun(num_calls: int, level: float, spacing: str) -> tuple[np.ndarray, np.ndarray]:
    """Heun's method: Euler's step, then x'' = x' + h / 2 (u' - u): second order, two calls a step.

    The last step is Euler's, since at the data a predicted x_start gives no velocity (Karras et al. 2022, Algorithm 1);
    where the number of calls is even so is the step before it.
    """
    num_heun = (num_calls - 1) // 2
    levels = flow_levels(num_calls - num_heun, level, spacing)
    calls, rows = [], []
    for k, step in enumerate(-np.diff(levels)):
        calls.append(levels[k])
        rows.append((1.0, step, 0.0))
        if k < num_heun:
            calls.append(levels[k + 1])
            rows.append((1.0, step / 2, -step / 2))
    return np.array(calls), np.array(rows)


FLOW_SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "ab2": ab2}


def _rows(on_velocity: np.ndarray, on_before: np.ndarray | float) -> np.ndarray:
    return np.stack(np.broadcast_arrays(1.0, on_velocity, on_before), axis=1)
