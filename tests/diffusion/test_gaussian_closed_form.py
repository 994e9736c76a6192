"""The sampler and the likelihood bound on Gaussian data, whose noise prediction and chain are known in closed form.

With x_0 ~ N(mu, Sigma) the best prediction of the noise in x_t is linear in x_t, so every step of ancestral sampling
is an affine map plus noise, and the mean, covariance and bound of the whole chain follow by linear algebra.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tolerances import FALSE_ALARM, assert_same
from torch import Tensor, nn

from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.conditioning import cond_mask
from geotdm_fast.diffusion import get_named_beta_schedule

DIM, NUM_NOISY, NUM_GIVEN = 2, 3, 2
SIZE = DIM * NUM_NOISY
DRAWS = 4000


def target() -> tuple[np.ndarray, np.ndarray]:
    """mu and Sigma of a node's noisy frames, relative to its reference frame; frames and axes are correlated."""
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(SIZE, SIZE)) * 0.5
    return generator.normal(size=SIZE), factor @ factor.T + 0.2 * np.eye(SIZE)


class ExactGaussian(nn.Module):
    """E[eps | x_t] for N(mu, Sigma) relative to the centre of mass of each graph's given frames."""

    learn_ref_frame = False

    def __init__(self, betas: np.ndarray, output: str = "eps"):
        super().__init__()
        mu, sigma = target()
        abar = np.cumprod(1 - betas)
        # eps = gain (x_t - sqrt(abar) mu), one gain for each step.
        noise = np.sqrt(1 - abar)[:, None, None]
        gain = noise * np.linalg.inv(abar[:, None, None] * sigma + (noise**2) * np.eye(SIZE))
        offset = np.sqrt(abar)[:, None] * mu
        if output == "x_0":
            # x_0 = (x_t - noise eps) / sqrt(abar)
            root = np.sqrt(abar)[:, None, None]
            self.slope = torch.from_numpy((np.eye(SIZE) - noise * gain) / root)
            constant = np.einsum("sij,sj->si", noise * gain / root, offset)
        else:
            self.slope = torch.from_numpy(gain)
            constant = -np.einsum("sij,sj->si", gain, offset)
        self.constant = torch.from_numpy(constant)

    def forward(self, diffusion_t: Tensor, x: Tensor, cond_mask: Tensor, x_given: Tensor, **model_kwargs):
        centre = x_given[..., cond_mask.reshape(-1) > 0].mean(dim=2, keepdim=True)
        step = int(diffusion_t[0])
        relative = (x - centre).flatten(1)
        return (relative @ self.slope[step].T + self.constant[step]).unflatten(1, (DIM, NUM_NOISY)), None


def model_kwargs(num_nodes: int) -> dict:
    """Every node is a graph of its own, with its own given frames."""
    generator = torch.Generator().manual_seed(7)
    x_given = torch.randn(num_nodes, DIM, NUM_GIVEN + NUM_NOISY, generator=generator, dtype=torch.float64) * 5
    return {
        "h": torch.zeros(num_nodes, 1),
        "edge_index": torch.empty(2, 0, dtype=torch.int64),
        "edge_attr": None,
        "batch": torch.arange(num_nodes),
        "cond_mask": cond_mask([[0, NUM_GIVEN]], NUM_GIVEN + NUM_NOISY),
        "x_given": x_given,
    }


def diffusion(num_steps: int, var_type: str, output: str = "eps") -> GeoTDM:
    network = ExactGaussian(get_named_beta_schedule("linear", num_steps), output)
    mean_type = ModelMeanType.EPSILON if output == "eps" else ModelMeanType.START_X
    return GeoTDM(network, "linear", num_steps, mean_type, ModelVarType[var_type], LossType.MSE, "cpu")


