"""The Triton search in periodic boxes by cells against the definition: on a GPU, or in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch
from boxes import positions_in, vectors_of
from native_cases import poisoned

from geotdm_fast import backend, radius_graph, radius_neighbours, reference
from geotdm_fast.reference import Cell, CellSearch

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
    ),
    pytest.mark.usefixtures("poisoned"),
]
assert poisoned

ALL, OPEN = torch.tensor([True, True, True]), torch.tensor([True, False, True])


@pytest.fixture
def cells(monkeypatch):
    """Cells whatever the sizes."""
    launch = pytest.importorskip("geotdm_fast.kernels.radius_images_launch")
    monkeypatch.setattr(launch, "CELLS_FROM", 1)
    return launch


def assert_as_defined(x, cutoff, boxes, batch=None, loop=False, capacity=None):
    """The table and both forms of its edges are the reference's, to the last edge."""
    if capacity is None:
        capacity = int(reference.radius_neighbours(x, cutoff, 1, batch, loop, cell=boxes).needed)
    expected = reference.radius_neighbours(x, cutoff, capacity, batch, loop, cell=boxes)
    with backend("triton"):
        found = radius_neighbours(x, cutoff, capacity, batch, loop, cell=boxes)
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), name
    return found


def gas(num_nodes, num_frames, vectors, device, seed=0, spread=1.0):
    return positions_in(num_nodes, num_frames, vectors, seed, spread).to(device)


@pytest.mark.recorded("interpreted", always=r"triclinic-0.3-40-2-pbc0-None-False")
@pytest.mark.parametrize(
    ("shape", "share", "num_nodes", "num_frames", "pbc", "num_graphs", "loop"),
    [
        ("triclinic", 0.3, 40, 2, ALL, None, False),  # three cells along each vector
        ("sheared", 0.12, 33, 1, ALL, None, True),
        ("left-handed", 0.45, 19, 2, ALL, 3, False),  # two cells, which meet their own images
        ("cubic", 0.7, 17, 1, ALL, None, False),  # over half the box
        ("triclinic", 1.3, 5, 1, ALL, 2, True),  # over the box
        ("flat", 0.2, 31, 2, ALL, None, False),
        ("sheared", 0.4, 40, 1, OPEN, None, False),
        ("triclinic", 0.9, 12, 2, torch.tensor([False, True, False]), 2, False),
        ("cubic", 0.3, 40, 1, torch.tensor([False, False, False]), None, True),
    ],
)
def test_every_edge(cells, device, shape, share, num_nodes, num_frames, pbc, num_graphs, loop):
    vectors = vectors_of(shape, size=4.0)
    x = gas(num_nodes, num_frames, vectors, device)
    batch = None if num_graphs is None else (torch.arange(num_nodes) % num_graphs).to(device)
    boxes = CellSearch.within("test", vectors.to(device), 4.0 * share, pbc.to(device))
    found = assert_as_defined(x, 4.0 * share, boxes, batch, loop)
    assert found.count.sum() > num_nodes


@pytest.mark.recorded("interpreted")
def test_boxes_of_graphs_and_frames(cells, device):
    """Each of its own size, so that all grids differ; one graph has an open direction."""
    vectors = vectors_of("triclinic", size=3.0) * torch.linspace(1, 2.5, 6, dtype=torch.float64).view(3, 2, 1, 1)
    batch = (torch.arange(30) % 3).to(device)
    cell = Cell.of("test", vectors.to(device), torch.stack([ALL, OPEN, ALL]).to(device))
    x = gas(30, 2, vectors[0, 0], device)
    assert_as_defined(x, 1.9, CellSearch.within("test", cell, 1.9, batch=batch), batch)


@pytest.mark.recorded("interpreted", always=r"float32")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_at_the_cutoff_and_at_faces(cells, device, dtype):
    """Multiples of a tenth of the box and of the cutoff: what is near is decided by the last bit."""
    draw = torch.Generator().manual_seed(0)
    x = (torch.randint(-12, 23, (40, 1, 3), generator=draw).to(dtype) * 0.1).to(device)
    boxes = CellSearch.within("test", torch.eye(3, dtype=dtype, device=device), 0.3)
    assert_as_defined(x, 0.3, boxes)


@pytest.mark.recorded("interpreted", always=r"1e.30")
@pytest.mark.parametrize("span", [1e3, 1e30])
def test_points_far_out_in_the_open(cells, device, span):
    """Their cells grow with what rounding does to their places."""
    x = gas(30, 1, vectors_of("cubic"), device)
    x[::2, :, 1] += span
    boxes = CellSearch.within("test", vectors_of("cubic").to(device), 1.4, OPEN.to(device))
    assert_as_defined(x, 1.4, boxes)


def test_no_images_are_looked_at_in_a_box_that_is_periodic(cells, device):
    """A search made for open boxes: cells beside may be in an image, which is not looked at."""
    vectors, x = vectors_of("cubic").to(device), gas(20, 1, vectors_of("cubic"), device)
    boxes = CellSearch.within("test", vectors, 1.4, torch.tensor([False, True, False], device=device))
    boxes = boxes.with_cell(Cell.of("test", vectors))
    assert boxes.images == (0, 1, 0)
    found = assert_as_defined(x, 1.4, boxes)
    assert (found.image[..., 1] != 0).any()


