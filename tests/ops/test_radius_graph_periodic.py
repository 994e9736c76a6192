"""Radius graphs in periodic boxes: every edge against brute force, symmetries of the lattice, and other packages."""

import numpy as np
import pytest
import torch
from boxes import SHAPES, as_keys, brute_force, displacements, positions_in, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st

from geotdm_fast import backend, radius_graph, radius_neighbours
from geotdm_fast.ops import kernels, native, neighbour_search
from geotdm_fast.reference import Cell, CellSearch

IMPLEMENTATIONS = ("reference", "plain", "compiled", "triton")
CUBE = 4.0 * torch.eye(3, dtype=torch.float64)
X = positions_in(7, 2, CUBE)


def use(implementation, patch):
    """Let `radius_graph` and `radius_neighbours` run so."""
    if implementation == "plain":
        patch.setattr(neighbour_search, "is_compiled", lambda x: False)
    if implementation == "compiled" and native.missing:
        pytest.skip(f"geotdm_fast._C is {native.missing}")
    if implementation == "triton" and kernels.missing():
        pytest.skip(kernels.missing())
    if implementation == "triton":
        from geotdm_fast.kernels import radius_images_launch

        patch.setattr(radius_images_launch, "COLUMNS", 1024)  # else the interpreter takes many small steps
    return backend({"plain": "auto", "compiled": "auto"}.get(implementation, implementation))


@pytest.fixture(params=IMPLEMENTATIONS)
def every_search(request, monkeypatch):
    with use(request.param, monkeypatch):
        yield request.param


@pytest.fixture(params=IMPLEMENTATIONS[:-1])
def search(request, monkeypatch):
    """Those that take no seconds: what the kernels find is held against brute force, by `every_search`."""
    with use(request.param, monkeypatch):
        yield request.param


def assert_is_brute_force(x, cutoff, cell, pbc=None, batch=None, loop=False):
    """radius_graph and radius_neighbours of x [N, T, 3] find what brute force finds, sorted."""
    flags = torch.ones(3, dtype=torch.bool) if pbc is None else pbc
    made = Cell.of("test", cell, pbc)
    expected = brute_force(x, cutoff, made.vectors, flags.numpy(), batch, loop)
    edge_index, image = radius_graph(x, cutoff, batch, loop=loop, cell=cell, pbc=pbc)
    assert edge_index.dtype == torch.int64 and image.dtype == torch.int8
    assert as_keys(edge_index, image) == sorted(expected)
    table = radius_neighbours(x, cutoff, 100, batch, loop, cell=cell, pbc=pbc)
    if int(table.needed) > 100:
        table = radius_neighbours(x, cutoff, int(table.needed), batch, loop, cell=cell, pbc=pbc)
    assert table.edge_index().equal(edge_index) and table.edge_image().equal(image)
    assert table.count.equal(torch.bincount(edge_index[0], minlength=x.shape[:2].numel()).int())
    assert (table.image[table.sender < 0] == 0).all()
    return edge_index, image


# --- every edge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cutoff", [1.1, 3.3, 5.9])
def test_every_image_of_every_pair(every_search, shape, cutoff):
    vectors = vectors_of(shape)
    if shape == "tiny" and cutoff > 4 and every_search != "compiled":
        cutoff = 3.9  # three boxes
    edge_index, _ = assert_is_brute_force(positions_in(5, 2, vectors), cutoff, vectors, loop=cutoff > 3)
    if cutoff > 3.5:
        assert (edge_index[0] == edge_index[1]).sum() > 10, "images of a node itself"
        pairs = (edge_index[0] * 10 + edge_index[1]).unique(return_counts=True)[1]
        assert pairs.max() > 1, "one neighbour several times"


@pytest.mark.parametrize("pbc", [[True, True, False], [False, True, False], [False, False, True], [False] * 3])
def test_some_directions_are_periodic(every_search, pbc):
    vectors = vectors_of("sheared", size=2.0)
    x = positions_in(6, 2, vectors, spread=1.0)
    edge_index, image = assert_is_brute_force(x, 3.1, vectors, torch.tensor(pbc))
    assert (image[:, ~torch.tensor(pbc)] == 0).all()
    if not any(pbc):
        assert edge_index.equal(radius_graph(x, 3.1)), "as without a cell"


