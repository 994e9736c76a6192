"""Flow matching: priors, solvers and losses in closed form, symmetry, masks, and the chain captured beside eager."""

import itertools
import math

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_FRAMES, NUM_STEPS, case
from scipy import stats
from tape import TapeRecorder
from test_chain import captured, eager, seeded, tame
from test_gaussian_closed_form import assert_draws_are
from tolerances import assert_same
from torch import nn

from geotdm_fast import Flow, Sampler
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.diffusion.flow import PREDICTIONS
from geotdm_fast.diffusion.flow_priors import FLOW_PRIORS, moving_mean, walk_factor
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS, flow_levels
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.nn import EGTN

S, DIM = 40, 2


def kwargs_of(num_nodes: int, ranges=((0, 3),), num_frames: int = 7) -> dict:
    """Every node is a graph of its own, with its own given frames."""
    x = torch.randn(num_nodes, DIM, num_frames, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return {
        "h": torch.zeros(num_nodes, 1),
        "edge_index": torch.empty(2, 0, dtype=torch.int64),
        "edge_attr": None,
        "batch": torch.arange(num_nodes),
        "cond_mask": cond_mask(ranges, num_frames),
        "x_given": 3 * x.cumsum(dim=2),
    }


def normal(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Exact(nn.Module):
    """The mean of u or of x_start - x_ref, given x_t, where x_start - x_ref ~ mean + N(0, spread^2 Sigma) and the
    prior is N(0, sigma^2 Sigma) there: for any Sigma

        E[x_start - x_ref | x_t] = mean + (1 - l) spread^2 / v (x_t - x_ref - (1 - l) mean)

    with v = (1 - l)^2 spread^2 + l^2 sigma^2.
    """

    learn_ref_frame = False

    def __init__(self, mean: float, spread: float):
        super().__init__()
        self.mean, self.spread, self.flow = mean, spread, None

    def forward(self, diffusion_t, x, **model_kwargs):
        flow, level = self.flow, float(diffusion_t[0]) / S
        x = x if flow.mode == "uncond" else x - flow.get_ref_frame(model_kwargs)
        variance = (1 - level) ** 2 * self.spread**2 + level**2 * flow.sigma**2
        clean = self.mean + (1 - level) * self.spread**2 / variance * (x - (1 - level) * self.mean)
        return {"start_x": clean, "displacement": clean - x, "velocity": (clean - x) / level}[flow.prediction], None


def exact_flow(mean=0.7, spread=0.4, **options) -> Flow:
    network = Exact(mean, spread)
    network.flow = flow = Flow(network, S, "cpu", **{"prior": "walk", "sigma": 1.5} | options)
    return flow


# --- priors -----------------------------------------------------------------------------------------------------------


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


# --- chains in closed form --------------------------------------------------------------------------------------------


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
    flow, kwargs, z = exact_flow(prediction=prediction), kwargs_of(5), normal(5, DIM, 4)
    drawn = Sampler(flow, method, calls, spacing).draw(z.shape, kwargs, noise=lambda k: z) - flow.get_ref_frame(kwargs)
    # The flow of a Gaussian: deviations grow as the standard deviation.
    exact = 0.7 + 0.4 / 1.5 * flow.start(z, kwargs)
    return float((drawn - exact).norm())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("heun", 2)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", FLOW_SPACINGS)
def test_orders_of_the_solvers(method, order, prediction, spacing):
    """A walk to a narrower, shifted one: what halving the steps does to the error."""
    global S
    before, S = S, 4000  # calls are at most S
    try:
        errors = [flow_error(method, calls, prediction, spacing) for calls in (41, 81, 161, 321)]
    finally:
        S = before
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
            r"Sampler: spacing \(of a flow\) must be one of uniform, quadratic, early; got 'log_snr'",
        ),
        ({"eta": 0.5}, "eta is of the methods 'ddim' and 'ays_ddim' alone"),
        ({"num_steps": S + 1}, r"num_steps must be in 1\.\.40"),
    ):
        with pytest.raises(ValueError, match=message):
            Sampler(flow, **options)


# --- networks ---------------------------------------------------------------------------------------------------------


def network_flow(domain="nbody", prior="walk", mask="prefix", device="cpu", dtype=torch.float32, **options):
    """A flow with a small network, a shape and model_kwargs; prior None: unconditional."""
    batch = case(domain).batch.to(device, dtype)
    model_kwargs, num_noisy, mode = batch.model_kwargs(), NUM_FRAMES, "uncond"
    if prior is not None:
        given, mode = cond_mask(MASKS[mask], NUM_FRAMES), "cond"
        num_noisy = len(frames_of(given).noisy)
        model_kwargs |= {"cond_mask": given.to(device), "x_given": batch.x}
    sizes = {"num_w": num_noisy, "hidden_dim": 16, "pre_norm": True}
    network: EGTN = tame(case(domain).network(learned=prior == "learned", dtype=dtype, **sizes)).to(device)
    flow = Flow(network, NUM_STEPS, device, mode=mode, prior=prior, **{"sigma": 0.3} | options)
    return flow, (len(batch.x), batch.x.shape[1], num_noisy), model_kwargs


