"""Noise schedules: what every one must do, what each is, how few steps are too few."""

import numpy as np
import pytest
from tolerances import assert_same

from geotdm_fast.diffusion import get_named_beta_schedule


@pytest.mark.parametrize("num_steps", [50, 100, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic", "sigmoid"])
def test_schedules_take_all_signal_away_step_by_step(name, num_steps):
    betas = get_named_beta_schedule(name, num_steps)
    assert betas.shape == (num_steps,) and betas.dtype == np.float64
    assert (betas > 0).all() and (betas < 1).all() and (np.diff(betas) > -1e-12).all()
    abar = np.cumprod(1 - betas)
    assert (np.diff(abar) < 0).all() and abar[0] > 0.97 and abar[-1] < 2e-3


def test_schedules_by_formula():
    quadratic = get_named_beta_schedule("quadratic", 1000)
    assert_same(np.diff(np.sqrt(quadratic), 2), np.zeros(998), 1e-12, floor=1)
    assert_same(quadratic[[0, -1]], [1e-4, 2e-2], 1e-12)
    sigmoid = get_named_beta_schedule("sigmoid", 1001)
    assert_same(sigmoid[500], 1000 / 1001 * (1e-4 + 2e-2) / 2, 1e-12)
    logit = np.log((sigmoid - 1000 / 1001 * 1e-4) / (1000 / 1001 * 2e-2 - sigmoid))
    assert_same(logit, np.linspace(-6, 6, 1001), 1e-9)


@pytest.mark.parametrize(("name", "least"), [("linear", 21), ("quadratic", 21), ("sigmoid", 20)])
def test_too_few_steps(name, least):
    get_named_beta_schedule(name, least)
    with pytest.raises(ValueError, match=f"num_steps must be at least {least} for '{name}', got {least - 1}"):
        get_named_beta_schedule(name, least - 1)


def test_unknown_schedules_and_no_steps():
    with pytest.raises(ValueError, match=r"name must be one of linear, cosine.*got 'linaer'; did you mean 'linear'"):
        get_named_beta_schedule("linaer", 100)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        get_named_beta_schedule("cosine", 0)
