"""Flow matching with networks: symmetry, masks, gradients, and the chain captured beside eager."""

import pytest
import torch
from cases import MASKS, NUM_FRAMES, NUM_STEPS, case
from exact_flow import normal
from tape import TapeRecorder
from test_chain import captured, eager, seeded, tame
from tolerances import assert_same

from geotdm_fast import Flow, Sampler
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.diffusion.flow import PREDICTIONS
from geotdm_fast.diffusion.flow_priors import FLOW_PRIORS
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.nn import EGTN


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