CASES = [
    *({"prior": prior, "prediction": "velocity" if prior == "walk" else "start_x"} for prior in FLOW_PRIORS),
    {"mask": "holes", "domain": "pedestrian", "rescale_timesteps": True},
    {"mask": "ends", "domain": "molecule", "prior": "velocity"},
    {"prior": None},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("method", ["heun", "ab2"])
def test_captured_is_eager(options, method, device):
    flow, shape, kwargs = network_flow(device=device, **options)
    run = lambda made: seeded(lambda: Sampler(made, method, 7).draw(shape, kwargs))
    graph, expected = captured(flow), run(eager(flow))
    found = [run(graph) for _ in range(2)]
    assert len(graph.captures) == 1 and expected.isfinite().all()
    assert_same(found[0], found[1], 0.0)
    assert_same(found[0], expected, 1e-5)
    if device == "cpu":
        assert graph.captures.record.replays == 14


def test_all_solvers_share_a_capture_that_reads_nothing_else(device):
    flow, shape, kwargs = network_flow(device=device)
    graph = captured(flow)
    for method, calls in (("euler", 5), ("heun", 7), ("ab2", 3)):
        run = lambda made, m=method, n=calls: seeded(lambda: Sampler(made, m, n).draw(shape, kwargs))
        assert_same(run(graph), run(eager(flow)), 1e-5)
        refine = lambda made, m=method: seeded(
            lambda: Sampler(made, m, 4).refine(kwargs["x_given"][..., 3:], 9, kwargs)
        )
        assert_same(refine(graph), refine(eager(flow)), 1e-5)
    assert len(graph.captures) == 1
    if isinstance(graph.captures.record, TapeRecorder):
        from geotdm_fast.ops import time_phases

        (tape,) = graph.captures.record.tapes
        (capture,) = graph.captures._known.values()
        assert not tape.read_from_outside((capture.inputs, *time_phases._tables.values()))


@pytest.mark.parametrize("prior", [*FLOW_PRIORS, None])
@pytest.mark.parametrize("mask", MASKS)
def test_samples_turn_and_move_with_the_given_frames(prior, mask):
    flow, shape, kwargs = network_flow(prior=prior, mask=mask, dtype=torch.float64)
    q, _ = torch.linalg.qr(normal(3, 3, seed=1))
    z = normal(*shape)
    turn = lambda x: torch.einsum("de,net->ndt", q, x)
    moved = kwargs | ({} if prior is None else {"x_given": turn(kwargs["x_given"]) + 2.5})
    for method in FLOW_SOLVERS:
        drawn = Sampler(flow, method, 5).draw(shape, kwargs, noise=lambda k: z)
        there = Sampler(flow, method, 5).draw(shape, moved, noise=lambda k: turn(z))
        assert_same(there, turn(drawn) + (0 if prior is None else 2.5), 1e-9)
    x_start = z
    loss = flow.training_losses(x_start, torch.full((shape[0],), 7.3), kwargs, z)["loss"]
    moved_start = turn(x_start) + (0 if prior is None else 2.5)
    assert_same(flow.training_losses(moved_start, torch.full((shape[0],), 7.3), moved, turn(z))["loss"], loss, 1e-9)


def test_frames_to_draw_are_not_looked_at():
    for prior in FLOW_PRIORS:
        flow, shape, kwargs = network_flow(prior=prior, mask="holes")
        noisy = list(frames_of(kwargs["cond_mask"]).noisy)
        hidden = kwargs["x_given"].clone()
        hidden[..., noisy] = float("nan")
        z = normal(*shape).float()
        draw = lambda x, flow=flow, shape=shape, kwargs=kwargs, z=z: Sampler(flow, "ab2", 4).draw(
            shape, kwargs | {"x_given": x}, noise=lambda k: z
        )
        assert torch.equal(draw(hidden), draw(kwargs["x_given"]))


def test_noise_by_counter_makes_the_same_sample(device):
    flow, shape, kwargs = network_flow(device=device)
    who = torch.arange(2)
    noise = TrajectoryNoise(3, who, who, kwargs["batch"], *shape[1:], torch.float32)
    found = Sampler(captured(flow), "heun", 6).draw(shape, kwargs, noise=noise)
    assert_same(found, Sampler(eager(flow), "heun", 6).draw(shape, kwargs, noise=lambda k: noise(k)), 1e-5)


@pytest.mark.parametrize("prior", [*FLOW_PRIORS, None])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_gradients_reach_every_parameter(prior, prediction):
    flow, shape, kwargs = network_flow(prior=prior, prediction=prediction, dtype=torch.float64)
    flow.training_losses(normal(*shape), model_kwargs=kwargs)["loss"].mean().backward()
    names = [name for name, value in flow.denoise_network.named_parameters() if value.grad is None]
    assert names == []
