"""Methods, subsets of steps, noise by counter, and the `Sampler` that puts them together."""

import itertools

import numpy as np
import pytest
import test_gaussian_closed_form as gaussian
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tiny_models import charged_config, tiny_diffusion
from tolerances import FALSE_ALARM, assert_same

from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion.gaussian import GaussianDiffusion
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.diffusion.step_subsets import SPACINGS, choose_steps
from geotdm_fast.reference import philox
from geotdm_fast.task import Task

SHAPE = (5, gaussian.DIM, gaussian.NUM_NOISY)


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Of Random123, for philox4x32 with 10 rounds."""
    assert tuple(map(int, philox(tuple(map(torch.tensor, counter)), key))) == expected


def trajectory_noise(graph, sample, sizes, seed=7):
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return TrajectoryNoise(seed, torch.tensor(graph), torch.tensor(sample), batch, 3, 7, torch.float32)


def test_noise_belongs_to_the_trajectory():
    """Another batch, another order, another order of draws: the same numbers; anything else differs."""
    together = trajectory_noise([4, 0, 4, 9], [0, 0, 1, 2], [3, 2, 3, 1])
    alone = trajectory_noise([4], [1], [3])
    for k in (0, 7, 8, 31, 2):
        assert torch.equal(together(k)[5:8], alone(k))
    drawn = torch.stack([together(k) for k in range(20)])
    assert drawn.shape == (20, 9, 3, 7) and drawn.unique().numel() > 0.999 * drawn.numel()
    assert not torch.equal(trajectory_noise([4], [1], [3], seed=7 + 2**32)(0), alone(0))


def test_noise_is_standard_normal():
    noise = trajectory_noise(list(range(200)), [0] * 200, [5] * 200)
    drawn = torch.stack([noise(k) for k in range(10)]).double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    # Neighbours in every axis, and the numbers of one block, are not correlated.
    for axis in range(4):
        pairs = drawn.movedim(axis, 0)
        product = (pairs[1:] * pairs[:-1]).flatten()
        assert abs(float(product.mean())) * len(product) ** 0.5 < stats.norm.isf(FALSE_ALARM / 8)


def test_seed_out_of_range():
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=r"seed must be in 0\.\.2\^64 - 1, got"):
            trajectory_noise([0], [0], [1], seed=seed)


# --- steps ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.data(), st.sampled_from(sorted(SPACINGS)), st.sampled_from(["linear", "cosine"]))
def test_steps_are_distinct_and_fall_from_the_last(total, data, spacing, schedule):
    total = max(total, 21)  # fewer would leave no signal in `linear`
    count = data.draw(st.integers(1, total))
    abar = GaussianDiffusion(schedule, total).alphas_cumprod
    steps = choose_steps(count, abar, spacing)
    assert len(steps) == count and steps[0] == total - 1 and steps[-1] >= 0
    assert (np.diff(steps) < 0).all()


def test_steps_by_hand():
    abar = GaussianDiffusion("linear", 100).alphas_cumprod
    assert choose_steps(5, abar, "uniform").tolist() == [99, 79, 59, 39, 19]
    assert choose_steps(5, abar, "quadratic").tolist() == [99, 63, 35, 15, 3]
    log_snr = choose_steps(10, abar, "log_snr")
    gaps = -np.diff(np.log(abar[log_snr] / (1 - abar[log_snr])))
    assert log_snr[-1] == 0 and (gaps < 0).all()
    for spacing in SPACINGS:
        assert choose_steps(100, abar, spacing).tolist() == list(range(99, -1, -1))
    for count in (0, 101):
        with pytest.raises(ValueError, match=rf"count must be in 1\.\.100, got {count}"):
            choose_steps(count, abar)
    with pytest.raises(ValueError, match="spacing must be one of uniform, quadratic, log_snr"):
        choose_steps(5, abar, "even")


# --- methods ----------------------------------------------------------------------------------------------------------


def falling_levels(diffusion: GaussianDiffusion) -> np.ndarray:
    """Of the whole chain, from the last step to the data."""
    return np.append(diffusion.alphas_cumprod[::-1], 1.0)


@pytest.mark.parametrize("is_large", [True, False])
def test_ddpm_on_all_steps_is_the_models_own_chain(is_large):
    diffusion = GaussianDiffusion("linear", 100)
    rows = METHODS["ddpm"](falling_levels(diffusion), 0.0, is_large)[::-1]
    variance = diffusion.fixed_large_variance if is_large else diffusion.posterior_variance
    np.testing.assert_allclose(rows[:, 0], diffusion.posterior_mean_coef2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows[:, 1], diffusion.posterior_mean_coef1, rtol=1e-9)
    np.testing.assert_allclose(rows[1:, 3] ** 2, variance[1:], rtol=1e-9)
    assert (rows[0, 3], np.abs(rows[:, 2]).max()) == (0, 0)


def test_methods_meet_where_they_are_the_same():
    levels = falling_levels(GaussianDiffusion("cosine", 50))[::5]
    rows = {name: method(levels, 0.0, False) for name, method in METHODS.items()}
    np.testing.assert_allclose(METHODS["ddim"](levels, 1.0, False), rows["ddpm"], rtol=1e-9, atol=1e-12)
    for order_two, order_one in (("dpmpp_2m", "ddim"), ("dpmpp_2m_sde", "ddpm")):
        for place in (0, -1):  # nothing came before; lambda is infinite
            np.testing.assert_allclose(rows[order_two][place], rows[order_one][place], rtol=1e-9, atol=1e-12)
        assert (rows[order_two][1:-1, 2] < 0).all()
    # A step of constant prediction must not depend on the order.
    np.testing.assert_allclose(rows["dpmpp_2m"][:, 1:3].sum(axis=1), rows["ddim"][:, 1], rtol=1e-9)


def moments(name: str, count: int, variance: float) -> tuple[float, float, float]:
    """Slope, mean and variance after `count` steps evenly spaced in lambda, from N(., .) to N(1, variance) nearly.

    The state is (x, x_0 of the step before, 1), so a step is a matrix, and mean and covariance follow exactly.
    """
    half = np.linspace(-3.0, 3.0, count + 1)
    levels = 1 / (1 + np.exp(-2 * half))
    transfer, mean = np.eye(3), np.array([np.sqrt(levels[0]), 0.0, 1.0])
    covariance = np.diag([levels[0] * variance + 1 - levels[0], 0.0, 0.0])
    for abar, (a, b, c, s) in zip(levels[:-1], METHODS[name](levels, 0.0, False), strict=True):
        gain = np.sqrt(abar) * variance / (abar * variance + 1 - abar)
        clean = np.array([gain, 0.0, 1 - gain * np.sqrt(abar)])
        step = np.array([[a, c, 0.0] + 0 * clean, clean, [0.0, 0.0, 1.0]])
        step[0] += b * clean
        transfer, mean = step @ transfer, step @ mean
        covariance = step @ covariance @ step.T
        covariance[0, 0] += s**2
    return transfer[0, 0], mean[0], covariance[0, 0]


def slope(errors: list[float]) -> float:
    """Order of convergence from the errors of n, 2 n, 4 n ... steps: the last pair's."""
    return float(np.log2(errors[-2] / errors[-1]))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_order_of_the_deterministic_methods(name, order):
    """The flow of a Gaussian is known: deviations grow as the marginal's standard deviation."""
    variance, ends = 0.3, 1 / (1 + np.exp([6.0, -6.0]))
    spread = np.sqrt(ends * variance + 1 - ends)
    errors = [abs(moments(name, count, variance)[0] - spread[1] / spread[0]) for count in (40, 80, 160, 320)]
    assert slope(errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("name", "order"), [("ddpm", 1), ("dpmpp_2m_sde", 2)])
