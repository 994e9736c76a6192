"""Consistency distillation: its loss against plain PyTorch, its symmetry, and a student whose function is known."""

import copy

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_STEPS, case, diffusion, other
from tolerances import assert_same
from torch import nn

from bench.training.consistency import Consistency
from geotdm_fast import ModelMeanType, Sampler
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights

MEANS = [ModelMeanType.START_X, ModelMeanType.EPSILON, ModelMeanType.PREVIOUS_X]


def changed(network: nn.Module, seed: int) -> nn.Module:
    """A copy with other weights."""
    network, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def made(mask: str | None = "prefix", num_steps: int = 5, **changes):
    """A `Consistency` of three networks of random weights, x_start, model_kwargs; mask None: no given frames."""
    if mask is None:
        network, batch = case("nbody").network(), case("nbody").batch
        teacher, x_start, model_kwargs = diffusion(network, "uncond", **changes), batch.x, batch.model_kwargs()
    else:
        network, x_start, model_kwargs = case("nbody").conditional(MASKS[mask], learned=True)
        teacher = diffusion(network, prior="learned", **changes)
    return Consistency(teacher, changed(network, 1), changed(network, 2), num_steps), x_start, model_kwargs


def plain_loss(loss: Consistency, grid: list[int], x_start, step: int, model_kwargs: dict, z):
    """The loss where all graphs are noised up to the step of the chain `grid` from `step` on, without our tables."""
    teacher, batch = loss.teacher, model_kwargs["batch"]
    abar = lambda t: 1.0 if t is None else float(teacher.alphas_cumprod[t])

    def centred(x):
        return torch.stack([x[i] - x[batch == batch[i]].mean(dim=(0, 2))[:, None] for i in range(len(x))])

    x_ref = torch.zeros_like(x_start[..., :1])
    if teacher.mode == "cond":
        x_ref = teacher.denoise_network(x=None, diffusion_t=None, compute_ref=True, **model_kwargs)
    shaped = (lambda x: x) if teacher.mode == "cond" else centred

    def clean(network, x, t):
        told = torch.full((len(x),), t)
        output = shaped(network(x=x + x_ref, diffusion_t=told, **model_kwargs)[0])
        if teacher.model_mean_type is ModelMeanType.START_X:
            return output
        if teacher.model_mean_type is ModelMeanType.EPSILON:
            return (x - (1 - abar(t)) ** 0.5 * output) / abar(t) ** 0.5
        return teacher.predict_xstart_from_xprev(x, told, output)

    t = min(t for t in grid if t >= step)
    before = max((s for s in grid if s < t), default=None)
    x = abar(t) ** 0.5 * shaped(x_start - x_ref) + (1 - abar(t)) ** 0.5 * shaped(z)
    x_0 = clean(teacher.denoise_network, x, t)
    eps = (x - abar(t) ** 0.5 * x_0) / (1 - abar(t)) ** 0.5
    x_next = abar(before) ** 0.5 * x_0 + (1 - abar(before)) ** 0.5 * eps
    target = x_next if before is None else clean(loss.average, x_next, before)
    return (clean(loss.denoise_network, x, t) - target).square().mean(dim=(1, 2))


@pytest.mark.parametrize("mean_type", MEANS)
@pytest.mark.parametrize("mask", [*MASKS, None])
def test_the_loss_is_its_formula(mask, mean_type):
    loss, x_start, model_kwargs = made(mask, model_mean_type=mean_type)
    z, grid = other(x_start), [4, 9, 14, 19, 24]
    with torch.no_grad():
        for step in (0, 4, 5, 11, 24):
            t = torch.full((len(x_start),), step)
            ours = loss.training_losses(x_start, t, model_kwargs, z)
            assert ours["loss"] is ours["mse"]
            assert_same(ours["loss"], plain_loss(loss, grid, x_start, step, model_kwargs, z), 1e-9)
        # Each graph has its own step.
        batch = model_kwargs["batch"]
        mixed = loss.training_losses(x_start, torch.where(batch == 0, 3, 17), model_kwargs, z)["loss"]
        for graph, step in ((0, 3), (1, 17)):
            own = plain_loss(loss, grid, x_start, step, model_kwargs, z)
            assert_same(mixed[batch == graph], own[batch == graph], 1e-9)


def test_a_chain_of_one_step_pulls_towards_the_teachers_prediction():
    loss, x_start, model_kwargs = made(num_steps=1, model_mean_type=ModelMeanType.START_X)
    z, t = other(x_start), torch.full((len(x_start),), 7)
    with torch.no_grad():
        ours = loss.training_losses(x_start, t, model_kwargs, z)["loss"]
        assert_same(ours, plain_loss(loss, [24], x_start, 7, model_kwargs, z), 1e-9)
    own = Consistency(loss.teacher, loss.teacher.denoise_network, loss.average, 1)
    assert float(own.training_losses(x_start, t, model_kwargs, z)["loss"].detach().abs().max()) == 0


@pytest.mark.parametrize("mask", ["prefix", None])
def test_only_the_student_learns_and_its_reference_frame_does_not(mask):
    loss, x_start, model_kwargs = made(mask, model_mean_type=ModelMeanType.START_X)
    loss.training_losses(x_start, None, model_kwargs, None)["loss"].sum().backward()
    for network in (loss.teacher.denoise_network, loss.average):
        assert all(parameter.grad is None for parameter in network.parameters())
    of_frame = ("input_linear_ref", "s_modules_ref", "t_modules_ref", "ws")
    for name, parameter in loss.denoise_network.named_parameters():
        if name.startswith(of_frame):
            assert parameter.grad is None
    grads = [p.grad for p in loss.denoise_network.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads) and any(float(grad.abs().max()) > 0 for grad in grads)


