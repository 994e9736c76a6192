"""Alignment, losses, DDIM and rollouts of Align Your Structures."""

import copy
import pickle

import numpy as np
import pytest
import torch
from ays_models import FRAMES, molecules, network
from tolerances import assert_same

from geotdm_fast import GeoTDM, Sampler, ays
from geotdm_fast.ays import OurDiffusion
from geotdm_fast.diffusion import LossType, ModelMeanType, ModelVarType

# The fewest that the linear schedule has room for are 21.
STEPS = 22


class Tame(torch.nn.Module):
    """A network that sees positions of some angstrom and whose eps is bounded.

    Chains of a network that is not trained would grow beyond all numbers.
    """

    learn_ref_frame, use_kabsch = False, False

    def __init__(self, *about):
        super().__init__()
        self.network = network(*about)

    def forward(self, x, original_frames, **about):
        near = lambda v: v.nan_to_num().clamp(-3, 3)
        x_out, h_out = self.network(x=near(x), original_frames=near(original_frames), **about)
        return x_out.tanh(), h_out


def kabsch(a, b):
    """a [M, 3] turned and moved onto b, by numpy."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    u, _, v_t = np.linalg.svd((a - mean_a).T @ (b - mean_b))
    return (a - mean_a) @ (u @ v_t) + mean_b


def test_alignment_of_every_graph_is_kabschs():
    torch.manual_seed(0)
    batch = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2])  # graph 1 has no nodes
    x, y = torch.randn(9, 3, 4, dtype=torch.float64), torch.randn(9, 3, 4, dtype=torch.float64)
    jointly, frames = ays.align_jointly(x, y, batch), ays.align_frames(x, y, batch)
    for graph in (0, 2):
        own = (batch == graph).numpy()
        flat = lambda v: v.numpy()[own].transpose(0, 2, 1).reshape(-1, 3)  # noqa: B023
        assert_same(flat(jointly), kabsch(flat(x), flat(y)), 1e-10)
        for t in range(4):
            assert_same(frames[own, :, t], kabsch(x[own, :, t].numpy(), y[own, :, t].numpy()), 1e-10)
    first = ays.align_to_first_frame(x, batch)
    assert_same(first[..., 0], x[..., 0], 1e-10)
    assert_same(first, ays.align_frames(x, x[..., :1].expand_as(x), batch), 1e-12)


def test_alignment_undoes_a_turn_or_a_reflection():
    torch.manual_seed(1)
    y, batch = torch.randn(7, 3, 5, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 0, 0, 0])
    for sign in (1, -1):
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
        turn = turn * torch.linalg.det(turn) * sign
        x = torch.einsum("de,net->ndt", turn, y) + 4
        assert_same(ays.align_jointly(x, y, batch), y, 1e-10)
        assert_same(ays.align_frames(x, y, batch), y, 1e-10)


def test_alignment_refuses_what_does_not_fit():
    x = torch.zeros(4, 3, 2)
    with pytest.raises(ValueError, match=r"align_frames: x and y must be \[N, 3, T\] alike"):
        ays.align_frames(x, x[..., :1], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"align_jointly: batch must be \[4\], got \[3\]"):
        ays.align_jointly(x, x, torch.zeros(3, dtype=torch.int64))


# --- losses -----------------------------------------------------------------------------------------------------------


def batch_of(given=()):
    x, about = molecules(given=given)
    about.pop("diffusion_t")
    return x, about


def test_the_loss_is_geotdms_without_alignment():
    """The same numbers as `GeoTDM` in mode uncond, with the same draws."""
    model, (x, about) = network("interpolator", "forward"), batch_of((0,))
    ours = OurDiffusion("linear", 50)
    theirs = GeoTDM(
        model, "linear", 50, ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE, "cpu", mode="uncond"
    )
    losses = []
    for run in (
        lambda: ours.training_losses(model, x, model_kwargs=about),
        lambda: theirs.training_losses(x, model_kwargs=about),
    ):
        torch.manual_seed(2)
        losses.append(run()["loss"])
    assert_same(*losses, 1e-6)


@pytest.mark.parametrize(("name", "jointly"), [("interpolator", True), ("structure", False)])
def test_the_target_of_the_aligned_loss_is_the_noise_of_what_the_network_sees(name, jointly):
    model, (x, about) = network(name), batch_of()
    if name == "structure":
        about = {key: value for key, value in about.items() if key not in ("cond_mask", "original_frames")}
    diffusion, batch = OurDiffusion("linear", 1000, use_kabsch_alignment=True), about["batch"]
    noise, t = torch.randn_like(x), torch.tensor([900, 20, 500])[batch]
    seen = []
    model.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs["x"]), with_kwargs=True)
    loss = diffusion.training_losses(model, x, t=t, model_kwargs=about, noise=noise)["loss"]
    x_0, eps = (diffusion.project_to_subspace(v, batch) for v in (x, noise))
    align = ays.align_jointly if jointly else ays.align_frames
    x_t = align(diffusion.q_sample(x_0, t, noise=eps), x_0, batch)
    assert_same(seen[0], x_t, 1e-6)
    abar = torch.from_numpy(diffusion.alphas_cumprod)[t][:, None, None]
    target = (x_t - abar.sqrt() * x_0) / (1 - abar).sqrt()
    out = diffusion.project_to_subspace(model(x=x_t, diffusion_t=t, **about)[0], batch)
    assert_same(loss, (out - target).square().mean(dim=(1, 2)), 1e-5)


@pytest.mark.parametrize("mean_type", [ModelMeanType.START_X, ModelMeanType.PREVIOUS_X])
def test_other_targets(mean_type):
    model, (x, about) = network("interpolator"), batch_of()
    diffusion = OurDiffusion("linear", 50, model_mean_type=mean_type)
    t = torch.full((len(x),), 7)
    noise = torch.randn_like(x)
    loss = diffusion.training_losses(model, x, t=t, model_kwargs=about, noise=noise)["loss"]
    theirs = GeoTDM(model, "linear", 50, mean_type, ModelVarType.FIXED_LARGE, LossType.MSE, "cpu", mode="uncond")
    assert_same(loss, theirs.training_losses(x, t=t, model_kwargs=about, noise=noise)["loss"], 1e-6)


# --- sampling ---------------------------------------------------------------------------------------------------------


def test_official_ddim_by_its_formula():
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    diffusion, batch, eta = OurDiffusion("linear", 40, rescale_timesteps=True), about["batch"], 0.4
    torch.manual_seed(5)
    noise = torch.randn(x.shape)
    torch.manual_seed(6)
    ours = diffusion.ddim_sample_loop(model, x.shape, steps=6, eta=eta, noise=noise, model_kwargs=about)
    torch.manual_seed(6)
    y, abar = noise, diffusion.alphas_cumprod
    for step, behind in zip([39, 31, 23, 16, 8], [31, 23, 16, 8, 0], strict=True):
        y = diffusion.project_to_subspace(y, batch)
        with torch.no_grad():
            told = torch.full((len(x),), step * 1000 / 40)
            eps = diffusion.project_to_subspace(model(x=y, diffusion_t=told, **about)[0], batch)
        x_0 = (y - (1 - abar[step]) ** 0.5 * eps) / abar[step] ** 0.5
        sigma = eta * ((1 - abar[behind]) / (1 - abar[step]) * (1 - abar[step] / abar[behind])) ** 0.5
        y = abar[behind] ** 0.5 * x_0 + (1 - abar[behind] - sigma**2) ** 0.5 * eps + sigma * torch.randn(x.shape)
        y = y * (50 / y.square().mean(dim=(1, 2), keepdim=True).sqrt()).clamp(max=1)
    assert_same(ours, y, 1e-5)


def test_official_ddim_clips_nodes_and_replaces_nan():
    class Wild(torch.nn.Module):
        learn_ref_frame, use_kabsch = False, False

        def forward(self, diffusion_t, x, **_):
            return torch.full_like(x, torch.nan) if int(diffusion_t[0]) < 3 else 1e4 * x, None

    about = batch_of()[1] | {"batch": torch.zeros(10, dtype=torch.int64)}
    out = OurDiffusion("linear", 40).ddim_sample_loop(Wild(), (10, 3, 4), steps=2, model_kwargs=about)
    rms = out.square().mean(dim=(1, 2)).sqrt()
    assert torch.isfinite(out).all() and float(rms.max()) <= 50.001 and float(rms.max()) > 49
    out = OurDiffusion("linear", 21).ddim_sample_loop(Wild(), (10, 3, 4), steps=21, model_kwargs=about)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("steps", [1, 41])
def test_ddim_refuses_impossible_numbers_of_steps(steps):
    with pytest.raises(ValueError, match=r"ddim_timesteps: steps must be in 2\.\.40"):
        ays.ddim_timesteps(40, steps)


def test_chains_repeat_with_their_seed_and_take_their_noise():
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    diffusion, samples = OurDiffusion("linear", STEPS, rescale_timesteps=True), []
    for _ in range(2):
        torch.manual_seed(7)
        samples.append(diffusion.p_sample_loop(model, x.shape, model_kwargs=about))
    assert torch.equal(*samples)
    torch.manual_seed(7)
    noise = torch.randn(x.shape)
    assert torch.equal(diffusion.p_sample_loop(model, x.shape, noise=noise, model_kwargs=about), samples[0])
    torch.manual_seed(7)
    last = [*diffusion.p_sample_loop_progressive(model, x.shape, model_kwargs=about)][-1]
    assert torch.equal(last["sample"], samples[0])


def test_blocks_are_given_the_last_frame_of_the_one_before():
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    diffusion, given = OurDiffusion("linear", STEPS, rescale_timesteps=True), []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: given.append(kwargs["original_frames"][..., 0].clone()), with_kwargs=True
    )
    torch.manual_seed(8)
    sample = diffusion.ar_block_diffusion(model, x.shape, model_kwargs=about, num_blocks=3)
    assert sample.shape == (10, 3, 1 + 3 * (FRAMES - 1)) and len(given) == 3 * STEPS
    assert torch.equal(sample[..., 0], about["original_frames"][..., 0])
    for block in range(3):
        assert torch.equal(given[STEPS * block], sample[..., block * (FRAMES - 1)])
    torch.manual_seed(8)
    by_hand = diffusion.p_sample_loop(model, x.shape, model_kwargs=about)
    assert torch.equal(sample[..., 1:FRAMES], by_hand)


def test_free_blocks_tell_the_first_one_nothing():
    model, (x, about) = Tame("interpolator", "unconditional_forward"), batch_of((0,))
    diffusion, told = OurDiffusion("linear", STEPS, rescale_timesteps=True), []
    model.register_forward_pre_hook(lambda _, __, kwargs: told.append(kwargs["uncond"]), with_kwargs=True)
    sample = diffusion.uncond_block_diffusion(model, x.shape, model_kwargs=about, num_blocks=2)
    assert told == [True] * STEPS + [False] * STEPS and "uncond" not in about
    assert torch.equal(sample[..., 0], about["original_frames"][..., 0])


def test_frames_one_by_one():
    model = Tame("egtn", "forward_autoreg")
    x, about = molecules(given=(0,), num_frames=2)
    about.pop("diffusion_t")
    diffusion = OurDiffusion("linear", STEPS, rescale_timesteps=True)
    assert diffusion.autoreg_diffusion(model, x.shape, model_kwargs=about, num_blocks=4).shape == (10, 3, 5)
    free = Tame("egtn", "unconditional_forward_autoreg")
    assert diffusion.uncond_autoreg_diffusion(free, x.shape, model_kwargs=about, num_blocks=2).shape == (10, 3, 3)


def test_interpolation_returns_the_ends_as_they_are():
    model, (x, about) = Tame("interpolator", "interpolation"), batch_of((0, FRAMES - 1))
    sample = OurDiffusion("linear", STEPS, rescale_timesteps=True).interpolation_diffusion(
        model, x.shape, model_kwargs=about
    )
    assert torch.equal(sample[..., [0, -1]], about["original_frames"][..., [0, -1]])


def test_our_sampler_draws_from_these_networks():
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    diffusion = OurDiffusion("linear", 1000)
    sample = Sampler(diffusion.with_network(model), "ddim", 5).draw(x.shape, about)
    assert sample.shape == x.shape and torch.isfinite(sample).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_of_one_that_was_used(copied):
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    diffusion = OurDiffusion("linear", STEPS)
    assert diffusion.with_network(model) is diffusion.with_network(model)
    other = copied(diffusion)
    drawn = []
    for made in (diffusion, other):
        torch.manual_seed(3)
        drawn.append(made.p_sample_loop(model, x.shape, model_kwargs=about))
    assert torch.equal(*drawn) and other.with_network(model) is not diffusion.with_network(model)


def test_the_bound_has_all_its_terms():
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    out = OurDiffusion("linear", STEPS, rescale_timesteps=True).calc_bpd_loop(model, x, model_kwargs=about)
    assert out["vb"].shape == (10, STEPS) and torch.isfinite(out["total_bpd"]).all()
    assert_same(out["total_bpd"], out["vb"].sum(1) + out["prior_bpd"], 1e-6)


def test_what_is_no_network_and_what_is_no_trajectory_is_refused():
    diffusion = OurDiffusion("linear", STEPS)
    with pytest.raises(TypeError, match=r"model must be a network of geotdm_fast\.ays, got Linear"):
        diffusion.p_sample_loop(torch.nn.Linear(1, 1), (1, 3, 1), model_kwargs=batch_of()[1])
    model, (x, about) = Tame("interpolator", "forward"), batch_of((0,))
    with pytest.raises(ValueError, match="num_blocks must be at least 1, got 0"):
        diffusion.ar_block_diffusion(model, x.shape, model_kwargs=about, num_blocks=0)
    with pytest.raises(TypeError, match=r"original_frames'.* must be a tensor"):
        diffusion.ar_block_diffusion(model, x.shape, model_kwargs=about | {"original_frames": None})
    with pytest.raises(ValueError, match=r"lmbda must be in 0\.\.1, got 1.5"):
        ays.scale_alphas({}, 1.5)
