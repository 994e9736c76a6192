"""Forecasts without a model are exact on the motions they assume."""

import math

import pytest
import torch

from geotdm_fast.metrics import baseline_forecast

DTYPE = torch.float64


def mask(text: str) -> torch.Tensor:
    return torch.tensor([float(c) for c in text]).view(1, 1, -1)


def motion(degree: int, num_frames: int) -> torch.Tensor:
    """Two nodes in 3-D whose every coordinate is a random polynomial of time."""
    coefficients = torch.randn(2, 3, degree + 1, dtype=DTYPE, generator=torch.Generator().manual_seed(degree))
    time = torch.arange(num_frames, dtype=DTYPE)
    return coefficients @ torch.stack([time**p for p in range(degree + 1)])


@pytest.mark.parametrize(
    ("name", "degree"), [("standing_still", 0), ("constant_velocity", 1), ("constant_acceleration", 2)]
)
def test_extrapolation_is_exact_for_its_own_motion_only(name, degree):
    x = motion(degree, 9)
    given = x.clone()
    given[..., 3:] = math.nan  # the future must not be looked at
    forecast = baseline_forecast(name, given, mask("111000000"))
    torch.testing.assert_close(forecast, x[..., 3:], rtol=1e-12, atol=1e-12)
    x = motion(degree + 1, 9)
    assert (baseline_forecast(name, x, mask("111000000")) - x[..., 3:]).abs().max() > 0.1


def test_extrapolation_by_hand():
    x = torch.tensor([[[0.0, 1.0, 3.0, 0.0, 0.0]]])
    assert baseline_forecast("standing_still", x, mask("11100")).tolist() == [[[3, 3]]]
    assert baseline_forecast("constant_velocity", x, mask("11100")).tolist() == [[[5, 7]]]
    assert baseline_forecast("constant_acceleration", x, mask("11100")).tolist() == [[[6, 10]]]


def test_linear_by_hand_and_for_gaps_of_any_width():
    x = torch.tensor([[[0.0, math.nan, math.nan, 6.0, math.nan, 2.0]]])
    assert baseline_forecast("linear", x, mask("100101")).tolist() == [[[2, 4, 4]]]
    x = motion(1, 30)
    pattern = "11111" + 20 * "0" + "11111"
    torch.testing.assert_close(baseline_forecast("linear", x, mask(pattern)), x[..., 5:25], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_velocities_that_fade_are_fitted(share):
    steps = torch.randn(3, 2, 1, dtype=DTYPE) * torch.tensor([share**k for k in range(8)], dtype=DTYPE)
    x = torch.cat([torch.zeros(3, 2, 1, dtype=DTYPE), steps.cumsum(-1)], dim=-1)
    found = baseline_forecast("persistent_velocity", x[..., :9].clone(), mask("111100000"))
    torch.testing.assert_close(found, x[..., 4:], rtol=1e-12, atol=1e-12)
    back = torch.tensor([[[0.0, 1.0, 0.0, 1.0, 5.0]]])  # to and fro: the fit is below 0, which is taken as none
    assert baseline_forecast("persistent_velocity", back, mask("11110")).tolist() == [[[1.0]]]
    still = torch.ones(2, 3, 5)
    assert torch.equal(baseline_forecast("persistent_velocity", still, mask("11100")), still[..., 3:])


def test_the_mean_of_what_is_given_stands_in_every_gap():
    x = torch.tensor([[[1.0, math.nan, 2.0, math.nan, 6.0, math.nan]]])
    assert baseline_forecast("mean_of_given", x, mask("101010")).tolist() == [[[3, 3, 3]]]
    x = motion(1, 6)
    found = baseline_forecast("mean_of_given", x, mask("111100"))
    torch.testing.assert_close(found, x[..., :4].mean(-1, keepdim=True).expand_as(found), rtol=1e-12, atol=1e-12)


def test_a_flat_mask_is_accepted():
    x = motion(1, 4)
    torch.testing.assert_close(baseline_forecast("constant_velocity", x, mask("1100").view(-1)), x[..., 2:])


@pytest.mark.parametrize(
    ("name", "pattern", "message"),
    [
        ("constant_speed", "1100", "baseline_forecast: name must be one of standing_still.*did you mean"),
        ("linear", "10", r"cond_mask must be \[1, 1, 4\], got \[1, 1, 2\]"),
        ("linear", "1111", "cond_mask must mark some frames as given and some not, got 1111"),
        ("standing_still", "0000", "cond_mask must mark some frames as given and some not, got 0000"),
        ("linear", "1100", "linear needs the first and the last frame given, got cond_mask 1100"),
        ("linear", "0101", "linear needs the first and the last frame given, got cond_mask 0101"),
        ("standing_still", "1001", "standing_still needs the given frames first, got cond_mask 1001; use 'linear'"),
        ("constant_velocity", "1000", "constant_velocity needs 2 given frames, got 1"),
        ("persistent_velocity", "1100", "persistent_velocity needs 3 given frames, got 2"),
        ("constant_acceleration", "1100", "constant_acceleration needs 3 given frames, got 2"),
    ],
)
def test_errors_say_what_is_wrong(name, pattern, message):
    with pytest.raises(ValueError, match=message):
        baseline_forecast(name, torch.zeros(2, 3, 4), mask(pattern))


def test_wrong_positions():
    with pytest.raises(ValueError, match=r"baseline_forecast: x_given must be \[N, D, T\], got \[3, 4\]"):
        baseline_forecast("linear", torch.zeros(3, 4), mask("1001"))