class Chain:
    """The reverse chain by linear algebra: x_{t-1} = slope x_t + constant + noise_t z."""

    def __init__(self, num_steps: int, var_type: str, mu: np.ndarray | None = None, sigma: np.ndarray | None = None):
        self.mu, self.sigma = mu, sigma = target() if mu is None else (mu, sigma)
        self.size = len(mu)
        self.betas = betas = get_named_beta_schedule("linear", num_steps)
        abar = np.cumprod(1 - betas)
        before = np.append(1.0, abar[:-1])
        self.coef1 = np.sqrt(before) * betas / (1 - abar)
        coef2 = np.sqrt(1 - betas) * (1 - before) / (1 - abar)
        self.abar = abar
        self.posterior = betas * (1 - before) / (1 - abar)
        self.posterior[0] = self.posterior[1]
        self.variance = np.append(self.posterior[0], betas[1:]) if var_type == "FIXED_LARGE" else self.posterior
        self.slope, self.constant, self.left = [], [], []
        for t in range(num_steps):
            # E[x_0 | x_t] = mu + K (x_t - sqrt(abar) mu), Cov[x_0 | x_t] = Sigma - sqrt(abar) K Sigma
            marginal = abar[t] * sigma + (1 - abar[t]) * np.eye(self.size)
            kalman = np.sqrt(abar[t]) * sigma @ np.linalg.inv(marginal)
            self.slope.append(self.coef1[t] * kalman + coef2[t] * np.eye(self.size))
            self.constant.append(self.coef1[t] * (mu - np.sqrt(abar[t]) * kalman @ mu))
            self.left.append(sigma - np.sqrt(abar[t]) * kalman @ sigma)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the samples."""
        mean, covariance = np.zeros(self.size), np.eye(self.size)
        for t in reversed(range(len(self.betas))):
            mean = self.slope[t] @ mean + self.constant[t]
            covariance = self.slope[t] @ covariance @ self.slope[t].T
            covariance = covariance + (self.variance[t] if t > 0 else 0) * np.eye(self.size)
        return mean, covariance

    def bound(self) -> float:
        """The expectation of the bound over data and noise, in nats for one node."""
        last = self.abar[-1]
        second_moment = np.trace(self.sigma) + self.mu @ self.mu
        total = 0.5 * (last * second_moment + self.size * (-last - np.log(1 - last)))
        for t in range(1, len(self.betas)):
            ratio = self.posterior[t] / self.variance[t]
            total += 0.5 * self.size * (ratio - 1 - np.log(ratio))
            total += 0.5 * self.coef1[t] ** 2 / self.variance[t] * np.trace(self.left[t])
        return total + self.decoder(self.variance[0] * np.eye(self.size))

    def decoder(self, covariance: np.ndarray) -> float:
        """The expectation of -log N(x_0; E[x_0 | x_t], covariance) at t = 0."""
        spread = np.trace(np.linalg.solve(covariance, self.left[0]))
        return 0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + spread)


def entropy() -> float:
    """The true expected negative log likelihood."""
    _, sigma = target()
    return 0.5 * (SIZE * (1 + math.log(2 * math.pi)) + np.linalg.slogdet(sigma)[1])


def assert_draws_are(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Whitened, M |mean error|^2 and M/2 |covariance error|^2 are chi-squared: n and n (n + 1) / 2 degrees."""
    num_draws, size = draws.shape
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    statistic = num_draws * (white.mean(axis=1) ** 2).sum()
    assert statistic < stats.chi2.isf(FALSE_ALARM, size), f"mean is off: {statistic:.1f}"
    statistic = num_draws / 2 * ((np.cov(white) - np.eye(size)) ** 2).sum()
    assert statistic < stats.chi2.isf(FALSE_ALARM, size * (size + 1) // 2), f"covariance is off: {statistic:.1f}"


@pytest.mark.parametrize("output", ["eps", "x_0"])
@pytest.mark.parametrize("var_type", ["FIXED_LARGE", "FIXED_SMALL"])
def test_a_chain_is_the_affine_recursion_with_the_same_noise(var_type, output, monkeypatch):
    """Draw by draw, to rounding."""
    num_nodes, num_steps = 5, 40
    kwargs, chain = model_kwargs(num_nodes), Chain(num_steps, var_type)
    generator = torch.Generator().manual_seed(3)
    noises = torch.randn(num_steps + 1, num_nodes, DIM, NUM_NOISY, generator=generator, dtype=torch.float64)
    rest = iter(noises[1:])
    monkeypatch.setattr(torch, "randn_like", lambda x: next(rest))
    shape = (num_nodes, DIM, NUM_NOISY)
    sample = diffusion(num_steps, var_type, output).p_sample_loop(shape, noise=noises[0], model_kwargs=kwargs)
    x = noises[0].flatten(1).numpy()
    for k, t in enumerate(reversed(range(num_steps))):
        x = x @ chain.slope[t].T + chain.constant[t]
        if t > 0:
            x = x + np.sqrt(chain.variance[t]) * noises[k + 1].flatten(1).numpy()
    centre = kwargs["x_given"][..., :NUM_GIVEN].mean(dim=2, keepdim=True)
    assert_same(sample, torch.from_numpy(x).unflatten(1, (DIM, NUM_NOISY)) + centre, 1e-10)


@pytest.mark.parametrize(("num_steps", "var_type"), [(100, "FIXED_LARGE"), (100, "FIXED_SMALL"), (1000, "FIXED_LARGE")])
def test_mean_and_covariance_of_the_samples(num_steps, var_type):
    kwargs = model_kwargs(DRAWS)
    torch.manual_seed(123)
    sample = diffusion(num_steps, var_type).p_sample_loop((DRAWS, DIM, NUM_NOISY), model_kwargs=kwargs)
    centre = kwargs["x_given"][..., :NUM_GIVEN].mean(dim=2, keepdim=True)
    draws = (sample.double() - centre).flatten(1).numpy()
    mean, covariance = Chain(num_steps, var_type).moments()
    assert_draws_are(draws, mean, covariance)
    mu, sigma = target()
    if num_steps == 1000:
        assert_draws_are(draws, mu, sigma)


def test_the_statistics_notice_a_sampler_that_is_off():
    """With 4000 draws, a mean off by a tenth of a standard deviation or 10 % too much variance is found."""
    mean, covariance = target()
    draws = np.random.default_rng(1).multivariate_normal(mean, covariance, DRAWS)
    assert_draws_are(draws, mean, covariance)
    for wrong in (draws + 0.15 * np.sqrt(np.diag(covariance)), mean + (draws - mean) * 1.1):
        with pytest.raises(AssertionError, match="is off"):
            assert_draws_are(wrong, mean, covariance)


def test_the_recursion_nears_the_target_with_more_steps():
    mu, sigma = target()
    errors = []
    for num_steps in (50, 200, 1000):
        mean, covariance = Chain(num_steps, "FIXED_LARGE").moments()
        errors.append(np.linalg.norm(covariance - sigma) / np.linalg.norm(sigma) + np.linalg.norm(mean - mu))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


@pytest.mark.parametrize("var_type", ["FIXED_LARGE", "FIXED_SMALL"])
def test_likelihood_bound(var_type):
    """Its mean over draws is the expectation."""
    num_steps, (mu, sigma) = 100, target()
    torch.manual_seed(5)
    kwargs = model_kwargs(DRAWS)
    centre = kwargs["x_given"][..., :NUM_GIVEN].mean(dim=2, keepdim=True)
    data = torch.randn(DRAWS, SIZE, dtype=torch.float64) @ torch.from_numpy(np.linalg.cholesky(sigma)).T
    x_start = (data + torch.from_numpy(mu)).unflatten(1, (DIM, NUM_NOISY)) + centre
    terms = diffusion(num_steps, var_type).calc_bpd_loop(x_start, model_kwargs=kwargs)
    total = terms["total_bpd"].numpy()
    assert_mean_is(total, Chain(num_steps, var_type).bound())
    assert terms["vb"].shape == terms["mse"].shape == (DRAWS, num_steps)
    assert_same(terms["vb"].sum(dim=1) + terms["prior_bpd"], total)


def assert_mean_is(draws: np.ndarray, expected: float) -> None:
    standard_error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - expected) < stats.norm.isf(FALSE_ALARM / 2) * standard_error


