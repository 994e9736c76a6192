"""Numbers that a network is told: what they change, in training, sampling and captured steps, and what they leave."""

import math

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_FRAMES, case, diffusion
from pretended_cuda import PretendedGPU
from tape import TapeRecorder
from test_chain import captured, eager, seeded, tame
from test_training_device_data import two_lags
from test_training_step import assert_same_state, make_step, run, steps_config
from tolerances import assert_same

from geotdm_fast import Flow, ModelMeanType, Sampler, backend
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.conditions import SPAN, Conditions
from geotdm_fast.diffusion.priors import FIXED_PRIORS
from geotdm_fast.scores.equivariance import check_equivariance
from geotdm_fast.task import Task

RANGES = {"lag": [0.1, 0.4], "temperature": [300, 300]}
TOLD = torch.tensor([[0.1, 300.0], [0.3, 330.0]])  # of the two graphs of a batch


def psi(values, dim: int) -> np.ndarray:
    """The sinusoids of the scaled numbers of one graph, by loops."""
    out = []
    for value, (low, high) in zip(values, RANGES.values(), strict=True):
        tau = SPAN * (value - low) / ((high - low) or low)
        n = dim // 2
        angles = [tau * 10000 ** (-k / (n - 1)) for k in range(n)]
        out += [*map(math.sin, angles), *map(math.cos, angles), *[0.0] * (dim % 2)]
    return np.array(out)


def network_and_batch(domain="nbody", mask="prefix", dtype=torch.float64, learned=True, **changes):
    batch, given = case(domain).batch.to(dtype=dtype), cond_mask(MASKS[mask], NUM_FRAMES)
    num_noisy = len(frames_of(given).noisy)
    network = case(domain).network(learned=learned, num_w=num_noisy, dtype=dtype, **changes)
    model_kwargs = batch.model_kwargs() | {"cond_mask": given, "x_given": batch.x}
    return network, batch.x[..., frames_of(given).noisy], model_kwargs


def called(network, x, model_kwargs):
    step = 3 + model_kwargs["batch"]
    x_out, h_out = network(x=x, diffusion_t=step, **model_kwargs)
    return x_out, h_out, network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)


@pytest.mark.parametrize("graph", [0, 1])
def test_what_is_told_is_a_bias_of_the_first_layer(graph):
    """Of one graph: forward, and dV = db psi^T, beside a network whose biases are moved by V psi."""
    told, x, model_kwargs = network_and_batch(conditions=RANGES)
    plain, _, _ = network_and_batch()
    of_graph = torch.tensor(psi(TOLD[graph].double().tolist(), told.time_emb_dim))
    plain.load_state_dict(told.state_dict(), strict=False)
    with torch.no_grad():
        plain.input_linear.bias += told.condition_linear.weight @ of_graph
        plain.input_linear_ref.bias += told.condition_linear_ref.weight @ of_graph
    mine = called(told, x, model_kwargs | {"conditions": TOLD})
    theirs = called(plain, x, model_kwargs)
    nodes = model_kwargs["batch"] == graph
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one[nodes], other[nodes], rtol=1e-9, atol=1e-9)
        assert (one[~nodes] - other[~nodes]).abs().max() > 1e-4, "the other graph is told something else"
    for outputs in (mine, theirs):
        sum(output[nodes].square().sum() for output in outputs).backward()
    for layer, name in (("condition_linear", "input_linear"), ("condition_linear_ref", "input_linear_ref")):
        expected = torch.outer(getattr(plain, name).bias.grad, of_graph)
        torch.testing.assert_close(getattr(told, layer).weight.grad, expected, rtol=1e-7, atol=1e-9)


def test_without_conditions_nothing_changes():
    plain, told = (network_and_batch(**more)[0] for more in ({}, {"conditions": RANGES}))
    names = {"condition_linear.weight", "condition_linear_ref.weight"}
    assert told.state_dict().keys() - plain.state_dict().keys() == names
    for name, value in plain.state_dict().items():
        assert torch.equal(value, told.state_dict()[name]), f"{name}: the seed draws the same weights"
    assert plain.conditions is None and told.conditions.names == ("lag", "temperature")


