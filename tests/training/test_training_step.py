"""One training step: captured as eagerly, in parts as at once, and nothing waits for the device."""

import copy
import importlib.util

import pytest
import torch
from tape import Tape, TapeRecorder
from test_training_device_data import DATASETS, joined, molecule
from tiny_training import log_of, tiny_config
from torch.utils._pytree import tree_leaves

from geotdm_fast import backend
from geotdm_fast.checkpoint import build_diffusion, build_network
from geotdm_fast.conditioning import frames_of
from geotdm_fast.config.diffusion_rules import time_power
from geotdm_fast.ops import time_phases
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.task import Task, _mask_on
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.step import TrainingStep


def steps_config(dataset, **train) -> dict:
    """The tiny configuration with the sizes of `dataset`."""
    config = tiny_config(**{"cond_mask": [[0, dataset[0].num_frames - 3]], "clip": 0.5} | train)
    item = dataset[0]
    edge_dim = 0 if item.edge_attr is None else item.edge_attr.shape[1]
    config["denoise_model"] |= {"node_dim": item.h.shape[1], "edge_dim": edge_dim}
    return config


def make_step(dataset, device="cpu", record=None, config=None, **train) -> TrainingStep:
    config = config or steps_config(dataset, **train)
    train = config["train"]
    torch.manual_seed(0)
    network = build_network(config).to(device).set_precision(train["precision"])
    copied = copy.deepcopy(network)
    weights = FlatWeights(network)
    ours = Processes(0, 1, torch.device(device))
    source = BatchSource(
        DeviceData(dataset, device),
        seed=0,
        batch_size=train["batch_size"],
        num_timesteps=25,
        num_noisy=3,
        accumulate=train["accumulate"],
        rotate=train["rotate"],
        time_power=time_power(config),
    )
    objective = Objective(build_diffusion(network, config, device), Task.of_config(config), source.data.boxes)
    average = WeightAverage(copied, weights, 0.9)
    lines = []
    made = TrainingStep(train, objective, weights, average, source, ours, say=lines.append, record=record)
    made.lines = lines
    return made


def run(step: TrainingStep, first: int, last: int, rate: float = 1e-3) -> TrainingStep:
    """Steps `first` to `last` - 1, each with another learning rate."""
    for number in range(first, last):
        step(step.source.training(number), rate * (1 + number % 3), number + 1)
    return step


