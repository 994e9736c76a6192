"""Which of the training's diffusion steps a shorter chain visits."""

from collections.abc import Callable

import numpy as np

from geotdm_fast.runtime.choices import check_choice


def _uniform(count: int, abar: np.ndarray) -> np.ndarray:
    """S i / n - 1 for i = n ... 1: evenly spaced, from the last step (Lin et al. 2024, "trailing")."""
    return len(abar) * np.arange(count, 0, -1) / count - 1


def _quadratic(count: int, abar: np.ndarray) -> np.ndarray:
    """S (i / n)^2 - 1: closer towards the data (Song et al. 2021, App. D.2)."""
    return len(abar) * (np.arange(count, 0, -1) / count) ** 2 - 1


def _log_snr(count: int, abar: np.ndarray) -> np.ndarray:
    """Evenly spaced in log(abar / (1 - abar)), from the last step to the first (Lu et al. 2022)."""
    snr = np.log(abar) - np.log1p(-abar)  # falls with the step
    wanted = np.linspace(snr[-1], snr[0], count)
    return np.interp(wanted, snr[::-1], np.arange(len(abar))[::-1])


SPACINGS: dict[str, Callable[[int, np.ndarray], np.ndarray]] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "log_snr": _log_snr,
}


def choose_steps(count: int, abar: np.ndarray, spacing: str = "uniform") -> np.ndarray:
    """`count` distinct steps of 0 ... S - 1, falling, the first of them S - 1: [count] int64.

    abar: [S] float64 - cumulative signal of each step
    spacing: `uniform`, `quadratic` or `log_snr`, rounded to whole steps and moved apart where two would be one
    Raises ValueError unless 1 <= count <= S, and for an unknown spacing.
    """
    check_choice("spacing", spacing, SPACINGS)
    total = len(abar)
    if not 1 <= count <= total:
        raise ValueError(f"count must be in 1..{total}, got {count}")
    steps = np.rint(SPACINGS[spacing](count, abar)).astype(np.int64)
    ahead = np.arange(count)
    # Each at most one below the step before it, then each at least as many as still follow.
    steps = np.minimum.accumulate(steps + ahead) - ahead
    return np.maximum(steps, count - 1 - ahead)
