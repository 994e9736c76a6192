"""Steps on molecules of different size: captured for a few padded sizes, and moved by what the molecules say alone."""

import numpy as np
import pytest
import torch
from exact_sums import ExactSums
from mixed_molecules import molecules, small
from tape import TapeRecorder
from test_block_history import made as with_history
from test_training_device_data import joined, people
from test_training_periodic import NEAR, liquid
from test_training_step import assert_same_state, make_step, run, steps_config
from tiny_training import assert_same_run, tiny_config

from geotdm_fast import backend
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Trajectory, TrajectoryDataset
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.graphs import spec
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.training import loop, train
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.rewind import Rewind
from geotdm_fast.training.state import Progress
from geotdm_fast.training.step import TrainingStep
from geotdm_fast.training.streamed_data import StreamedData

ATOMS = (5, 7, 8, 11, 14, 19, 26, 40)


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
    dataset = molecules(ATOMS)
    with ExactSums(), backend("reference"):
        eager, captured = eager_and_captured(dataset, small(dataset, GRAPHS[name]))
    assert_same_state(captured, eager)
    assert float(eager.sums[0]) > 0 and len(captured._padded) <= captured._padding.number <= 16


def test_bonds_have_the_features_of_their_own_edge():
    """Of edges in no order: of the two kinds of graphs in a batch, each bond by its two nodes."""
    edges = {3: [[2, 0, 1, 1], [1, 1, 0, 2]], 2: [[1, 0], [0, 1]]}
    values = {3: [20.0, 0.0, 10.0, 11.0], 2: [30.0, 40.0]}
    items = [
        Trajectory(10 * torch.rand(n, 3, 5), torch.ones(n, 2), torch.tensor(edges[n]),
                   torch.tensor(values[n])[:, None], torch.arange(n))
        for n in (3, 2)
    ]  # fmt: skip
    dataset = TrajectoryDataset(items, name="bonds")
    config = small(dataset, {"radius": 1e-3, "bonds": True, "of": "current"}, batch_size=2)
    step = make_step(dataset, record=TapeRecorder(), config=config)
    draw, padded = step._padding(step.source.training(0)[0])
    noised = step.source.on_device(draw, step._plain(padded))
    rule = step.objective.split(noised)[1]["graph"]
    graph = rule(noised.batch.x[..., :1].transpose(1, 2))
    is_edge = graph.edge_index[0] < len(noised.batch.x)
    expected, first = [], 0
    for n in [len(items[item].x) for item in draw.items[:2].tolist()]:
        rows, cols = edges[n]
        expected += [(first + i, first + j, value, 1.0) for i, j, value in zip(rows, cols, values[n], strict=True)]
        first += n
    found = [*graph.edge_index[:, is_edge].tolist(), *graph.edge_attr[is_edge].T.tolist()]
    assert sorted(zip(*found, strict=True)) == sorted(expected)


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


@pytest.mark.parametrize("in_boxes", [False, True])
def test_windows_that_are_read_from_files(in_boxes):
    dataset = molecules((5, 7, 11), cell=np.eye(3) * 99, pbc=[1, 1, 1]) if in_boxes else molecules((5, 7, 11))
    states = []
    for record in (None, TapeRecorder()):
        step = make_step(dataset, record=record, config=small(dataset))
        step.source.data = StreamedData(dataset)
        with ExactSums(), backend("reference"):
            states.append(run(step, 0, 3))
        assert step.captures == (record is not None) and (step.num_padded > 0) == step.captures
    assert_same_state(*states)


def test_processes():
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
            assert step.captures == (record is not None) and (step.num_padded > 0) == step.captures
        assert_same_state(*states)


@pytest.mark.parametrize(("graph", "changes"), [*zip(NEAR, (True, False, False, True), strict=True)], ids=str)
def test_periodic_boxes(graph, changes):
    """Liquids of different size, each trajectory in a box of its own."""
    dataset = joined(*(liquid(3, nodes, changes=changes, seed=nodes) for nodes in (7, 9, 12)))
    config = small(dataset, graph)
    config["denoise_model"]["cutoff"] = None if "knn" in graph else 2.5
    with ExactSums(), backend("reference"):
        eager, captured = eager_and_captured(dataset, config, 3)
    assert_same_state(captured, eager)


