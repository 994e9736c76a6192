"""Periodic boxes go with trajectories and batches, and arrays are followed through theirs."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from boxed import TRICLINIC, assert_followed, lattice_shifts, waters

from geotdm_fast.data import Trajectory, array_dataset, collate, given_frames_dataset, join_datasets, npz_dataset
from geotdm_fast.data.windows import complete_edges
from geotdm_fast.reference import Cell
from geotdm_fast.sampling import select_graphs

T = 4
BOX = torch.tensor(TRICLINIC, dtype=torch.float32)


def graph(nodes=3, cell=None, pbc=None) -> Trajectory:
    x = torch.arange(nodes * 3.0 * T).reshape(nodes, 3, T)
    scored = torch.zeros(1, dtype=torch.int64)
    return Trajectory(x, torch.ones(nodes, 1), complete_edges(nodes), None, scored, cell=cell, pbc=pbc)


def frames_of(dataset, name="x"):
    """[T, N, 3] of a data set's one window."""
    return dataset[0][name].permute(2, 0, 1).double().numpy()


def test_without_a_box_nothing_is_there():
    batch = collate([graph(), graph(2)])
    assert batch.cell is None and batch.pbc is None and "cell" not in batch.model_kwargs()
    assert "cell" not in repr(batch) and "pbc" not in repr(graph())
    assert batch.to_data_list()[1].cell is None


def test_boxes_are_batched_and_taken_apart():
    slab = torch.tensor([True, True, False])
    one, two = graph(3, BOX), graph(2, 2 * BOX, slab)
    batch = collate([one, two])
    assert batch.cell.shape == (2, 1, 3, 3) and torch.equal(batch.cell[:, 0], torch.stack([BOX, 2 * BOX]))
    assert batch.pbc.tolist() == [[True] * 3, [True, True, False]]
    cell = batch.model_kwargs()["cell"]
    assert isinstance(cell, Cell) and cell.vectors is batch.cell and cell.pbc is batch.pbc
    first, second = batch.to_data_list()
    assert torch.equal(first.cell, BOX) and torch.equal(second.cell, 2 * BOX) and torch.equal(second.pbc, slab)
    picked = select_graphs(batch, torch.tensor([1, 1, 0]))
    assert torch.equal(picked.cell[:, 0], torch.stack([2 * BOX, 2 * BOX, BOX]))
    assert picked.pbc.tolist() == [[True, True, False]] * 2 + [[True] * 3]
    assert "cell=[2, 1, 3, 3], pbc=[2, 3]" in repr(batch) and "cell=[3, 3]" in repr(one)


def test_one_box_that_changes_makes_all_change():
    moving = BOX * torch.linspace(1, 2, T)[:, None, None]
    batch = collate([graph(3, BOX), graph(2, moving)])
    assert batch.cell.shape == (2, T, 3, 3)
    assert torch.equal(batch.cell[0], BOX.expand(T, 3, 3)) and torch.equal(batch.cell[1], moving)
    assert torch.equal(batch.to_data_list()[1].cell, moving)


def test_boxes_are_cast_and_copied():
    batch = collate([graph(3, BOX)])
    moved = batch.to(dtype=torch.float64)
    assert moved.cell.dtype == torch.float64 and moved.pbc.dtype == torch.bool
    assert torch.equal(pickle.loads(pickle.dumps(batch)).cell, batch.cell)
    assert collate([graph(3, BOX.double())]).cell.dtype == torch.float32  # as x


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        (None, None, "cell of graph 1 must be a box like graph 0, got None"),
        (BOX[0], None, r"cell of graph 1 must be \[3, 3\] or \[4, 3, 3\], got \[3\]"),
        (BOX.expand(3, 3, 3), None, r"cell of graph 1 must be \[3, 3\] or \[4, 3, 3\], got \[3, 3, 3\]"),
        (BOX, torch.ones(2, dtype=torch.bool), r"pbc of graph 1 must be \[3\], got \[2\]"),
        (BOX.log(), None, "cell must be finite, got .* of graph 1, frame 0"),
        (torch.ones(3, 3), None, "cell must span a volume, got .* of graph 1, frame 0"),
        (torch.diag(torch.tensor([1.0, 1, 0])), None, ".*zeros for vector 2 of graph 1, frame 0; pbc says"),
    ],
)
def test_bad_boxes_are_errors_of_the_batch(cell, pbc, message):
    with pytest.raises(ValueError, match=f"collate: {message}"):
        collate([graph(3, BOX), graph(3, cell, pbc)])