def assert_same_state(one: TrainingStep, other: TrainingStep, **close) -> None:
    mine, theirs = one.named_state() | {"sums": one.sums}, other.named_state() | {"sums": other.sums}
    assert mine.keys() == theirs.keys()
    for name in mine:
        if close:
            torch.testing.assert_close(mine[name], theirs[name], **close, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert torch.equal(mine[name], theirs[name]), name


def nbody():
    return DATASETS["nbody"]()


def recorder(device: str) -> TapeRecorder | None:
    return TapeRecorder() if device == "cpu" else None


# --- captured ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_captured_equals_eager(device, precision, accumulate):
    # Batches of three and of one, so that another shape is captured; in parts of two and one, and one.
    settings = {"batch_size": 3, "accumulate": accumulate, "rotate": True, "precision": precision}
    eager = run(make_step(nbody(), device, cuda_graph=False, **settings), 0, 7)
    captured = run(make_step(nbody(), device, record=recorder(device), **settings), 0, 7)
    assert captured.captures and not eager.captures
    assert len(captured._captures) == (2 if accumulate == 1 else 3), "one for each size of a part, one for the update"
    if device == "cpu":
        assert_same_state(captured, eager)
    else:
        assert_same_state(captured, eager, rtol=1e-3, atol=1e-4)  # sums by atomics in the temporal reference
    assert not captured.lines
    assert all(value.dtype == torch.float32 for value in captured.named_state().values())


def test_the_default_is_a_graph_on_cuda_alone(device):
    step = make_step(nbody(), device)
    assert step.captures == (device == "cuda")
    assert not make_step(nbody(), device, cuda_graph=False, record=recorder(device)).captures


def test_a_replay_makes_anew_all_that_it_does_not_keep():
    record = TapeRecorder()
    step = run(make_step(nbody(), record=record, batch_size=2, rotate=True), 0, 1)
    (tape,) = record.tapes
    (captured,) = step._captures._known.values()
    own = (captured.inputs, step.state)
    outside = tape.read_from_outside(own)
    structure = step._structure(step.source.training(0)[0])
    data, tables = step.source.data, step.objective.diffusion._tables.values()
    known = [*data._tables, *vars(structure).values(), *(t for _, t in tables)]
    mask, _ = _mask_on(step.objective.task.given, data.num_frames, torch.device("cpu"))
    known += [mask, *frames_of(mask), *tree_leaves(vars(structure.graph))]
    known += [*time_phases._tables.values(), step.weights._one]
    places = {tensor.untyped_storage().data_ptr() for tensor in known if isinstance(tensor, torch.Tensor)}
    assert {tensor.untyped_storage().data_ptr() for tensor in outside} <= places, "what stays where it is"
    tape.spoil((own, outside))
    expected = run(make_step(nbody(), batch_size=2, rotate=True), 0, 4)
    assert_same_state(run(step, 1, 4), expected)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_learning_rate_changes_in_a_replay(device, optimizer):
    step = run(make_step(nbody(), device, record=recorder(device), batch_size=4, optimizer=optimizer), 0, 2)
    before = step.weights.flat.detach().clone()
    step(step.source.training(2), 0.0, 3)
    assert torch.equal(step.weights.flat, before)
    step(step.source.training(3), 1e-2, 4)
    moved = (step.weights.flat.detach() - before).abs().max()
    assert 5e-3 < float(moved) < 2e-2
    assert len(step._captures) == 1


def test_nothing_waits_for_the_device(device):
    """Not even eagerly, after the first step: graphs of different size and the prior by centre of mass included."""
    dataset = joined(molecule([6, 6, 8]), molecule([6, 1, 7, 8], seed=1))
    config = steps_config(dataset, batch_size=5, cuda_graph=False)
    config["diffusion"]["prior"] = "com"
    step = run(make_step(dataset, device, config=config), 0, 1)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(step, 1, 4)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    parts = step.source.training(1)
    structures = [step._structure(draw) for draw in parts]
    with Tape():  # raises where a value is read
        for draw, structure in zip(parts, structures, strict=True):
            step._whole((draw, torch.tensor([1e-3, 0.1])), structure)


PRIORS = ("com", "com_last", "last_frame", "none")
TEMPORAL = [f"{kind}{gaps}" for kind in ("convolution", "linear_attention") for gaps in ("", " with gaps")]


@pytest.mark.parametrize("kind", ["prefix", "gaps", "uncond", *PRIORS, *TEMPORAL])
def test_every_kind_of_model_can_be_captured(device, kind):
    """No copy from the host in the captured part either: on the CPU the tape would show the tensor made there."""
    config = steps_config(nbody(), batch_size=2)
    if kind in TEMPORAL:
        config["denoise_model"]["temporal"] = kind.split()[0]
    if kind.endswith("gaps"):
        config["train"]["cond_mask"] = [[0, 1], [4, 5]]
    elif kind == "uncond":
        config["diffusion"]["mode"] = "uncond"
        config["train"] |= {"cond_mask": None, "tot_len": 3}
    elif kind in PRIORS:
        config["diffusion"]["prior"] = kind
    with backend("auto" if device == "cuda" else "reference"):  # what runs on CUDA, as far as the CPU can
        record = recorder(device)
        step = run(make_step(nbody(), device, record=record, config=config), 0, 4)
        assert step.captures and not step.lines and step.sums.isfinite().all()
        if device == "cpu":
            (tape,) = record.tapes
            assert not [func for func, *_ in tape.steps if "lift_fresh" in str(func)]
            assert_same_state(step, run(make_step(nbody(), device, config=config), 0, 4))


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            RuntimeError("operation not permitted when stream is capturing\nmore"),
            "operation not permitted when stream is capturing",
        ),
        (MemoryError("not enough memory for a tensor [3, 4]"), "not enough memory for a tensor [3, 4]"),
        (MemoryError(), "MemoryError"),
    ],
    ids=repr,
)
def test_a_capture_that_fails_is_told_and_the_step_runs_eagerly(error, why):
    def refuses(call):
        call()
        raise error

    step = run(make_step(nbody(), record=refuses, batch_size=2), 0, 3)
    assert step.lines == [f"train: the step runs without a CUDA graph: {why}"]
    assert_same_state(step, run(make_step(nbody(), batch_size=2), 0, 3))


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_step_is_captured_anew(device, optimizer):
    whole = run(make_step(nbody(), device, record=recorder(device), batch_size=3, optimizer=optimizer), 0, 6)
    first = run(make_step(nbody(), device, record=recorder(device), batch_size=3, optimizer=optimizer), 0, 3)
    second = make_step(nbody(), device, record=recorder(device), batch_size=3, optimizer=optimizer)
    with torch.no_grad():
        for name, value in second.named_state().items():
            value.copy_(first.named_state()[name])
        second.sums.copy_(first.sums)
    close = {} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-4}
    assert_same_state(run(second, 3, 6), whole, **close)


