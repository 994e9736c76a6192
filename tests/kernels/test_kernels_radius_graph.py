"""The Triton neighbour search against the definition: on a GPU, or in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from native_cases import poisoned

from geotdm_fast import backend, ops, radius_graph, radius_neighbours, reference
from geotdm_fast.ops import kernels, neighbour_search

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
    ),
    pytest.mark.usefixtures("poisoned"),
]
assert poisoned

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["all pairs", "cells"])
def search(request, monkeypatch):
    """Each way to search, whatever the sizes."""
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    monkeypatch.setattr(launch, "CELLS_FROM", 1 if request.param == "cells" else 10**9)
    return launch


def assert_as_defined(x, cutoff, batch=None, loop=False, capacity=64):
    """The table and both forms of its edges are the reference's, to the last edge."""
    expected = reference.radius_neighbours(x, cutoff, capacity, batch, loop)
    with backend("triton"):
        found = radius_neighbours(x, cutoff, capacity, batch, loop)
        edges = radius_graph(x, cutoff, batch, loop=loop)
    assert found.image is None
    for name, a, b in zip(found._fields[:4], found[:4], expected[:4], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), name
    assert torch.equal(edges, reference.radius_graph(x, cutoff, batch, loop=loop))
    assert torch.equal(found.edge_index(), edges)
    return found


@pytest.mark.recorded("interpreted", always=r"all pairs|cpu-(1|5|31|33)-")
@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "dim", "num_graphs", "loop", "dtype"),
    [
        (5, None, 3, None, False, torch.float32),
        (33, None, 2, 3, True, torch.float32),
        (70, 3, 3, 5, False, torch.float32),
        (31, 2, 2, None, True, torch.float64),
        (40, 2, 3, 2, False, torch.bfloat16),
        (129, None, 3, 2, False, torch.float16),
        (1, 4, 3, None, True, torch.float32),
    ],
)
def test_every_edge(num_nodes, num_frames, dim, num_graphs, loop, dtype, search, device):
    shape = (num_nodes, dim) if num_frames is None else (num_nodes, num_frames, dim)
    x = torch.randn(shape).to(device, dtype)
    batch = None if num_graphs is None else torch.randint(0, num_graphs, (num_nodes,)).to(device)
    assert_as_defined(x, 0.9, batch, loop, capacity=129)


FIXED = {"num_nodes": 24, "num_frames": None, "dim": 3, "num_graphs": None}


# `device` is a word, the same in every example. An interpreted one takes a second; tests/ops/test_radius_graph.py has
# hundreds of the same kind for the other implementations.
@example(**FIXED, dtype=torch.float32, cells=True, loop=False, seed=0)
@example(**FIXED, dtype=torch.bfloat16, cells=False, loop=True, seed=1)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_nodes=st.integers(0, 40),
    num_frames=st.sampled_from([None, 1, 3]),
    dim=st.sampled_from([2, 3]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    num_graphs=st.sampled_from([None, 1, 4]),
    cells=st.booleans(),
    loop=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_pairs_at_the_cutoff(num_nodes, num_frames, dim, dtype, num_graphs, cells, loop, seed, device):
    """Multiples of 0.1: many pairs are exactly at the cutoff, as far as the dtype can tell."""
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    generator = torch.Generator().manual_seed(seed)
    shape = (num_nodes, dim) if num_frames is None else (num_nodes, num_frames, dim)
    x = (torch.randint(0, 5, shape, generator=generator).to(dtype) * 0.1).to(device)
    batch = None if num_graphs is None else torch.randint(0, num_graphs, (num_nodes,), generator=generator).to(device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "CELLS_FROM", 1 if cells else 10**9)
        assert_as_defined(x, 0.3, batch, loop)


def test_views_and_coincident_points(search, device):
    x = torch.randn(3, 9, 2, 2, device=device)[..., 0].permute(1, 2, 0)  # [9, 2, 3], strided
    x[4] = x[2]
    assert not x.is_contiguous()
    assert_as_defined(x, 1.0)


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 3), (5, 0, 3)])
def test_without_rows(shape, search, device):
    x = torch.zeros(shape, device=device)
    found = assert_as_defined(x, 1.0, torch.zeros(shape[0], dtype=torch.int64, device=device))
    assert found.needed == 0 and found.sender.shape == (0, 64)


def test_one_coordinate_and_five_look_at_all_pairs(search, device):
    for dim in (1, 5):
        assert_as_defined(torch.randn(20, dim, device=device), 1.1)


@pytest.mark.recorded("interpreted")
def test_keys_shared_by_cells_find_nothing_twice(search, monkeypatch, device):
    """Four keys for all cells, graphs and frames."""
    monkeypatch.setattr(search, "MOST_KEYS", 4)
    x, batch = 2 * torch.rand(24, 2, 2, device=device), torch.arange(24, device=device) % 3
    assert_as_defined(x, 0.7, batch)


@pytest.mark.recorded("interpreted", always=r"all pairs|1e.30")
@pytest.mark.parametrize("span", [1e3, 1e6, 1e30])
def test_points_far_apart(span, search, device):
    """A grid of 4096 cells along its longest side does not lose a pair at the cutoff on the way."""
    x = torch.randn(40, 3, device=device)
    x[::2] += span
    x[0, 1] -= span
    assert_as_defined(x, 0.8)


