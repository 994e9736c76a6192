"""Students: their one call against its formula, its loss, its symmetry, and what a student cannot be asked."""

import pytest
import torch
from cases import MASKS, NUM_STEPS, case, diffusion, other
from tolerances import assert_same

from geotdm_fast import Flow, GeoTDM, ModelMeanType, Sampler
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.one_call import one_call, one_call_losses
from geotdm_fast.nn.plain import bare

STUDENT = {"calls": 1, "call_step": 9}


def conditional(mask: str = "prefix", **changes):
    """A conditional diffusion of a network of random weights, x_start, model_kwargs; keywords as for `diffusion`."""
    network, x_start, model_kwargs = case("nbody").conditional(MASKS[mask], learned=True)
    return diffusion(network, prior="learned", **changes), x_start, model_kwargs


def unconditional(**changes):
    """The same without given frames."""
    batch = case("nbody").batch
    return diffusion(case("nbody").network(), "uncond", **changes), batch.x, batch.model_kwargs()


def network_at(diffusion: GeoTDM, x, step: int, model_kwargs: dict):
    t = torch.full((len(x),), float(step), dtype=x.dtype)
    return diffusion.denoise_network(x=x, diffusion_t=t, **model_kwargs)[0]


@pytest.mark.parametrize("mean_type", [ModelMeanType.START_X, ModelMeanType.EPSILON])
@pytest.mark.parametrize("mask", MASKS)
def test_one_call_is_its_formula(mask, mean_type):
    student, x_start, model_kwargs = conditional(mask=mask, model_mean_type=mean_type, **STUDENT)
    z = other(x_start)
    with torch.no_grad():
        x_ref = student.get_ref_frame(model_kwargs)
        abar = float(student.alphas_cumprod[9])
        x = (1 - abar) ** 0.5 * z
        output = network_at(student, x + x_ref, 9, model_kwargs)
        x_0 = output if mean_type is ModelMeanType.START_X else (x - (1 - abar) ** 0.5 * output) / abar**0.5
        drawn = Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z)
        assert_same(drawn, x_ref + x_0, 1e-12)
        assert_same(x_ref + one_call(student, z, x_ref, model_kwargs), x_ref + x_0, 1e-12)


def test_a_student_of_the_last_step_begins_with_noise_alone():
    student, x_start, model_kwargs = conditional(calls=1)
    teacher = GeoTDM(student.denoise_network, "linear", NUM_STEPS, student.model_mean_type, student.model_var_type,
                     student.loss_type, "cpu", prior=student.prior)  # fmt: skip
    z = other(x_start)
    drawn = Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z)
    expected = Sampler(teacher, "dpmpp_2m", 1).draw(x_start.shape, model_kwargs, noise=lambda k: z)
    assert torch.equal(drawn, expected)


def test_one_call_without_given_frames_has_zero_mean():
    student, x_start, model_kwargs = unconditional(model_mean_type=ModelMeanType.START_X, **STUDENT)
    z, batch = other(x_start), model_kwargs["batch"]
    with torch.no_grad():
        x = (1 - float(student.alphas_cumprod[9])) ** 0.5 * student.project_to_subspace(z, batch)
        expected = student.project_to_subspace(network_at(student, x, 9, model_kwargs), batch)
    assert_same(Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z), expected, 1e-12)
    assert_same(one_call(student, z, None, model_kwargs), expected, 1e-12)


def test_all_methods_are_the_same_in_one_call():
    student, x_start, model_kwargs = conditional(**STUDENT)
    z = other(x_start)
    drawn = [Sampler(student, name).draw(x_start.shape, model_kwargs, noise=lambda k: z) for name in METHODS]
    assert not any(Sampler(student, name).plan.is_random for name in METHODS)
    for one in drawn[1:]:
        assert_same(one, drawn[0], 1e-12)


@pytest.mark.parametrize("prediction", ["start_x", "velocity", "displacement"])
def test_one_call_of_a_flow_is_eulers_step_from_the_prior(prediction):
    teacher, x_start, model_kwargs = conditional()
    about = {"prediction": prediction, "prior": "walk", "sigma": 0.3}
    student = Flow(teacher.denoise_network, NUM_STEPS, "cpu", calls=1, **about)
    z = other(x_start)
    with torch.no_grad():
        x_ref = student.get_ref_frame(model_kwargs)
        x = student.start(z, model_kwargs)
        output = network_at(student, x + x_ref, NUM_STEPS, model_kwargs)
        expected = x_ref + (output if prediction == "start_x" else x + output)
        assert_same(Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z), expected, 1e-12)
        assert_same(x_ref + one_call(student, z, x_ref, model_kwargs), expected, 1e-12)
    target = student.training_losses(expected, model_kwargs=model_kwargs, noise=z)["loss"]
    assert float(target.detach().abs().max()) < 1e-20


