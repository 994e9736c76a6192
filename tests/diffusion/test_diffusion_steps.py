"""One step of the diffusion: moments, posterior, the three parameterisations, the loss, guidance by formula."""

import numpy as np
import pytest
import torch
from cases import NUM_STEPS, conditional, diffusion, other, unconditional
from tolerances import assert_same

from geotdm_fast import ModelMeanType, ModelVarType
from geotdm_fast.diffusion import get_named_beta_schedule


def test_q_moments_agree_with_samples_of_a_single_chain():
    """q(x_t | x_0) by steps of q(x_t | x_{t-1}), exactly: sqrt(abar) and 1 - abar are products over the steps."""
    model, x_start, _ = conditional()
    t = torch.full((len(x_start),), 7)
    mean, variance, log_variance = model.q_mean_variance(x_start, t)
    signal, noise = 1.0, 0.0
    for beta in get_named_beta_schedule("linear", NUM_STEPS)[:8]:
        signal, noise = signal * np.sqrt(1 - beta), noise * (1 - beta) + beta
    assert_same(mean, signal * x_start, 1e-13)
    assert_same(variance, torch.full_like(x_start, noise), 1e-13)
    assert_same(log_variance, variance.log(), 1e-13)
    eps = other(x_start)
    assert_same(model.q_sample(x_start, t, eps), mean + variance.sqrt() * eps, 1e-13)


def test_posterior_is_bayes_rule():
    """q(x_{t-1} | x_t, x_0) from its two factors, q(x_t | x_{t-1}) and q(x_{t-1} | x_0)."""
    model, x_start, _ = conditional()
    betas = get_named_beta_schedule("linear", NUM_STEPS)
    x_t = other(x_start)
    for step in (1, 9, NUM_STEPS - 1):
        abar = np.prod(1 - betas[:step])
        precision = (1 - betas[step]) / betas[step] + 1 / (1 - abar)
        expected = (np.sqrt(1 - betas[step]) / betas[step] * x_t + np.sqrt(abar) / (1 - abar) * x_start) / precision
        t = torch.full((len(x_start),), step)
        mean, variance, log_variance = model.q_posterior_mean_variance(x_start, x_t, t)
        assert_same(mean, expected, 1e-10)
        assert_same(variance, torch.full_like(x_t, 1 / precision), 1e-10)
        assert_same(log_variance, variance.log(), 1e-12)


def test_predictions_invert_one_another():
    model, x_start, _ = conditional()
    eps = other(x_start)
    for step in (0, 5, NUM_STEPS - 1):
        t = torch.full((len(x_start),), step)
        x_t = model.q_sample(x_start, t, eps)
        assert_same(model.predict_xstart_from_eps(x_t, t, eps), x_start, 1e-8)
        assert_same(model.predict_eps_from_xstart(x_t, t, x_start), eps, 1e-8)
        mean, _, _ = model.q_posterior_mean_variance(x_start, x_t, t)
        assert_same(model.predict_xstart_from_xprev(x_t, t, mean), x_start, 1e-8)


class Same(torch.nn.Module):
    """Predicts a fixed x_0 (relative to the prior), said in the way that `mean_type` asks for."""

    learn_ref_frame = False

    def __init__(self, x_start, mean_type):
        super().__init__()
        self.x_start, self.mean_type, self.model = x_start, mean_type, None

    def forward(self, diffusion_t, x, x_given, **model_kwargs):
        x_t = x - self.model.get_ref_frame(model_kwargs | {"x_given": x_given})
        if self.mean_type is ModelMeanType.START_X:
            return self.x_start, None
        if self.mean_type is ModelMeanType.EPSILON:
            return self.model.predict_eps_from_xstart(x_t, diffusion_t, self.x_start), None
        return self.model.q_posterior_mean_variance(self.x_start, x_t, diffusion_t)[0], None


@pytest.mark.parametrize("mean_type", ModelMeanType)
@pytest.mark.parametrize("var_type", ModelVarType)
def test_the_three_mean_types_say_the_same(mean_type, var_type):
    _, x_start, model_kwargs = conditional("com")
    network = Same(other(x_start), mean_type)
    model = network.model = diffusion(network, prior="com", model_mean_type=mean_type, model_var_type=var_type)
    t = torch.full((len(x_start),), 6)
    x_t = other(x_start, 2)
    out = model.p_mean_variance(x_t, t, model_kwargs=model_kwargs)
    mean, variance, log_variance = model.q_posterior_mean_variance(network.x_start, x_t, t)
    assert_same(out["pred_xstart"], network.x_start, 1e-9)
    assert_same(out["mean"], mean, 1e-9)
    if var_type is ModelVarType.FIXED_LARGE:
        variance = torch.full_like(x_t, get_named_beta_schedule("linear", NUM_STEPS)[6])
        log_variance = variance.log()
    assert_same(out["variance"], variance, 1e-12)
    assert_same(out["log_variance"], log_variance, 1e-12)
    # The prediction is right, so the loss is zero and every chain ends in x_0.
    x_ref = model.get_ref_frame(model_kwargs)
    loss = model.training_losses(network.x_start + x_ref, t=t, model_kwargs=model_kwargs, noise=x_t)["loss"]
    assert loss.abs().max() < 1e-18
    sample = model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs)
    assert_same(sample, network.x_start + x_ref, 1e-9)


def test_loss_is_the_mean_over_a_node_of_the_squared_error_of_the_noise():
    model, x_start, model_kwargs = conditional("com_last")
    noise, t = other(x_start), 3 + model_kwargs["batch"]
    x_ref = model.get_ref_frame(model_kwargs)
    x_t = model.q_sample(x_start - x_ref, t, noise)
    eps, _ = model.denoise_network(diffusion_t=t, x=x_t + x_ref, **model_kwargs)
    losses = model.training_losses(x_start, t=t, model_kwargs=model_kwargs, noise=noise)
    assert_same(losses["loss"], (eps - noise).square().flatten(1).mean(dim=1), 1e-12)
    assert torch.equal(losses["loss"], losses["mse"])