def test_weak_order_of_the_random_methods(name, order):
    """How fast a deviation is forgotten, and the variance of what is drawn: ddpm's are of first order."""
    variance, ends = 0.3, 1 / (1 + np.exp([6.0, -6.0]))
    exact = ends[1] * variance + 1 - ends[1]
    errors = [abs(moments(name, count, variance)[2] - exact) for count in (40, 80, 160, 320)]
    assert errors[-1] < errors[-2] < errors[-3] and slope(errors) > order - 0.25


# --- the sampler ------------------------------------------------------------------------------------------------------


def fixed_noise(shape=SHAPE, seed=3):
    draws = torch.randn(200, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda k: draws[k]


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("var_type", ["FIXED_LARGE", "FIXED_SMALL"])
def test_ddpm_on_all_steps_is_p_sample_loop(var_type, guided, monkeypatch):
    diffusion, kwargs, noise = gaussian.diffusion(40, var_type), gaussian.model_kwargs(5), fixed_noise()
    cond_fn = (lambda x, t: 0.3 - x) if guided else None
    rest = itertools.count(1)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise(next(rest)))
    expected = diffusion.p_sample_loop(SHAPE, noise=noise(0), model_kwargs=kwargs, cond_fn=cond_fn)
    drawn = Sampler(diffusion).draw(SHAPE, kwargs, noise=noise, cond_fn=cond_fn)
    if guided:  # at step 0 p_sample_loop moves the mean by a clipped variance that the last step does not have
        last = float(diffusion.fixed_large_variance[0] if var_type == "FIXED_LARGE" else 0)
        assert (drawn - expected).abs().max() < 20 * last + 1e-9
    else:
        assert_same(drawn, expected, 1e-10)