def test_programs_are_as_many_as_cuda_allows(monkeypatch):
    """Along its second and third axis 65,535."""
    launch, grids = pytest.importorskip("geotdm_fast.kernels.radius_images_launch"), []

    class Kernel:
        def __getitem__(self, grid):
            grids.append(grid)
            return lambda *args, **options: None

    for name in [name for name in vars(launch) if name.endswith("_kernel")]:
        monkeypatch.setattr(launch, name, Kernel())
    cell = Cell.of("test", torch.eye(3, dtype=torch.float64))
    boxes = CellSearch.within("test", cell, 0.9)._replace(images=(64, 64, 64))
    for cells_from in (1, 2**31):
        monkeypatch.setattr(launch, "CELLS_FROM", cells_from)
        launch.radius_images_table(torch.zeros(3, 1, 3), 0.9, 4, None, False, boxes)
    assert len(grids) >= 7 and max(grid[0] for grid in grids) > 65_535
    assert all(most <= 65_535 for grid in grids for most in grid[1:])


@pytest.mark.recorded("interpreted")
def test_keys_shared_by_cells_find_nothing_twice(cells, monkeypatch, device):
    """Four keys for all cells, graphs and frames."""
    monkeypatch.setattr(cells, "MOST_KEYS", 4)
    vectors = vectors_of("triclinic")
    batch = (torch.arange(20) % 2).to(device)
    assert_as_defined(gas(20, 2, vectors, device), 1.3, CellSearch.within("test", vectors.to(device), 1.3), batch)


@pytest.mark.recorded("interpreted")
def test_more_senders_than_are_put_in_order_at_once(cells, monkeypatch, device):
    monkeypatch.setattr(cells, "ORDER_BLOCK", 16)
    vectors = vectors_of("cubic", size=2.0)
    found = assert_as_defined(gas(9, 1, vectors, device), 2.1, CellSearch.within("test", vectors.to(device), 2.1))
    assert found.needed > 32


@pytest.mark.recorded("interpreted")
def test_a_capacity_too_small_is_told_and_keeps_some_in_order(cells, device):
    vectors = vectors_of("triclinic")
    x, boxes = gas(20, 1, vectors, device), CellSearch.within("test", vectors.to(device), 1.8)
    whole = reference.radius_neighbours(x, 1.8, 64, cell=boxes)
    with backend("triton"):
        runs = [radius_neighbours(x, 1.8, 3, cell=boxes) for _ in range(2)]
        none = radius_neighbours(x, 1.8, 0, cell=boxes)
    found = runs[0]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True)), "every run gives the same bits"
    assert found.needed == none.needed == whole.needed > 3 and none.sender.shape == (20, 0)
    for i in range(20):
        every = [(j, *n) for j, n in zip(whole.sender[i].tolist(), whole.image[i].tolist(), strict=True) if j >= 0]
        kept = [(j, *n) for j, n in zip(found.sender[i].tolist(), found.image[i].tolist(), strict=True) if j >= 0]
        assert kept == sorted(kept) and set(kept) <= set(every) and len(kept) == min(3, len(every))
    with pytest.raises(ValueError, match=rf"capacity=3 is too small for a receiver; {int(whole.needed)} would do"):
        found.check()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e5])
def test_what_is_nowhere_is_near_to_nothing(cells, device, value):
    vectors = vectors_of("cubic")
    x, boxes = gas(8, 1, vectors, device), CellSearch.within("test", vectors.to(device), 2.0)
    x[3, 0, 1] = value
    found = assert_as_defined(x, 2.0, boxes, capacity=30)
    assert found.count[3] == 0 and 3 not in found.sender
    with pytest.raises(ValueError, match="radius_neighbors: x must be finite"):
        found.check()


@pytest.mark.parametrize("shape", [(0, 2, 3), (5, 0, 3)])
def test_without_rows(cells, device, shape):
    boxes = CellSearch.within("test", torch.eye(3, device=device), 0.5)
    assert assert_as_defined(torch.zeros(shape, device=device), 0.5, boxes, capacity=4).needed == 0


@pytest.mark.recorded("interpreted")
def test_edges_are_those_of_the_cpu(cells, device):
    """`radius_graph` counts and then lists; a lattice of 64 atoms."""
    x = torch.cartesian_prod(*[torch.arange(4.0)] * 3)[:, None].to(device)
    boxes = CellSearch.within("test", 4 * torch.eye(3, device=device), 1.0)
    with backend("triton"):
        edges, image = radius_graph(x, 1.0, cell=boxes)
    assert edges.shape == (2, 6 * 64), "each has six neighbours, exactly at the cutoff"
    expected = reference.radius_graph(x, 1.0, cell=boxes)
    assert edges.equal(expected[0]) and image.equal(expected[1])


def test_max_num_nodes_decides_how_to_search(monkeypatch, device):
    launch = pytest.importorskip("geotdm_fast.kernels.radius_images_launch")
    taken = []
    monkeypatch.setattr(launch, "_by_cells", lambda *args: taken.append("cells"))
    monkeypatch.setattr(launch, "_by_pairs", lambda *args: taken.append("pairs"))
    x, batch = torch.rand(512, 1, 3, device=device), torch.arange(512, device=device) // 4
    boxes = CellSearch.within("test", torch.eye(3, device=device), 0.1)
    with backend("triton"):
        radius_neighbours(x[:100], 0.1, 4, cell=boxes)
        radius_neighbours(x, 0.1, 4, batch, max_num_nodes=4, cell=boxes)
        radius_neighbours(x, 0.1, 4, batch, cell=boxes)
        assert taken == ["pairs", "pairs", "cells"]
        radius_graph(x, 0.1, batch, cell=boxes)
        radius_graph(x, 0.1, batch // 128, cell=boxes)
    assert taken[3:] == ["pairs", "pairs", "cells", "cells"], "counted, then listed"