def test_room_for_more_edges_is_made_for_every_size(monkeypatch):
    """Steps that found none are done again: the same weights as with room from the start."""
    dataset, states = molecules((5, 7, 11)), []
    for capacity in (1, 32):
        monkeypatch.setattr(spec, "FIRST_CAPACITY", capacity)
        step = make_step(dataset, record=TapeRecorder(warm_up=0), config=small(dataset, GRAPHS["radius"]))
        kept = [tensor.detach().clone() for tensor in step.state]
        assert step.may_overflow
        with ExactSums(), backend("reference"):
            run(step, 0, 2)
            while step.objective.overflowed():
                assert capacity == 1
                with torch.no_grad():
                    torch._foreach_copy_(step.state, kept)
                step.enlarge()
                run(step, 0, 2)
        states.append(step)
    assert_same_state(*states)


@pytest.mark.parametrize("other", [False, True])
def test_a_process_that_gave_up_goes_back_with_the_others(monkeypatch, other):
    """It asks as they do, and tells what it found before; `other`: another process found no room."""
    monkeypatch.setattr(spec, "FIRST_CAPACITY", 32 if other else 1)
    dataset, asked = molecules((5, 7)), []
    step = make_step(dataset, record=TapeRecorder(warm_up=0), config=small(dataset, GRAPHS["radius"]))

    class Two(Processes):
        def agree(self, *numbers):
            asked.append(numbers)
            return (max(numbers[0], int(other)),)

    progress = Progress()
    rewind = Rewind(step, Two(0, 1, torch.device("cpu")), progress)
    kept = [tensor.detach().clone() for tensor in step.state]
    run(step, 0, 1)
    progress.step = 1
    step._give_up("a capture failed")
    run(step, 1, 2)
    step.objective.enlarge()  # as edges of a later batch have it
    assert not step.captures and step.may_overflow and not step.objective.overflowed()
    assert step.overflowed() != other
    assert not rewind.settle(progress) and asked == [(int(not other),)] and progress.step == 0
    assert all(torch.equal(one, two) for one, two in zip(step.state, kept, strict=True))
    assert not step.overflowed()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_given_frames_that_the_network_drew(share):
    """The chains before a step are padded and captured too, and draw the same frames."""
    dataset = molecules((5, 7, 11), 10, span=8)
    config = small(dataset, block_history=1, cond_mask=[[0, 2]])
    config["diffusion"]["model_mean_type"] = "start_x"
    states, record = [], TapeRecorder()
    for recorder in (None, record):
        with ExactSums(), backend("reference"):
            step = with_history(dataset, config=config, record=recorder, share=share)
            states.append(run(step, 0, 4))
    assert_same_state(*states)
    chains = 0 if share == 0 else len(step.objective.diffusion.captures)
    assert len(record.tapes) >= step.num_padded + chains > chains >= share


def test_chains_are_made_once_for_each_size():
    """As many are kept as steps are: none is made again in the second epoch, and one line says so where one is."""
    dataset = molecules(ATOMS, 10, span=8)
    config = small(dataset, block_history=1, cond_mask=[[0, 2]], batch_size=1, rotate=False)
    config["diffusion"]["model_mean_type"] = "start_x"
    step = with_history(dataset, config=config, record=TapeRecorder(warm_up=0), share=1.0)
    chains, sizes = step.objective.diffusion.captures, step._padding.number
    run(step, 0, step.source.per_epoch)
    assert chains.capacity == 16 and chains.made == step._padded.made == sizes > CaptureCache().capacity
    run(step, step.source.per_epoch, 2 * step.source.per_epoch)
    assert chains.made == step._padded.made == sizes and len(step.lines) == 1
    chains.made = 17  # as of chains of more kinds
    run(step, 0, 1)
    assert "made again and again" in step.lines[1]
    step.enlarge()
    assert len(chains) == chains.made == 0


# --- in ordinary sums -------------------------------------------------------------------------------------------------


def test_loss_and_norm_are_the_same_to_rounding(device):
    dataset = molecules(ATOMS)
    config = steps_config(dataset, batch_size=4, rotate=True)
    record = TapeRecorder() if device == "cpu" else None
    eager = run(make_step(dataset, device, config=config | {"train": config["train"] | {"cuda_graph": False}}), 0, 6)
    captured = run(make_step(dataset, device, record=record, config=config), 0, 6)
    assert captured.captures and not eager.captures
    torch.testing.assert_close(captured.sums, eager.sums, rtol=1e-5 if device == "cpu" else 1e-3, atol=0)


def test_what_stands_in_changes_no_bit():
    """Another trajectory, other noise, turns and steps in the rows to spare: the same loss and gradient."""
    dataset = molecules(ATOMS)
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