def test_a_box_beside_none_is_an_error():
    with pytest.raises(ValueError, match=r"collate: cell of graph 1 must be no box like graph 0, got \[3, 3\]"):
        collate([graph(), graph(3, BOX)])
    with pytest.raises(ValueError, match="pbc of graph 0 must come with a cell"):
        collate([graph(3, None, torch.ones(3, dtype=torch.bool))])
    flat = graph(3, BOX)
    flat.x = flat.x[:, :2]
    with pytest.raises(ValueError, match="a cell must come with positions in 3 dimensions, got 2"):
        collate([flat])
    x = np.zeros((2, 5, 2, 3))
    with pytest.raises(ValueError, match="join_datasets: whether there is a box of b must be True as in a, got False"):
        join_datasets([array_dataset(x, cell=TRICLINIC, name="a"), array_dataset(x, name="b")])


@pytest.mark.parametrize("changes", [True, False])
def test_arrays_are_followed_and_molecules_made_whole(changes):
    walk = waters(changes=changes)
    cell = walk.cells if changes else walk.cells[0]
    with pytest.warns(UserWarning, match="molecules cut by the box are made whole|jumps across the box were mended"):
        dataset = array_dataset(walk.wrapped, z=walk.z, bonds=walk.bonds, cell=cell, span=40)
    assert_followed(frames_of(dataset), walk)
    item = dataset[0]
    assert item.cell.shape == ((40, 3, 3) if changes else (3, 3)) and item.pbc.tolist() == [True] * 3
    np.testing.assert_allclose(item.cell.numpy(), walk.cells if changes else walk.cells[0], rtol=1e-6)


def test_far_from_the_box_its_changes_are_no_steps():
    """An image 300 boxes away moves by more than half of the box where the box changes by 0.2 % from frame to frame."""
    walk = waters()
    x = walk.x + 300 * walk.cells[:, :1]
    assert np.linalg.norm(np.diff(x, axis=0), axis=-1).max() > 5
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in doubt")
        dataset = array_dataset(x, cell=walk.cells, span=40)
    np.testing.assert_allclose(frames_of(dataset), x, atol=2e-3)


def test_windows_have_the_boxes_of_their_frames():
    walk = waters(frames=30)
    dataset = array_dataset(walk.x, cell=walk.cells, span=5, stride=7, frames=[2, None, 3])
    chosen = walk.cells[2::3]
    for number, start in enumerate(range(0, len(chosen) - 4, 7)):
        np.testing.assert_allclose(dataset[number].cell.numpy(), chosen[start : start + 5], rtol=1e-6)
    split = array_dataset(walk.x, "val", cell=walk.cells, span=3, split_ratio=[0.5, 0.3, 0.2])
    np.testing.assert_allclose(split[1].cell.numpy(), walk.cells[16:19], rtol=1e-6)
    stored = array_dataset(walk.x, "val", cell=walk.cells, span=3, split_ratio=[0.5, 0.3, 0.2], unwrap="no")
    np.testing.assert_allclose(stored[1].cell.numpy(), walk.cells[16:19], rtol=1e-6)


def test_gaps_in_time_begin_anew_with_whole_molecules():
    walk = waters(frames=40)
    times = np.arange(40.0)
    times[25:] += 100
    with pytest.warns(UserWarning, match="no window crosses|made whole|jumps"):
        dataset = array_dataset(walk.wrapped, z=walk.z, bonds=walk.bonds, cell=walk.cells, times=times, span=15)
    assert len(dataset) == 12
    for index, first in ((0, 0), (10, 10), (11, 25)):
        own = walk._replace(x=walk.x[first : first + 15], cells=walk.cells[first : first + 15])
        assert_followed(dataset[index].x.permute(2, 0, 1).double().numpy(), own)
        np.testing.assert_allclose(dataset[index].cell.numpy(), own.cells, rtol=1e-6)