def test_unconditional_loss_is_that_of_the_zero_mean_part():
    """Positions and noise lose their mean over each graph's nodes and frames, and so does the network's output."""
    model, x_start, model_kwargs = unconditional()
    batch, t = model_kwargs["batch"], 3 + model_kwargs["batch"]
    noise = other(x_start) + 2
    means = torch.stack([noise[batch == graph].mean(dim=(0, 2)) for graph in (0, 1)])[batch].unsqueeze(-1)
    assert_same(model.project_to_subspace(noise, batch), noise - means, 1e-13)
    centred = lambda x: model.project_to_subspace(x, batch)
    x_t = model.q_sample(centred(x_start), t, noise - means)
    eps, _ = model.denoise_network(diffusion_t=t, x=x_t, **model_kwargs)
    losses = model.training_losses(x_start + 5, t=t, model_kwargs=model_kwargs, noise=noise)
    assert_same(losses["loss"], (centred(eps) - noise + means).square().flatten(1).mean(dim=1), 1e-12)


def test_variances_of_the_first_and_later_steps():
    """At t = 0 both types have the posterior's of the next step, because its own is 0."""
    betas = get_named_beta_schedule("linear", NUM_STEPS)
    abar = np.cumprod(1 - betas)
    posterior = betas[1:] * (1 - abar[:-1]) / (1 - abar[1:])
    expected = {
        ModelVarType.FIXED_LARGE: np.append(posterior[0], betas[1:]),
        ModelVarType.FIXED_SMALL: np.append(posterior[0], posterior),
    }
    for var_type, variance in expected.items():
        model, x_start, model_kwargs = conditional("com", model_var_type=var_type)
        for step in (0, 1, NUM_STEPS - 1):
            out = model.p_mean_variance(x_start, torch.full((len(x_start),), step), model_kwargs=model_kwargs)
            assert_same(out["log_variance"], torch.full_like(x_start, np.log(variance[step])), 1e-12)


@pytest.mark.parametrize("make", [conditional, unconditional])
def test_prior_term_of_the_bound_by_formula(make):
    """KL(N(sqrt(abar) x_0, 1 - abar) || N(0, 1)) after the last step."""
    model, x_start, model_kwargs = make()
    x_ref = model.get_ref_frame(model_kwargs)
    centred = model.project_to_subspace(x_start, model_kwargs["batch"]) if x_ref is None else x_start - x_ref
    abar = np.prod(1 - get_named_beta_schedule("linear", NUM_STEPS))
    expected = 0.5 * (abar * centred.square() - abar - np.log(1 - abar)).flatten(1).sum(dim=1)
    assert_same(model.calc_bpd_loop(x_start, model_kwargs=model_kwargs)["prior_bpd"], expected, 1e-5)


def test_drawn_steps_and_noise_come_in_the_official_order():
    """Noise first, then one step for each graph."""
    model, x_start, model_kwargs = conditional()
    torch.manual_seed(12)
    drawn = model.training_losses(x_start, model_kwargs=model_kwargs)["loss"]
    torch.manual_seed(12)
    noise = torch.randn_like(x_start)
    t = torch.randint(0, NUM_STEPS, (2,))[model_kwargs["batch"]]
    given = model.training_losses(x_start, t=t, model_kwargs=model_kwargs, noise=noise)["loss"]
    assert torch.equal(drawn, given)


@pytest.mark.parametrize(("rescale", "seen"), [(False, 7), (True, 7 * 1000 / NUM_STEPS)])
def test_rescale_timesteps_is_what_the_network_sees(rescale, seen):
    _, x_start, model_kwargs = conditional("com")
    steps = []

    class Spy(torch.nn.Module):
        learn_ref_frame = False

        def forward(self, diffusion_t, x, **model_kwargs):
            steps.append(diffusion_t)
            return x * 0, None

    model = diffusion(Spy(), rescale_timesteps=rescale)
    model.p_mean_variance(x_start, torch.full((len(x_start),), 7), model_kwargs=model_kwargs)
    assert steps[0].shape == (len(x_start),) and torch.allclose(steps[0].double(), torch.tensor(seen).double())
    assert steps[0].is_floating_point() == rescale


def test_condition_mean_and_score_by_formula():
    model, x_start, model_kwargs = conditional("com", rescale_timesteps=False)
    x_t, t = other(x_start), torch.full((len(x_start),), 6)
    out = {key: value.detach() for key, value in model.p_mean_variance(x_t, t, model_kwargs=model_kwargs).items()}
    gradient = other(x_start, 5)
    cond_fn = lambda x, t: gradient
    beta = get_named_beta_schedule("linear", NUM_STEPS)[6]
    assert_same(model.condition_mean(cond_fn, out, x_t, t), out["mean"] + beta * gradient, 1e-12)
    moved = model.condition_score(cond_fn, out, x_t, t)
    abar = np.prod(1 - get_named_beta_schedule("linear", NUM_STEPS)[:7])
    # eps falls by sqrt(1 - abar) gradient, so x_0 rises by (1 - abar) / sqrt(abar) gradient.
    assert_same(moved["pred_xstart"], out["pred_xstart"] + (1 - abar) / np.sqrt(abar) * gradient, 1e-11)
    assert_same(moved["mean"], model.q_posterior_mean_variance(moved["pred_xstart"], x_t, t)[0], 1e-12)
    assert torch.equal(moved["variance"], out["variance"])
