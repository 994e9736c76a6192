"""Batches cut on the device are those that `collate` makes."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from geotdm_fast import backend
from geotdm_fast.data import Trajectory, TrajectoryDataset, array_dataset, collate, nbody_dataset
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.data.windows import Joined, complete_edges
from geotdm_fast.reference.row_sums import num_graphs
from geotdm_fast.training.device_data import DeviceData


def molecule(z, frames=12, seed=0, span=5, **more):
    """A chain of atoms, one angstrom and a bit apart, that shakes."""
    place = np.zeros((len(z), 3))
    place[:, 0] = 1.3 * np.arange(len(z))
    x = place + 0.05 * np.random.default_rng(seed).normal(size=(frames, len(z), 3))
    return array_dataset(x, z=z, span=span, **more)


def joined(*datasets) -> TrajectoryDataset:
    return TrajectoryDataset(Joined([dataset.items for dataset in datasets]), name="joined")


def people() -> TrajectoryDataset:
    """As pedestrians are: 1 to 3 nodes, features of every frame, self-loops, one scored node, no edge features."""
    rng = torch.Generator().manual_seed(0)
    edges = {n: complete_edges(n, self_loops=True) for n in (1, 2, 3)}
    draw = lambda *shape: torch.randn(*shape, generator=rng)
    scored = torch.tensor([0])
    items = [Trajectory(draw(n, 2, 5), draw(n, 2, 5), edges[n], None, scored) for n in (2, 1, 3, 3, 1)]
    return TrajectoryDataset(items, name="people")


def boxed(changes: bool, **more) -> TrajectoryDataset:
    """Two atoms in a triclinic box, one of whose directions is open."""
    cell = np.array([[5.0, 0, 0], [1, 6, 0], [0.5, -1, 7]])
    if changes:
        cell = cell * np.linspace(1, 1.2, 12)[:, None, None]
    return molecule([6, 8], cell=cell, pbc=[1, 1, 0], **more)


def two_lags():
    about = {"num_systems": 3, "num_frames": 5, "progress": False}
    parts = [nbody_dataset("charged", "train", every=n, **about) for n in (1, 2)]
    return join_datasets([with_conditions(part, {"lag": lag}) for part, lag in zip(parts, (0.1, 0.2), strict=True)])


DATASETS = {
    "boxed": lambda: boxed(False),
    "boxes that change": lambda: joined(boxed(True), boxed(True, every=2)),
    "one by one, in boxes": lambda: boxed(True).subset([5, 1, 3]),
    "nbody": lambda: nbody_dataset("charged", "train", num_systems=4, num_frames=5, progress=False),
    "two lags": two_lags,
    "springs": lambda: nbody_dataset("springs", "train", num_systems=4, num_frames=5, progress=False),
    "one molecule": lambda: molecule([6, 6, 8]),
    "two molecules": lambda: joined(molecule([6, 6, 8]), molecule([6, 1, 7, 8], frames=9, seed=1)),
    "one molecule, two trajectories": lambda: joined(molecule([6, 6, 8]), molecule([6, 6, 8], frames=9, seed=1)),
    "projected": lambda: joined(molecule([6, 6, 8], project=True), molecule([6, 1, 7, 8], seed=1, project=True)),
    "people": people,
    "a subset": lambda: molecule([6, 6, 8]).subset([5, 1, 3]),
}


@pytest.mark.parametrize("kernels", ["reference", "triton"])
@pytest.mark.parametrize("name", DATASETS)
def test_a_batch_is_what_collate_makes(name, kernels, device):
    dataset = DATASETS[name]()
    data = DeviceData(dataset, device)
    assert len(data) == len(dataset) and data.sizes.tolist() == [item.x.shape[0] for item in dataset.items]
    for chosen in ([0], [len(dataset) - 1, 0, 1], [*range(len(dataset))]):
        items = torch.tensor(chosen)
        structure = data.structure(items)
        steps, weight = torch.arange(len(items)) + 3, torch.rand(len(items))
        there = [value.to(device) for value in (items, steps, weight)]
        with backend(kernels):
            found, steps_of_nodes, weight_of_scored = data.drawn(*there, structure)
            assert torch.equal(data.batch(there[0], structure).x, found.x)
        expected = collate([dataset[i] for i in chosen])
        assert torch.equal(steps_of_nodes.cpu(), steps[expected.batch])
        for field in dataclasses.fields(expected):
            mine, theirs = getattr(found, field.name), getattr(expected, field.name)
            if isinstance(theirs, Tensor):
                assert mine.device.type == device and mine.dtype == theirs.dtype
                if name == "projected" and field.name == "x":  # means, summed in another order
                    torch.testing.assert_close(mine.cpu(), theirs, rtol=0, atol=1e-6)
                else:
                    assert torch.equal(mine.cpu(), theirs), field.name
            else:
                assert mine == theirs
        count = torch.bincount(expected.batch[expected.scored])
        share = 1 / count[expected.batch[expected.scored]]
        torch.testing.assert_close(structure.share_of_scored.cpu(), share, rtol=1e-6, atol=0)
        expected_weight = weight[expected.batch[expected.scored]] * share.cpu()
        torch.testing.assert_close(weight_of_scored.cpu(), expected_weight, rtol=1e-6, atol=0)
        assert torch.equal(structure.graph_of_scored.cpu(), expected.batch[expected.scored])


def test_boxes_that_change_beside_one_that_does_not():
    dataset = joined(boxed(False), boxed(True))
    data, items = DeviceData(dataset), torch.tensor([1, 9])
    turn = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)))[0]
    found = data.batch(items, data.structure(items), turn)
    expected = collate([dataset[1], dataset[9]])
    assert found.cell.shape == (2, 5, 3, 3)
    torch.testing.assert_close(found.cell, expected.cell @ turn[:, None].mT)
    # The place of an atom in its box is the same as before it was turned.
    fractional = lambda batch: torch.einsum("ndt,ntdk->nkt", batch.x, torch.linalg.inv(batch.cell)[batch.batch])
    torch.testing.assert_close(fractional(found), fractional(expected), atol=1e-5, rtol=0)


def test_a_box_that_is_none_is_told_by_the_name_of_the_data():
    item = boxed(False)[0]
    item.cell = torch.ones(3, 3)
    with pytest.raises(ValueError, match="DeviceData: own: cell must span a volume"):
        DeviceData(TrajectoryDataset([item], name="own"))
    with pytest.raises(ValueError, match="whether there is a box of joined must be True in all trajectories"):
        DeviceData(joined(boxed(False), molecule([6, 8])))


def test_structures_are_kept_where_graphs_are_alike():
    alike, mixed = (DeviceData(DATASETS[name]()) for name in ("one molecule, two trajectories", "two molecules"))
    assert alike.same_graph and not mixed.same_graph
    one = alike.structure(torch.tensor([0, 1]))
    assert alike.structure(torch.tensor([9, 3])) is one and alike.structure(torch.tensor([1])) is not one
    # The same graph in other tensors is the same graph.
    items = [dataclasses.replace(item, edge_index=item.edge_index.clone()) for item in molecule([6, 6, 8]).items]
    assert DeviceData(TrajectoryDataset(items, name="copies")).same_graph


def test_frames_and_features_are_shared():
    dataset = molecule([6, 6, 8])
    data = DeviceData(dataset)
    assert data._tables.x.data_ptr() == dataset.items.x.data_ptr(), "windows overlap in the file's own frames"
    many = array_dataset(np.random.default_rng(0).normal(size=(50, 5, 3, 3)), z=[6, 6, 8], bonds=[[0, 1], [1, 2]])
    assert len(DeviceData(many)._tables.h) == 3 and len(DeviceData(many)) == 50


def test_what_others_would_read_from_the_device_is_known():
    data = DeviceData(people())
    structure = data.structure(torch.tensor([2, 0]))

    class Unread(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            raise AssertionError(f"{func} computes what is known")

    with Unread():
        assert num_graphs(structure.batch) == 2
        edges = structure.graph.tables("native")
    assert edges.first.tolist() == [0, 3, 6, 9, 11, 13]


def test_graphs_are_turned_about_the_origin(device):
    from geotdm_fast.training import random_streams

    data = DeviceData(people(), device)
    items = torch.tensor([0, 2])
    turn = random_streams.rotations(random_streams.generator(0, random_streams.ROTATION, 1), 2, 2)
    structure = data.structure(items)
    plain = data.batch(items.to(device), structure).x.cpu()
    turned = data.batch(items.to(device), structure, turn.to(device)).x.cpu()
    expected = torch.stack([turn[graph] @ x for graph, x in zip([0, 0, 1, 1, 1], plain, strict=True)])
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_rotations_are_uniform(dim):
    from geotdm_fast.training import random_streams

    turn = random_streams.rotations(torch.Generator().manual_seed(0), 20_000, dim)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(dim).expand_as(turn), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(len(turn)), rtol=0, atol=1e-5)
    assert turn.mean(0).abs().max() < 0.03  # no direction is preferred
    torch.testing.assert_close((turn**2).mean(0), torch.full((dim, dim), 1 / dim), rtol=0, atol=0.02)


def replaced(dataset, **fields):
    return TrajectoryDataset([*dataset.items, dataclasses.replace(dataset[0], **fields)], name="bad")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: replaced(d, x=d[0].x * float("nan")), "the positions of bad must be finite, got nan"),
        (lambda d: replaced(d, edge_index=torch.tensor([[0], [3]])), r"edge_index of bad must be in 0\.\.2, got 3"),
        (lambda d: replaced(d, scored=torch.tensor([-1])), r"scored of bad must be in 0\.\.2, got -1"),
        (lambda d: replaced(d, scored=d[0].scored[:0]), "scored of bad must hold a node of every graph, got none"),
        (lambda d: replaced(d, x=d[0].x[..., :4]), "T of bad must be 5 in all trajectories, as in the first, got 4"),
        (lambda d: replaced(d, x=d[0].x[:, :2]), "D of bad must be 3 in all trajectories, as in the first, got 2"),
        (lambda d: replaced(d, h=d[0].h[:, :7]), r"a node's h of bad must be \[30\] in .*, got \[7\]"),
        (lambda d: replaced(d, edge_attr=None), r"edge's edge_attr of bad must be \[4\] in .*, got None"),
        (
            lambda d: joined(d, molecule([6, 8], project=True)),
            "project of joined must be False in all .* got True in part 1",
        ),
    ],
)
def test_bad_data_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        DeviceData(make(molecule([6, 6, 8])))