@pytest.mark.parametrize("several_boxes", [True, False])
def test_many_trajectories_are_each_followed(several_boxes):
    walks = [waters(frames=20, seed=seed) for seed in range(3)]
    wrapped = np.stack([walk.wrapped for walk in walks])
    cells = np.stack([walk.cells for walk in walks]) if several_boxes else walks[0].cells
    if not several_boxes:
        walks = [walk._replace(cells=cells) for walk in walks]
        wrapped = np.stack([walk.x for walk in walks])
    options = {"z": walks[0].z, "bonds": walks[0].bonds, "cell": cells, "split_ratio": [0.7, 0.3, 0]}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dataset = array_dataset(wrapped, "train", **options)
    said = " ".join(str(one.message) for one in said)
    if several_boxes:
        jumps = sum(int((np.diff(lattice_shifts(w.wrapped, w), axis=0) != 0).any(-1).sum()) for w in walks)
        assert f"{jumps} jumps across the box were mended, the first of atom 0 at frame 1" in said
        assert "molecules cut by the box are made whole in the first frame of 3 of 3" in said
    assert len(dataset) == 2
    for item, walk in zip(dataset, walks, strict=False):
        np.testing.assert_allclose(item.cell.numpy(), walk.cells, rtol=1e-6)
        if several_boxes:
            assert_followed(item.x.permute(2, 0, 1).double().numpy(), walk)


def test_stored_positions_stay_where_unwrap_says_no():
    walk = waters(frames=20)
    dataset = array_dataset(walk.wrapped, cell=walk.cells, unwrap="no", span=20)
    np.testing.assert_allclose(frames_of(dataset), walk.wrapped, atol=1e-4)
    assert dataset[0].cell.shape == (20, 3, 3)
    bare = array_dataset(walk.wrapped, cell=walk.cells, unwrap=False, box=False, span=20)
    assert bare[0].cell is None and bare[0].pbc is None
    followed = array_dataset(walk.wrapped, cell=walk.cells, box="no", span=20)
    assert followed[0].cell is None and not lattice_shifts(frames_of(followed), walk).any(axis=0).all()


def test_an_npz_has_its_box(tmp_path):
    walk = waters(frames=30)
    path = tmp_path / "water.npz"
    nm = {"R": walk.wrapped / 10, "cell": walk.cells / 10, "pbc": np.array([True, True, True])}
    np.savez(path, z=walk.z, bonds=walk.bonds, time=np.arange(30) * 0.5, **nm)
    dataset = npz_dataset(path, unit="nm", span=30)
    assert_followed(frames_of(dataset), walk)
    np.testing.assert_allclose(dataset[0].cell.numpy(), walk.cells, rtol=1e-6)  # angstrom
    assert npz_dataset(path, unit="nm", box="no")[0].cell is None
    stored = npz_dataset(path, unit="nm", unwrap="no", span=30)
    np.testing.assert_allclose(frames_of(stored), walk.wrapped, atol=1e-4)
    np.testing.assert_allclose(stored[0].cell.numpy(), walk.cells, rtol=1e-6)
    heavy = npz_dataset(path, unit="nm", with_h=False, span=30)
    shifts = (frames_of(heavy) - walk.x[:, ::3]) @ np.linalg.inv(walk.cells)
    np.testing.assert_allclose(shifts, np.rint(shifts[:1]).repeat(30, axis=0), atol=1e-4)


def test_the_last_frames_are_given_with_their_boxes(tmp_path):
    walk = waters(frames=20)
    path = tmp_path / "water.npz"
    np.savez(path, x=walk.x, z=walk.z, bonds=walk.bonds, cell=walk.cells)
    given = [True] * 3 + [False] * 4
    item = given_frames_dataset({"kind": "npz", "path": str(path)}, given)[0]
    assert item.cell.shape == (7, 3, 3) and not item.has_target
    np.testing.assert_allclose(item.cell.numpy(), walk.cells[[17, 18, 19, 19, 19, 19, 19]], rtol=1e-6)