def test_a_run_on_the_device_is_the_run_on_the_cpu(device, tmp_path, capsys):
    """`train` from end to end, stopped and resumed: the same draws, so the same losses but for rounding."""
    settings = {"log_every_step": 1, "checkpoint_every_steps": 2, "rotate": True, "schedule": "cosine"}
    here, there = tmp_path / "here", tmp_path / "there"
    train(tiny_config(num_steps=6, **settings), output_dir=here, device="cpu", progress=False)
    for minutes in (0.0, None):  # stops at once, with a checkpoint; then goes on
        config = tiny_config(num_steps=6, max_minutes=minutes, **settings)
        train(config, output_dir=there, device=device, progress=False)
    assert "without a CUDA graph" not in capsys.readouterr().err
    for mine, theirs in zip(log_of(here), log_of(there), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6 if device == "cpu" else 1e-3)


# --- what a step computes ---------------------------------------------------------------------------------------------


interpreted = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(), reason="runs in Triton's interpreter"
)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("nbody", "auto"),
        pytest.param("nbody", "triton", marks=[interpreted, pytest.mark.recorded("gpu paths")]),
        ("two molecules", "auto"),
    ],
)
def test_it_is_plain_adam_on_the_mean_loss(name, kernels, monkeypatch):
    """Against torch's own Adam on separate tensors, `collate`d batches and a loop over the average."""
    if kernels == "triton":  # few programs, as in test_kernels_egcl.py
        monkeypatch.setattr("geotdm_fast.kernels.egcl_weights_launch.FINISH_BLOCK", 4096)
    dataset = DATASETS[name]()
    config = steps_config(dataset, batch_size=4)
    step = make_step(dataset, config=config)
    torch.manual_seed(0)
    network = build_network(config)
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0)
    objective = Objective(build_diffusion(network, config), Task.of_config(config))
    for number in range(4):
        (draw,) = step.source.training(number)
        loss = objective.loss(step.source.noised(draw))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + number % 3)
        optimizer.step()
        decay = min(0.9, (2 + number) / (11 + number))
        for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 1 - decay)
    with backend(kernels):
        run(step, 0, 4)
    state = step.named_state()
    for prefix, module in (("weights.", network), ("average.", average)):
        for parameter, value in module.named_parameters():
            # Where a gradient is rounding alone, Adam's quotient is anything between -1 and 1.
            clear = state[f"adam.exp_avg_sq.{parameter}"].sqrt() > 1e-6
            torch.testing.assert_close(state[prefix + parameter][clear], value.detach()[clear], rtol=1e-4, atol=2e-6)