@settings(max_examples=60, deadline=None)
@given(
    implementation=st.sampled_from(["reference", "plain", "compiled"]),
    num_nodes=st.integers(0, 9),
    num_frames=st.sampled_from([1, 2, 3]),
    boxes=st.sampled_from(["one", "graphs", "frames", "shared frames"]),
    num_graphs=st.sampled_from([1, 3]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    loop=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_boxes_of_graphs_and_frames(implementation, num_nodes, num_frames, boxes, num_graphs, dtype, loop, seed):
    """Batches in any order, graphs without nodes, flags of each graph."""
    draw = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, num_graphs, (num_nodes,), generator=draw)
    one = vectors_of("triclinic", seed, size=2.5)
    several = {"one": 1, "graphs": num_graphs, "frames": num_graphs, "shared frames": 1}[boxes]
    cell = one * (1 + 0.3 * torch.rand(several, num_frames, 3, 3, generator=draw, dtype=torch.float64))
    pbc = torch.rand(several, 3, generator=draw) < 0.7
    if boxes in ("one", "graphs"):
        cell = cell[:, 0]
    if boxes == "one":
        cell, pbc = cell[0], pbc[0]
    x = positions_in(num_nodes, num_frames, one, seed, spread=1.4).to(dtype)
    with pytest.MonkeyPatch.context() as patch, use(implementation, patch):
        assert_is_brute_force(x, 2.2, cell.to(dtype), pbc, batch, loop)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype_is_computed_in_float64(every_search, dtype):
    x = positions_in(6, 2, CUBE).to(dtype)
    edges, image = radius_graph(x, 2.7, cell=CUBE.to(dtype))
    expected, numbers = radius_graph(x.double(), 2.7, cell=CUBE.to(dtype).double())
    assert edges.equal(expected) and image.equal(numbers) and edges.shape[1] > 20


@pytest.mark.parametrize("shape", [(0, 2, 3), (3, 0, 3), (1, 1, 3)])
def test_nothing_and_one_node(every_search, shape):
    x = torch.zeros(shape)
    edge_index, image = assert_is_brute_force(x, 4.5, CUBE, loop=True)
    assert edge_index.shape[1] == image.shape[0] == (7 if shape[0] == 1 else 0)
    with_batch, _ = radius_graph(x, 4.5, torch.zeros(shape[0], dtype=torch.int64), cell=CUBE)
    assert with_batch.shape[1] == (6 if shape[0] == 1 else 0)


def test_positions_without_frames(search):
    edges, image = radius_graph(X[:, 0], 2.5, cell=CUBE)
    expected, numbers = radius_graph(X[:, :1], 2.5, cell=CUBE)
    assert edges.equal(expected) and image.equal(numbers)


# --- the lattice ------------------------------------------------------------------------------------------------------


def vectors_between(x, cutoff, vectors):
    """[(receiver, sender, r)], rounded and sorted."""
    edge_index, image = radius_graph(x, cutoff, cell=vectors)
    r = displacements(x, edge_index, image, vectors)
    return sorted((i, j, *row) for i, j, row in zip(*edge_index.tolist(), r.mul(1e6).round().tolist(), strict=True))


def test_atoms_moved_by_vectors_of_the_lattice(search):
    """The neighbours and their places stay, and the images say so."""
    vectors = vectors_of("triclinic")
    x = positions_in(8, 3, vectors)
    steps = torch.randint(-20, 21, (8, 3, 3), generator=torch.Generator().manual_seed(1)).double()
    moved = x + steps @ vectors
    assert vectors_between(moved, 3.7, vectors) == vectors_between(x, 3.7, vectors)
    before, after = (radius_graph(y, 3.7, cell=vectors) for y in (x, moved))
    assert not before[1].equal(after[1]) and after[1].abs().max() > 20


def test_other_vectors_of_the_same_lattice(search):
    """Permuted, turned around, and any other basis."""
    vectors = vectors_of("triclinic")
    x = positions_in(8, 2, vectors, spread=1.0)
    expected = vectors_between(x, 3.7, vectors)
    assert len(expected) > 100
    bases = [np.eye(3)[[2, 0, 1]], np.eye(3)[[1, 0, 2]], np.diag([-1, 1, -1])]
    bases += [np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]), np.array([[1, 2, -1], [0, 1, 3], [0, 0, 1]])]
    for basis in bases:
        assert abs(np.linalg.det(basis)) == pytest.approx(1)
        assert vectors_between(x, 3.7, torch.from_numpy(basis).double() @ vectors) == expected