def test_graphs_side_by_side_share_the_box():
    walk = waters(frames=20)
    dataset = array_dataset(
        walk.wrapped, "train", z=walk.z, bonds=walk.bonds, cell=walk.cells, ptr=[0, 6, 15], split_ratio=[0.5, 0.5, 0]
    )
    assert len(dataset) == 1 and dataset[0].x.shape == (6, 3, 20)
    own = walk._replace(x=walk.x[:, :6], molecule=walk.molecule[:6])
    assert_followed(frames_of(dataset), own)
    np.testing.assert_allclose(dataset[0].cell.numpy(), walk.cells, rtol=1e-6)


def test_people_who_are_not_there_leave_their_box_to_the_others():
    x = np.cumsum(np.random.default_rng(0).normal(size=(10, 3, 3)) * 0.1, axis=0)
    x[:5, 1] = np.nan
    cells = TRICLINIC * np.linspace(1, 1.1, 10)[:, None, None]
    dataset = array_dataset(x, cell=cells, unwrap="no", span=5, stride=5)
    assert [len(item.x) for item in dataset] == [2, 3]
    np.testing.assert_allclose(dataset[1].cell.numpy(), cells[5:], rtol=1e-6)


BAD = [
    ({"cell": np.full((3, 3), np.nan)}, ValueError, "cell must be finite, got nan in vector 0"),
    ({"cell": np.ones((3, 3))}, ValueError, "cell must span a volume"),
    ({"cell": np.ones(3)}, ValueError, r"cell must be \[3, 3\] or \[frames, 3, 3\], got \[3\]"),
    ({"cell": np.eye(3)[None].repeat(4, 0)}, ValueError, "cell must be of 1 or 10 frames, got 4"),
    ({"cell": np.eye(3), "pbc": [1, 1]}, ValueError, r"pbc must be \[3\], got \[2\]"),
    ({"cell": np.eye(3), "pbc": [1, 2, 0]}, ValueError, r"pbc must be three flags, got \[1, 2, 0\]"),
    ({"cell": np.diag([5.0, 5, 0]), "pbc": [1, 1, 1]}, ValueError, ".*zeros for vector 2"),
    ({"cell": np.array([["a"] * 3] * 3)}, TypeError, "cell must hold numbers"),
    ({"pbc": [1, 1, 1]}, ValueError, "pbc must come with cell"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD)
def test_bad_boxes_are_errors_of_an_array(given, error, message):
    x = np.random.default_rng(0).normal(size=(10, 2, 3))
    with pytest.raises(error, match=f"array_dataset: {message}"):
        array_dataset(x, **given, span=5)
    if "cell" in given:
        with pytest.raises(error, match=r"unwrap: no takes .* and box: no"):
            array_dataset(x, **given, span=5)
    assert array_dataset(x, **given, span=5, unwrap="no", box="no")[0].cell is None


def test_open_directions():
    x = np.random.default_rng(0).normal(size=(10, 2, 3))
    assert array_dataset(x, cell=np.zeros((3, 3)), span=5)[0].cell is None
    assert array_dataset(x, cell=TRICLINIC, pbc=[0, 0, 0], span=5)[0].cell is None
    slab = array_dataset(x, cell=np.diag([5.0, 6, 0]), span=5)[0]
    assert slab.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(slab.cell.abs().numpy(), np.diag([5.0, 6, 1]), atol=1e-6)


@pytest.mark.parametrize(("z", "warns"), [([18, 18, 18], False), ([18, 18, 36], True)])
def test_a_pure_liquid_is_not_said_to_be_in_pieces(z, warns):
    x = np.random.default_rng(0).normal(scale=0.05, size=(6, 3, 3)) + 5 * np.arange(3)[:, None]
    about = {"z": z, "atom_types": [18, 36], "span": 3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        array_dataset(x, cell=20 * np.eye(3), **about)
    assert any("3 atoms in 3 pieces" in str(w.message) for w in caught) is warns
    with pytest.warns(UserWarning, match="3 atoms in 3 pieces"):
        array_dataset(x, **about)