@pytest.mark.parametrize("domain", ["molecule", "pedestrian"])
def test_a_hooked_network_is_told_the_same(domain):
    told, x, model_kwargs = network_and_batch(domain, conditions=RANGES)
    conditions = TOLD[[0, 1, 1]][: int(model_kwargs["batch"].max()) + 1]
    expected = called(told, x, model_kwargs | {"conditions": conditions})
    handle = told.condition_linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    twice = called(told, x, model_kwargs | {"conditions": conditions})
    with torch.no_grad():
        handle.remove()
        told.condition_linear.weight.mul_(2)
    for one, other in zip(twice, called(told, x, model_kwargs | {"conditions": conditions}), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert (twice[1] - expected[1]).abs().max() > 1e-3


def chain(device="cpu", **changes):
    sizes = {"hidden_dim": 16, "pre_norm": True}
    network, x, model_kwargs = network_and_batch(dtype=torch.float32, conditions=RANGES, **sizes | changes)
    there = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in model_kwargs.items()
    }
    made = diffusion(
        tame(network).to(device), "cond", "learned", device=device, num_timesteps=8, beta_schedule_name="cosine",
        model_mean_type=ModelMeanType.START_X,
    )  # fmt: skip
    return made, tuple(x.shape), there | {"conditions": TOLD.to(device)}


def test_replays_are_told_what_the_call_says():
    made, shape, model_kwargs = chain()
    graph, drawn = captured(made), []
    for conditions in (TOLD, TOLD.flip(0), TOLD + torch.tensor([0.05, 0.0]), TOLD):
        about = model_kwargs | {"conditions": conditions}
        run_it = lambda loop, about=about: seeded(lambda: Sampler(loop, "dpmpp_2m_sde", 4).draw(shape, about))
        drawn.append(run_it(graph))
        assert_same(drawn[-1], run_it(eager(made)), 1e-5)
    assert len(graph.captures) == 1
    assert torch.equal(drawn[0], drawn[3])
    assert min(float((one - drawn[0]).abs().max()) for one in drawn[1:3]) > 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_on_a_pretended_gpu():
    made, shape, model_kwargs = chain()
    conditions = [TOLD, TOLD.flip(0)]
    draw = lambda made, about: seeded(lambda: Sampler(made, "ddim", 2).draw(shape, about))
    expected = [draw(made, model_kwargs | {"conditions": told}) for told in conditions]
    with PretendedGPU() as gpu:
        made, shape, model_kwargs = chain("cuda")
        found = [draw(made, model_kwargs | {"conditions": told.to("cuda")}).cpu() for told in conditions]
        assert gpu.graphs == 1
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, 1e-4)


def told_config(dataset, **train):
    config = steps_config(dataset, **{"batch_size": 4} | train)
    config["denoise_model"]["conditions"] = {"lag": [0.1, 0.2]}
    return config


def test_captured_training_steps_are_told():
    """Every step another batch, of other lags: by the tape as eagerly, bit for bit."""
    dataset = two_lags()
    one = run(make_step(dataset, config=told_config(dataset)), 0, 5)
    other = run(make_step(dataset, config=told_config(dataset), record=TapeRecorder()), 0, 5)
    assert other.captures and not other.lines
    assert_same_state(one, other)
    blind = run(make_step(dataset.subset(range(6)), config=told_config(dataset)), 0, 5)
    assert_same_state(one, blind)  # one by one, as in blocks
    first = make_step(dataset, config=told_config(dataset)).named_state()["weights.condition_linear.weight"]
    assert (one.named_state()["weights.condition_linear.weight"] - first).abs().max() > 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_training_step_on_a_pretended_gpu():
    dataset = two_lags()
    here = run(make_step(dataset, config=told_config(dataset, batch_size=2)), 0, 3)
    with PretendedGPU() as gpu, backend("reference"):
        there = run(make_step(dataset, "cuda", config=told_config(dataset, batch_size=2)), 0, 1)
        before = gpu.waits.copy()
        run(there, 1, 3)
        assert gpu.waits == before and there.captures and not there.lines
        sums = there.sums.cpu()
    assert_same(sums, here.sums, 1e-4)


