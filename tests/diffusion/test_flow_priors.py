"""Priors of flow matching: their means, their covariances, and bits of a node alone."""

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_FRAMES
from exact_flow import DIM, exact_flow, kwargs_of, normal
from tolerances import assert_same

from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.diffusion.flow_priors import moving_mean, walk_factor


def test_the_mean_of_a_forecast_goes_on_with_the_last_velocity():
    flow, kwargs = exact_flow(), kwargs_of(4)
    x = kwargs["x_given"]
    steps = torch.arange(1, 5, dtype=torch.float64)
    assert_same(flow.get_ref_frame(kwargs), x[..., 2:3] + steps * (x[..., 2] - x[..., 1])[..., None])
    assert torch.equal(exact_flow(prior="last_frame").get_ref_frame(kwargs), x[..., 2:3])
    one = kwargs_of(4, [[0, 1]])
    assert_same(flow.get_ref_frame(one), one["x_given"][..., :1].expand(-1, -1, 6))


def test_the_mean_between_given_frames_is_the_line_that_joins_them():
    flow, kwargs = exact_flow(), kwargs_of(4, [[1, 2], [4, 6]])
    x = kwargs["x_given"]
    expected = [2 * x[..., 1] - x[..., 4], 0, 0, 0]
    expected[0] = x[..., 1] - (x[..., 4] - x[..., 1]) / 3
    expected[1] = x[..., 1] + (x[..., 4] - x[..., 1]) / 3
    expected[2] = x[..., 1] + (x[..., 4] - x[..., 1]) * 2 / 3
    expected[3] = 2 * x[..., 5] - x[..., 4]
    assert_same(flow.get_ref_frame(kwargs), torch.stack(expected, dim=-1))


def test_far_from_the_origin_the_mean_keeps_its_digits():
    flow, kwargs = exact_flow(), kwargs_of(4)
    near = flow.get_ref_frame(kwargs | {"x_given": kwargs["x_given"].float()})
    far = flow.get_ref_frame(kwargs | {"x_given": (kwargs["x_given"] + 1e4).float()})
    assert (far.double() - 1e4 - near.double()).abs().max() < 20 * 1e4 * 2.0**-24


@pytest.mark.parametrize("prior", ["last_frame", "velocity", "walk"])
@pytest.mark.parametrize("ranges", [[[0, 3]], [[1, 4], [19, 23]]])
def test_bits_of_a_node_do_not_depend_on_the_others(ranges, prior):
    """So a sample is the same in a batch of any size."""
    flow, kwargs = exact_flow(prior=prior), kwargs_of(97, ranges, num_frames=33)
    kwargs["x_given"] = (kwargs["x_given"] + 300).float()
    z = normal(97, DIM, len(frames_of(kwargs["cond_mask"]).noisy)).float()
    push = flow.guided_by(lambda x, t: x, kwargs)
    start, mean, pushed = flow.start(z, kwargs), flow.get_ref_frame(kwargs), push(z, z)
    for rows in (slice(0, 1), slice(0, 3), slice(50, 97)):
        few = kwargs | {name: kwargs[name][rows] for name in ("h", "x_given")} | {"batch": torch.arange(len(z[rows]))}
        assert torch.equal(flow.start(z[rows], few), start[rows])
        assert torch.equal(flow.get_ref_frame(few), mean[rows])
        assert torch.equal(flow.guided_by(lambda x, t: x, few)(z[rows], z[rows]), pushed[rows])


@pytest.mark.parametrize("prior", ["last_frame", "velocity", "walk"])
def test_autocast_rounds_no_prior(prior):
    flow, kwargs = exact_flow(prior=prior), kwargs_of(5)
    kwargs["x_given"] = (kwargs["x_given"] + 300).float()
    z = normal(5, DIM, 4).float()
    all_of_it = lambda: (
        flow.start(z, kwargs),
        flow.get_ref_frame(kwargs),
        flow.noised(z, 7, z, kwargs),
        flow.guided_by(lambda x, t: x, kwargs)(z, z),
    )
    expected = all_of_it()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_of_it()
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("ranges", [[[0, 3]], [[4, 7]], [[0, 1], [6, 7]], [[2, 3], [5, 6]]])
def test_a_walk_is_a_walk_and_between_given_frames_a_bridge(ranges):
    """The precision of a walk's frames is D^T D, D x its steps; given frames leave its block of the noisy ones."""
    frames = frames_of(cond_mask(ranges, 8))
    factor, steps = walk_factor(frames), np.diff(np.eye(8), axis=0)
    assert np.allclose(factor, np.tril(factor))
    noisy = list(frames.noisy)
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv((steps.T @ steps)[np.ix_(noisy, noisy)]), atol=1e-9)
    if ranges == [[0, 3]]:
        np.testing.assert_allclose(factor, np.tril(np.ones((5, 5))), atol=1e-12)


@pytest.mark.parametrize("ranges", [*MASKS.values(), [[3, 7]]])
def test_weights_of_the_mean_add_up_to_one(ranges):
    weights = moving_mean(frames_of(cond_mask(ranges, NUM_FRAMES)))
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-12)