@pytest.mark.parametrize("mask", ["prefix", "holes", None])
def test_the_loss_stays_where_everything_turns_and_moves(mask):
    loss, x_start, model_kwargs = made(mask, model_mean_type=ModelMeanType.START_X)
    z, t = other(x_start), torch.full((len(x_start),), 13)
    turn, _ = torch.linalg.qr(other(torch.zeros(3, 3, dtype=torch.float64)))
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[:, None]
    turned = dict(model_kwargs)
    if mask is not None:
        turned["x_given"] = turn @ model_kwargs["x_given"] + shift
    with torch.no_grad():
        before = loss.training_losses(x_start, t, model_kwargs, z)["loss"]
        after = loss.training_losses(turn @ x_start + shift, t, turned, turn @ z)["loss"]
    assert float(before.min()) > 0
    assert_same(after, before, 1e-9)


class Scaled(nn.Module):
    """A network that takes factor_t (x - x_given) for the data, the given frame being 0."""

    learn_ref_frame = False

    def __init__(self, factors: torch.Tensor):
        super().__init__()
        self.factors = nn.Parameter(factors.float())

    def forward(self, x, diffusion_t, **model_kwargs):
        return self.factors[diffusion_t][:, None, None] * x, None


def test_of_gaussian_data_a_student_learns_the_function_that_is_known():
    """Of data N(0, s^2 I) the flow of probability is x_t / sqrt(abar_t s^2 + 1 - abar_t), times s at the data.

    So f(x, t) = s x / sqrt(abar_t s^2 + 1 - abar_t). The teacher is the mean of the data given x_t,
    sqrt(abar_t) s^2 x_t / (abar_t s^2 + 1 - abar_t). Its chain of 20 steps makes of x_T a little less than the flow.
    """
    spread, num_steps, num_graphs = 2.0, 20, 256
    start_x = {"model_mean_type": ModelMeanType.START_X, "num_timesteps": 100, "prior": "last_frame"}
    abar = diffusion(Scaled(torch.zeros(1)), **start_x).alphas_cumprod
    variance = abar * spread**2 + 1 - abar
    teacher = diffusion(Scaled(torch.from_numpy(np.sqrt(abar) * spread**2 / variance)), **start_x)
    student = copy.deepcopy(teacher.denoise_network)
    weights = FlatWeights(student)
    average = WeightAverage(copy.deepcopy(student), weights, 0.8)
    loss = Consistency(teacher, student, average.network, num_steps)
    about = {"h": torch.zeros(num_graphs, 1), "edge_index": torch.zeros(2, 0, dtype=torch.int64), "edge_attr": None,
             "batch": torch.arange(num_graphs), "cond_mask": torch.tensor([1.0, 0, 0]).view(1, 1, 3),
             "x_given": torch.zeros(num_graphs, 3, 3)}  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([weights.flat], lr=0.03)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 600)
        x_start, z = (torch.randn(num_graphs, 3, 2, generator=generator) for _ in range(2))
        t = torch.randint(0, 100, (num_graphs,), generator=generator)
        weights.backward(loss.training_losses(spread * x_start, t, about, z)["loss"].mean())
        optimizer.step()
        weights.flat.grad.zero_()
        average.update(torch.tensor(0.2))
    learned = average.network.factors.detach().numpy()[4::5]
    flow = spread / np.sqrt(variance[4::5])
    assert np.abs(learned / flow - 1).max() < 0.09
    assert abs(teacher.denoise_network.factors[99].item() / flow[-1]) < 0.1  # where it began
    one = diffusion(average.network, calls=1, **start_x)
    drawn = Sampler(one).draw(z.shape, about, noise=lambda k: z)
    assert_same(drawn, Sampler(teacher, "ddim", num_steps).draw(z.shape, about, noise=lambda k: z), 0.02)
    assert float(drawn.std()) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss: (loss.teacher, 0), r"num_steps must be in 1\.\.25, .* got 0"),
        (lambda loss: (loss.teacher, NUM_STEPS + 1), r"num_steps must be in 1\.\.25, .* got 26"),
        (lambda loss: (loss.teacher, 5, "early"), "spacing"),
        (
            lambda loss: (diffusion(loss.average, prior="learned", calls=1), 5),
            "Consistency: the model must be one of all",
        ),
    ],
)
def test_wrong_chains_are_errors_by_name(call, message):
    loss, _, _ = made()
    teacher, *chain = call(loss)
    with pytest.raises(ValueError, match=message):
        Consistency(teacher, loss.denoise_network, loss.average, *chain)


def test_wrong_arguments_of_the_loss_are_errors_by_name():
    loss, x_start, model_kwargs = made()
    for about, message in (
        ({"t": torch.full((len(x_start),), NUM_STEPS)}, "t must"),
        ({"t": torch.zeros(1, dtype=torch.int64)}, "t must"),
        ({"noise": x_start[..., :1]}, "noise must"),
    ):
        with pytest.raises(ValueError, match=f"training_losses: {message}"):
            loss.training_losses(x_start, model_kwargs=model_kwargs, **about)
