"""Training in periodic boxes: which image of an atom the data hold matters to nothing, and a captured step holds it."""

import pytest
import torch
from tape import TapeRecorder
from test_training_step import assert_same_state, make_step, run, steps_config

from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset

NEAR = [{"radius": 2.5, "of": "current"}, {"radius": 2.5}, {"radius": 2.5, "bonds": True, "of": "current"}, {"knn": 4}]
CELL = torch.tensor([[4.0, 0, 0], [1.5, 4.5, 0], [-1, 0.5, 5]])
BONDS = torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]])


def liquid(count=5, nodes=7, frames=6, changes=False, moved=False, seed=0):
    """Random walks in boxes of every trajectory's own, larger and larger; `moved`: every unbonded atom by a vector."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    items = []
    for index in range(count):
        cell = (CELL * (1 + 0.2 * index) + 0.1 * draw(3, 3)).expand(frames, 3, 3)
        if changes:
            cell = cell + 0.05 * draw(frames, 3, 3).cumsum(0)
        x = (torch.rand(nodes, 3, generator=generator) @ cell[0])[..., None] + 0.1 * draw(nodes, 3, frames).cumsum(-1)
        if moved:
            molecule = torch.tensor([0, 0, 1, 2, 2, *range(3, nodes - 2)])
            n = torch.randint(-3, 4, (nodes, 3), generator=torch.Generator().manual_seed(index)).float()[molecule]
            x = x + (n @ cell[0])[..., None]
        h = torch.nn.functional.one_hot(torch.arange(nodes) % 2, 2).float()
        cell = cell.contiguous() if changes else cell[0].contiguous()
        pbc = torch.ones(3, dtype=torch.bool)
        items.append(Trajectory(x, h, BONDS, None, torch.arange(nodes), cell=cell, pbc=pbc))
    return TrajectoryDataset(items, name="liquid")


def made(dataset, graph, **others):
    config = steps_config(dataset, batch_size=3, rotate=True, **others.pop("train", {}))
    config["denoise_model"] |= {"graph": graph, "edge_dim": 1 if graph.get("bonds") else 0, "cutoff": 2.5}
    if "knn" in graph:
        config["denoise_model"]["cutoff"] = None
    return make_step(dataset, config=config, **others)


@pytest.mark.parametrize("graph", NEAR, ids=str)
def test_which_image_of_an_atom_the_data_hold_matters_to_nothing(graph):
    one, other = (run(made(liquid(moved=moved), graph), 0, 2) for moved in (False, True))
    assert one.sums[0].isfinite() and one.sums[0] > 0
    assert_same_state(one, other, rtol=2e-3, atol=2e-4)
    without = liquid()
    for item in without.items:
        item.cell = item.pbc = None
    alone = run(made(without, graph), 0, 2)
    assert abs(alone.sums[0] - one.sums[0]) > 1e-3, "the box is seen"


@pytest.mark.parametrize("changes", [False, True], ids=["constant", "changing"])
@pytest.mark.parametrize("graph", NEAR, ids=str)
def test_captured_equals_eager_whatever_boxes_come(graph, changes):
    data = liquid(changes=changes)
    eager = run(made(data, graph, train={"cuda_graph": False}), 0, 5)
    captured = run(made(data, graph, record=TapeRecorder()), 0, 5)
    assert captured.captures and not captured.lines
    assert_same_state(captured, eager, rtol=1e-5, atol=1e-6)
