"""The compiled neighbour search: points laid out to break cells, any number of threads, and the bare ops."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import needs_native
from scipy.spatial import cKDTree

from geotdm_fast import radius_graph, radius_neighbours, reference
from geotdm_fast.ops import native, neighbour_search

pytestmark = needs_native

CUTOFF = 1.3
# Beyond some hundred points they are in cells; fewer are all compared.
SIZES = (0, 1, 2, 17, 99, 100, 161, 400)


def lattice(n, dim, draw):
    """Multiples of the cutoff and their neighbours in the dtype: on the borders of cells, at the cutoff."""
    x = CUTOFF * draw.integers(-3, 4, (n, dim)).astype(np.float32)
    beside = [np.nextafter(x, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.choose(draw.integers(0, 3, (n, dim)), [x, *beside])


def outliers(n, dim, draw):
    """A cluster, and a point far out along every axis and diagonal."""
    x = draw.standard_normal((n, dim)) * 2
    x[: n // 8] += draw.choice([0, 1e3, -1e9, 1e30], (n // 8, dim))
    return x


def clusters_on_a_line(n, dim, draw):
    """Pairs along one axis, farther apart than any number of cells, beside a dense cluster."""
    x = draw.standard_normal((n, dim))
    x[::2, 0] += 1e5 * np.arange(len(x[::2]))
    return x


LAYOUTS = {
    "gas": lambda n, dim, draw: draw.uniform(0, 8, (n, dim)),
    "sparse": lambda n, dim, draw: draw.uniform(-1e6, 1e6, (n, dim)),
    "one place": lambda n, dim, draw: np.full((n, dim), -0.7),
    "flat": lambda n, dim, draw: draw.uniform(0, 20, (n, dim)) * ([1] + [0] * (dim - 1)),
    "within the cutoff": lambda n, dim, draw: draw.uniform(0, 0.5, (n, dim)),
    "near the limits of float32": lambda n, dim, draw: draw.choice([-3.4e38, -1, 0, 0.5, 1, 3.4e38], (n, dim)),
    "subnormal": lambda n, dim, draw: draw.choice([-1e-45, 0, 1e-40, 1, 2], (n, dim)),
    "lattice": lattice,
    "outliers": outliers,
    "clusters on a line": clusters_on_a_line,
}


def points(layout, n, dim, dtype, seed):
    return torch.from_numpy(np.asarray(LAYOUTS[layout](n, dim, np.random.default_rng(seed)))).float().to(dtype)


@settings(max_examples=300, deadline=None)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    n=st.sampled_from(SIZES),
    dim=st.sampled_from([3, 2, 1, 4]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    cutoff=st.sampled_from([CUTOFF, 0.2, 30.0, 1e-10, 1e15]),
    num_graphs=st.sampled_from([None, 1, 3]),
    loop=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_every_layout_gives_the_edges_of_the_reference(layout, n, dim, dtype, cutoff, num_graphs, loop, seed):
    x = points(layout, n, dim, dtype, seed)
    generator = torch.Generator().manual_seed(seed)
    batch = None if num_graphs is None else torch.randint(0, num_graphs, (n,), generator=generator)
    expected = reference.radius_graph(x, cutoff, batch, loop=loop)
    assert torch.equal(radius_graph(x, cutoff, batch, loop=loop), expected)
    for capacity in (0, 2, 500):
        found = radius_neighbours(x, cutoff, capacity, batch, loop)
        defined = reference.radius_neighbours(x, cutoff, capacity, batch, loop)
        for ours, theirs in zip(found[:4], defined[:4], strict=True):
            assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_is_near_to_nothing(dim, dtype):
    x = points("gas", 300, dim, dtype, 0)
    expected = reference.radius_neighbours(x, CUTOFF, 300, loop=True).sender
    bad = {3: float("nan"), 100: float("inf"), 101: float("inf"), 299: -float("inf")}
    for node, value in bad.items():
        x[node, node % dim] = value
    found = radius_neighbours(x, CUTOFF, 300, loop=True)
    lost = torch.isin(expected, torch.tensor([*bad]))
    for i in range(300):
        left = expected[i][~lost[i] & (expected[i] >= 0)] if i not in bad else expected[i][:0]
        assert torch.equal(found.sender[i][: found.count[i]], left)
    assert not found.finite
    everything = radius_neighbours(torch.full_like(x, float("nan")), CUTOFF, 3)
    assert everything.count.sum() == 0 and not everything.finite


def test_any_number_of_threads_gives_the_same_bits():
    batch = torch.cat([torch.zeros(3000), torch.arange(1000) % 40]).long()[torch.randperm(4000)]
    x = torch.rand(4000, 2, 3) * 30
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            runs.append([radius_graph(x, 3.0, batch), *radius_neighbours(x, 3.0, 9, batch)[:4]])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))
    assert torch.equal(runs[0][0], reference.radius_graph(x, 3.0, batch))


@pytest.mark.parametrize("layout", ["sparse", "outliers", "clusters on a line"])
def test_cells_stay_few_and_hold_few_points(layout):
    """All pairs of so many points would take minutes; twenty searches of a plain gas are the bound, in CPU seconds."""
    n = 60_000
    x = points(layout, n, 3, torch.float32, 0)
    if layout != "sparse":
        x *= 10
    gas = 84 * torch.rand(n, 3)

    def seconds(x):
        start = time.process_time()
        radius_neighbours(x, CUTOFF, 4)
        return time.process_time() - start

    assert min(seconds(x) for _ in range(2)) < 20 * min(seconds(gas) for _ in range(3))
    edges = radius_graph(x, CUTOFF)
    tree = cKDTree(x.double().numpy())
    assert abs(edges.shape[1] - (tree.count_neighbors(tree, CUTOFF) - n)) <= 4


def test_frames_apart_in_memory_and_bfloat16():
    x = torch.rand(3, 5, 120).transpose(0, 2)  # [120, 5, 3]
    assert not x.is_contiguous()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        y = x.to(dtype) * 4
        assert torch.equal(radius_graph(y, 0.7), reference.radius_graph(y, 0.7))


# --- the bare ops -----------------------------------------------------------------------------------------------------

ops = torch.ops.geotdm_fast
BATCH = torch.tensor([2, 0, 0, 2, 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [None, BATCH])
def test_opcheck(dtype, batch):
    x = torch.rand(5, 2, 3, dtype=dtype)
    torch.library.opcheck(ops.radius_graph.default, (x, batch, 0.6, False))
    torch.library.opcheck(ops.radius_neighbours.default, (x, batch, 0.6, 3, True))


X = torch.rand(5, 2, 3)
ERRORS = [
    (ValueError, r"x must be \[N, T, D\], got \[5, 6\]", (X.flatten(1), None)),
    (ValueError, r"x must be \[N, T, D\], got \[5, 2, 0\]", (X[..., :0], None)),
    (ValueError, "x must be Float, got Half", (X.half(), None)),
    (ValueError, r"batch must be \[5\], got \[4\]", (X, BATCH[1:])),
    (ValueError, "batch must be Long, got Int", (X, BATCH.int())),
    (ValueError, "batch must be contiguous", (X, torch.stack([BATCH, BATCH], 1)[:, 0])),
    (ValueError, r"nodes times frames must be under 2\^31, got 2147483648", (X[:1, :1].expand(2**21, 2**10, 3), None)),
]


@pytest.mark.parametrize(("error", "message", "arguments"), ERRORS)
def test_errors_name_op_argument_expected_and_got(error, message, arguments):
    with pytest.raises(error, match=f"radius_graph: {message}"):
        ops.radius_graph(*arguments, 1.0, False)
    with pytest.raises(error, match=f"radius_neighbours: {message}"):
        ops.radius_neighbours(*arguments, 1.0, 4, False)


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="radius_neighbours: capacity must not be negative, got -1"):
        ops.radius_neighbours(X, None, 1.0, -1, False)


def test_the_ops_run_here():
    assert native.missing is None and neighbour_search.is_compiled(X)
    assert not neighbour_search.is_compiled(X.to("meta"))
