"""Flow matching: chains and losses in closed form, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from exact_flow import DIM, Exact, S, exact_flow, kwargs_of, normal
from scipy import stats
from test_gaussian_closed_form import assert_draws_are
from tolerances import assert_same

from geotdm_fast import Flow, Sampler
from geotdm_fast.conditioning import frames_of
from geotdm_fast.diffusion.flow import PREDICTIONS
from geotdm_fast.diffusion.flow_priors import walk_factor
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS, flow_levels


@pytest.mark.parametrize("method", sorted(FLOW_SOLVERS))
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("prior", ["walk", "velocity", "last_frame"])
def test_where_the_data_are_a_point_the_prior_is_carried_there(method, prediction, prior):
    """In one call and in more; the velocity is the same at every level, so every solver is exact."""
    flow, kwargs, z = exact_flow(spread=0.0, prediction=prediction, prior=prior), kwargs_of(5), normal(5, DIM, 4)
    for calls in (1, 2, 5, 6):
        drawn = Sampler(flow, method, calls).draw(z.shape, kwargs, noise=lambda k: z)
        assert_same(drawn, flow.get_ref_frame(kwargs).expand(z.shape) + 0.7, 1e-7)  # times are told in float32


def flow_error(method: str, calls: int, prediction="velocity", spacing="uniform") -> float:
    # Calls are at most the flow's steps.
    flow = exact_flow(prediction=prediction, num_timesteps=4000)
    kwargs, z = kwargs_of(5), normal(5, DIM, 4)
    drawn = Sampler(flow, method, calls, spacing).draw(z.shape, kwargs, noise=lambda k: z) - flow.get_ref_frame(kwargs)
    # The flow of a Gaussian: deviations grow as the standard deviation.
    exact = 0.7 + 0.4 / 1.5 * flow.start(z, kwargs)
    return float((drawn - exact).norm())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("heun", 2)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", FLOW_SPACINGS)
def test_orders_of_the_solvers(method, order, prediction, spacing):
    """A walk to a narrower, shifted one: what halving the steps does to the error."""
    errors = [flow_error(method, calls, prediction, spacing) for calls in (41, 81, 161, 321)]
    assert math.log2(errors[-2] / errors[-1]) == pytest.approx(order, abs=0.2), errors


def test_spacings():
    assert_same(flow_levels(4, 0.8, "uniform"), [0.8, 0.6, 0.4, 0.2, 0])
    assert_same(flow_levels(4, 1.0, "quadratic"), np.array([16, 9, 4, 1, 0]) / 16)
    assert_same(flow_levels(4, 1.0, "early"), 1 - np.array([0, 1, 8, 27, 64]) / 64)


def test_predictions_make_the_same_chain():
    for method, calls in itertools.product(FLOW_SOLVERS, (1, 4, 7)):
        drawn = []
        for prediction in PREDICTIONS:
            flow, kwargs, z = exact_flow(prediction=prediction), kwargs_of(5), normal(5, DIM, 4)
            drawn.append(Sampler(flow, method, calls).draw(z.shape, kwargs, noise=lambda k, z=z: z))
        for other in drawn[1:]:
            assert_same(other, drawn[0], 1e-6)  # times are told in float32


def test_calls_of_a_chain_and_what_the_network_is_told():
    flow = exact_flow()
    assert Sampler(flow).method == "euler" and Sampler(flow).num_steps == S
    for method, told in {
        "euler": [40, 32, 24, 16, 8],
        "ab2": [40, 32, 24, 16, 8],
        "heun": [40, 40 * 2 / 3, 40 * 2 / 3, 40 / 3, 40 / 3],
    }.items():
        np.testing.assert_allclose(Sampler(flow, method, 5).plan.timesteps, told)
    np.testing.assert_allclose(Sampler(flow, "heun", 4).plan.timesteps, [40, 40 * 2 / 3, 40 * 2 / 3, 40 / 3])
    steps = torch.tensor([40.0, 13.3])
    assert torch.equal(flow.scale_timesteps(steps), steps)
    scaled = exact_flow(rescale_timesteps=True).scale_timesteps(steps.double())
    assert_same(scaled, steps * 25, 1e-6)


@pytest.mark.parametrize("method", sorted(FLOW_SOLVERS))
def test_samples_have_the_distribution_of_the_data(method):
    draws = 3000
    flow, kwargs = exact_flow(), kwargs_of(draws)
    torch.manual_seed(5)
    drawn = Sampler(flow, method, 31).draw((draws, DIM, 4), kwargs, noise=lambda k: normal(draws, DIM, 4))
    relative = (drawn - flow.get_ref_frame(kwargs)).flatten(1).numpy()
    factor = np.kron(np.eye(DIM), np.tril(np.ones((4, 4))))
    # Euler's many steps draw a little too wide: its own variance, from its coefficients.
    flow_map = np.sqrt(spread_after(flow, method, 31))
    assert_draws_are(relative, np.full(DIM * 4, mean_after(flow, method, 31)), flow_map**2 * factor @ factor.T)
    assert flow_map == pytest.approx(0.4, rel=0.15 if method == "euler" else 0.03)


def spread_after(flow: Flow, method: str, calls: int) -> float:
    """Variance of x at the end of a chain in units of L L^T, by the chain of two numbers at +1 and -1."""
    ends = [scalar_chain(flow, method, calls, start) for start in (1.5, -1.5)]
    return ((ends[0] - ends[1]) / 2) ** 2


def mean_after(flow: Flow, method: str, calls: int) -> float:
    return scalar_chain(flow, method, calls, 0.0)


def scalar_chain(flow: Flow, method: str, calls: int, x: float) -> float:
    plan, before = Sampler(flow, method, calls).plan, 0.0
    for t, (p, q, a, b, c, s) in zip(plan.timesteps, plan.coefficients, strict=True):
        level = t / S
        variance = (1 - level) ** 2 * 0.4**2 + level**2 * 1.5**2
        output = 0.7 + (1 - level) * 0.4**2 / variance * (x - (1 - level) * 0.7)
        velocity = p * x + q * output
        x, before = a * x + b * velocity + c * before, velocity
        assert s == 0
    return x


def test_unconditional_chains_start_from_noise_and_have_zero_mean():
    draws = 2000
    kwargs = {name: kwargs_of(2 * draws)[name] for name in ("h", "edge_index", "edge_attr")}
    kwargs["batch"] = torch.arange(draws).repeat_interleave(2)
    flow = exact_flow(mean=0.0, prior=None, mode="uncond", sigma=1.0)
    z = normal(2 * draws, DIM, 2)
    drawn = Sampler(flow, "heun", 31).draw(z.shape, kwargs, noise=lambda k: z)
    graphs = drawn.unflatten(0, (draws, 2)).transpose(1, 2).flatten(2)  # [graph, axis, node and frame]
    assert graphs.sum(dim=2).abs().max() < 1e-9
    basis = torch.linalg.svd(torch.ones(1, 4, dtype=torch.float64)).Vh[1:]
    whitened = ((graphs @ basis.T) / 0.4).flatten()
    assert float(whitened.std()) == pytest.approx(1, abs=0.03)
    assert stats.kstest((whitened / whitened.std()).numpy(), "norm").pvalue > 1e-6
    refined = Sampler(flow, "heun", 5).refine(drawn, 20, kwargs, noise=lambda k: z)
    assert refined.unflatten(0, (draws, 2)).mean(dim=(1, 3)).abs().max() < 1e-9


@pytest.mark.parametrize("method", sorted(FLOW_SOLVERS))
@pytest.mark.parametrize("prior", ["walk", "velocity"])
def test_guidance_by_the_difference_of_scores_draws_from_the_other_model(method, prior):
    """grad log p(y | x_t) = score of the data moved by delta, minus the score: (1 - l) Sigma_l^-1 delta."""
    one, other = exact_flow(prior=prior), exact_flow(mean=0.7 + 0.3, prior=prior)
    kwargs, z = kwargs_of(5), normal(5, DIM, 4)
    factor = torch.from_numpy(walk_factor(frames_of(kwargs["cond_mask"])))
    covariance = factor @ factor.T if prior == "walk" else torch.eye(4, dtype=torch.float64)
    shift = torch.linalg.solve(covariance, torch.full((4,), 0.3, dtype=torch.float64))

    def cond_fn(x, t):
        level = float(t[0]) / S
        return ((1 - level) / ((1 - level) ** 2 * 0.4**2 + level**2 * 1.5**2) * shift).expand_as(x)

    # From within the path it is the other model's chain; from the prior, once the first call is a small part.
    start = one.get_ref_frame(kwargs).expand(z.shape) + 0.2
    refine = lambda flow, fn: Sampler(flow, method, 7).refine(start, 30, kwargs, noise=lambda k: z, cond_fn=fn)
    assert_same(refine(one, cond_fn), refine(other, None), 1e-7)  # times are told in float32
    off = []
    for calls in (10, 20, 40):
        draw = lambda flow, fn, n=calls: Sampler(flow, method, n).draw(z.shape, kwargs, lambda k: z, fn)
        off.append(float((draw(one, cond_fn) - draw(other, None)).norm()))
    assert off[2] < 0.7 * off[1] < 0.5 * off[0]


def test_optimize_is_the_path_back_and_forth():
    flow, kwargs, z = exact_flow(), kwargs_of(5), normal(5, DIM, 4)
    x_ref = flow.get_ref_frame(kwargs)
    x_start = x_ref + 0.1 * z
    found = flow.optimize(x_start, 10, kwargs, noise=z)
    expected = Sampler(flow, "euler", 10).refine(x_start, 10, kwargs, noise=lambda k: z)
    assert_same(found, expected)
    level = 10 / S
    x_t = (1 - level) * (x_start - x_ref) + level * flow.start(z, kwargs)
    assert_same(flow.noised(x_start - x_ref, 10, z, kwargs), x_t)
    with pytest.raises(ValueError, match=r"optimize_step must be in 1\.\.40, got 41"):
        flow.optimize(x_start, 41, kwargs)


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_by_hand(prediction):
    flow, kwargs, z = exact_flow(prediction=prediction), kwargs_of(5), normal(5, DIM, 4)
    x_ref = flow.get_ref_frame(kwargs)
    x_start = x_ref + normal(5, DIM, 4, seed=4)
    prior = 1.5 * z.cumsum(dim=2)
    t = torch.full((5,), 9.5)
    x_t = (1 - 9.5 / S) * (x_start - x_ref) + 9.5 / S * prior
    output, _ = flow.denoise_network(diffusion_t=t, x=x_ref + x_t, **kwargs)
    clean = x_start - x_ref
    target = {"displacement": clean - x_t, "start_x": clean, "velocity": clean - prior}[prediction]
    expected = ((output - target) ** 2).mean(dim=(1, 2))
    found = flow.training_losses(x_start, t, kwargs, z)
    assert_same(found["loss"], expected)
    assert found["mse"] is found["loss"]


def test_times_of_a_loss_are_real_and_checked():
    flow, kwargs = exact_flow(), kwargs_of(6)
    x_start = kwargs["x_given"][..., 3:]
    told = []
    network = flow.denoise_network
    network.register_forward_hook(lambda *_, **__: None)
    flow.scale_timesteps = lambda t: told.append(t.clone()) or t
    flow.training_losses(x_start, model_kwargs=kwargs | {"batch": torch.arange(3).repeat_interleave(2)})
    assert (told[0] % 1 != 0).any() and (told[0] >= 0).all() and (told[0] < S).all()
    assert torch.equal(told[0][::2], told[0][1::2]) and len(told[0].unique()) == 3
    for t in (torch.full((6,), -0.1), torch.full((6,), 40.5)):
        with pytest.raises(ValueError, match=r"t must be in 0\.\.40, got"):
            flow.training_losses(x_start, t, kwargs)
    with pytest.raises(ValueError, match=r"t must be \[6\]"):
        flow.training_losses(x_start, torch.zeros(5), kwargs)


def test_a_flow_has_no_likelihood():
    with pytest.raises(ValueError, match=r"diffusion\.kind flow has no likelihood"):
        exact_flow().calc_bpd_loop(torch.zeros(1, DIM, 4), kwargs_of(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "com"}, "Flow: prior must be one of last_frame, learned, walk, velocity; got 'com'"),
        ({"prior": "learned"}, "Flow: prior 'learned' needs a network built with learn_ref_frame=True"),
        ({"mode": "uncond"}, "Flow: prior must be left out in mode 'uncond'"),
        ({"mode": "both"}, "Flow: mode must be one of cond, uncond; got 'both'"),
        ({"prediction": "epsilon"}, "Flow: prediction must be one of start_x, velocity, displacement; got 'epsilon'"),
        ({"sigma": 0.0}, "Flow: sigma must be above 0 and finite, got 0.0"),
        ({"sigma": float("nan")}, "Flow: sigma must be above 0 and finite, got nan"),
        ({"num_timesteps": 0}, "Flow: num_timesteps must be at least 1, got 0"),
    ],
)
def test_what_a_flow_is_not_made_of(options, message):
    arguments = {"num_timesteps": S, "device": "cpu", "prior": "walk"} | options
    with pytest.raises(ValueError) as error:
        Flow(Exact(0.0, 1.0), **arguments)
    assert message in str(error.value)


def test_what_a_sampler_of_a_flow_refuses():
    flow = exact_flow()
    for options, message in (
        ({"method": "ddpm"}, "Sampler: method must be one of euler, heun, ab2; got 'ddpm'"),
        (
            {"spacing": "log_snr"},
            r"Sampler: spacing must be one of uniform, quadratic, early; got 'log_snr'",
        ),
        ({"eta": 0.5}, "eta is of the methods 'ddim' and 'ays_ddim' alone"),
        ({"num_steps": S + 1}, r"num_steps must be in 1\.\.40"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampler(flow, **options)
