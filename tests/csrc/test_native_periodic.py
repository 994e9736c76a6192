"""The compiled search in periodic boxes: cells and ghosts against all images of all pairs, and the bare ops."""

import time

import numpy as np
import pytest
import torch
from boxes import as_keys, positions_in, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import needs_native
from scipy.spatial import cKDTree

from geotdm_fast import radius_graph, radius_neighbours
from geotdm_fast.graphs import Groups
from geotdm_fast.graphs.periodic_search import periodic_edges
from geotdm_fast.ops import native, neighbour_search
from geotdm_fast.reference import CellSearch

pytestmark = needs_native


def all_pairs(x, cutoff, boxes, batch=None, loop=False):
    box = boxes.cell.of_nodes(batch, len(x))
    return periodic_edges(x, cutoff, Groups.of(batch, len(x), x.device), box, boxes, loop)


def lattice(n, cell, draw):
    """Multiples of a quarter of the vectors, and their neighbours in float32: at faces and at the cutoff."""
    x = (draw.integers(-5, 9, (n, 3)) / 4 @ cell.numpy()).astype(np.float32)
    beside = [np.nextafter(x, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.choose(draw.integers(0, 6, (n, 3)).clip(0, 2), [x, *beside])


def far_in_the_open(n, cell, draw):
    """The third direction is not periodic: points out there, too far for float32 to tell neighbours apart."""
    x = draw.uniform(0, 1, (n, 3)) @ cell.numpy()
    return x + draw.choice([0, 1e4, -1e9, 1e30], (n, 1)) * np.array([0, 0, 1.0])


LAYOUTS = {
    "liquid": lambda n, cell, draw: draw.uniform(-0.5, 1.5, (n, 3)) @ cell.numpy(),
    "one place": lambda n, cell, draw: np.full((n, 3), -0.7),
    "a drop": lambda n, cell, draw: draw.normal(0.5, 0.05, (n, 3)) @ cell.numpy(),
    "lattice": lattice,
    "far in the open": far_in_the_open,
}


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    shape=st.sampled_from(["cubic", "triclinic", "sheared", "left-handed"]),
    n=st.sampled_from([3, 40, 99, 100, 160]),
    share=st.sampled_from([0.05, 0.25, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    loop=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_layout_gives_the_edges_of_all_pairs(layout, shape, n, share, dtype, loop, seed):
    # Elsewhere points out there would be many boxes away.
    cell = vectors_of("cubic" if layout == "far in the open" else shape, seed, size=8.0).to(dtype)
    pbc = torch.tensor([True, True, layout != "far in the open"])
    x = torch.from_numpy(LAYOUTS[layout](n, cell.double(), np.random.default_rng(seed))).to(dtype)[:, None]
    boxes = CellSearch.within("test", cell, 8.0 * share, pbc)
    for a, b in zip(
        radius_graph(x, 8.0 * share, loop=loop, cell=boxes), all_pairs(x, 8.0 * share, boxes, loop=loop), strict=True
    ):
        assert a.equal(b)


@pytest.mark.parametrize("scale", [1e-20, 1e6, 1e60])
def test_any_unit(scale):
    """Where squares leave float32 float64 takes its place."""
    cell = vectors_of("triclinic", size=8.0)
    x = positions_in(150, 1, cell, spread=1.0)
    assert as_keys(*radius_graph(scale * x, 2.5 * scale, cell=scale * cell)) == as_keys(
        *radius_graph(x, 2.5, cell=cell)
    )


def test_a_liquid_of_thousands_against_scipy():
    x = 30 * torch.rand(3000, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cell = 30 * torch.eye(3, dtype=torch.float64)
    edges, image = radius_graph(x, 3.0, cell=cell)
    for t in range(2):
        tree = cKDTree(x[:, t].numpy(), boxsize=30.0)
        assert int((edges[0] % 2 == t).sum()) == tree.count_neighbors(tree, 3.0) - 3000 > 20_000
    r = x.flatten(0, 1)[edges[0]] - x.flatten(0, 1)[edges[1]] - image.double() @ cell
    assert r.norm(dim=1).max() <= 3.0 and image.abs().max() == 1
    key = edges[0] * 6000 + edges[1]
    assert (key.diff() > 0).all(), "sorted, each neighbour once"


def test_one_that_exploded_does_not_bring_everything_near_to_everything():
    size = torch.tensor([300.0, 10.0, 10.0], dtype=torch.float64)
    x = size * torch.rand(4000, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    boxes = CellSearch.within("test", size.diag(), 2.0)
    far = x.clone()
    far[7] = torch.tensor([1e18, -1e18, 2e18])

    def searched(positions):
        times = []
        for _ in range(3):
            begin = time.process_time()
            found = radius_neighbours(positions, 2.0, 40, cell=boxes)
            times.append(time.process_time() - begin)
        return found, min(times)

    (whole, alone), (found, beside) = searched(x), searched(far)
    assert beside < 4 * alone + 0.01
    assert int(whole.needed) <= 40 and not found.finite and found.count[7] == 0
    edges = []
    for table in (whole, found):
        is_there = table.sender >= 0
        numbers = [is_there.nonzero()[:, :1], table.sender[is_there][:, None], table.image[is_there]]
        edges.append(torch.cat(numbers, 1).long())
    kept = edges[0][(edges[0][:, :2] != 7).all(1)]
    assert edges[1].equal(kept) and len(kept) > 10_000


def test_any_number_of_threads_gives_the_same_bits():
    draw = torch.Generator().manual_seed(0)
    batch = torch.cat([torch.zeros(2100), 1 + torch.arange(400) % 20]).long()[torch.randperm(2500, generator=draw)]
    cell = vectors_of("triclinic", size=20.0).float() * (1 + 0.1 * torch.rand(21, 2, 1, 1, generator=draw))
    x = 20 * torch.rand(2500, 2, 3, generator=draw)
    x[7, 1], x[2000, 0, 2] = torch.nan, 1e6
    boxes, before = CellSearch.within("test", cell, 3.0, batch=batch), torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found = radius_neighbours(x, 3.0, 9, batch, cell=boxes)
            runs.append([*found, *neighbour_search.compiled_periodic_graph(x, 3.0, batch, False, boxes)])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
    assert (runs[0][-1] == -1).nonzero().flatten().tolist() == [15, 4000] and not runs[0][3]
    assert len(runs[0][-2]) > 50_000


def test_frames_apart_in_memory():
    """Positions apart in memory are read where they are."""
    x = torch.rand(3, 5, 120, dtype=torch.float64).transpose(0, 2)  # [120, 5, 3]
    assert not x.is_contiguous()
    boxes = CellSearch.within("test", torch.eye(3, dtype=torch.float64), 0.2)
    for a, b in zip(radius_graph(x, 0.2, cell=boxes), all_pairs(x, 0.2, boxes), strict=True):
        assert a.equal(b)


# --- the bare ops -----------------------------------------------------------------------------------------------------

ops = torch.ops.geotdm_fast
X = torch.rand(5, 2, 3, dtype=torch.float64)
BATCH = torch.tensor([1, 0, 0, 1, 1])
BOX = torch.eye(3, dtype=torch.float64).expand(2, 2, 3, 3).contiguous()
PBC = torch.ones(2, 3, dtype=torch.bool)
GIVEN = {"x": X, "batch": BATCH, "vectors": BOX, "inverse": BOX, "pbc": PBC, "images": [1, 1, 1], "most": 60}


def test_opcheck():
    given = tuple(GIVEN.values())
    torch.library.opcheck(ops.radius_graph_periodic.default, (*given, 0.6, False))
    torch.library.opcheck(ops.radius_neighbours_periodic.default, (*given, 0.6, 3, True))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, r"x must be \[N, T, D\], got \[5, 3\]", {"x": X[:, 0]}),
        (ValueError, r"x must be \[N, T, 3\] in boxes, got \[5, 2, 2\]", {"x": X[..., :2]}),
        (ValueError, "x must be Double, got Float", {"x": X.float()}),
        (ValueError, r"vectors must be \[G, 1 or 2, 3, 3\], got \[2, 3, 3\]", {"vectors": BOX[0]}),
        (ValueError, r"vectors must be \[G, 1 or 2, 3, 3\], got \[2, 3, 3, 3\]", {"vectors": BOX[:, [0, 1, 1]]}),
        (ValueError, "vectors must be Double, got Float", {"vectors": BOX.float()}),
        (ValueError, r"inverse must be \[2, 2, 3, 3\], got \[2, 1, 3, 3\]", {"inverse": BOX[:, :1]}),
        (ValueError, "inverse must be contiguous", {"inverse": BOX.mT}),
        (ValueError, r"pbc must be \[2, 3\], got \[1, 3\]", {"pbc": PBC[:1]}),
        (ValueError, r"images must be in 0\.\.64, got \[1, 65, 1\]", {"images": [1, 65, 1]}),
        (ValueError, r"images must be 3 numbers, got \[1, 1\]", {"images": [1, 1]}),
        (ValueError, r"most_boxes_away must be in 0\.\.53 for images \[1, 20, 1\], got 60", {"images": [1, 20, 1]}),
        (ValueError, "batch must come with boxes of 2 graphs, got none", {"batch": None}),
        (ValueError, r"batch must be in 0\.\.1 as the boxes, got 2", {"batch": 2 * BATCH}),
    ],
)
def test_errors_name_op_argument_expected_and_got(error, message, change):
    given = (GIVEN | change).values()
    with pytest.raises(error, match=f"radius_graph_periodic: {message}"):
        ops.radius_graph_periodic(*given, 1.0, False)
    with pytest.raises(error, match=f"radius_neighbours_periodic: {message}"):
        ops.radius_neighbours_periodic(*given, 1.0, 4, False)


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="radius_neighbours_periodic: capacity must not be negative, got -1"):
        ops.radius_neighbours_periodic(*GIVEN.values(), 1.0, -1, False)
    assert native.missing is None
