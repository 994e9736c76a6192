"""Radius graphs: every edge against the definition, at the cutoff too, and against scipy's own count."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geotdm_fast import backend, ops, radius_graph, reference
from geotdm_fast.ops import native, neighbour_search

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
X = torch.zeros(4, 3)


@pytest.fixture(params=["compiled", "blocks", "small blocks"])
def search(request, monkeypatch):
    """Each way to search."""
    if request.param == "compiled":
        if native.missing:
            pytest.skip(f"geotdm_fast._C is {native.missing}")
    else:
        monkeypatch.setattr(neighbour_search, "is_compiled", lambda x: False)
    if request.param == "small blocks":
        monkeypatch.setattr(neighbour_search, "_PAIRS_AT_ONCE", 7)


def by_hand(x, cutoff, batch=None, loop=False):
    """[2, E] of one frame, in float64: for coordinates whose distances are exact."""
    x = x.double()
    near = (x[:, None] - x).square().sum(-1) <= cutoff**2
    if batch is not None:
        near &= batch[:, None] == batch
    if not loop:
        near.fill_diagonal_(False)
    return near.nonzero().T


def assert_sorted(edges):
    row, col = edges
    later = row[1:] > row[:-1]
    assert (later | ((row[1:] == row[:-1]) & (col[1:] > col[:-1]))).all()


# --- every edge -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    num_nodes=st.integers(0, 60),
    num_frames=st.sampled_from([None, 1, 2, 5]),
    dim=st.sampled_from([2, 3, 1, 5]),
    dtype=st.sampled_from(DTYPES),
    num_graphs=st.sampled_from([None, 1, 3, 20]),
    lattice=st.booleans(),
    layout=st.sampled_from(["plain", "frames last", "sliced"]),
    compiled=st.booleans(),
    at_once=st.sampled_from([5, 500, 2**18]),
    loop=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_the_reference(
    num_nodes, num_frames, dim, dtype, num_graphs, lattice, layout, compiled, at_once, loop, seed
):
    generator = torch.Generator().manual_seed(seed)
    shape = (num_nodes, dim) if num_frames is None else (num_nodes, num_frames, dim)
    if lattice:  # multiples of 0.1: many pairs exactly at the cutoff, as far as the dtype can tell
        x = torch.randint(0, 5, shape, generator=generator).to(dtype) * 0.1
    else:
        x = torch.randn(shape, generator=generator).to(dtype)
    if layout == "frames last":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "sliced":
        x = torch.stack([x, x.new_full(shape, NAN)], dim=-1)[..., 0]
    batch = None if num_graphs is None else torch.randint(0, num_graphs, (num_nodes,), generator=generator)
    cutoff = 0.3 if lattice else 1.1
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(neighbour_search, "is_compiled", lambda x: False)
        patch.setattr(neighbour_search, "_PAIRS_AT_ONCE", at_once)
        ours = radius_graph(x, cutoff, batch, loop=loop)
    expected = reference.radius_graph(x, cutoff, batch, loop=loop)
    assert ours.dtype == torch.int64 and ours.is_contiguous() and torch.equal(ours, expected)
    assert_sorted(ours)


def test_the_reference_is_the_definition(monkeypatch):
    from geotdm_fast.reference import radius_graph as definition

    x, batch = torch.randn(37, 3, dtype=torch.float64), torch.randint(0, 3, (37,))
    for pairs_at_once in (100, 2**22):
        monkeypatch.setitem(definition.__globals__, "_PAIRS_AT_ONCE", pairs_at_once)
        for loop in (False, True):
            assert torch.equal(definition(x, 1.3), by_hand(x, 1.3))
            assert torch.equal(definition(x, 1.3, batch, loop=loop), by_hand(x, 1.3, batch, loop))


def test_frames_are_graphs_of_their_own(search):
    x, batch = torch.randn(13, 4, 2), torch.randint(0, 2, (13,))
    edges = radius_graph(x, 0.9, batch)
    for t in range(4):
        of_frame = edges[:, edges[0] % 4 == t]
        assert (of_frame % 4 == t).all()
        assert torch.equal(of_frame // 4, radius_graph(x[:, t], 0.9, batch))
    assert_sorted(edges)
    # The same as one graph of node-frames with the frame as part of the batch.
    both = (batch[:, None] * 4 + torch.arange(4)).flatten()
    assert torch.equal(edges, radius_graph(x.flatten(0, 1), 0.9, both))


def test_thousands_of_nodes_against_scipy():
    from scipy.spatial import cKDTree

    x = 30 * torch.rand(4000, 3, dtype=torch.float64)
    batch = torch.arange(4000) % 3 // 2  # a graph of 2667, and one of 1333
    edges = radius_graph(x, 3.0, batch)
    trees = [cKDTree(x[batch == graph].numpy()) for graph in range(2)]
    assert edges.shape[1] == sum(tree.count_neighbors(tree, 3.0) for tree in trees) - 4000 > 4000
    assert (batch[edges[0]] == batch[edges[1]]).all()
    assert (x[edges[0]] - x[edges[1]]).norm(dim=1).max() <= 3
    assert_sorted(edges)
    with backend("reference"):
        assert torch.equal(edges, radius_graph(x, 3.0, batch))


# --- at the cutoff ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_a_pair_at_the_cutoff_is_an_edge(search, dtype, dim):
    x = torch.cartesian_prod(*[torch.arange(4.0)] * dim).to(dtype)
    for cutoff in (1, 2.0, 3.0):
        edges = radius_graph(x, cutoff)
        assert torch.equal(edges, by_hand(x, cutoff))
        assert ((x[edges[0]] - x[edges[1]]).double().norm(dim=1) == cutoff).any()
    assert radius_graph(x, 0.99).shape == (2, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_neighbours_of_the_cutoff_in_the_dtype(search, dtype):
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for cutoff in (0.1 * k for k in range(1, 25)):
        at = torch.tensor(cutoff, dtype=dtype)
        # The bits of a positive number, plus and minus one; torch.nextafter does not take every dtype.
        up, down = ((at.view(bits) + step).view(dtype) for step in (1, -1))
        edges = radius_graph(torch.stack([torch.zeros_like(at), up, at, down])[:, None], cutoff)
        assert edges[1][edges[0] == 0].tolist() == [2, 3], cutoff


def test_coincident_points(search):
    x = torch.full((30, 3), 1.7)
    assert torch.equal(radius_graph(x, 1e-6), by_hand(x, 1e-6)) and radius_graph(x, 1e-6).shape == (2, 30 * 29)


@pytest.mark.parametrize("dtype, small, large", [(torch.float32, 1e-15, 1e19), (torch.float64, 1e-145, 1e154)])
def test_cutoffs_from_almost_nothing_to_everything(search, dtype, small, large):
    x = torch.tensor([[0, 0], [0.5, 0], [1e6, -1e6]], dtype=dtype)
    assert radius_graph(x, large).tolist() == [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    assert radius_graph(x, small).shape == (2, 0)
    assert radius_graph(x, small, loop=True).tolist() == [[0, 1, 2], [0, 1, 2]]
    x = torch.tensor([[0.0], [small], [2 * small], [10 * small]], dtype=dtype)
    assert radius_graph(x, 1.5 * small).tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    far = torch.tensor([[0.0, 0], [large, large], [-large, 0.9 * large]], dtype=dtype)
    assert radius_graph(far, 0.5 * large).shape == (2, 0)


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 3), (5, 0, 3), (0, 0, 2)])
def test_nothing_gives_nothing(search, shape):
    x = torch.zeros(shape)
    batch = torch.zeros(shape[0], dtype=torch.int64)
    for edges in (radius_graph(x, 1.0), radius_graph(x, 1.0, batch, 3, True), reference.radius_graph(x, 1.0, batch)):
        assert edges.shape == (2, 0) and edges.dtype == torch.int64


def test_single_nodes_and_graphs_without_nodes(search):
    x = torch.zeros(5, 2)
    batch = torch.tensor([0, 3, 3, 7, 9])
    assert radius_graph(x[:1], 1.0).shape == (2, 0)
    assert radius_graph(x[:1], 1.0, loop=True).tolist() == [[0], [0]]
    assert radius_graph(x, 1.0, batch).tolist() == [[1, 2], [2, 1]]
    assert torch.equal(radius_graph(x, 1.0, batch.int()), radius_graph(x, 1.0, batch))


def test_a_permutation_of_the_nodes_permutes_the_edges(search):
    x, batch = torch.randn(50, 3, 3), torch.randint(0, 4, (50,))
    order = torch.randperm(50)
    edges = radius_graph(x[order], 1.2, batch[order])
    back = order[edges // 3] * 3 + edges % 3
    back = back[:, (back[0] * 150 + back[1]).argsort()]
    assert torch.equal(back, radius_graph(x, 1.2, batch))


def test_no_gradient_and_no_change_of_the_input(search):
    x = torch.randn(9, 2, 3, requires_grad=True)
    before = x.detach().clone()
    edges = radius_graph(x, 1.5)
    assert not edges.requires_grad and torch.equal(x.detach(), before)
    with torch.inference_mode():
        assert torch.equal(radius_graph(before.clone(), 1.5), edges)


def test_the_backend_is_followed(monkeypatch):
    monkeypatch.setattr(neighbour_search, "compiled_graph", None)
    x = torch.randn(6, 3)
    with backend("reference"):
        assert torch.equal(radius_graph(x, 1.0), by_hand(x, 1.0))
    with pytest.raises(TypeError):
        radius_graph(x, 1.0)


def test_without_the_module_the_same_edges_and_a_word_when_it_takes_long(monkeypatch):
    x = torch.rand(700, 3)
    expected = radius_graph(x, 0.1)
    monkeypatch.setattr(native, "missing", "not built")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(radius_graph(x, 0.1), expected)
    monkeypatch.setattr(neighbour_search, "_MANY", 700)
    with pytest.warns(RuntimeWarning, match=r"geotdm_fast\._C is not built\. Every pair of 700 nodes is looked at"):
        assert torch.equal(radius_graph(x, 0.1), expected)


def test_doctor_shows_what_searches(monkeypatch):
    row = {row.op: row for row in ops.status()}["radius_graph"]
    assert row.active == f"cpu ({native.build_info()['isa']})" and "cells" in row.reason
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "missing", "not built")
    row = {row.op: row for row in ops.status()}["radius_graph"]
    assert row.active == "all pairs" and "geotdm_fast._C is not built" in row.reason


# --- overflow and errors ----------------------------------------------------------------------------------------------


def test_more_neighbours_than_allowed_is_an_error(search):
    x = torch.tensor([[0.0], [1], [2], [10], [11], [20]])
    expected = radius_graph(x, 2.0)
    assert torch.equal(radius_graph(x, 2.0, max_num_neighbors=2), expected)
    message = "radius_graph: max_num_neighbors=1 is too few for 3 of 6 receivers; 2 would do"
    with pytest.raises(ValueError, match=message):
        radius_graph(x, 2.0, max_num_neighbors=1)
    with pytest.raises(ValueError, match=message), backend("reference"):
        radius_graph(x, 2.0, max_num_neighbors=1)
    # The loop is an edge of its receiver too.
    with pytest.raises(ValueError, match="max_num_neighbors=2 is too few for 3 of 6 receivers; 3 would do"):
        radius_graph(x, 2.0, max_num_neighbors=2, loop=True)
    assert torch.equal(radius_graph(x, 2.0, max_num_neighbors=np.int64(3), loop=True), radius_graph(x, 2.0, loop=True))
    frames = torch.stack([x, 3 * x], dim=1)
    with pytest.raises(ValueError, match="is too few for 3 of 12 receivers; 2 would do"):
        radius_graph(frames, 2.0, max_num_neighbors=1)


def changed(shape, place, value):
    x = torch.zeros(shape)
    x[place] = value
    return x


ERRORS = [
    (TypeError, r"x must be a tensor \[N, D\], got list", {"x": [[0.0]]}),
    (ValueError, r"x must be \[N, D\], got \[3\]", {"x": torch.zeros(3)}),
    (ValueError, r"x must be \[N, D\], got \[1, 2, 3, 4\]", {"x": torch.zeros(1, 2, 3, 4)}),
    (TypeError, r"x must be floating point, got torch\.int64", {"x": torch.zeros(4, 3, dtype=torch.int64)}),
    (ValueError, r"x must have at least one coordinate, got \[4, 0\]", {"x": torch.zeros(4, 0)}),
    (
        ValueError,
        r"x must be finite, got nan at node 2, coordinate 1",
        {"x": changed((4, 3), (2, 1), NAN)},
    ),
    (
        ValueError,
        r"x must be finite, got -inf at node 1, frame 2, coordinate 0",
        {"x": changed((2, 3, 1), (1, 2, 0), -INF)},
    ),
    (ValueError, r"cutoff must be positive, got -1\.0", {"cutoff": -1.0}),
    (ValueError, r"cutoff must be positive, got 0", {"cutoff": 0}),
    (ValueError, r"cutoff must be positive, got nan", {"cutoff": NAN}),
    (ValueError, r"cutoff must be from 3\.1e-16 to 1\.8e\+19 for torch\.float32, got inf", {"cutoff": INF}),
    (ValueError, r"cutoff must be from 3\.1e-16 to 1\.8e\+19 for torch\.float32, got 1e-20", {"cutoff": 1e-20}),
    (ValueError, r"to 6\.6e\+04 for torch\.float16, got 70000\.0", {"x": X.half(), "cutoff": 7e4}),
    (TypeError, r"cutoff must be a number, got '5'", {"cutoff": "5"}),
    (TypeError, r"cutoff must be a number, got True", {"cutoff": True}),
    (TypeError, r"batch must be a tensor \[4\], got list", {"batch": [0, 0, 0, 0]}),
    (ValueError, r"batch must be \[4\], got \[3\]", {"batch": torch.zeros(3, dtype=torch.int64)}),
    (TypeError, r"batch must be int64, got torch\.float32", {"batch": torch.zeros(4)}),
    (ValueError, r"batch must be on cpu like x, got meta", {"batch": torch.zeros(4, dtype=torch.int64, device="meta")}),
    (ValueError, r"batch must not be negative, got -2", {"batch": torch.tensor([0, 0, -2, 1])}),
    (TypeError, r"max_num_neighbors must be a whole number or None, got 2\.0", {"max_num_neighbors": 2.0}),
    (TypeError, r"max_num_neighbors must be a whole number or None, got True", {"max_num_neighbors": True}),
    (ValueError, r"max_num_neighbors must be at least 1, got 0", {"max_num_neighbors": 0}),
    (TypeError, r"loop must be True or False, got 1", {"loop": 1}),
]


@pytest.mark.parametrize("error, message, arguments", ERRORS)
def test_errors_name_what_is_wrong(error, message, arguments):
    with pytest.raises(error, match="^radius_graph: .*" + message):
        radius_graph(**({"x": X, "cutoff": 1.0} | arguments))


def test_the_table_has_one_spelling_and_its_name_of_before():
    import geotdm_fast

    assert geotdm_fast.radius_neighbours is geotdm_fast.radius_neighbors
    assert {"radius_neighbors", "radius_neighbours"} <= set(geotdm_fast.__all__)
    with pytest.raises(ValueError, match="radius_neighbors: capacity must be at least 0, got -1"):
        geotdm_fast.radius_neighbors(torch.zeros(3, 3), 1.0, -1)