def test_the_bound_nears_the_true_likelihood_with_more_steps():
    """But for the decoder: its variance (the posterior's of the next step) is half the best one as S grows, which costs
    (1 - ln 2) / 2 nats a dimension.
    """
    gaps, rests = [], []
    for num_steps in (100, 400, 1600):
        chain = Chain(num_steps, "FIXED_LARGE")
        decoder = chain.decoder(chain.variance[0] * np.eye(SIZE)) - chain.decoder(chain.left[0])
        gaps.append(chain.bound() - entropy())
        rests.append(gaps[-1] - decoder)
    assert all(0 < gap < SIZE * (1 - math.log(2)) / 2 for gap in gaps)
    assert rests[0] > rests[1] > rests[2] > 0 and rests[2] < 0.005 * entropy()
    assert Chain(400, "FIXED_SMALL").bound() > entropy()


class ExactSubspace(nn.Module):
    """E[eps | x_t] for N(0, variance) in every direction of the zero-mean subspace."""

    learn_ref_frame = False
    variance = 0.6

    def __init__(self, betas: np.ndarray):
        super().__init__()
        abar = np.cumprod(1 - betas)
        self.gain = torch.from_numpy(np.sqrt(1 - abar) / (abar * self.variance + 1 - abar))

    def forward(self, diffusion_t: Tensor, x: Tensor, **model_kwargs):
        return self.gain[diffusion_t][:, None, None] * x + 3.0, None  # the constant must be projected away


