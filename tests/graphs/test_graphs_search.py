"""Graphs of a search, in room that does not depend on positions: against brute force, and the op on them."""

import pytest
import torch
from tape import TapeRecorder
from test_graphs import IMPLEMENTATIONS, assert_results_and_gradients, drawn, frame_by_frame
from tolerances import assert_same

from geotdm_fast import backend, ops, radius_graph
from geotdm_fast.graphs import Graph, Groups
from geotdm_fast.graphs import search as searches
from geotdm_fast.ops import kernels
from geotdm_fast.runtime.cuda_graphs import Captured

N, T, H, A = 9, 4, 16, 2
# Graphs of five, three and one node, in any order.
BATCH = torch.tensor([0, 2, 0, 1, 0, 1, 0, 1, 0])
CUTOFF = 1.9


def positions(num_nodes=N, num_frames=T, dim=3, seed=3, dtype=torch.float64):
    return torch.randn(num_nodes, num_frames, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def number_of(graph):
    return int(graph.tables("native").first[-1])


def pairs_of(graph):
    """The edges that there are, as a set; no edge comes twice, and places behind them hold the number of rows."""
    count, room = number_of(graph), graph.edge_index
    assert (room[:, count:] == graph.num_rows).all() and (room[:, :count] < graph.num_rows).all()
    pairs = set(zip(*room[:, :count].tolist(), strict=True))
    assert len(pairs) == count
    return pairs


def check_tables(graph):
    """The tables of both kernels are those of sorted edges, and by sender."""
    (edge_index,), count = graph.tables("reference"), number_of(graph)
    plain = Graph.per_frame(edge_index[:, :count], graph.num_nodes, graph.num_frames)
    tables, expected = graph.tables("native"), plain.tables("native")
    assert tables.first.equal(expected.first) and tables.sender_first.equal(expected.sender_first)
    assert tables.sender[:count].equal(expected.sender) and tables.by_sender[:count].equal(expected.by_sender)
    assert tables.sender.min() >= 0 and tables.sender.max() < graph.num_rows
    if kernels.missing() is None:
        tables, expected = graph.tables("triton"), plain.tables("triton")
        assert all(a[: len(b)].equal(b) for a, b in zip(tables, expected, strict=True)), (
            "room for more changes nothing of the edges that there are"
        )
        assert tables.receiver.min() >= 0 and tables.receiver.max() < graph.num_rows


# --- the makers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("batch", [None, BATCH])
@pytest.mark.parametrize("implementation", ["auto", "triton", "reference"])
def test_radius_is_brute_force(implementation, batch, dim):
    if implementation == "triton" and kernels.missing():
        pytest.skip(kernels.missing())
    x = positions(dim=dim)
    same = torch.ones(N, N, dtype=torch.bool) if batch is None else batch[:, None] == batch
    expected = {
        (i * T + t, j * T + t)
        for i in range(N)
        for j in range(N)
        for t in range(T)
        if i != j and same[i, j] and float(((x[i, t] - x[j, t]) ** 2).sum()) <= CUTOFF**2
    }
    with backend(implementation):
        made = Graph.radius(x, CUTOFF, 8, batch)
    assert pairs_of(made) == expected and 10 < len(expected) < made.num_edges == N * T * 8
    assert made.edge_index[:, : len(expected)].equal(radius_graph(x, CUTOFF, batch)), "by receiver, then by sender"
    assert not made.overflowed()
    check_tables(made)


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("batch", [None, BATCH])
def test_nearest_is_brute_force(batch, k, monkeypatch):
    monkeypatch.setattr(searches, "_PAIRS_AT_ONCE", 100)  # some receivers at a time
    x = positions()
    x[3], x[5] = x[7], x[7]  # as near as one another
    expected = set()
    for i in range(N):
        others = [j for j in range(N) if j != i and (batch is None or batch[i] == batch[j])]
        for t in range(T):
            nearest = sorted(others, key=lambda j: (float(((x[i, t] - x[j, t]) ** 2).sum()), j))[:k]
            expected |= {(i * T + t, j * T + t) for j in nearest}
    made = Graph.nearest(x, k, batch)
    assert pairs_of(made) == expected and made.num_edges == N * T * k
    assert not made.overflowed()
    check_tables(made)


def test_capacity_is_exact_and_overflow_is_told():
    x = positions()
    most = int(torch.bincount(radius_graph(x, CUTOFF)[0]).max())
    enough, little = Graph.radius(x, CUTOFF, most), Graph.radius(x, CUTOFF, most - 1)
    assert not enough.overflowed() and enough.capacity == most == int(enough.needed)
    assert little.overflowed() and int(little.needed) == most
    assert pairs_of(little) < pairs_of(enough)
    check_tables(little)


@pytest.mark.parametrize("implementation", ["reference", "triton"])
@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3), (1, 2, 3)])
def test_no_nodes_no_frames_and_one_node(shape, implementation):
    if implementation == "triton" and kernels.missing():
        pytest.skip(kernels.missing())
    groups = Groups.of(None, shape[0], torch.device("cpu"))
    with backend(implementation):
        graphs = [Graph.radius(torch.zeros(shape), 1.0, 2, groups=groups), Graph.nearest(torch.zeros(shape), 2)]
    for made in graphs:
        assert number_of(made) == 0 and made.num_edges == shape[0] * shape[1] * 2 and not made.overflowed()
        x, h, _, params = drawn(num_nodes=shape[0], num_frames=shape[1])
        for a, b in zip(ops.egcl(x, h, made, None, params), (x, h), strict=True):
            assert a.shape == b.shape