def test_equivariance():
    network, _, _ = network_and_batch(conditions=RANGES)
    made = diffusion(network, "cond", "learned")
    task = Task(given=[[0, 3]])
    found = list(check_equivariance(made, task, precisions=("float64",), kinds=("nbody",), num_steps=2))
    assert found and all(one.holds for one in found), [one for one in found if not one.holds]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, "conditions .graphs, 2. must be given, of lag, temperature; got none"),
        (TOLD[:, :1], r"conditions must be \[graphs, 2\], got \[2, 1\]"),
        (TOLD[:1], r"conditions must be \[2, 2\], got \[1, 2\]"),
        (TOLD * torch.tensor([math.nan, 1.0]), "the condition lag must be finite"),
    ],
)
def test_a_call_needs_them(conditions, message):
    network, x, model_kwargs = network_and_batch(conditions=RANGES)
    with pytest.raises(ValueError, match=message):
        called(network, x, model_kwargs | {"conditions": conditions})
    with pytest.raises(ValueError, match=message):
        network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs | {"conditions": conditions})


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (TOLD[[0, 1, 0]], r"conditions must be \[2, 2\], got \[3, 2\]"),
        (TOLD * torch.tensor([math.nan, 1.0]), r"Sampler.draw: conditions must be finite, got nan at index \[0, 0\]"),
    ],
)
def test_a_draw_needs_them(conditions, message):
    network, x, model_kwargs = network_and_batch(conditions=RANGES)
    with pytest.raises(ValueError, match=message):
        Sampler(diffusion(network, "cond", "learned")).draw(x.shape, model_kwargs | {"conditions": conditions})


def with_prior(prior):
    """A model of a prior that no network computes: a flow where diffusions have none of that name."""
    network, x, model_kwargs = network_and_batch(learned=False, conditions=RANGES)
    if prior in FIXED_PRIORS:
        return diffusion(network, "cond", prior), x, model_kwargs
    return Flow(network, 8, "cpu", prior=prior), x, model_kwargs


@pytest.mark.parametrize("prior", ["com", "last_frame", "none", "walk", "velocity"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_draw_from_a_fixed_prior_needs_finite_ones(prior, value):
    """The steps of a chain trust what they are told: it is looked at before any noise is drawn."""
    made, x, model_kwargs = with_prior(prior)
    told = TOLD.clone()
    told[1, 0] = value

    def noise(k):
        raise AssertionError(f"draw {k} of noise")

    refused = pytest.raises(ValueError, match=rf": conditions must be finite, got {value} at index \[1, 0\]")
    with refused:
        Sampler(made, num_steps=2).draw(x.shape, model_kwargs | {"conditions": told}, noise=noise)
    with refused:
        Sampler(made, num_steps=2).refine(x, 2, model_kwargs | {"conditions": told}, noise=noise)


def test_a_network_that_is_told_none_refuses_them():
    network, x, model_kwargs = network_and_batch()
    with pytest.raises(ValueError, match="conditions must be None for a network that is told none"):
        called(network, x, model_kwargs | {"conditions": TOLD})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"conditions must be \{name: \[low, high\]\}, got"),
        ({"a b": [0, 1]}, "a condition's name must be a word"),
        ({"lag": 1}, r"conditions.lag must be \[low, high\], two finite numbers, got 1"),
        ({"lag": [2, 1]}, r"conditions.lag must be \[low, high\]"),
        ({"lag": [1, math.inf]}, r"conditions.lag must be \[low, high\]"),
    ],
)
def test_ranges_that_are_none(value, message):
    with pytest.raises(ValueError, match=message):
        Conditions.parse(value)


def test_ranges_and_scale():
    told = Conditions.of(("lag", "temperature"), TOLD)
    assert told.as_config() == {"lag": [0.1, 0.3], "temperature": [300.0, 330.0]}
    assert Conditions.parse(told.as_config()) == told
    assert Conditions.parse({}) is None and Conditions.parse(None) is None
    scaled = told.scaled(torch.tensor([[0.1, 300.0], [0.2, 330.0]], dtype=torch.float64))
    torch.testing.assert_close(scaled, torch.tensor([[0, 0], [SPAN / 2, SPAN]], dtype=torch.float64))
    one = Conditions.of(("a",), torch.tensor([[-2.0]])).scaled(torch.tensor([[-2.0], [-1.0]]))
    torch.testing.assert_close(one, torch.tensor([[0.0], [SPAN / 2]]))
    zero = Conditions.of(("a",), torch.tensor([[0.0]])).scaled(torch.tensor([[0.5]]))
    torch.testing.assert_close(zero, torch.tensor([[SPAN / 2]]))
    told.check_range("here", TOLD)  # float32 beside rounded ends
    with pytest.raises(ValueError, match=r"here: the condition lag must be in the trained range 0.1 ... 0.3, got 0.31"):
        told.check_range("here", TOLD + torch.tensor([0.01, 0.0]))