def test_a_run_that_was_stopped_and_found_no_room_is_the_run_that_was_not(tmp_path, monkeypatch):
    """Bit for bit: sizes are those of the first epoch, whichever step a run goes on from."""
    made, folders = loop.TrainingStep, (tmp_path / "whole", tmp_path / "stopped")
    monkeypatch.setattr(loop, "TrainingStep", lambda *a, **k: made(*a, record=TapeRecorder(warm_up=0), **k))
    paths = []
    for atoms in (5, 9):
        x = 1.3 * np.arange(atoms)[:, None] * [1, 0, 0] + 0.05 * np.random.default_rng(0).normal(size=(40, atoms, 3))
        paths.append(str(tmp_path / f"{atoms}.npz"))
        np.savez(paths[-1], R=x, z=np.full(atoms, 6))
    section = {"kind": "npz", "path": paths, "span": 5, "atom_types": [6, 8], "stride": 3}
    settings = {"cond_mask": [[0, 2]], "eval_every_step": 3, "checkpoint_every_steps": 3, "batch_size": 2}
    for folder, capacity, stops in zip(folders, (32, 1), ([6], [3, 6]), strict=True):
        monkeypatch.setattr(spec, "FIRST_CAPACITY", capacity)
        for num_steps in stops:
            config = tiny_config(num_steps=num_steps, **settings)
            config["data"] = {split: section | {"split": split} for split in ("train", "val")}
            config["denoise_model"] |= {"node_dim": 6, "edge_dim": 0, "graph": {"radius": 2.0, "of": "current"}}
            train(config, output_dir=folder, progress=False)
    assert_same_run(*folders)


# --- how many there are -----------------------------------------------------------------------------------------------


def test_captures_are_few_and_said():
    dataset, record = molecules(ATOMS), TapeRecorder()
    step = make_step(dataset, record=record, config=steps_config(dataset, batch_size=3, cuda_graph_sizes=2))
    number = step._padding.number
    assert step.lines == [
        f"train: the graphs of data.train differ: the first {step.source.per_epoch} batches are padded to {number} "
        "sizes of nodes and edges; at most 2 CUDA graphs are kept"
    ]
    run(step, 0, step.source.per_epoch)
    assert len(step._padded) <= 2 and len(record.tapes) >= number and record.replays == step.source.per_epoch
    fine = make_step(dataset, record=TapeRecorder(), config=steps_config(dataset, batch_size=3))
    assert 2 >= number < fine._padding.number <= 16, "coarser, for they would be more"


def test_more_sizes_than_captures_are_said_once():
    dataset = molecules((5, 40))
    step = make_step(dataset, record=TapeRecorder(warm_up=0), config=small(dataset, batch_size=1, cuda_graph_sizes=1))
    run(step, 0, 6)
    assert step.lines[1:] == [
        "train: batches need more than 1 CUDA graphs: they are made again and again, in the time of a few steps "
        "each; a larger train.cuda_graph_sizes keeps more"
    ]
    assert step._padding.number == 2 and step.num_padded == 1 < step._padded.made
    step.enlarge()
    assert step.num_padded == step._padded.made == 0


def test_equal_graphs_are_not_padded():
    step = make_step(molecules((7,)), record=TapeRecorder(), batch_size=3)
    assert step._padding is None and not step.lines
    assert make_step(molecules((5, 7)), batch_size=3)._padding is None, "nor what is not captured"


@pytest.mark.parametrize("error", [RuntimeError("not this one\nbecause"), MemoryError("not this one")], ids=repr)
def test_a_capture_that_fails_leaves_the_step_eager(error):
    dataset = molecules((5, 7))

    def fails(call):
        raise error

    config = small(dataset)
    step = make_step(dataset, record=fails, config=config)
    run(step, 0, 3)
    assert step.lines[1:] == ["train: the step runs without a CUDA graph: not this one"]
    assert step._padding is None and not step.captures and step.objective.grows
    plain = run(make_step(dataset, config=config), 0, 3)
    torch.testing.assert_close(step.sums, plain.sums, rtol=1e-5, atol=0)


def test_a_network_with_parts_of_somebody_else_is_given_the_batches_as_they_are():
    dataset = molecules((5, 7))
    config = small(dataset)
    one, lines = make_step(dataset, config=config), []
    one.objective.diffusion.denoise_network.s_modules[0].register_forward_hook(lambda *about: None)
    parts = (one.objective, one.weights, one.average, one.source, one.ours)
    step = TrainingStep(config["train"], *parts, say=lines.append, record=TapeRecorder())
    assert lines == [
        "train: the step runs without a CUDA graph: the graphs of data.train differ, and s_modules.0 is ESLayer, with "
        "hooks or a forward of its own"
    ]
    assert not step.captures and step._padding is None and step.objective.grows


@pytest.mark.parametrize("key", [0, 1.5])
def test_the_number_is_checked(key):
    with pytest.raises(ValueError, match=r"train\.cuda_graph_sizes"):
        normalise_config(steps_config(molecules((5,)), cuda_graph_sizes=key))
