"""The thin loop: beside `p_sample` step by step, and captured beside eager; on the CPU with a tape for the graph."""

import copy
import os
import time

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_FRAMES, NUM_STEPS, case, diffusion
from pairwise import pairwise
from tape import TapeRecorder
from tolerances import assert_same

from geotdm_fast import EGTN, GeoTDM, ModelMeanType, ModelVarType, Sampler, backend
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.diffusion.chain import Chain
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.diffusion.plan import ancestral_plan, method_plan
from geotdm_fast.ops import time_phases
from geotdm_fast.runtime.cuda_graphs import CUDAGraphRecorder

PRIORS = ("learned", "com", "com_last", "last_frame", "none")


def tame(network: EGTN) -> EGTN:
    """Weights so small that a chain of an untrained network stays finite in float32."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    return network.eval()


def model(domain="nbody", prior="learned", mask="prefix", device="cpu", dtype=torch.float32, **changes):
    """A diffusion with a bare network of width 16, a shape, and model_kwargs; prior None: unconditional."""
    precision, temporal = changes.pop("precision", "fp32"), changes.pop("temporal", "attention")
    changes = {"model_mean_type": ModelMeanType.START_X} | changes  # a chain of wrong noise runs away
    batch = case(domain).batch.to(device, dtype)
    model_kwargs, num_noisy = batch.model_kwargs(), NUM_FRAMES
    if prior is not None:
        given = cond_mask(MASKS[mask], NUM_FRAMES)
        num_noisy = len(frames_of(given).noisy)
        model_kwargs |= {"cond_mask": given.to(device), "x_given": batch.x}
    sizes = {"num_w": num_noisy, "hidden_dim": 16, "pre_norm": True, "temporal": temporal}
    network = case(domain).network(learned=prior == "learned", dtype=dtype, **sizes)
    network = tame(network).to(device).set_precision(precision)
    mode = "uncond" if prior is None else "cond"
    made = diffusion(network, mode, prior, device=device, **changes)
    return made, (len(batch.x), batch.x.shape[1], num_noisy), model_kwargs


def captured(made: GeoTDM) -> GeoTDM:
    """The same, whose steps are replayed: by the tape, or by CUDA graphs."""
    other = copy.copy(made)
    other.captures = copy.deepcopy(made.captures)
    if torch.device(made.device).type == "cpu":
        other.captures.record = TapeRecorder()
    return other


def eager(made: GeoTDM) -> GeoTDM:
    """The same, whose network is called as it is."""
    other = copy.copy(made)
    other.denoise_network = Called(made.denoise_network)
    return other


class Called(torch.nn.Module):
    """Not an EGTN, so it is not taken apart."""

    def __init__(self, network):
        super().__init__()
        self.network, self.learn_ref_frame = network, network.learn_ref_frame

    def forward(self, **arguments):
        return self.network(**arguments)


def seeded(run):
    torch.manual_seed(17)
    return run()


def step_by_step(made: GeoTDM, shape, model_kwargs, cond_fn=None) -> torch.Tensor:
    """The official loop: p_sample with a tensor of steps, noise in its order; unconditionally a guided sample is
    projected at last too."""
    x = torch.randn(*shape, device=made.device, dtype=made.dtype)
    x_ref = made.get_ref_frame(model_kwargs)
    batch = model_kwargs["batch"]
    for step in reversed(range(made.num_timesteps)):
        x = x if made.mode == "cond" else made.project_to_subspace(x, batch)
        t = torch.full((shape[0],), step, device=made.device)
        # The next noise is drawn in this order, as for the official network's output.
        x = made.p_sample(x, t, cond_fn=cond_fn, model_kwargs=model_kwargs)["sample"].contiguous()
    x = x if made.mode == "cond" else made.project_to_subspace(x, batch)
    return made.to_absolute(x, x_ref).detach()


# The first step, the last one and those between: eight show what twenty-five do.
SHORT = {"num_timesteps": 8, "beta_schedule_name": "cosine"}
SETTINGS = [
    *({"prior": prior} for prior in PRIORS),
    {"domain": "molecule", "mask": "ends"},
    {"domain": "pedestrian", "mask": "holes", "prior": "com", "rescale_timesteps": True},
    {"prior": None},
    {"prior": None, "domain": "molecule", "model_var_type": ModelVarType.FIXED_SMALL},
    {"model_mean_type": ModelMeanType.EPSILON},
    {"prior": None, "model_mean_type": ModelMeanType.EPSILON},
    {"model_mean_type": ModelMeanType.PREVIOUS_X, "prior": "com"},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("guided", [False, True])
def test_the_loop_is_p_sample_step_by_step(settings, guided):
    made, shape, model_kwargs = model(**settings, **SHORT, dtype=torch.float64)
    cond_fn = (lambda x, t: 0.1 - x * (t.double() / 1000 + 1)[:, None, None]) if guided else None
    expected = seeded(lambda: step_by_step(made, shape, model_kwargs, cond_fn))
    for loop in (made, eager(made), captured(made)):
        found = seeded(lambda loop=loop: loop.p_sample_loop(shape, model_kwargs=model_kwargs, cond_fn=cond_fn))
        assert found.isfinite().all()
        assert_same(found, expected, 1e-9)


@pytest.mark.parametrize(
    ("settings", "precision", "implementation"),
    pairwise(
        [{}, {"prior": None}, {"domain": "pedestrian", "mask": "holes", "prior": "com"}],
        ["fp32", "tf32", "bf16"],
        ["auto", "reference"],
    ),
)
def test_captured_is_eager(settings, precision, implementation, device):
    made, shape, model_kwargs = model(**settings, **SHORT, precision=precision, device=device)
    graph = captured(made)
    with backend(implementation):
        expected = seeded(lambda: eager(made).p_sample_loop(shape, model_kwargs=model_kwargs))
        found = [seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs)) for _ in range(2)]
    assert len(graph.captures) == 1
    bound = {"fp32": 1e-5, "tf32": 1e-2, "bf16": 5e-2}[precision]
    # On CUDA the reference sums over neighbours by atomics, in any order, and what differs is rounded up or down.
    assert_same(found[0], found[1], bound if implementation == "reference" and device == "cuda" else 0.0)
    # The network's first layer is taken apart, and nothing else differs.
    assert_same(found[0], expected, bound)
    if device == "cpu":
        assert graph.captures.record.replays == 2 * made.num_timesteps


def test_bfloat16_networks_and_edge_features_of_every_frame(device):
    made, shape, model_kwargs = model(device=device, dtype=torch.bfloat16)
    found = seeded(lambda: captured(made).p_sample_loop(shape, model_kwargs=model_kwargs))
    expected = seeded(lambda: eager(made).p_sample_loop(shape, model_kwargs=model_kwargs))
    assert found.dtype == torch.bfloat16
    assert_same(found, expected, 5e-2)
    made, shape, model_kwargs = model(device=device)
    edge_attr = model_kwargs["edge_attr"]
    model_kwargs["edge_attr"] = edge_attr[..., None] * torch.linspace(0.5, 1.5, NUM_FRAMES, device=device)
    found = seeded(lambda: captured(made).p_sample_loop(shape, model_kwargs=model_kwargs))
    assert_same(found, seeded(lambda: eager(made).p_sample_loop(shape, model_kwargs=model_kwargs)), 1e-5)


@pytest.mark.parametrize("prior", ["learned", None])
def test_a_step_reads_nothing_but_its_inputs(prior):
    """What else a graph read would be gone, or stale, when it is replayed; and nothing of its own survives a replay."""
    made, shape, model_kwargs = model(prior=prior)
    graph = captured(made)
    expected = seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs))
    (tape,) = graph.captures.record.tapes
    (capture,) = graph.captures._known.values()
    kept = (capture.inputs, *time_phases._tables.values())  # the tables are never dropped
    assert not tape.read_from_outside(kept)
    tape.spoil(kept)
    assert torch.equal(seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs)), expected)


def test_whatever_changes_between_chains_is_taken(device):
    """Given frames, features, edges, weights, the method: one capture, and each time the eager sample."""
    made, shape, model_kwargs = model(device=device)
    graph, network = captured(made), made.denoise_network

    def agrees(kwargs, method="ddpm"):
        run = lambda loop: seeded(lambda: Sampler(loop, method, NUM_STEPS).draw(shape, kwargs))
        found = run(graph)
        assert_same(found, run(eager(made)), 1e-5)
        return found

    first = agrees(model_kwargs)
    others = [
        agrees(model_kwargs | {"x_given": model_kwargs["x_given"] * 1.3}),
        agrees(model_kwargs | {"h": model_kwargs["h"] + 1}),
        agrees(model_kwargs | {"edge_index": model_kwargs["edge_index"].flip(1)}),
        agrees(model_kwargs | {"edge_attr": model_kwargs["edge_attr"] * 2}),
        agrees(model_kwargs, "dpmpp_2m_sde"),
    ]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.9)
    others.append(agrees(model_kwargs))
    made.denoise_network = graph.denoise_network = copy.deepcopy(network)
    assert torch.equal(agrees(model_kwargs), others[-1])
    assert len(graph.captures) == 1
    assert all((other - first).abs().max() > 1e-4 for other in others)


def test_another_shape_is_another_capture_and_few_are_kept(device):
    made, shape, model_kwargs = model(device=device)
    graph = captured(made)
    # A mask of as many frames is no other shape.
    for domain, mask, count in (("nbody", "prefix", 1), ("nbody", "holes", 1), ("molecule", "prefix", 2)):
        other, shape, model_kwargs = model(domain, "com", mask, device)
        other.captures = graph.captures
        run = lambda loop, shape=shape, kwargs=model_kwargs: loop.p_sample_loop(shape, model_kwargs=kwargs)
        assert_same(seeded(lambda run=run, other=other: run(other)), seeded(lambda: run(eager(other))), 1e-5)  # noqa: B023
        assert len(graph.captures) == count
    graph.captures.capacity = 1
    other.p_sample_loop((*shape[:2], 1), model_kwargs=of_one_frame(model_kwargs))
    assert len(graph.captures) == 1


def of_one_frame(model_kwargs: dict) -> dict:
    """All frames given but the last."""
    mask = model_kwargs["cond_mask"] * 0 + 1
    mask[..., -1] = 0
    return model_kwargs | {"cond_mask": mask}


@pytest.mark.parametrize("method", ["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde"])
def test_noise_by_counter_and_by_a_function_of_k(method, device):
    made, shape, model_kwargs = model(device=device)
    graph = captured(made)
    who = torch.arange(2)
    eta = 0.5 if method == "ddim" else 0.0
    for seed in (3, 2**40 + 1):
        noise = TrajectoryNoise(seed, who, who, model_kwargs["batch"], *shape[1:], torch.float32)
        found = Sampler(graph, method, 8, eta=eta).draw(shape, model_kwargs, noise=noise)
        by_function = Sampler(graph, method, 8, eta=eta).draw(shape, model_kwargs, noise=lambda k, n=noise: n(k))
        expected = Sampler(eager(made), method, 8, eta=eta).draw(shape, model_kwargs, noise=noise)
        assert_same(found, expected, 1e-5)
        assert_same(found, by_function, 1e-6)
    assert len(graph.captures) == (1 if method == "dpmpp_2m" else 2)


def test_guidance_is_outside_the_graph(device):
    made, shape, model_kwargs = model(device=device)
    steps = []

    def cond_fn(x, t):
        steps.append(float(t[0]))  # a graph could not hold this
        return -0.1 * x

    for method in ("ddpm", "dpmpp_2m"):
        graph = captured(made)
        run = lambda loop, method=method: seeded(
            lambda: Sampler(loop, method, 8).draw(shape, model_kwargs, None, cond_fn)
        )
        steps.clear()
        found = run(graph)
        assert steps == [24, 21, 18, 15, 12, 8, 5, 2] and len(graph.captures) == 1
        assert_same(found, run(eager(made)), 1e-5)
        unguided = seeded(lambda graph=graph, method=method: Sampler(graph, method, 8).draw(shape, model_kwargs))
        assert (unguided - found).abs().max() > 1e-3 and len(graph.captures) == 1


def test_progressive_keeptraj_optimize_and_refine(device):
    made, shape, model_kwargs = model(device=device)
    graph = captured(made)
    sample = seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs))
    kept = seeded(lambda: graph.p_sample_loop_keeptraj(shape, keep_every=5, model_kwargs=model_kwargs))
    assert torch.equal(kept[..., -1], sample) and kept.shape[-1] == 6
    steps = seeded(lambda: list(graph.p_sample_loop_progressive(shape, model_kwargs=model_kwargs)))
    x_ref = made.get_ref_frame(model_kwargs)
    assert torch.equal(steps[-1]["sample"] + x_ref, sample) and torch.equal(steps[5]["sample"] + x_ref, kept[..., 1])
    assert len({tuple(out["pred_xstart"].flatten()[:3].tolist()) for out in steps}) == NUM_STEPS
    for run in (
        lambda loop: loop.optimize(sample, 7, model_kwargs),
        lambda loop: Sampler(loop, "dpmpp_2m", 5).refine(sample, 7, model_kwargs),
    ):
        assert_same(seeded(lambda run=run: run(graph)), seeded(lambda run=run: run(eager(made))), 1e-5)
    assert len(graph.captures) == 2  # with noise and without


class Subclass(EGTN):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        return output if kwargs.get("compute_ref") else (output[0] * 0.5, output[1])


def test_a_network_that_is_more_than_an_egtn_is_called(device):
    made, shape, model_kwargs = model(device=device, prior="com")
    plain = seeded(lambda: made.p_sample_loop(shape, model_kwargs=model_kwargs))
    graph, calls = captured(made), []
    handle = made.denoise_network.register_forward_hook(lambda *_: calls.append(1))
    assert_same(seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs)), plain, 1e-5)
    handle.remove()
    assert len(calls) == NUM_STEPS and len(graph.captures) == 0
    made.denoise_network.__class__ = Subclass
    halved = seeded(lambda: made.p_sample_loop(shape, model_kwargs=model_kwargs))
    assert (halved - plain).abs().max() > 1e-2


def test_two_chains_at_once_do_not_share_memory(device):
    made, shape, model_kwargs = model(device=device)
    graph = captured(made)
    noises = [torch.randn(*shape, device=device) for _ in range(2)]
    plan = method_plan(made, made.model_mean_type, np.arange(9, -1, -2), np.full((5, 4), 0.4) * [1, 1, 0, 0], True)
    x_ref = made.get_ref_frame(model_kwargs).detach()
    chains = [Chain(graph, plan, noise, x_ref, model_kwargs) for noise in noises]
    list(zip(*(chain.steps() for chain in chains), strict=False))
    for chain, noise in zip(chains, noises, strict=True):
        alone = Chain(eager(made), plan, noise, x_ref, model_kwargs)
        assert_same(chain.x, alone.finish(), 1e-5)
    abandoned = Chain(graph, plan, noises[0], x_ref, model_kwargs)
    steps = abandoned.steps()
    next(steps)
    assert len(graph.captures) == 0  # it is lent
    steps.close()
    assert len(graph.captures) == 1


def test_a_chain_of_two_steps_has_room_to_warm_up():
    made, shape, model_kwargs = model(num_timesteps=2, beta_schedule_name="cosine")
    graph = captured(made)
    graph.captures.record = TapeRecorder(CUDAGraphRecorder.WARM_UP)
    found = seeded(lambda: graph.p_sample_loop(shape, model_kwargs=model_kwargs))
    assert_same(found, seeded(lambda: eager(made).p_sample_loop(shape, model_kwargs=model_kwargs)), 1e-5)


def test_copies_of_a_diffusion_capture_anew():
    made, shape, model_kwargs = model()
    made.captures.record = TapeRecorder()
    made.p_sample_loop(shape, model_kwargs=model_kwargs)
    assert len(made.captures) == 1 and len(copy.deepcopy(made).captures) == 0


# --- on a GPU ---------------------------------------------------------------------------------------------------------

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")


def chain_of(made: GeoTDM, shape, model_kwargs, num_steps: int) -> Chain:
    plan = ancestral_plan(made, made.model_mean_type, made.model_var_type, num_steps)
    with torch.no_grad():
        x_ref = made.get_ref_frame(model_kwargs)
    return Chain(made, plan, torch.randn(*shape, device=made.device), x_ref, model_kwargs)


@pytest.mark.gpu
@without_gpu
def test_streams_do_not_disturb_one_another():
    made, shape, model_kwargs = model(device="cuda")
    noise = torch.randn(NUM_STEPS + 1, *shape, device="cuda")
    draw = lambda scale: Sampler(made).draw(shape, model_kwargs, noise=lambda k: noise[k] * scale)
    expected = [draw(scale) for scale in (1.0, 0.5)]
    torch.cuda.synchronize()
    found = []
    for scale in (1.0, 0.5) * 3:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found.append(draw(scale))
    torch.cuda.synchronize()
    assert all(torch.equal(value, expected[i % 2]) for i, value in enumerate(found))


@pytest.mark.gpu
@without_gpu
def test_no_step_waits_for_the_device():
    chain = chain_of(*model(device="cuda"), NUM_STEPS)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert sum(1 for _ in chain.steps()) == NUM_STEPS
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@without_gpu
@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="times the host, which other workers would disturb")
def test_a_replayed_step_costs_the_host_under_thirty_microseconds():
    num_steps = 50  # fit the queue of launches: when it is full, a launch takes as long as a step on the device
    made, shape, model_kwargs = model(device="cuda", num_timesteps=num_steps)
    costs = []
    for _ in range(5):
        chain = chain_of(made, shape, model_kwargs, num_steps)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in chain.steps():
            pass
        costs.append((time.perf_counter() - start) / num_steps)
        torch.cuda.synchronize()
    assert min(costs) < 30e-6