def test_positions_that_are_not_finite_are_near_to_nothing():
    x = positions()
    whole = pairs_of(Graph.radius(x, CUTOFF, 8))
    x[2, 1], x[4, 1, 0] = torch.nan, torch.inf
    lost = {2 * T + 1, 4 * T + 1}
    assert pairs_of(Graph.radius(x, CUTOFF, 8)) == {pair for pair in whole if not lost & set(pair)}
    assert not any(lost & set(pair) for pair in pairs_of(Graph.nearest(x, 3)))


def test_the_compiled_search_and_all_pairs_find_the_same():
    found = Graph.radius(positions(), CUTOFF, 8, BATCH)
    with backend("reference"):
        expected = Graph.radius(positions(), CUTOFF, 8, BATCH)
    assert found.edge_index.equal(expected.edge_index) and int(found.needed) == int(expected.needed)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: Graph.radius(x[0], 1.0, 2), ValueError, r"Graph\.radius: x must be \[N, T, D\], got \[4, 3\]"),
        (lambda x: Graph.radius(x, -1.0, 2), ValueError, r"Graph\.radius: cutoff must be positive, got -1\.0"),
        (lambda x: Graph.radius(x, 1.0, 0), ValueError, r"Graph\.radius: capacity must be at least 1, got 0"),
        (lambda x: Graph.radius(x, 1.0, 2.5), TypeError, r"Graph\.radius: capacity must be a whole number, got 2\.5"),
        (lambda x: Graph.radius(x, 1.0, 2, BATCH[1:]), ValueError, r"Graph\.radius: batch must be \[9\], got \[8\]"),
        (
            lambda x: Graph.nearest(x.long(), 2),
            TypeError,
            r"Graph\.nearest: x must be floating point",
        ),
        (lambda x: Graph.nearest(x, True), TypeError, r"Graph\.nearest: k must be a whole number, got True"),
        (lambda x: Graph.nearest(x, 2, BATCH.double()), TypeError, r"Graph\.nearest: batch must be int64, got"),
        (lambda x: Graph.radius(x, 1.0, 2).at_frames([1]), ValueError, r"at_frames: the edges of a search belong to"),
        (lambda x: Graph.radius(x, 1.0, 2).of_frames(4), ValueError, r"of_frames: the edges must be the same in all"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(positions())


# --- the op -----------------------------------------------------------------------------------------------------------


def features_of(edge_index, num_columns=A):
    """Of edges between rows, those of a search and of brute force alike: smooth in both ends."""
    row, col = edge_index.double()
    return torch.stack([(row * (c + 1.3) + col * 0.7).sin() for c in range(num_columns)], dim=1)


MAKERS = {"radius": lambda x: Graph.radius(x, CUTOFF, 8, BATCH), "nearest": lambda x: Graph.nearest(x, 3, BATCH)}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("edge_dim", [0, A])
@pytest.mark.parametrize("maker", MAKERS)
def test_egcl_on_a_search_is_the_reference_frame_by_frame(maker, edge_dim, implementation):
    """Outputs and gradients of positions, features, weights and edge features; what lies in the room weighs nothing."""
    made = MAKERS[maker](positions())
    count, edge_index = number_of(made), made.edge_index
    x, h, edge_attr, params = drawn(made.num_edges if edge_dim else 0, N)
    x = positions()
    if edge_dim:
        edge_attr = features_of(edge_index)
        edge_attr[count:] = torch.nan
    of_frame = [(edge_index[0, :count] % T == t).nonzero()[:, 0] for t in range(T)]

    def expected(x, h, a, params):
        edges = [(edge_index[:, mine] // T, None if a is None else a[mine]) for mine in of_frame]
        return frame_by_frame(x, h, edges, params)

    run = lambda x, h, a, params: ops.egcl(x, h, made, a, params)
    assert_results_and_gradients(run, expected, implementation, (x, h, edge_attr, params))


def test_second_derivatives_on_a_search():
    x, h, _, params = drawn(num_nodes=N, dtype=torch.float32)
    x = positions(dtype=torch.float32)
    made = Graph.radius(x, CUTOFF, 8, BATCH)
    plain = Graph.per_frame(made.edge_index[:, : number_of(made)], N, T)

    def second(graph, dtype):
        leaf = x.to(dtype).requires_grad_()
        out, _ = ops.egcl(leaf, h.to(dtype), graph, None, type(params)(*(p.to(dtype) for p in params)))
        (grad,) = torch.autograd.grad(out.sin().sum(), leaf, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), leaf)[0]

    assert_same(second(made, torch.float32), second(plain, torch.float64), 1e-5)


@pytest.mark.parametrize("maker", MAKERS)
def test_two_molecules_together_are_two_apart(maker):
    """And in any order of their nodes."""
    x, (_, h, _, params) = positions(), drawn(num_nodes=N)
    together = ops.egcl(x, h, MAKERS[maker](x), None, params)
    for graph in range(3):
        mine = graph == BATCH
        alone = {"radius": lambda x: Graph.radius(x, CUTOFF, 8), "nearest": lambda x: Graph.nearest(x, 3)}[maker](
            x[mine]
        )
        for a, b in zip(together, ops.egcl(x[mine], h[mine], alone, None, params), strict=True):
            assert_same(a[mine], b, 1e-12)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    batch = BATCH[order]
    made = Graph.radius(x[order], CUTOFF, 8, batch) if maker == "radius" else Graph.nearest(x[order], 3, batch)
    for a, b in zip(ops.egcl(x[order], h[order], made, None, params), together, strict=True):
        assert_same(a, b[order], 1e-12)


@pytest.mark.parametrize("maker", MAKERS)
def test_moved_and_turned_positions_have_the_same_edges(maker):
    x, (_, h, _, params) = positions(), drawn(num_nodes=N)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    made, moved = MAKERS[maker](x), MAKERS[maker](x @ turn.T + shift)
    assert pairs_of(made) == pairs_of(moved)
    x_out, h_out = ops.egcl(x, h, made, None, params)
    x_moved, h_moved = ops.egcl(x @ turn.T + shift, h, moved, None, params)
    assert_same(x_moved, x_out @ turn.T + shift, 1e-12)
    assert_same(h_moved, h_out, 1e-12)


# --- captured ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("maker", MAKERS)
def test_a_captured_step_makes_the_graph_of_new_positions(maker, implementation):
    """Search, tables, op and gradients on a tape: nothing waits, and a replay is right for other positions."""
    x, (_, h, _, params) = positions(dtype=torch.float32), drawn(num_nodes=N, dtype=torch.float32)
    groups = Groups.of(BATCH, N, torch.device("cpu"))

    def step(inputs):
        x = inputs["x"].detach().requires_grad_()
        if maker == "radius":
            made = Graph.radius(x, CUTOFF, 8, BATCH, groups=groups)
        else:
            made = Graph.nearest(x, 3, BATCH, groups=groups)
        x_out, h_out = ops.egcl(x, inputs["h"], made, None, params)
        loss = x_out.sin().sum() + h_out.square().sum()
        needed = made.needed if maker == "radius" else made.tables("native").first[-1]
        return x_out, torch.autograd.grad(loss, x)[0], needed

    record, found = TapeRecorder(), set()
    with backend(implementation):
        captured = Captured(step, {"x": x, "h": h}, record=record)
        for seed in range(4):
            inputs = {"x": positions(seed=seed, dtype=torch.float32), "h": h + seed}
            if seed:
                record.tapes[0].spoil((captured.inputs, record.tapes[0].read_from_outside(captured.inputs)))
            results = captured.replay(inputs)
            for a, b in zip(results, step(inputs), strict=True):
                assert torch.equal(a, b)
            found.add(results[0].sum().item())
    assert len(found) == 4