@pytest.mark.recorded("interpreted", always=r"all pairs")
def test_a_capacity_too_small_is_told_once(search, device):
    x = torch.randn(30, 2, 3, device=device)
    needed = reference.radius_neighbours(x, 1.5, 64).needed
    for capacity in (0, 1, int(needed) - 1):
        with backend("triton"):
            found = radius_neighbours(x, 1.5, capacity)
        assert found.needed == needed and found.count.max() == capacity
        message = rf"radius_neighbors: capacity={capacity} is too small for a receiver; {int(needed)} would do"
        for told in (found.check, found.edge_index):
            with pytest.raises(ValueError, match=message):
                told()
    with backend("triton"), pytest.raises(ValueError, match="max_num_neighbors=1 is too few"):
        radius_graph(x, 1.5, max_num_neighbors=1)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_is_near_to_nothing_and_told(value, search, device):
    x = torch.rand(12, 3, device=device)
    x[3, 1] = value
    with backend("triton"):
        found = radius_neighbours(x, 2.0, 12)
        with pytest.raises(ValueError, match="radius_graph: x must be finite"):
            radius_graph(x, 2.0)
    assert found.count.tolist() == [10] * 3 + [0] + [10] * 8 and 3 not in found.sender
    with pytest.raises(ValueError, match="radius_neighbors: x must be finite"):
        found.check()


@pytest.mark.recorded("interpreted", always=r"all pairs")
def test_every_run_gives_the_same_bits(search, device):
    x = torch.randn(50, 2, 3, device=device)
    with backend("triton"):
        runs = [radius_neighbours(x, 1.2, 5)[:4] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_max_num_nodes_decides_how_to_search(monkeypatch, device):
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    taken = []
    monkeypatch.setattr(launch, "_by_cells", lambda *args: taken.append("cells"))
    x, batch = torch.randn(2048, 3, device=device), torch.arange(2048, device=device) // 4
    with backend("triton"):
        radius_neighbours(x[:100], 0.1, 4)
        radius_neighbours(x, 0.1, 4, batch, max_num_nodes=4)
        assert not taken
        radius_neighbours(x, 0.1, 4, batch)
        assert taken == ["cells"]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_cpu_gives_the_same_table(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(neighbour_search, "is_compiled", lambda x: False)
    x, batch = torch.randn(700, 2, 3), torch.arange(700) % 2
    for name in ("auto", "reference"):
        with backend(name):
            for capacity in (0, 3, 40):
                found = radius_neighbours(x, 0.5, capacity, batch, loop=True)
                expected = reference.radius_neighbours(x, 0.5, capacity, batch, True)
                for a, b in zip(found[:4], expected[:4], strict=True):
                    assert torch.equal(a, b) and a.dtype == b.dtype
    x[3, 1, 2] = NAN
    if compiled:
        found = radius_neighbours(x, 0.5, 40)
        with pytest.raises(ValueError, match="radius_neighbors: x must be finite"):
            found.check()
    else:
        message = "radius_graph: x must be finite, got nan at node 3, frame 1, coordinate 2"
        with pytest.raises(ValueError, match=message):
            radius_neighbours(x, 0.5, 40)


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (TypeError, (X, 1.0, 2.0), "capacity must be a whole number, got 2.0"),
        (ValueError, (X, 1.0, -1), "capacity must be at least 0, got -1"),
        (ValueError, (X, 1.0, 4, None, False, 0), "max_num_nodes must be at least 1, got 0"),
        (TypeError, (X, 1.0, 4, None, False, True), "max_num_nodes must be a whole number, got True"),
        (ValueError, (X, -1.0, 4), "cutoff must be positive, got -1.0"),
        (ValueError, (X[0], 1.0, 4), r"x must be \[N, D\], got \[3\]"),
        (TypeError, (X.long(), 1.0, 4), "x must be floating point, got torch.int64"),
        (ValueError, (X, 1.0, 4, torch.zeros(3, dtype=torch.int64)), r"batch must be \[4\], got \[3\]"),
        (TypeError, (X, 1.0, 4, None, 1), "loop must be True or False, got 1"),
    ],
)
def test_wrong_arguments(error, arguments, message):
    with pytest.raises(error, match=f"radius_neighbors: {message}"):
        radius_neighbours(*arguments)


def test_without_the_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    for call in (lambda: radius_graph(X, 1.0), lambda: ops.radius_neighbours(X, 1.0, 3)):
        with (
            backend("triton"),
            pytest.raises(ValueError, match="triton does not take the input: inputs are on"),
        ):
            call()


def test_too_many_rows_are_refused():
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    with pytest.raises(ValueError, match=r"nodes times frames must be under 2\^31, got 2147483648"):
        launch.radius_table(torch.empty(2**31, 1, 3, device="meta"), 1.0, 4, None, False)


@pytest.mark.recorded("interpreted", always=r"all pairs")
def test_addresses_beyond_2_to_the_31(search, monkeypatch, device):
    """A table of 2^31 numbers and more: 70 rows of 2^25 places; memory is reserved, a page of each row touched."""
    x = torch.randn(70, 3, device=device)
    expected = reference.radius_neighbours(x, 1.5, 70)
    torch.use_deterministic_algorithms(False)  # which fill what is empty
    table = torch.empty(70, 2**25, dtype=torch.int32, device=device)
    assert table.numel() > 2**31
    full = torch.full
    given = lambda size, *args, **options: table if size == table.shape else full(size, *args, **options)
    monkeypatch.setattr(torch, "full", given)
    monkeypatch.setattr(search, "_ascending", lambda sender: sender)
    _, degree = search.radius_table(x[:, None], 1.5, 2**25, None, False)
    found = [row[:n].sort().values.tolist() for row, n in zip(table, degree.tolist(), strict=True)]
    assert found == [row[row >= 0].tolist() for row in expected.sender]