def test_turned_with_the_box(search):
    vectors = vectors_of("sheared", size=2.5)
    x = positions_in(6, 2, vectors)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).Q
    (edges, image), (turned, numbers) = (
        radius_graph(x, 3.3, cell=vectors),
        radius_graph(x @ turn, 3.3, cell=vectors @ turn),
    )
    assert edges.equal(turned) and image.equal(numbers) and edges.shape[1] > 50
    # Elsewhere in space.
    away, numbers = radius_graph(x + 3.1, 3.3, cell=vectors)
    assert away.equal(edges) and numbers.equal(image)


def test_nodes_in_another_order(search):
    vectors, order = vectors_of("triclinic"), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    x = positions_in(8, 1, vectors)
    found = {(order[i].item(), order[j].item(), n) for i, j, n in as_keys(*radius_graph(x[order], 3.3, cell=vectors))}
    assert found == set(as_keys(*radius_graph(x, 3.3, cell=vectors)))


CRYSTALS = {
    "simple cubic": (np.eye(3), [[0, 0, 0]]),
    "fcc": (np.eye(3), [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "fcc, primitive": (0.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), [[0, 0, 0]]),
}


@pytest.mark.parametrize("crystal", CRYSTALS)
@pytest.mark.parametrize("repeats", [1, 2])
def test_coordination_numbers_of_crystals(search, crystal, repeats):
    """The cutoff is a neighbour's distance exactly, atoms are on faces, and vectors to all neighbours cancel."""
    vectors, atoms = CRYSTALS[crystal]
    where = torch.cartesian_prod(*[torch.arange(float(repeats))] * 3).numpy()
    x = (where[:, None] @ vectors + np.array(atoms) @ np.eye(3)).reshape(-1, 1, 3)
    x, cell = torch.from_numpy(x), repeats * torch.from_numpy(vectors)
    shells = {1.0: 6, 2.0: 32} if crystal == "simple cubic" else {1.0: 18, 2.0: 140}
    for cutoff, expected in shells.items():
        for size in (1.0, 0.5, 4.0):  # products stay exact
            edge_index, image = radius_graph(size * x, size * cutoff, cell=size * cell)
            assert (torch.bincount(edge_index[0]) == expected).all() and len(image) == len(x) * expected
            r = displacements(size * x, edge_index, image, size * cell)
            for power in (1, 3):
                forces = torch.zeros(len(x), 3, dtype=torch.float64).index_add(0, edge_index[0], r**power)
                assert forces.abs().max() < 1e-12


def test_an_edge_and_its_reverse(search):
    vectors = vectors_of("sheared", size=2.0)
    found = as_keys(*radius_graph(positions_in(9, 2, vectors), 2.9, cell=vectors))
    assert {(j, i, tuple(-k for k in n)) for i, j, n in found} == set(found) and len(found) > 50


# --- other packages ---------------------------------------------------------------------------------------------------


def by_ase(x, cutoff, vectors):
    neighbors = pytest.importorskip("ase.neighborlist")
    return neighbors.primitive_neighbor_list("ijS", [True] * 3, vectors, x, cutoff, self_interaction=False)


def by_vesin(x, cutoff, vectors):
    vesin = pytest.importorskip("vesin")
    return vesin.NeighborList(cutoff=cutoff, full_list=True).compute(x, vectors, True, "ijS")


def by_matscipy(x, cutoff, vectors):
    neighbours = pytest.importorskip("matscipy.neighbours")
    return neighbours.neighbour_list("ijS", positions=x, cutoff=cutoff, cell=vectors, pbc=[True] * 3)


@pytest.mark.parametrize("package", [by_ase, by_vesin, by_matscipy])
@pytest.mark.parametrize("shape", ["triclinic", "sheared", "tiny"])
def test_as_other_packages(search, package, shape):
    vectors = vectors_of(shape, seed=5)
    x = positions_in(9, 1, vectors, seed=6, spread=0.5)
    i, j, n = (np.asarray(a) for a in package(x[:, 0].numpy(), 2.9, vectors.numpy()))
    expected = sorted((a, b, tuple(c)) for a, b, c in zip(i.tolist(), j.tolist(), n.tolist(), strict=True))
    assert as_keys(*radius_graph(x, 2.9, cell=vectors)) == expected


def test_as_mdanalysis(search):
    """Pairs at the nearest image alone, in a box whose vectors MDAnalysis takes."""
    mda = pytest.importorskip("MDAnalysis.lib.distances")
    core = pytest.importorskip("MDAnalysis.lib.mdamath")
    box = np.array([8.0, 9.0, 10.0, 80.0, 70.0, 100.0], dtype=np.float32)
    vectors = torch.from_numpy(core.triclinic_vectors(box)).double()
    x = positions_in(60, 1, vectors, spread=0.5)
    places = x[:, 0].numpy().astype(np.float32)
    pairs, distances = mda.self_capped_distance(places, 3.0, box=box)
    assert (np.abs(distances - 3.0) > 1e-4).all()
    edges, image = radius_graph(torch.from_numpy(places)[:, None], 3.0, cell=vectors)
    both = {tuple(pair) for pair in [*pairs.tolist(), *pairs[:, ::-1].tolist()]}
    assert {(i, j) for i, j in edges.T.tolist()} == both and edges.shape[1] == len(both) > 100
    r = displacements(torch.from_numpy(places)[:, None], edges, image, vectors).norm(dim=1)
    found = dict(zip(map(tuple, edges.T.tolist()), r.tolist(), strict=True))
    np.testing.assert_allclose([found[tuple(pair)] for pair in pairs.tolist()], distances, atol=1e-5)


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_capacity_too_small_keeps_the_first(every_search):
    whole = radius_neighbours(X, 3.0, 60, cell=CUBE)
    few = radius_neighbours(X, 3.0, 5, cell=CUBE)
    assert few.needed == whole.needed == whole.count.max() and few.image.shape == (14, 5, 3)
    assert few.sender.equal(whole.sender[:, :5]) and few.image.equal(whole.image[:, :5])
    with pytest.raises(ValueError, match=rf"capacity=5 is too small for a receiver; {int(whole.needed)} would do"):
        few.check()
    with pytest.raises(ValueError, match="max_num_neighbors=5 is too few for"):
        radius_graph(X, 3.0, max_num_neighbors=5, cell=CUBE)
    assert radius_neighbours(X, 3.0, 0, cell=CUBE).image.shape == (14, 0, 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 61.0 * 4.0, -1e30])