def test_unconditional_samples_and_bound():
    """Graphs of two nodes and two frames in 3-D: 9 of 12 directions are left."""
    num_graphs, num_steps, shape = DRAWS // 2, 100, (DRAWS, 3, 2)
    kwargs = {name: model_kwargs(DRAWS)[name] for name in ("h", "edge_index", "edge_attr")}
    kwargs["batch"] = torch.arange(num_graphs).repeat_interleave(2)
    arguments = ("linear", num_steps, ModelMeanType.EPSILON, ModelVarType.FIXED_SMALL, LossType.MSE, "cpu")
    model = GeoTDM(ExactSubspace(get_named_beta_schedule("linear", num_steps)), *arguments, mode="uncond")
    chain = Chain(num_steps, "FIXED_SMALL", np.zeros(9), ExactSubspace.variance * np.eye(9))
    torch.manual_seed(9)
    sample = model.p_sample_loop(shape, noise=torch.randn(shape, dtype=torch.float64), model_kwargs=kwargs)
    graphs = sample.unflatten(0, (num_graphs, 2)).transpose(1, 2).flatten(2)  # [graph, axis, node and frame]
    assert graphs.sum(dim=2).abs().max() < 1e-9
    # An orthonormal basis of what is orthogonal to (1, 1, 1, 1).
    basis = torch.linalg.svd(torch.ones(1, 4, dtype=torch.float64)).Vh[1:]
    assert_draws_are((graphs @ basis.T).flatten(1).numpy(), *chain.moments())

    data = model.project_to_subspace(torch.randn(shape, dtype=torch.float64), kwargs["batch"])
    terms = model.calc_bpd_loop(data * math.sqrt(ExactSubspace.variance), model_kwargs=kwargs)
    total = terms["total_bpd"].reshape(num_graphs, 2).sum(dim=1).numpy()
    # As in the official code, the term of the last noise counts the variance of all 12 directions.
    last = chain.abar[-1]
    assert_mean_is(total, chain.bound() + 0.5 * 3 * (-last - np.log(1 - last)))
