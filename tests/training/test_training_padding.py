"""Steps on molecules of different size: captured for a few padded sizes, and moved by what the molecules say alone."""

import pytest
import torch
from exact_sums import ExactSums
from tape import TapeRecorder
from test_training_device_data import joined, molecule, people
from test_training_step import assert_same_state, make_step, run, steps_config

from geotdm_fast import backend
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import TrajectoryDataset
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.step import TrainingStep

ATOMS = (5, 7, 8, 11, 14, 19, 26, 40)


def molecules(atoms=ATOMS, frames=7, **more) -> TrajectoryDataset:
    """Three windows of each of these chains of carbon and oxygen."""
    return joined(*(molecule([6, 8, 6, 6] * (n // 4) + [6] * (n % 4), frames, seed=n, **more) for n in atoms))


def small(dataset, graph=None, **train) -> dict:
    """A configuration of a few numbers: in `ExactSums` every product is made number by number."""
    config = steps_config(dataset, **{"batch_size": 3, "rotate": True} | train)
    config["denoise_model"] |= {"hidden_dim": 8, "time_emb_dim": 4}
    if graph is not None:
        config["denoise_model"] |= {"graph": graph, "edge_dim": config["denoise_model"]["edge_dim"] + 1}
        if not graph.get("bonds"):
            config["denoise_model"]["edge_dim"] = 0
        config = normalise_config(config)
    return config


def eager_and_captured(dataset, config, num_steps=6, change=lambda step: None) -> tuple[TrainingStep, TrainingStep]:
    """The state after some steps, both ways."""
    both = []
    for record in (None, TapeRecorder()):
        step = make_step(dataset, record=record, config=config)
        change(step)
        both.append(run(step, 0, num_steps))
    eager, captured = both
    assert captured.captures and captured._padding is not None and eager._padding is None
    return eager, captured


# --- bit for bit ------------------------------------------------------------------------------------------------------

GRAPHS = {
    "bonds": None,
    "radius": {"radius": 2.0, "of": "current"},
    "radius, with bonds": {"radius": 1.5, "bonds": True, "of": "current"},
    "of the given frames": {"radius": 2.0, "bonds": True},
    "nearest": {"knn": 3, "of": "current"},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_six_steps_move_the_weights_as_eager_ones_do(name):
    """Bit for bit, moments, average, loss and norm too, where no sum depends on the order of its terms."""
    dataset = molecules()
    with ExactSums(), backend("reference"):
        eager, captured = eager_and_captured(dataset, small(dataset, GRAPHS[name]))
    assert_same_state(captured, eager)
    assert float(eager.sums[0]) > 0 and len(captured._padded) <= captured._padding.number <= 16


@pytest.mark.parametrize(
    "kind", ["uncond", "com", "accumulate", "muon", "context noise", "people", "conditions", "gaps"]
)
def test_every_kind_of_training(kind):
    dataset = {"people": people, "conditions": told}.get(kind, lambda: molecules((5, 7, 11)))()
    config = small(dataset, **{"accumulate": {"accumulate": 2}, "muon": {"optimizer": "muon"}}.get(kind, {}))
    if kind == "uncond":
        config["diffusion"]["mode"] = "uncond"
        config["train"] |= {"cond_mask": None, "tot_len": 3}
    elif kind == "com":
        config["diffusion"]["prior"] = "com"
    elif kind == "gaps":
        config["train"]["cond_mask"] = [[0, 1], [4, 5]]
    elif kind == "conditions":
        config["denoise_model"]["conditions"] = {"lag": [0.1, 0.2]}

    def change(step):
        if kind == "context noise":
            step.source.context = ContextNoise(0.1, (0, 1), torch.device("cpu"))

    with ExactSums(), backend("reference"):
        eager, captured = eager_and_captured(dataset, config, 4, change)
    assert_same_state(captured, eager)


def told() -> TrajectoryDataset:
    return joined(*(with_conditions(molecules((n,)), {"lag": lag}) for n, lag in ((5, 0.1), (9, 0.2))))


def test_streamed_and_processes():
    """A rank's share of a batch, and one that has no graph of it and stands in with one."""
    dataset = molecules((5, 7))
    for rank in (0, 3):
        states = []
        for record in (None, TapeRecorder()):
            step = make_step(dataset, record=record, config=small(dataset))
            step.source.rank, step.source.world_size = rank, 4
            step._in_parts = True
            with ExactSums(), backend("reference"):
                states.append(run(step, 0, 3))
        assert_same_state(*states)


# --- in ordinary sums -------------------------------------------------------------------------------------------------


def test_loss_and_norm_are_the_same_to_rounding(device):
    dataset = molecules()
    config = steps_config(dataset, batch_size=4, rotate=True)
    record = TapeRecorder() if device == "cpu" else None
    eager = run(make_step(dataset, device, config=config | {"train": config["train"] | {"cuda_graph": False}}), 0, 6)
    captured = run(make_step(dataset, device, record=record, config=config), 0, 6)
    assert captured.captures and not eager.captures
    torch.testing.assert_close(captured.sums, eager.sums, rtol=1e-5 if device == "cpu" else 1e-3, atol=0)


def test_what_stands_in_changes_no_bit():
    """Another trajectory, other noise, turns and steps in the rows to spare: the same loss and gradient."""
    dataset = molecules()
    step = make_step(dataset, record=TapeRecorder(), config=steps_config(dataset, batch_size=4, rotate=True))
    gradients, generator = [], torch.Generator().manual_seed(0)
    for is_other in (False, True):
        (plain,) = step.source.training(0)
        draw, structure = step._padding(plain)
        if is_other:
            own, graphs = len(plain.noise), len(plain.items)
            assert own < len(draw.noise) and graphs < len(draw.items)
            draw.noise[own:] = torch.randn(draw.noise[own:].shape, generator=generator)
            draw.items[graphs:], draw.steps[graphs:] = len(dataset) - 1, 17
            draw.turn[graphs:] = draw.turn[:1]
        step.sums.zero_()
        step.weights.flat.grad.zero_()
        step._gradient(draw, structure)
        gradients.append((step.weights.flat.grad.clone(), step.sums.clone()))
    (one, loss), (other, same) = gradients
    assert torch.equal(one, other) and torch.equal(loss, same) and one.abs().max() > 0


# --- how many there are -----------------------------------------------------------------------------------------------


def test_captures_are_few_and_said():
    dataset, record = molecules(), TapeRecorder()
    step = make_step(dataset, record=record, config=steps_config(dataset, batch_size=3, cuda_graph_sizes=2))
    number = step._padding.number
    assert step.lines == [
        f"train: the graphs of data.train differ: batches are padded, in the first epoch to {number} sizes of nodes "
        "and edges; at most 2 CUDA graphs are kept"
    ]
    run(step, 0, step.source.per_epoch)
    assert len(step._padded) <= 2 and len(record.tapes) >= number and record.replays == step.source.per_epoch
    fine = make_step(dataset, record=TapeRecorder(), config=steps_config(dataset, batch_size=3))
    assert 2 >= number < fine._padding.number <= 16, "coarser, for they would be more"


def test_equal_graphs_are_not_padded():
    step = make_step(molecules((7,)), record=TapeRecorder(), batch_size=3)
    assert step._padding is None and not step.lines
    assert make_step(molecules((5, 7)), batch_size=3)._padding is None, "nor what is not captured"


def test_a_capture_that_fails_leaves_the_step_eager():
    dataset = molecules((5, 7))

    def fails(call):
        raise RuntimeError("not this one\nbecause")

    config = small(dataset)
    step = make_step(dataset, record=fails, config=config)
    run(step, 0, 3)
    assert step.lines[1:] == ["train: the step runs without a CUDA graph: not this one"]
    assert step._padding is None and not step.captures and step.objective.grows
    plain = run(make_step(dataset, config=config), 0, 3)
    torch.testing.assert_close(step.sums, plain.sums, rtol=1e-5, atol=0)


@pytest.mark.parametrize("key", [0, 1.5])
def test_the_number_is_checked(key):
    with pytest.raises(ValueError, match=r"train\.cuda_graph_sizes"):
        normalise_config(steps_config(molecules((5,)), cuda_graph_sizes=key))