def test_what_is_nowhere_is_near_to_nothing_and_told(every_search, value):
    x = X.clone()
    whole = as_keys(*radius_graph(x, 3.0, cell=CUBE))
    x[3, 1, 2] = value
    found = radius_neighbours(x, 3.0, 60, cell=CUBE, loop=True)
    lost = 3 * 2 + 1
    rows = [
        (i, j, tuple(n))
        for i in range(14)
        for j, n in zip(found.sender[i].tolist(), found.image[i].tolist(), strict=True)
    ]
    left = [key for key in rows if key[1] >= 0 and (key[0] != key[1] or any(key[2]))]
    assert left == [key for key in whole if lost not in key[:2]] and found.count[lost] == 0
    message = "radius_neighbors: x must be finite, at most 60 boxes away from the one at the origin"
    with pytest.raises(ValueError, match=message):
        found.check()
    away = "x must be finite" if not np.isfinite(value) else "x must be at most 60 boxes away .* got node 3, frame 1,"
    with pytest.raises(ValueError, match=f"radius_graph: {away}"):
        radius_graph(x, 3.0, cell=CUBE)


def test_images_of_far_positions_fit_in_int8(every_search):
    """60 boxes away on both sides, and fewer where the cutoff spans many: always right or told."""
    x = torch.tensor([[[-59.9, 0.5, 0.5]], [[60.9, 0.5, 0.5]]], dtype=torch.float64)
    _, image = assert_is_brute_force(x, 1.3, torch.eye(3))
    assert image.abs().max() == 122
    with pytest.raises(ValueError, match=r"at most 53 boxes .* got node 0, frame 0, which is -60 boxes away along vec"):
        radius_graph(x, 20.3, cell=torch.diag(torch.tensor([1.0, 50.0, 50.0])))
    assert radius_neighbours(x, 20.3, 3, cell=torch.diag(torch.tensor([1.0, 50.0, 50.0]))).count.sum() == 0


