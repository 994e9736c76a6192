"""Graphs and rules in periodic boxes: against brute force, with bonds, on a tape, and the shifts of their edges."""

import pytest
import torch
from boxes import as_keys, brute_force, positions_in, vectors_of
from tape import Tape, TapeRecorder
from test_graphs_search import number_of
from torch.utils._pytree import tree_flatten, tree_unflatten

from geotdm_fast import backend
from geotdm_fast.graphs import Graph, GraphSpec, Groups, NearestRule, RadiusRule
from geotdm_fast.ops import kernels
from geotdm_fast.reference import Cell, CellSearch
from geotdm_fast.runtime.cuda_graphs import Captured

N, T, CUTOFF = 9, 3, 2.4
# Graphs of five, three and one node, in any order.
BATCH = torch.tensor([0, 2, 0, 1, 0, 1, 0, 1, 0])
# A box of each graph and frame.
VECTORS = vectors_of("triclinic", size=3.0) * torch.linspace(1, 1.6, 3 * T, dtype=torch.float64).view(3, T, 1, 1)
CELL = Cell.of("test", VECTORS, torch.tensor([[True, True, True], [True, False, True], [True, True, True]]))
# Within graphs; one comes twice, and 8 has none.
BONDS = torch.tensor([[0, 2, 3, 5, 0, 2], [2, 0, 5, 3, 2, 4]])


def positions(seed=0):
    return positions_in(N, T, vectors_of("triclinic", size=3.0), seed, spread=1.0)


def expected_edges(x, cutoff=CUTOFF):
    return brute_force(x, cutoff, VECTORS, CELL.pbc.numpy(), BATCH)


def keys_of(graph):
    """The edges that there are, sorted; behind them the images are 0."""
    count = number_of(graph)
    assert (graph.images.number[count:] == 0).all()
    return sorted(as_keys(graph.edge_index[:, :count], graph.images.number[:count]))


@pytest.fixture(params=["auto", "reference", "triton"])
def implementation(request, monkeypatch):
    if request.param == "triton" and kernels.missing():
        pytest.skip(kernels.missing())
    if request.param == "triton":
        from geotdm_fast.kernels import radius_images_launch

        monkeypatch.setattr(radius_images_launch, "COLUMNS", 1024)  # else the interpreter takes many small steps
    with backend(request.param):
        yield request.param


# --- the makers -------------------------------------------------------------------------------------------------------


def test_radius_is_brute_force_and_its_shifts_are_right(implementation):
    x = positions()
    found = Graph.radius(x, CUTOFF, 60, BATCH, cell=CELL)
    expected = expected_edges(x)
    assert keys_of(found) == sorted(expected) and len(expected) > 80 and not found.overflowed()
    assert found.images.cell is CELL and found.images.batch is BATCH
    row, col = found.edge_index[:, : len(expected)]
    r = (x.flatten(0, 1)[row] - x.flatten(0, 1)[col]) - found.shift(T)[: len(expected)]
    keys = as_keys(found.edge_index[:, : len(row)], found.images.number[: len(row)])
    for key, value in zip(keys, r, strict=True):
        torch.testing.assert_close(value, torch.from_numpy(expected[key]), atol=1e-12, rtol=0)
    little = Graph.radius(x, CUTOFF, 3, BATCH, cell=CELL)
    assert little.overflowed() and int(little.needed) == int(found.needed) and set(keys_of(little)) < set(expected)


@pytest.mark.parametrize("k", [1, 4, 15, 40])
@pytest.mark.parametrize("batch", [None, BATCH])
def test_nearest_is_brute_force(k, batch):
    """Also of one node, whose neighbours are its own images; and of more neighbours than the next boxes have."""
    x = positions()
    cell = CELL._replace(pbc=torch.ones(3, 3, dtype=torch.bool)) if batch is not None else Cell.of("test", VECTORS[:1])
    found = Graph.nearest(x, k, batch, cell=cell)
    assert number_of(found) == N * T * k
    reach = float(max(_lengths(x, found))) * 1.001
    near = {}
    for (i, j, n), r in brute_force(x, reach, cell.vectors, batch=batch).items():
        near.setdefault(i, []).append((float((r**2).sum()), j, n))
    expected = {(i, j, n) for i, row in near.items() for _, j, n in sorted(row)[:k]}
    assert keys_of(found) == sorted(expected) and len(expected) == N * T * k