def test_dpmpp_2m_follows_the_flow_of_a_gaussian():
    """Twenty steps of a thousand: the flow's own map of the noise, in the axes of the covariance."""
    total, (mu, sigma) = 1000, gaussian.target()
    diffusion, kwargs, noise = gaussian.diffusion(total, "FIXED_SMALL"), gaussian.model_kwargs(5), fixed_noise()
    values, axes = np.linalg.eigh(sigma)
    abar = diffusion.alphas_cumprod[-1]
    stretch = axes @ np.diag(np.sqrt(values / (abar * values + 1 - abar))) @ axes.T
    start = noise(0).flatten(1).numpy()
    exact = torch.from_numpy(mu + (start - np.sqrt(abar) * mu) @ stretch).unflatten(1, SHAPE[1:])
    centre = kwargs["x_given"][..., : gaussian.NUM_GIVEN].mean(dim=2, keepdim=True)

    def error(method, count):
        drawn = Sampler(diffusion, method, count, "log_snr").draw(SHAPE, kwargs, noise=noise)
        return float((drawn - centre - exact).norm() / exact.norm())

    assert error("dpmpp_2m", 20) < 0.01 < error("ddim", 20)
    assert error("dpmpp_2m", 80) < error("dpmpp_2m", 20) / 4


@pytest.mark.parametrize("method", ["ddim", "dpmpp_2m", "dpmpp_2m_sde"])
def test_guidance_by_the_difference_of_scores_draws_from_the_other_model(method):
    """grad log p(y | x_t) = score of the model moved by delta, minus the model's own."""
    kwargs, noise, delta = gaussian.model_kwargs(5), fixed_noise(), 0.7
    one, other = (gaussian.diffusion(50, "FIXED_SMALL") for _ in range(2))
    root = torch.from_numpy(np.sqrt(one.alphas_cumprod))
    eps_of = lambda t: (one.denoise_network.slope[t] * root[t] * delta).sum(dim=1)  # less by this, moved by delta
    other.denoise_network.constant = torch.stack([one.denoise_network.constant[t] - eps_of(t) for t in range(50)])

    def cond_fn(x, t):
        step = int(t[0])
        return (eps_of(step) / one.sqrt_one_minus_alphas_cumprod[step]).view(SHAPE[1:]).expand_as(x)

    drawn = Sampler(one, method, 12).draw(SHAPE, kwargs, noise=noise, cond_fn=cond_fn)
    assert_same(drawn, Sampler(other, method, 12).draw(SHAPE, kwargs, noise=noise), 1e-9)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_few_steps_keep_mean_and_covariance_near(method):
    draws = 2000
    diffusion, kwargs = gaussian.diffusion(200, "FIXED_SMALL"), gaussian.model_kwargs(draws)
    noise = fixed_noise((draws, *SHAPE[1:]))
    drawn = Sampler(diffusion, method, 50, "log_snr").draw((draws, *SHAPE[1:]), kwargs, noise=noise)
    relative = (drawn - kwargs["x_given"][..., : gaussian.NUM_GIVEN].mean(dim=2, keepdim=True)).flatten(1).numpy()
    mu, sigma = gaussian.target()
    assert np.linalg.norm(relative.mean(axis=0) - mu) < 0.15
    # The small variance is that of a single clean position, so long steps draw too narrow.
    bound = 0.25 if method == "ddpm" else 0.15
    assert np.linalg.norm(np.cov(relative.T) - sigma) < bound * np.linalg.norm(sigma)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_unconditional_samples_have_zero_mean(method):
    kwargs = {name: gaussian.model_kwargs(6)[name] for name in ("h", "edge_index", "edge_attr")}
    kwargs["batch"] = torch.arange(3).repeat_interleave(2)
    network = gaussian.ExactSubspace(GaussianDiffusion("linear", 60).betas)
    kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_SMALL, LossType.MSE
    diffusion = GeoTDM(network, "linear", 60, *kinds, "cpu", mode="uncond")
    sampler, noise = Sampler(diffusion, method, 15), fixed_noise((6, 3, 2))
    for drawn in (
        sampler.draw((6, 3, 2), kwargs, noise=noise),
        sampler.refine(noise(150) + 5, 30, kwargs, noise=noise),
    ):
        assert drawn.isfinite().all() and drawn.abs().max() > 0.1
        assert diffusion.project_to_subspace(drawn, kwargs["batch"]).sub(drawn).abs().max() < 1e-12