def gradient_of(step: TrainingStep, precision: str = "fp32") -> torch.Tensor:
    """The gradient of the first batch."""
    for draw in step.source.training(0):
        step._gradient(draw.to(step.weights.flat.device), step._structure(draw))
    return step.weights.flat.grad.clone()


@pytest.mark.parametrize("name", ["nbody", "two molecules", "people"])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_add_up_to_the_batch(name, accumulate):
    dataset = DATASETS[name]()
    whole, parts = (make_step(dataset, batch_size=4, accumulate=n) for n in (1, accumulate))
    expected, found = gradient_of(whole), gradient_of(parts)
    assert len(parts.source.training(0)) == accumulate and float(expected.norm()) > 0.1
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    torch.testing.assert_close(parts.sums, whole.sums, rtol=1e-6, atol=0)


def test_rotated_data_give_the_same_loss_and_gradient():
    whole, turned = (make_step(nbody(), batch_size=4, rotate=rotate) for rotate in (False, True))
    # The noise is not turned with the data, so the given frames alone decide: a network that is equivariant sees the
    # same distribution, not the same numbers. Turned noise gives the same numbers.
    (draw,) = turned.source.training(0)
    (plain,) = whole.source.training(0)
    assert torch.equal(draw.noise, plain.noise) and draw.turn is not None and plain.turn is None
    structure = turned._structure(draw)
    noise = draw.turn[structure.batch] @ draw.noise
    turned._gradient(draw._replace(noise=noise), structure)
    whole._gradient(plain, whole._structure(plain))
    torch.testing.assert_close(turned.sums, whole.sums, rtol=1e-5, atol=0)
    expected = whole.weights.flat.grad
    assert float((turned.weights.flat.grad - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_low_precision_rounds_products_and_nothing_else(device, precision):
    exact, rounded = (make_step(nbody(), device, batch_size=4, precision=p) for p in ("fp32", precision))
    expected, found = gradient_of(exact), gradient_of(rounded)
    assert found.dtype == torch.float32
    error = float((found - expected).norm() / expected.norm())
    assert error < {"tf32": 1e-2, "bf16": 0.1}[precision]
    run(rounded, 0, 2)
    assert all(value.dtype == torch.float32 for value in rounded.named_state().values())
    # Steps far below the precision of the products move the weights.
    before = rounded.weights.flat.detach().clone()
    rounded(rounded.source.training(2), 1e-7, 3)
    assert (rounded.weights.flat != before).float().mean() > 0.3


def test_flat_weights_are_the_network():
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 1))
    plain = copy.deepcopy(network)
    weights = FlatWeights(network)
    x = torch.randn(4, 3)
    for module in (network, plain):
        (module(x) ** 2).sum().backward()
    found = weights.named(weights.flat.grad)
    for name, parameter in plain.named_parameters():
        assert torch.equal(found[name], parameter.grad)
        assert found[name].storage_offset() % 64 == 0
    version = network[0].weight._version
    weights.mark_changed()
    assert network[0].weight._version > version
    with torch.no_grad():
        weights.flat.mul_(2)
    assert torch.equal(network[1].bias, 2 * plain[1].bias)
    with pytest.raises(TypeError, match=r"FlatWeights: 0\.weight must be torch\.float32, got torch\.float64"):
        FlatWeights(plain.double())


def test_weights_of_which_none_learns_are_refused():
    network = torch.nn.Linear(2, 3)
    weights = FlatWeights(network)
    with pytest.raises(ValueError, match="loss must depend on a parameter of the network, got one of none"):
        weights.backward(torch.ones(2, requires_grad=True).sum())
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="a parameter of the network must require a gradient, got none"):
        FlatWeights(network).backward(torch.ones(2, requires_grad=True).sum())