def _lengths(x, graph):
    rows, count = x.flatten(0, 1), number_of(graph)
    row, col = graph.edge_index[:, :count]
    return (rows[row] - rows[col] - graph.shift(T)[:count]).norm(dim=1)


@pytest.mark.parametrize("pbc", [[True, True, False], [False, True, False], [False] * 3])
def test_nearest_where_some_directions_are_open(pbc):
    x, one = positions(), vectors_of("sheared", size=1.5)
    found = Graph.nearest(x, 6, BATCH, cell=Cell.of("test", one, torch.tensor(pbc)))
    near = {}
    for (i, j, n), r in brute_force(x, 30.0 if not any(pbc) else 9.01, one[None, None], pbc, BATCH).items():
        near.setdefault(i, []).append((float((r**2).sum()), j, n))
    expected = {(i, j, n) for i, row in near.items() for _, j, n in sorted(row)[:6]}
    assert keys_of(found) == sorted(expected)
    if not any(pbc):
        plain = Graph.nearest(x, 6, BATCH)
        assert plain.edge_index.equal(found.edge_index) and (found.images.number == 0).all()


def test_nearest_of_two_as_near_the_lower_is_first():
    """Six images at one distance: those of the lower sender, then of the lower image."""
    x = torch.tensor([[[0.0, 0, 0]], [[0.5, 0.5, 0.5]]])
    found = Graph.nearest(x, 3, cell=torch.eye(3))
    assert found.edge_index[:, :3].tolist() == [[0] * 3, [1] * 3]
    assert found.images.number[:3].tolist() == [[-1, -1, -1], [-1, -1, 0], [-1, 0, -1]]
    alone = Graph.nearest(x[:1], 6, cell=torch.eye(3))
    assert sorted(alone.images.number.tolist()) == sorted(torch.cat([torch.eye(3), -torch.eye(3)]).tolist())


def test_positions_that_are_nowhere_are_near_to_nothing(implementation):
    x = positions()
    whole = keys_of(Graph.radius(x, CUTOFF, 60, BATCH, cell=CELL))
    x[2, 1], x[4, 1, 0], x[5, 0, 2] = torch.nan, torch.inf, 1e5
    lost = {2 * T + 1, 4 * T + 1, 5 * T}
    found = Graph.radius(x, CUTOFF, 60, BATCH, cell=CELL)
    assert keys_of(found) == [key for key in whole if not lost & set(key[:2])] and not found.overflowed()
    assert not any(lost & set(key[:2]) for key in keys_of(Graph.nearest(x, 3, BATCH, cell=CELL)))
    nothing = Graph.radius(torch.full_like(x, torch.nan), CUTOFF, 4, BATCH, cell=CELL)
    assert number_of(nothing) == 0 and int(nothing.needed) == 0


@pytest.mark.parametrize("shape", [(0, 3, 3), (3, 0, 3)])
def test_no_nodes_and_no_frames(shape, implementation):
    for made in (
        Graph.radius(torch.zeros(shape), 1.5, 2, cell=torch.eye(3)),
        Graph.nearest(torch.zeros(shape), 2, cell=torch.eye(3)),
    ):
        assert number_of(made) == 0 and made.images.number.shape == (0, 3)


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["radius", "nearest"])
def test_bonds_are_of_image_0_and_other_images_are_found_beside_them(kind, implementation):
    x = positions()
    about = {"bonds": BONDS, "cell": CELL}
    rule = RadiusRule(CUTOFF, 60, BATCH, **about) if kind == "radius" else NearestRule(6, BATCH, **about)
    searched = (
        Graph.radius(x, CUTOFF, 60, BATCH, cell=CELL) if kind == "radius" else Graph.nearest(x, 6, BATCH, cell=CELL)
    )
    bonds = [(i * T + t, j * T + t, (0, 0, 0)) for i, j in BONDS.T.tolist() for t in range(T)]
    found = keys_of(searched)
    expected = sorted(bonds + [key for key in found if key not in bonds])
    made = rule(x)
    assert keys_of(made) == expected and set(bonds) & set(found), "some bonds are near"
    pairs = {key[:2] for key in bonds}
    assert any(key[:2] in pairs and any(key[2]) for key in found), "and other images of bonded atoms too"
    count = number_of(made)
    is_bond = [key in bonds for key in as_keys(made.edge_index[:, :count], made.images.number[:count])]
    assert made.edge_attr[:count, 0].bool().tolist() == is_bond and rule.cell is CELL