@pytest.mark.parametrize("method", sorted(METHODS))
def test_equivariance(method):
    """Turned, mirrored and moved given frames, and turned noise, turn, mirror and move the samples."""
    config = charged_config()
    dataset = open_dataset(config["data"]["test"], progress=False)
    diffusion = tiny_diffusion(config)
    diffusion.denoise_network.double()
    x_start, kwargs = Task.of_config(config).split(collate([dataset[i] for i in range(2)]).to("cpu", torch.float64))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    moved = kwargs | {"x_given": torch.einsum("ij,njt->nit", turn, kwargs["x_given"]) + 3.0}
    noise = fixed_noise(tuple(x_start.shape))
    turned = lambda k: torch.einsum("ij,njt->nit", turn, noise(k))
    sampler = Sampler(diffusion, method, 8)
    drawn = sampler.draw(x_start.shape, kwargs, noise=noise)
    expected = torch.einsum("ij,njt->nit", turn, drawn) + 3.0
    assert_same(sampler.draw(x_start.shape, moved, noise=turned), expected, 1e-9)


def test_refine_on_all_steps_is_optimize(monkeypatch):
    diffusion, kwargs, noise = gaussian.diffusion(40, "FIXED_LARGE"), gaussian.model_kwargs(5), fixed_noise()
    x_start = noise(100)
    rest = itertools.count(1)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise(next(rest)))
    expected = diffusion.optimize(x_start, 10, kwargs, noise=noise(0))
    assert_same(Sampler(diffusion).refine(x_start, 10, kwargs, noise=noise), expected, 1e-10)
    few = Sampler(diffusion, "dpmpp_2m", 4)
    calls = []
    few.refine(x_start, 10, kwargs, noise=noise, progress=lambda: calls.append(1))
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dpm"}, "method must be one of ddpm, ddim, dpmpp_2m, dpmpp_2m_sde"),
        ({"num_steps": 0}, r"num_steps must be in 1\.\.40, the model's steps, got 0"),
        ({"num_steps": 41}, r"num_steps must be in 1\.\.40, the model's steps, got 41"),
        ({"spacing": "even"}, "spacing must be one of uniform, quadratic, log_snr"),
        ({"method": "ddim", "eta": 1.5}, r"eta must be in 0\.\.1, got 1.5"),
        ({"eta": 0.5}, "eta is of the methods 'ddim' and 'ays_ddim' alone, got 0.5 with 'ddpm'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler(gaussian.diffusion(40, "FIXED_LARGE"), **options)
    with pytest.raises(ValueError, match=r"noised_steps must be in 1\.\.40, got 41"):
        Sampler(gaussian.diffusion(40, "FIXED_LARGE")).refine(torch.zeros(SHAPE), 41, {})


@pytest.mark.parametrize("value", [4.0, True, "4"])
def test_steps_are_whole_numbers(value):
    diffusion = gaussian.diffusion(40, "FIXED_LARGE")
    with pytest.raises(TypeError, match=f"Sampler: num_steps must be a whole number, got {value!r}"):
        Sampler(diffusion, "ddim", value)
    with pytest.raises(TypeError, match=f"Sampler.refine: noised_steps must be a whole number, got {value!r}"):
        Sampler(diffusion).refine(torch.zeros(SHAPE), value, {})
    assert Sampler(diffusion, "ddim", np.int32(4)).num_steps == 4


def test_a_ref_frame_that_is_known_is_taken():
    config = charged_config()
    dataset = open_dataset(config["data"]["test"], progress=False)
    diffusion = tiny_diffusion(config)
    x_start, kwargs = Task.of_config(config).split(collate([dataset[0], dataset[1]]))
    sampler = Sampler(diffusion, "ddim", 3)
    start = fixed_noise(tuple(x_start.shape))(0).float()
    x_ref = diffusion.get_ref_frame(kwargs).detach()
    drawn = sampler.draw(start.shape, kwargs, noise=lambda k: start, x_ref=x_ref)
    assert torch.equal(drawn, sampler.draw(start.shape, kwargs, noise=lambda k: start))
    frames = x_ref.expand(start.shape).contiguous()
    assert torch.equal(drawn, sampler.draw(start.shape, kwargs, noise=lambda k: start, x_ref=frames))
    assert not torch.allclose(drawn, sampler.draw(start.shape, kwargs, noise=lambda k: start, x_ref=x_ref + 1))
    for wrong in (x_ref[1:], frames[..., :2], x_ref * torch.inf):
        with pytest.raises(ValueError, match=r"Sampler\.draw: x_ref must"):
            sampler.draw(start.shape, kwargs, x_ref=wrong)