def test_a_search_made_once(every_search):
    boxes = CellSearch.within("test", CUBE, 3.0)
    assert boxes.images == (1, 1, 1)
    expected = radius_neighbours(X, 3.0, 40, cell=CUBE)
    for found, other in zip(radius_neighbours(X, 3.0, 40, cell=boxes), expected, strict=True):
        assert found.equal(other)
    for a, b in zip(radius_graph(X, 3.0, cell=boxes), radius_graph(X, 3.0, cell=CUBE), strict=True):
        assert a.equal(b)


def test_without_gradient_in_any_mode(search):
    x, cell = X.clone().requires_grad_(), CUBE.clone().requires_grad_()
    edges, image = radius_graph(x, 3.0, cell=cell)
    assert not edges.requires_grad and not image.requires_grad
    with torch.inference_mode():
        assert radius_graph(X, 3.0, cell=CUBE)[0].equal(edges)


def test_compiled_by_torch_with_its_fakes():
    """A table's shape does not depend on positions, so torch.compile can follow it."""
    boxes = CellSearch.within("test", CUBE, 3.0)
    table = lambda x: radius_neighbours(x, 3.0, 40, cell=boxes)[0::4]
    found = torch.compile(table, fullgraph=True, backend="aot_eager")(X)
    for a, b in zip(found, table(X), strict=True):
        assert a.equal(b)


# --- errors -----------------------------------------------------------------------------------------------------------

TWO = torch.tensor([0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "a cell must come with positions in 3 dimensions, got 2", {"x": X[..., :2]}),
        (ValueError, "cell must span a volume", {"cell": torch.ones(3, 3)}),
        (ValueError, r"cell must be \[G, 3, 3\], got \[2, 3, 2\]", {"cell": torch.ones(2, 3, 2)}),
        (TypeError, "cell must be a tensor", {"cell": [[1.0]]}),
        (ValueError, "cell must be finite, got nan", {"cell": CUBE * torch.nan}),
        (ValueError, r"pbc must be \[3\], got \[2\]", {"pbc": torch.tensor([True, False])}),
        (ValueError, "pbc must come with a cell, got no cell", {"cell": None, "pbc": torch.tensor([True] * 3)}),
        (ValueError, "cell must be of 1 graph where there is no batch, got 2", {"cell": CUBE.expand(2, 3, 3)}),
        (
            ValueError,
            "cell must have a box for graph 1 of batch, got 0 boxes",
            {"cell": CUBE.expand(0, 3, 3), "batch": TWO},
        ),
        (
            ValueError,
            "cell must have a box for graph 4 of batch, got 2 boxes",
            {"cell": CUBE.expand(2, 3, 3), "batch": 4 * TWO},
        ),
        (ValueError, "cell must be of 1 or 2 frames, got 3", {"cell": CUBE.expand(1, 3, 3, 3)}),
        (ValueError, "cell must be on cpu like x, got meta", {"x": X.to("meta"), "cell": CUBE}),
        (ValueError, r"at most 64 images .* got 300.0, which needs \[76, 76, 76\]", {"cutoff": 300.0}),
        (
            ValueError,
            r"cell must be a CellSearch for cutoff=2\.0, got one for \('cutoff', 3\.0\)",
            {"cell": CellSearch.within("t", CUBE, 3.0)},
        ),
        (
            ValueError,
            "pbc must be None where cell is a CellSearch",
            {"cell": CellSearch.within("t", CUBE, 2.0), "pbc": torch.tensor([True] * 3)},
        ),
    ],
)
@pytest.mark.parametrize("form", [radius_graph, radius_neighbours])
def test_errors_name_what_is_wrong(form, error, message, arguments):
    given = {"x": X, "cutoff": 2.0, "cell": CUBE} | ({"capacity": 9} if form is radius_neighbours else {}) | arguments
    if "meta" in message:
        if form is radius_graph:
            pytest.skip("reads its positions first")
        message = "cell must be on meta like x, got cpu"
    with pytest.raises(error, match=f"^{form.__name__}: .*{message}"):
        form(**given)


def test_images_are_those_of_a_search_with_a_cell():
    with pytest.raises(ValueError, match="edge_image must be asked of a search with a cell"):
        radius_neighbours(X, 2.0, 9).edge_image()