def test_a_rule_grows_and_keeps_its_boxes():
    x = positions()
    rule = RadiusRule(CUTOFF, 2, BATCH, cell=CELL)
    assert rule(x).overflowed() and rule.overflowed()
    assert keys_of(rule.enlarged()(x)) == sorted(expected_edges(x)) or rule.enlarged().capacity < int(rule.needed)
    grown = rule.growing(True)
    assert keys_of(grown(x)) == sorted(expected_edges(x)) and grown.cell is CELL
    bonded = RadiusRule(CUTOFF, 60, BATCH, bonds=BONDS, cell=CELL).with_bond_attr(torch.ones(6, 1))
    assert bonded.cell is CELL and len(keys_of(bonded(x))) > len(expected_edges(x))
    there = rule.to("meta")
    assert there.boxes.vectors.device.type == there.cell.pbc.device.type == "meta"
    leaves, spec = tree_flatten(grown)
    again = tree_unflatten([leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec)
    assert keys_of(again(x)) == sorted(expected_edges(x)) and again.cell.vectors is not CELL.vectors


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("frame", [0, 2])
def test_a_static_graph_is_of_the_boxes_of_its_frame(grows, frame):
    """And keeps those of all frames, for its shifts."""
    x = positions()
    made = RadiusRule(CUTOFF, 60, BATCH, bonds=BONDS, cell=CELL).growing(grows).static(x[:, frame], frame)
    frames = {(i // T, j // T, n) for i, j, n in expected_edges(x) if i % T == frame}
    count = number_of(made)
    found = set(as_keys(made.edge_index[:, :count], made.images.number[:count]))
    bonds = {(i, j, (0, 0, 0)) for i, j in BONDS.T.tolist()}
    assert found == frames | bonds and made.num_frames is None and made.images.cell is CELL
    assert (made.num_edges == count) is grows
    shift = made.shift(T)
    assert shift.shape == (made.num_edges, T, 3)
    graph, number = BATCH[made.edge_index[0, 0]], made.images.number[0].double()
    torch.testing.assert_close(shift[0], torch.stack([number @ VECTORS[graph, t] for t in range(T)]))


def test_frames_of_a_rule():
    x = positions()
    some = RadiusRule(CUTOFF, 60, BATCH, cell=CELL).at_frames([2, 0])(x[:, [2, 0]])
    place = {2: 0, 0: 1}
    expected = [
        (i // T * 2 + place[i % T], j // T * 2 + place[j % T], n) for i, j, n in expected_edges(x) if i % T != 1
    ]
    assert keys_of(some) == sorted(expected)
    with pytest.raises(ValueError, match=r"Graph\.radius: cell must be of 1 or 2 frames, got 3"):
        RadiusRule(CUTOFF, 60, BATCH, cell=CELL)(x[:, :2])
    rule = RadiusRule(CUTOFF, 60, BATCH, cell=CELL.at_frames([0]))
    assert rule.at_frames([1]) is rule


def test_a_configuration_takes_boxes():
    x = positions()
    radius = GraphSpec.parse({"radius": CUTOFF, "bonds": True, "of": "current"})
    rule = radius.rule(BONDS, None, BATCH, CELL).growing(True)
    nearest = GraphSpec.parse({"knn": 4, "of": "current"}).rule(BONDS, None, BATCH, cell=CELL)
    bonds = {(i * T + t, j * T + t, (0, 0, 0)) for i, j in BONDS.T.tolist() for t in range(T)}
    assert set(keys_of(rule(x))) == set(expected_edges(x)) | bonds
    assert keys_of(nearest(x)) == keys_of(Graph.nearest(x, 4, BATCH, cell=CELL))
    assert radius.rule(BONDS, None, BATCH)(x).images is None


@pytest.mark.parametrize("implementation", ["auto", "reference"], indirect=True)
@pytest.mark.parametrize("kind", ["radius", "nearest"])
def test_a_captured_rule_searches_new_positions_in_new_boxes(kind, implementation):
    """On a tape nothing waits; replays find the edges of their own positions and boxes."""

    def rule_of(scale):
        cell = Cell(CELL.vectors * scale, CELL.pbc)
        if kind == "radius":
            return RadiusRule(CUTOFF, 60, BATCH, bonds=BONDS, cell=cell)
        return NearestRule(5, BATCH, cell=cell)

    def step(inputs):
        made = inputs["rule"](inputs["x"])
        return made.edge_index, made.images.number, made.shift(T), made.tables("native").first

    record = TapeRecorder()
    captured = Captured(step, {"x": positions(), "rule": rule_of(1.0)}, record=record)
    found = set()
    for seed in range(3):
        inputs = {"x": positions(seed), "rule": rule_of(1.0 + 0.01 * seed)}
        if seed:
            record.tapes[0].spoil((captured.inputs, record.tapes[0].read_from_outside(captured.inputs)))
        results = captured.replay(inputs)
        for a, b in zip(results, step(inputs), strict=True):
            assert torch.equal(a, b)
        found.add(results[2].sum().item())
    assert len(found) == 3


@pytest.mark.parametrize("implementation", ["auto", "reference"], indirect=True)
def test_a_search_made_once_waits_for_nothing(implementation):
    boxes, groups = CellSearch.within("test", CELL, CUTOFF, batch=BATCH), Groups.of(BATCH, N, BATCH.device)
    nearest = CellSearch.nearest("test", CELL, 4, N, batch=BATCH)

    def step(inputs):
        x = inputs["x"]
        return (
            Graph.radius(x, CUTOFF, 60, BATCH, groups=groups, cell=boxes).images.number,
            Graph.nearest(x, 4, BATCH, groups=groups, cell=nearest).images.number,
        )

    captured = Captured(step, {"x": positions()}, record=TapeRecorder())
    for seed in range(2):
        results = captured.replay({"x": positions(seed)})
        assert results[0].equal(Graph.radius(positions(seed), CUTOFF, 60, BATCH, cell=CELL).images.number)
        assert results[1].equal(Graph.nearest(positions(seed), 4, BATCH, cell=CELL).images.number)


@pytest.mark.parametrize("implementation", ["triton"], indirect=True)
def test_kernels_wait_for_nothing(implementation):
    """What a tape records of them fails where a value is read on the host; it cannot play launches."""
    x, rule = positions(), RadiusRule(CUTOFF, 60, BATCH, bonds=BONDS, cell=CELL)
    with Tape():
        made = rule(x)
    assert len(keys_of(made)) > 80


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RadiusRule(300.0, 4, BATCH, cell=CELL), ValueError, "RadiusRule: cutoff must need at most 64 images"),
        (
            lambda: NearestRule(200, BATCH[:1], cell=Cell(CELL.vectors, CELL.pbc & torch.tensor([True, False, False]))),
            ValueError,
            "NearestRule: the reach of k=200 must need at most 64 images",
        ),
        (lambda: RadiusRule(1.0, 4, BATCH, cell=VECTORS[:2]), ValueError, "cell must have a box for graph 2 of batch"),
        (lambda: NearestRule(2, BATCH, cell=torch.ones(3, 3)), ValueError, "NearestRule: cell must span a volume"),
        (
            lambda: NearestRule(2, BATCH, cell=torch.eye(3))(positions()[..., :2]),
            ValueError,
            "Graph.nearest: a cell must come with positions in 3 dimensions, got 2",
        ),
        (
            lambda: Graph.nearest(positions(), 2, cell=CellSearch.nearest("test", torch.eye(3), 3, N)),
            ValueError,
            r"Graph.nearest: cell must be a CellSearch for k=2, got one for \('k', 3\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_edges_with_room_become_those_of_every_frame():
    """As without room, for kernels and the reference: the same edges of each row, in their order."""
    x = positions()[:, 0]
    roomy = RadiusRule(CUTOFF, 20, BATCH, cell=CELL).static(x)
    exact = RadiusRule(CUTOFF, 20, BATCH, cell=CELL).growing(True).static(x)
    count = exact.num_edges
    one, other = roomy.of_frames(T), exact.of_frames(T)
    assert (
        torch.equal(one.edge_index[:, : count * T], other.edge_index)
        and (one.edge_index[:, count * T :] == N * T).all()
    )
    (first, sender, sender_first, by_sender), expected = one.tables("native"), other.tables("native")
    assert torch.equal(first, expected.first) and torch.equal(sender[: count * T], expected.sender)
    assert torch.equal(sender_first, expected.sender_first) and torch.equal(by_sender[: count * T], expected.by_sender)
    torch.testing.assert_close(one.in_order(one.shift(T))[: count * T], other.in_order(other.shift(T)))
    assert (one.in_order(one.shift(T))[count * T :] == 0).all()
