"""Molecules of different size in one request: a few captures serve all its batches, which draw what they did."""

import pytest
import torch
from mixed_molecules import molecules, sampled, tiny
from tape import TapeRecorder
from test_training_device_data import joined
from test_training_periodic import liquid
from tiny_models import tiny_diffusion
from tolerances import assert_same

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.diffusion import Flow, GeoTDM, Sampler
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.sampling.batches import Drawer
from geotdm_fast.sampling.rollout import roll_out
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.task import Task

ATOMS = (5, 6, 7, 9, 12, 15, 19, 24, 31, 40)
GRAPHS = {
    "bonds": None,
    "radius": {"radius": 2.0, "of": "current"},
    "radius, with bonds": {"radius": 1.5, "bonds": True, "of": "current"},
    "of the given frames": {"radius": 2.0},
    "of the given frames, with bonds": {"radius": 2.0, "bonds": True},
    "nearest": {"knn": 3, "of": "current"},
}


def both_ways(dataset, config, draw, change=lambda diffusion: None):
    """What is drawn with plain steps, and with recorded ones, and the recorder."""
    drawn, record = [], TapeRecorder()
    for recorder in (None, record):
        diffusion = tiny_diffusion(config)
        change(diffusion)
        diffusion.captures = None if recorder is None else CaptureCache(record=recorder)
        flow = isinstance(diffusion, Flow)
        sampler = Sampler(diffusion, "ab2", 5) if flow else Sampler(diffusion, "ddim", 5, eta=0.5)
        drawn.append(draw(sampler, collate(dataset), Task.of_config(config)))
    return *drawn, record


@pytest.mark.parametrize("name", GRAPHS)
def test_positions_are_the_same_bit_for_bit(name):
    """Ten molecules of 5 to 40 atoms, one by one, in no more captures than are kept."""
    dataset = molecules(ATOMS, 5)
    plain, padded, record = both_ways(dataset, tiny(dataset, GRAPHS[name]), sampled)
    assert torch.equal(plain, padded) and plain.isfinite().all()
    assert len(record.tapes) <= CaptureCache().capacity < len(ATOMS)
    assert record.replays == 5 * len(ATOMS)


@pytest.mark.parametrize("kind", ["uncond", "conditions", "several samples", "few sizes"])
def test_other_requests(kind):
    dataset, options = molecules(ATOMS, 5), {}
    mode = "uncond" if kind == "uncond" else "cond"
    if kind == "conditions":
        dataset = joined(*(with_conditions(molecules((n,), 5), {"heat": float(n)}) for n in ATOMS))
    elif kind == "several samples":
        options = {"num_samples": 2, "batch_size": 4}
    elif kind == "few sizes":
        dataset = molecules((5, 7, 5, 7, 5), 5)
    told = {"conditions": {"heat": [5.0, 40.0]}} if kind == "conditions" else {}
    config = tiny(dataset, mode=mode, **told)
    draw = lambda *request: sampled(*request, **options)
    plain, padded, record = both_ways(dataset, config, draw)
    if kind == "conditions":  # a product of one row for each graph, which torch makes otherwise of one alone
        assert_same(padded, plain, 1e-5)
    else:
        assert torch.equal(plain, padded)
    assert len(record.tapes) <= 4
    if kind == "few sizes":
        assert len(record.tapes) == 2, "as they are"


@pytest.mark.parametrize("prior", ["walk", "velocity", "last_frame", "learned"])
def test_a_flow(prior):
    """Prior and start are the same beside other atoms, and beside the room for more."""
    dataset = molecules(ATOMS, 5)
    config = tiny(dataset, {"radius": 2.0, "of": "current"})
    config["diffusion"] = {"kind": "flow", "num_timesteps": 25, "mode": "cond", "prior": prior}
    plain, padded, record = both_ways(dataset, normalise_config(config), sampled)
    assert torch.equal(plain, padded) and plain.isfinite().all()
    assert len(record.tapes) <= CaptureCache().capacity