@pytest.mark.parametrize("make", [conditional, unconditional])
def test_the_loss_is_the_squared_distance_to_the_teachers_draw(make):
    student, x_start, model_kwargs = make(model_mean_type=ModelMeanType.START_X, **STUDENT)
    z, offset = other(x_start), 0.1 * other(x_start, 5)
    if make is unconditional:
        offset = student.project_to_subspace(offset, model_kwargs["batch"])
    drawn = Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z)
    losses = student.training_losses(drawn + offset, model_kwargs=model_kwargs, noise=z)
    assert_same(losses["loss"].detach(), offset.square().mean(dim=(1, 2)), 1e-10)
    # The step that training hands over is not looked at.
    t = torch.zeros(len(x_start), dtype=torch.int64)
    again = student.training_losses(drawn + offset, t, model_kwargs, z)["loss"]
    assert torch.equal(again, losses["loss"])
    losses["loss"].sum().backward()
    grads = [p.grad for p in bare(student.denoise_network).parameters() if p.grad is not None]
    assert any(float(grad.abs().max()) > 0 for grad in grads) and all(grad.isfinite().all() for grad in grads)


def test_draws_turn_with_the_given_frames_and_the_noise():
    student, x_start, model_kwargs = conditional(model_mean_type=ModelMeanType.START_X, **STUDENT)
    z = other(x_start)
    turn, _ = torch.linalg.qr(other(torch.zeros(3, 3, dtype=torch.float64)))
    shift = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)[:, None]
    turned = model_kwargs | {"x_given": turn @ model_kwargs["x_given"] + shift}
    drawn = Sampler(student).draw(x_start.shape, model_kwargs, noise=lambda k: z)
    moved = Sampler(student).draw(x_start.shape, turned, noise=lambda k: turn @ z)
    assert_same(moved, turn @ drawn + shift, 1e-10)
    loss = one_call_losses(student, x_start, model_kwargs, z)["loss"]
    assert_same(
        one_call_losses(student, turn @ x_start + shift, turned, turn @ z)["loss"].detach(), loss.detach(), 1e-9
    )


def test_a_student_refuses_what_it_cannot():
    student, x_start, model_kwargs = conditional(**STUDENT)
    assert not student.has_likelihood
    with pytest.raises(ValueError, match=r"num_steps must be 1, the calls that this student .* got 5"):
        Sampler(student, "dpmpp_2m", 5)
    with pytest.raises(ValueError, match=r"eta must be 0 of a student, whose one call adds no noise, got 0\.5"):
        Sampler(student, "ddim", eta=0.5)
    with pytest.raises(ValueError, match="noise must be what the student's teacher made x_start of, got None"):
        student.training_losses(x_start, model_kwargs=model_kwargs)
    for name, call in (
        ("Sampler.refine", lambda: Sampler(student).refine(x_start, 5, model_kwargs)),
        ("optimize", lambda: student.optimize(x_start, 5, model_kwargs)),
        ("calc_bpd_loop", lambda: student.calc_bpd_loop(x_start, model_kwargs)),
        ("GeoTDM", lambda: student.p_sample_loop(x_start.shape, model_kwargs=model_kwargs)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: the model must be one of all steps, got a student of 1 call"):
            call()
    free, _, _ = unconditional(**STUDENT)
    with pytest.raises(ValueError, match="'ays_ddim' stops before the data"):
        Sampler(free, "ays_ddim")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"calls": 2}, "calls must be 1, of a student, or None, of a model of all steps, got 2"),
        ({"call_step": 3}, "call_step is of a student, with calls=1, got 3 without"),
        ({"calls": 1, "call_step": NUM_STEPS}, f"call_step must be in 0..{NUM_STEPS - 1}, got {NUM_STEPS}"),
    ],
)
def test_wrong_students_are_errors_by_name(about, message):
    with pytest.raises(ValueError, match=message):
        conditional(**about)
