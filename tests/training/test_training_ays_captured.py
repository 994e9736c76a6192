"""Captured training steps of Align Your Structures, of one molecule and of several: the weights of eager ones."""

import pytest
import torch
from ays_trainings import folder_of_runs, step_of
from exact_sums import ExactSums
from tape import TapeRecorder
from test_training_step import assert_same_state, run
from tiny_ays import SPAN, interpolator_config, structure_config

from geotdm_fast import backend
from geotdm_fast.data import open_dataset
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
    conditioning, network = KINDS[kind]
    small = {"hidden_dim": 8, "time_emb_dim": 4, "node_dim": 3, "edge_dim": 2}
    train = {"batch_size": 3, "rotate": True, "clip": 0.5} | train
    if conditioning is None:
        config = structure_config(folder, **train)
    else:
        config = interpolator_config(folder, conditioning, network, **train)
    config["denoise_model"] |= small
    config["diffusion"]["model_mean_type"] = "start_x"
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


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_two_molecules_move_the_weights_as_eager_ones_do(folder, kind):
    """Bit for bit, moments, average, loss and norm too, where no sum depends on the order of its terms."""
    eager, captured = eager_and_captured(config_of(folder, kind))
    assert captured._padding is not None and eager._padding is None
    assert_same_state(captured, eager)
    assert float(eager.sums[0]) > 0 and 1 <= len(captured._padded) <= 16


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


def test_captures_are_few_and_said(folder):
    """With a coin there are two for a size, and half as many sizes."""
    for kind, words in (("forward", ""), ("coin", ", each with and without given frames")):
        record = TapeRecorder(warm_up=0)
        step = step_of(config_of(folder, kind, batch_size=2, cuda_graph_sizes=2), record)
        padding = step._padding
        assert step.lines == [
            f"train: the graphs of data.train differ: the first {padding.looked_at} batches are padded to "
            f"{padding.number} sizes of nodes and edges{words}; at most 2 CUDA graphs are kept"
        ]
        run(step, 0, 8)
        assert len(step._padded) <= 2 and record.replays == 8


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