@pytest.mark.parametrize(
    "graph", [{"radius": 2.5, "of": "current"}, {"radius": 2.5, "bonds": True}, {"knn": 4}], ids=str
)
def test_molecules_in_boxes_of_their_own(graph):
    """Edges by distance in boxes of different size and filling."""
    parts = [liquid(2, nodes, frames=5, seed=nodes) for nodes in (6, 7, 9, 10, 13, 17)]
    dataset = joined(*parts)
    config = tiny(dataset, graph, cutoff=graph.get("radius"))
    plain, padded, record = both_ways(dataset, config, sampled)
    assert torch.equal(plain, padded)
    assert len(record.tapes) < len(dataset)


def test_where_memory_ran_out_the_smaller_batches_have_sizes_of_their_own(monkeypatch):
    """What does not fit is padded to the sizes of the old batches: the new ones must not be."""
    dataset, rooms = molecules(ATOMS, 5), []
    drawn = Drawer._draw_batch

    def draw_batch(drawer, sampler, block, step):
        rooms.append((drawer._padding, drawer.batch_size))
        if block.size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return drawn(drawer, sampler, block, step)

    config = tiny(dataset)
    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="do not fit into the memory"):
        patched.setattr(Drawer, "_draw_batch", draw_batch)
        draw = lambda *request: sampled(*request, batch_size=2)
        plain, padded, record = both_ways(dataset, config, draw)
    alone = both_ways(dataset, config, sampled)
    assert torch.equal(plain, padded) and torch.equal(padded, alone[1])
    (before, _), *after = rooms[-1 - len(ATOMS) :]
    assert {size for _, size in after} == {1} and all(room.sizes == after[0][0].sizes for room, _ in after)
    assert before is None or before.sizes != after[0][0].sizes
    assert len(record.tapes) == len(alone[2].tapes) <= CaptureCache().capacity


def test_a_subclass_of_geotdm_is_sampled_as_it_is():
    """It is given no graph that could be padded: each of eight sizes has a capture of its own."""

    class Mine(GeoTDM):
        pass

    def change(diffusion):
        diffusion.__class__ = Mine

    dataset = molecules(range(3, 11), 5)
    config = tiny(dataset)
    plain, captured, record = both_ways(dataset, config, sampled, change)
    assert torch.equal(plain, captured) and plain.isfinite().all()
    assert record.replays == 5 * 8 and len(record.tapes) == 8
    padded, padded_record = both_ways(dataset, config, sampled)[1:]
    assert torch.equal(padded, captured) and len(padded_record.tapes) <= CaptureCache().capacity


def test_a_subclass_of_flow_that_hides_the_graph_is_sampled_as_it_is():
    """It calls the network without a graph: nothing is padded for it, as for a subclass of GeoTDM."""
    hidden = []

    class Mine(Flow):
        def with_graph(self, model_kwargs, room=None):
            hidden.append(super().with_graph(model_kwargs, room))
            return {name: value for name, value in model_kwargs.items() if name != "graph"}

    def change(diffusion):
        diffusion.__class__ = Mine

    dataset = molecules(range(3, 11), 5)
    config = tiny(dataset)
    config["diffusion"] = {"kind": "flow", "num_timesteps": 25, "mode": "cond", "prior": "walk"}
    config = normalise_config(config)
    plain, captured, record = both_ways(dataset, config, sampled, change)
    assert torch.equal(plain, captured) and plain.isfinite().all()
    assert len(record.tapes) == 8 and hidden and all(given.get("graph") is None for given in hidden)
    padded, padded_record = both_ways(dataset, config, sampled)[1:]
    assert torch.equal(padded, captured) and len(padded_record.tapes) <= CaptureCache().capacity


def test_a_rollout_goes_through_the_same_captures():
    dataset = molecules(ATOMS, 5)
    config = tiny(dataset)
    rollout = Rollout.of(Task.of_config(config), 5, 7)
    options = {"num_samples": 1, "seed": 3, "batch_size": 1, "progress": False}
    draw = lambda *request: roll_out(*request, rollout, **options)
    plain, padded, record = both_ways(dataset, config, draw)
    assert torch.equal(plain, padded) and plain.shape[-1] == 7
    assert len(record.tapes) <= 4
