"""Captured training steps of Align Your Structures, of one molecule and of several: the weights of eager ones."""

import gc
import itertools
import weakref

import pytest
import torch
from ays_trainings import folder_of_runs, positions_config, step_of
from exact_sums import ExactSums
from tape import Tape, TapeRecorder
from test_training_step import assert_same_state, run
from tiny_ays import SPAN
from torch.utils._pytree import tree_leaves

from geotdm_fast import backend
from geotdm_fast.conditioning import frames_of
from geotdm_fast.data import open_dataset
from geotdm_fast.runtime import cuda_graphs
from geotdm_fast.task import _mask_on
from geotdm_fast.training.streamed_data import StreamedData

SIMPLE = {"type": "interpolator_simple", "sigmoid_init": True}
# Networks and what they may be given, each with what is captured of it.
KINDS = {
    "structure": (None, {}),
    "none": ("none", {}),
    "forward": ("forward", {}),
    "interpolation": ("interpolation", {"sigmoid_init": True}),
    "coin": ("unconditional_forward", {}),
    "heads": ("forward", {"use_mha": True, "num_heads": 2}),
    "turned": ("forward", {"use_kabsch": True}),
    "simple": ("forward", SIMPLE),
    "simple, coin": ("forward_uncond", SIMPLE),
    "stack": ("forward", {"type": "stack"}),
    "egtn": ("forward", {"type": "egtn"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


def config_of(folder, kind, **train) -> dict:
    """A configuration of a few numbers, of ethanol and water; `rotate` turns every molecule."""
    config = positions_config(folder, *KINDS[kind], **{"batch_size": 3, "rotate": True, "clip": 0.5} | train)
    config["denoise_model"] |= {"hidden_dim": 8, "time_emb_dim": 4, "node_dim": 3, "edge_dim": 2}
    return config


def of_ethanol(config, folder) -> dict:
    """The same of one molecule alone."""
    path = str(folder / ("ethanol.npz" if config["data"]["train"]["kind"] == "npz" else "conformers.npz"))
    config["data"]["train"] |= {"path": path}
    return config


def eager_and_captured(config, num_steps=4, change=lambda step: None):
    """The state after some steps, both ways."""
    both = []
    for record in (None, TapeRecorder()):
        step = step_of(config, record)
        change(step)
        with ExactSums(), backend("reference"):
            both.append(run(step, 0, num_steps))
    eager, captured = both
    assert captured.captures and not eager.captures
    return eager, captured


def padded_kinds(step, num_steps) -> set[tuple[int, ...]]:
    """Nodes, edges and graphs that batches are padded to, and whether nothing is given, of the first steps."""
    found = set()
    for number in range(num_steps):
        draw, padded = step._padding(step.source.training(number)[0])
        structure = padded.structure()
        found.add((len(structure.batch), structure.graph.num_edges, structure.num_graphs, draw.is_free))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_two_molecules_move_the_weights_as_eager_ones_do(folder, kind):
    """Bit for bit, moments, average, loss and norm too, where no sum depends on the order of its terms."""
    eager, captured = eager_and_captured(config_of(folder, kind))
    assert captured._padding is not None and eager._padding is None
    assert_same_state(captured, eager)
    assert float(eager.sums[0]) > 0
    # One capture for each size and side of the coin of these four batches, each made once.
    assert len(captured._padded) == captured._padded.made == len(padded_kinds(captured, 4))


@pytest.mark.parametrize("kind", ["forward", "coin", "heads"])
def test_steps_on_one_molecule(folder, kind):
    """Without padding: one graph for each size of a batch, on either side of the coin."""
    config = of_ethanol(config_of(folder, kind), folder)
    eager, captured = eager_and_captured(config)
    draws = [captured.source.training(number)[0] for number in range(4)]
    kinds = {(len(draw.items), draw.is_free) for draw in draws}
    assert len({is_free for _, is_free in kinds}) == (2 if kind == "coin" else 1)
    assert captured._padding is None and len(captured._captures) == len(kinds)
    assert_same_state(captured, eager)


@pytest.mark.parametrize("kind", ["accumulate", "muon", "not aligned", "epsilon", "recompute", "frozen", "from files"])
def test_every_kind_of_training(folder, kind):
    settings = {"accumulate": {"accumulate": 2}, "muon": {"optimizer": "muon"}}.get(kind, {})
    config = config_of(folder, "coin", **settings)
    if kind == "not aligned":
        config["diffusion"]["use_kabsch_alignment"] = False
    elif kind == "epsilon":
        config["diffusion"]["model_mean_type"] = "epsilon"
    dataset = open_dataset(config["data"]["train"])

    def change(step):
        network = step.objective.diffusion.denoise_network.module
        if kind == "recompute":
            network.recompute = True
        elif kind == "frozen":
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(not name.startswith(("s_modules.", "input_linear", "embedding")))
        elif kind == "from files":
            step.source.data = StreamedData(dataset)

    assert_same_state(*eager_and_captured(config, 4, change))


def test_processes(folder):
    """A rank's share of a batch, and one that has no molecule of it and stands in with one."""
    for rank in (0, 3):

        def change(step, rank=rank):
            step.source.rank, step.source.world_size, step._in_parts = rank, 4, True

        assert_same_state(*eager_and_captured(config_of(folder, "forward"), 3, change))


def test_loss_and_norm_are_the_same_to_rounding(folder, device):
    """In ordinary sums, by the kernels of the device."""
    captured = run(step_of(wide(folder), TapeRecorder() if device == "cpu" else None, device), 0, 6)
    eager = run(step_of(wide(folder, cuda_graph=False), None, device), 0, 6)
    assert captured.captures and captured._padding is not None and not eager.captures
    torch.testing.assert_close(captured.sums, eager.sums, rtol=1e-5 if device == "cpu" else 1e-3, atol=0)


def wide(folder, **train) -> dict:
    """Of a width that the kernels for GPUs take."""
    config = config_of(folder, "coin", batch_size=4, **train)
    config["denoise_model"] |= {"hidden_dim": 16, "time_emb_dim": 8}
    return config


def test_what_stands_in_changes_no_bit(folder):
    """Other noise, steps and windows in the rows to spare: the same loss and gradient."""
    gradients, generator = [], torch.Generator().manual_seed(0)
    for kind in ("forward", "structure"):
        step = step_of(config_of(folder, kind, batch_size=3), TapeRecorder())
        for is_other in (False, True):
            (plain,) = step.source.training(0)
            draw, structure = step._padding(plain)
            if is_other:
                own, graphs = len(plain.noise), len(plain.items)
                assert own < len(draw.noise) and graphs < len(draw.items)
                draw.noise[own:] = torch.randn(draw.noise[own:].shape, generator=generator)
                draw.items[graphs:], draw.steps[graphs:] = len(step.source.data) - 1, 17
                draw.turn[graphs:] = draw.turn[:1]
            step.sums.zero_()
            step.weights.flat.grad.zero_()
            step._gradient(draw, structure)
            gradients.append((step.weights.flat.grad.clone(), step.sums.clone()))
        (one, loss), (other, same) = gradients[-2:]
        assert torch.equal(one, other) and torch.equal(loss, same) and one.abs().max() > 0


@pytest.mark.parametrize("most", [1, 2, 4])
def test_captures_are_few_and_said(folder, most):
    """With a coin there are two for a size, and half as many sizes, but one at least."""
    for kind, words in (("forward", ""), ("coin", ", each with and without given frames")):
        record = TapeRecorder(warm_up=0)
        step = step_of(config_of(folder, kind, batch_size=4, cuda_graph_sizes=most), record)
        padding, kept = step._padding, max(most, 2) if kind == "coin" else most
        assert step.lines == [
            f"train: the graphs of data.train differ: the first {padding.looked_at} batches are padded to "
            f"{padding.number} sizes of nodes and edges{words}; at most {kept} CUDA graphs are kept"
        ]
        assert step._padded.capacity == kept
        assert 1 <= padding.number <= (kept // 2 if kind == "coin" else kept)
        run(step, 0, 8)
        assert len(step._padded) == min(kept, len(padded_kinds(step, 8))) and record.replays == 8


def test_one_size_and_a_coin(folder):
    """Two captures that stay, whatever the coin says: nothing is made again."""
    record = TapeRecorder(warm_up=0)
    step = step_of(config_of(folder, "coin", batch_size=10, cuda_graph_sizes=1), record)
    run(step, 0, 8)
    sides = [draw.is_free for number in range(8) for draw in step.source.training(number)]
    assert sum(one != other for one, other in itertools.pairwise(sides)) > 2, "the coin turns"
    assert step._padding.number == 1 and len(record.tapes) == 2 and len(step.lines) == 1


def test_a_replay_makes_anew_all_that_it_does_not_keep(folder):
    """What was made while it was recorded is spoiled, and the next steps are those of an eager training."""
    for kind in ("turned", "structure", "heads"):
        record = TapeRecorder()
        config = config_of(folder, kind, batch_size=2)
        step = run(step_of(config, record), 0, 6)
        known = [captured.inputs for captured in step._padded._known.values()]
        for tape in record.tapes:
            kept = (known, step.state)
            tape.spoil((kept, tape.read_from_outside(kept)))
        expected = run(step_of(config), 0, 12)
        torch.testing.assert_close(run(step, 6, 12).sums, expected.sums, rtol=1e-5, atol=0)


def test_a_hook_gives_the_capture_up(folder):
    """The parts of somebody else need not know what places without an edge are."""
    config = config_of(folder, "forward")
    record = TapeRecorder()
    step = step_of(config, record)
    assert step.source.data.num_frames == SPAN and step.captures
    network = step.objective.diffusion.denoise_network.module
    network.norm1[0].register_forward_hook(lambda *_: None)
    step.captures = True
    step._pad(4)
    assert not step.captures and "norm1.0 is LayerNorm, with hooks" in step.lines[-1]


def test_captures_of_one_molecule_share_memory(folder, monkeypatch):
    """One recorder with one pool makes them all, on both sides of the coin and in a smaller last batch.

    They return no tensor, and a replay reads nothing that another one left. After `enlarge` there is a new pool.
    """
    made = []

    class Recorder(TapeRecorder):
        def __init__(self, device, generators=(), *, shares_memory=False):
            super().__init__()
            assert shares_memory and not generators and device == torch.device("cpu")
            made.append(self)

    monkeypatch.setattr(cuda_graphs, "CUDAGraphRecorder", Recorder)
    config = of_ethanol(config_of(folder, "coin"), folder)
    step = step_of(config)
    step.captures = True  # as on CUDA
    with ExactSums(), backend("reference"):
        run(step, 0, 8)
        expected = run(step_of(config), 0, 8)
    (recorder,) = made
    assert step._padding is None and len(recorder.tapes) == len(step._captures) == 4
    assert all(captured.results is None for captured in step._captures._known.values())
    outside = [_storages(tape.read_from_outside(())) for tape in recorder.tapes]
    own = [_storages(out for *_, out in tape.steps) - read for tape, read in zip(recorder.tapes, outside, strict=True)]
    assert all(own) and not any(one & other for one, other in itertools.product(own, outside))
    assert_same_state(step, expected)
    step.enlarge()
    assert len(step._captures) == 0
    run(step, 8, 9)
    assert len(made) == 2


def _storages(tree) -> set[int]:
    """Addresses of the memory of all tensors in it that are not empty."""
    tensors = [leaf for leaf in tree_leaves(list(tree)) if isinstance(leaf, torch.Tensor)]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors} - {0}


@pytest.mark.parametrize("is_padded", [True, False])
def test_given_frames_stay_where_a_capture_reads_them(folder, is_padded):
    """Whoever changes a mask in place makes its caches drop it and its frames; the step has them until `enlarge`."""
    read = []

    def record(call):
        # Keeps none of the tensors that the call reads, as a CUDA graph does.
        tape = Tape()
        with tape:
            results = call()
        read.extend(weakref.ref(tensor) for tensor in tape.read_from_outside(()))
        return results, lambda: None

    config = config_of(folder, "interpolation", batch_size=4)
    step = step_of(config if is_padded else of_ethanol(config, folder), record)
    _mask_on.cache_clear()
    run(step, 0, 1)
    assert (step._padding is not None) == is_padded
    mask, _ = _mask_on(step.objective.task.given, SPAN, torch.device("cpu"))
    index = weakref.ref(frames_of(mask).given_index)
    assert any(tensor() is index() for tensor in read), "the graph reads it"
    mask.add_(0)
    frames_of(mask)
    mask = weakref.ref(mask)
    _mask_on.cache_clear()
    gc.collect()
    assert mask() is not None and index() is not None
    step.enlarge()
    gc.collect()
    assert mask() is None and index() is None
