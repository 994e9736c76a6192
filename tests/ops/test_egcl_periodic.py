"""Periodic boxes: the spatial op where an edge knows which image of its sender it is from."""

import itertools

import pytest
import torch
from native_cases import (
    EGCL_NAMES,
    assert_native_as_accurate,
    bind,
    cotangents_of,
    draw,
    egcl_inputs,
    egcl_params,
    graph,
    needs_native,
    on_threads,
    results,
)
from tolerances import assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.graphs import EdgeImages, Graph
from geotdm_fast.reference import Cell, EGCLParams

BATCH = torch.tensor([0, 0, 0, 1, 1, 1, 1])
DEGREES = [3, 0, 1, 4, 0, 4, 2]  # two nodes without an edge
NAMES = [*EGCL_NAMES[:3], "vectors", *EGCL_NAMES[3:]]
SKEWED = torch.tensor([[4.0, 0, 0], [1, 5, 0], [-2, 0.5, 3]])


def boxes(kind, num_frames):
    """Lattice vectors [G, 1 or T, 3, 3]: of two graphs, but for "one"."""
    shape = {"one": (1, 1), "two": (2, 1), "changing": (2, num_frames)}[kind]
    return SKEWED + 0.3 * torch.rand(*shape, 3, 3)


def edges_of_both(degrees=DEGREES):
    """Random edges within both graphs, with self-loops and repeats."""
    first, second = graph(3, degrees[:3]), graph(4, degrees[3:])
    return torch.cat([first, second + 3], dim=1)[:, torch.randperm(sum(degrees))]


def pbc_of(vectors):
    return torch.ones(len(vectors), 3, dtype=torch.bool, device=vectors.device)


class Boxed:
    """Edges of two graphs in boxes, and the op on them as a function of tensors, the boxes' vectors among them.

    per_frame: every frame has edges of its own
    """

    def __init__(self, kind="two", num_frames=3, edge_dim=2, width=16, per_frame=False, device="cpu"):
        self.num_frames, self.per_frame = num_frames, per_frame
        if per_frame:
            frames = [edges_of_both() * num_frames + t for t in range(num_frames)]
            self.edge_index = torch.cat(frames, dim=1)[:, torch.randperm(num_frames * sum(DEGREES))].to(device)
        else:
            self.edge_index = edges_of_both().to(device)
        self.batch = None if kind == "one" else BATCH.to(device)
        self.number = torch.randint(-1, 2, (self.edge_index.shape[1], 3), dtype=torch.int8, device=device)
        x, h, edge_attr, *params = egcl_inputs(len(BATCH), num_frames, 3, width, edge_dim, self.edge_index)
        drawn = [x, h, edge_attr, boxes(kind, num_frames), *params]
        self.inputs = [None if v is None else v.to(device) for v in drawn]

    def graph(self, vectors) -> Graph:
        images = EdgeImages(self.number, Cell(vectors, pbc_of(vectors)), self.batch)
        if self.per_frame:
            return Graph.per_frame(self.edge_index, len(BATCH), self.num_frames, images=images)
        return Graph.static(self.edge_index, len(BATCH), images=images)

    def op(self, x, h, edge_attr, vectors, *params, **flags):
        return ops.egcl(x, h, self.graph(vectors), edge_attr, EGCLParams(*params), **flags)

    def ghosts(self, x, h, edge_attr, vectors, *params, **flags):
        """The same by a supercell without boxes: each edge has a sender of its own, an atom at the image."""
        num_nodes, num_frames = x.shape[:2]
        box = vectors.expand(2, num_frames, 3, 3)[BATCH]  # [N, T, 3, 3]
        if self.per_frame:
            x, h, box = (v.flatten(0, 1)[:, None] for v in (x, h, box))
        row, col = self.edge_index
        image = sum(self.number[:, None, k, None].to(x) * box[col][:, :, k] for k in range(3))  # [E, T, 3]
        edges = torch.stack([row, len(x) + torch.arange(len(row))])
        x_all, h_all = torch.cat([x, x[col] + image]), torch.cat([h, h[col]])
        outputs = reference.egcl(x_all, h_all, edges, edge_attr, EGCLParams(*params), **flags)
        return tuple(v[: len(x)].reshape(num_nodes, num_frames, -1) for v in outputs)


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "num_frames", "per_frame", "flags"),
    [
        ("one", 3, False, {}),
        ("two", 1, False, {"pre_norm": True}),
        ("changing", 3, False, {"cutoff": 6.0}),
        ("two", 3, True, {"normalize": False}),
        ("changing", 2, True, {"cutoff": 6.0, "pre_norm": True}),
    ],
)
def test_equals_a_supercell_of_ghosts(kind, num_frames, per_frame, flags):
    """Outputs and gradients, those of the boxes' vectors among them."""
    made = Boxed(kind, num_frames, per_frame=per_frame, width=4)
    cotangents = cotangents_of(made.inputs)
    ours = results(bind(made.op, **flags), made.inputs, cotangents, torch.float64)
    expected = results(bind(made.ghosts, **flags), made.inputs, cotangents, torch.float64)
    for name, a, b in zip(["x_out", "h_out", *NAMES], ours, expected, strict=True):
        assert_same(a, b, 1e-12, what=name)
    assert ours[5].flatten(0, 1).abs().amax(0).min(), "the vectors have gradients"


def test_gradients_and_second_derivatives():
    made = Boxed("changing", 2, width=2)
    leaves = [v.double().requires_grad_() for v in made.inputs]
    assert torch.autograd.gradcheck(made.op, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(made.op, leaves, fast_mode=True)


def test_the_shift_of_the_reference_is_of_the_edges():
    made = Boxed(width=4)
    x, h, edge_attr, vectors, *params = made.inputs
    shift = made.graph(vectors).shift(3)
    outputs = reference.egcl(x, h, made.edge_index, edge_attr, EGCLParams(*params), shift=shift)
    every = shift[:, None].expand(-1, 3, -1).double()  # nor does a wider dtype, which r is rounded from, widen results
    for again in (shift[:, None].expand(-1, 3, -1), every):
        for a, b in zip(
            reference.egcl(x, h, made.edge_index, edge_attr, EGCLParams(*params), shift=again), outputs, strict=True
        ):
            assert a.dtype == b.dtype
            assert_same(a, b, 1e-6)
    with pytest.raises(ValueError, match=r"egcl: shift must be \[E, 3\] or \[E, T, 3\] .*, got \[14, 2\]"):
        reference.egcl(x, h, made.edge_index, edge_attr, EGCLParams(*params), shift=shift[:, :2])


# --- what periodic boxes mean -----------------------------------------------------------------------------------------


def as_doubles_and_floats():
    """The op by the reference in float64, and by what runs float32, with a bound of their roundoff."""
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        made = Boxed()
        made.inputs = [v.to(dtype) for v in made.inputs]
        yield made, bound


def test_wrapping_an_atom_moves_it_and_nothing_else():
    for made, bound in as_doubles_and_floats():
        x, *others = made.inputs
        vectors = others[2]
        before_x, before_h = made.op(x, *others)
        turns = torch.randint(-2, 3, (len(x), 3))
        by = (turns[:, :, None] * vectors[BATCH, 0]).sum(1)[:, None]  # [N, 1, 3]
        row, col = made.edge_index
        made.number = (made.number + turns[row] - turns[col]).to(torch.int8)
        after_x, after_h = made.op(x + by, *others)
        assert_same(after_x - by, before_x, bound)
        assert_same(after_h, before_h, bound)


def test_other_vectors_of_the_same_lattice():
    change = torch.tensor([[0, 1, 0], [1, 0, 2], [0, 0, 1]])  # whole numbers, as its inverse is
    for made, bound in as_doubles_and_floats():
        x, h, edge_attr, vectors, *params = made.inputs
        before = made.op(*made.inputs)
        made.number = (made.number.double() @ change.double().inverse()).round().to(torch.int8)
        after = made.op(x, h, edge_attr, change.to(vectors) @ vectors, *params)
        for a, b in zip(after, before, strict=True):
            assert_same(a, b, bound)


def test_positions_and_boxes_turn_together():
    for made, bound in as_doubles_and_floats():
        x, h, edge_attr, vectors, *params = made.inputs
        turn = torch.linalg.qr(torch.randn(3, 3).to(x))[0]
        before_x, before_h = made.op(*made.inputs)
        after_x, after_h = made.op(x @ turn, h, edge_attr, vectors @ turn, *params)
        assert_same(after_x, before_x @ turn, bound)
        assert_same(after_h, before_h, bound)


def test_a_perfect_crystal_stays_where_it_is():
    """Body-centred cubic, all neighbours within two edges of a cube; what moves is a displaced atom's surroundings."""
    x = torch.tensor([[0.0, 0, 0], [1, 1, 1]])[:, None] + 0.3
    vectors = 2 * torch.eye(3)[None, None]
    found = []
    for n in itertools.product(range(-3, 4), repeat=3):
        distance = (x[:, None, 0] - x[None, :, 0] - torch.tensor(n).float() @ vectors[0, 0]).norm(dim=-1)
        found += [(i, j, *n) for i, j in ((distance < 4.1) & (distance > 0)).nonzero().tolist()]
    table = torch.tensor(found)
    images = EdgeImages(table[:, 2:].to(torch.int8), Cell(vectors, pbc_of(vectors)), None)
    crystal = Graph.static(table[:, :2].T, 2, images=images)
    assert len(found) == 2 * (8 + 6 + 12 + 24 + 8 + 6)
    params, h = egcl_params(16), draw(16).expand(2, 1, 16)
    for cutoff in (None, 4.1):
        moved = ops.egcl(x, h, crystal, None, params, cutoff=cutoff)[0] - x
        assert moved.abs().max() < 1e-6
        displaced = x + torch.tensor([[[0.1, 0, 0]], [[0, 0, 0]]])
        moved = ops.egcl(displaced, h, crystal, None, params, cutoff=cutoff)[0] - displaced
        assert moved[:, 0, 0].abs().min() > 1e-5


# --- the kernels ------------------------------------------------------------------------------------------------------


def check(implementation, width, kind, num_frames, edge_dim, per_frame, flags, precision, device="cpu", draws=1):
    made = Boxed(kind, num_frames, edge_dim, width, per_frame, device)

    def inputs():
        made.inputs = Boxed(kind, num_frames, edge_dim, width, per_frame, device).inputs
        return made.inputs

    op = bind(made.op, **flags)
    assert_native_as_accurate(bind(op, precision=precision), inputs, NAMES, precision, op, implementation, draws)


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("width", "kind", "num_frames", "edge_dim", "per_frame", "flags"),
    [
        (16, "one", 1, 0, False, {"normalize": False, "pre_norm": True}),
        (32, "changing", 5, 2, False, {"cutoff": 6.0}),
        (48, "two", 61, 1, False, {}),
        (64, "changing", 4, 0, True, {"pre_norm": True, "cutoff": 6.0}),
    ],
)
def test_the_cpu_kernels(width, kind, num_frames, edge_dim, per_frame, flags, precision):
    check("auto", width, kind, num_frames, edge_dim, per_frame, flags, precision, draws=3)


@pytest.mark.parametrize(
    ("width", "kind", "num_frames", "edge_dim", "per_frame", "flags", "precision"),
    [
        (16, "two", 3, 2, False, {"cutoff": 6.0}, "fp32"),
        (16, "one", 1, 0, True, {"pre_norm": True}, "tf32"),
        (16, "changing", 3, 1, False, {}, "bf16"),
    ],
)
def test_the_triton_kernels(device, width, kind, num_frames, edge_dim, per_frame, flags, precision):
    pytest.importorskip("triton")
    draws = 3 if precision == "bf16" else 1
    check("triton", width, kind, num_frames, edge_dim, per_frame, flags, precision, device, draws)


IMPLEMENTATIONS = [pytest.param("auto", marks=needs_native), "triton", "reference"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_room_for_more_edges_changes_nothing(implementation, device):
    """A table of senders, as a search makes it, beside the same edges without room."""
    made = Boxed("changing", 2, 0, per_frame=True, device=device)
    *_, vectors = made.inputs[:4]
    num_rows, row = 2 * len(BATCH), made.edge_index[0]
    order = row.sort(stable=True).indices
    made.edge_index, made.number = made.edge_index[:, order], made.number[order]
    sender = torch.full((num_rows, 6), -1, device=device)
    for i in range(num_rows):
        senders = made.edge_index[1, made.edge_index[0] == i]
        sender[i, : len(senders)] = senders

    def roomy(vectors):
        graph = Graph.of_table(sender, sender >= 0, len(BATCH), 2)
        number = torch.cat([made.number, made.number.new_zeros(graph.num_edges - len(made.number), 3)])
        graph.images = EdgeImages(number, Cell(vectors, pbc_of(vectors)), made.batch)
        return graph

    cotangents = cotangents_of(made.inputs)
    with backend(implementation):
        expected = results(made.op, made.inputs, cotangents)
        made.graph = roomy
        found = results(made.op, made.inputs, cotangents)
    for name, a, b in zip(["x_out", "h_out", "x", "h", *NAMES[3:]], found, expected, strict=True):
        assert_same(a, b, 1e-6, what=name)
    assert roomy(vectors).shift(2).shape == (num_rows * 6, 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("num_nodes", "num_frames"), [(7, 3), (7, 0), (0, 2)])
def test_without_edges_nodes_or_frames(implementation, num_nodes, num_frames, device):
    drawn = draw(num_nodes, num_frames, 3), draw(num_nodes, num_frames, 16), boxes("one", 1)
    x, h, vectors = leaves = [v.to(device).requires_grad_() for v in drawn]
    params = EGCLParams(*(p.to(device) for p in egcl_params(16)))
    none = lambda *shape, dtype: torch.zeros(*shape, dtype=dtype, device=device)
    images = EdgeImages(none(0, 3, dtype=torch.int8), Cell(vectors, pbc_of(vectors)), None)
    empty = Graph.static(none(2, 0, dtype=torch.int64), num_nodes, images=images)
    with backend(implementation):
        x_out, h_out = ops.egcl(x, h, empty, None, params)
    assert torch.equal(x_out, x)
    gradients = torch.autograd.grad(x_out.sum() + h_out.sum(), leaves)
    assert gradients[0].eq(1).all() and not gradients[2].any()


@needs_native
def test_any_number_of_threads_gives_the_same_bits():
    made = Boxed("two", 61, 1, 32)
    cotangents = cotangents_of(made.inputs)
    one, four = (on_threads(count, lambda: results(made.op, made.inputs, cotangents)) for count in (1, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
def test_second_derivatives(implementation, device):
    made = Boxed("changing", 2, device=device)
    weights = cotangents_of(made.inputs)

    def twice(dtype):
        leaves = [v.detach().to(dtype).requires_grad_() for v in made.inputs]
        gradients = torch.autograd.grad(made.op(*leaves), leaves, [w.to(dtype) for w in weights], create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves, materialize_grads=True)

    with backend(implementation):
        ours = twice(torch.float32)
    with backend("reference"):
        exact = twice(torch.float64)
    for name, a, b in zip(NAMES, ours, exact, strict=True):
        assert_same(a, b, 2e-5, what=name)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
def test_nobody_who_wants_no_gradient_of_a_box_gets_one(implementation, device):
    """The other gradients are the same to the last bit, whether or not the boxes want one."""
    made = Boxed("two", 1, device=device)
    x, h, edge_attr, vectors, *params = made.inputs
    cotangents = cotangents_of(made.inputs)
    with backend(implementation):
        expected = results(made.op, made.inputs, cotangents)
        fixed = lambda x, h, edge_attr, *params: made.op(x, h, edge_attr, vectors, *params)
        found = results(fixed, [x, h, edge_attr, *params], cotangents)
    del expected[5]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_transforms_of_torch_func():
    made = Boxed("two", 2)
    x, h, edge_attr, vectors, *params = made.inputs
    energy = lambda vectors: made.op(x, h, edge_attr, vectors, *params)[0].square().sum()
    leaf = vectors.clone().requires_grad_()
    expected = torch.autograd.grad(energy(leaf), leaf)[0]
    assert_same(torch.func.grad(energy)(vectors), expected, 1e-5)
    along = torch.func.jvp(energy, (vectors,), (vectors,))[1]
    assert_same(along, (expected * vectors).sum(), 1e-5)
    many = torch.vmap(energy)(torch.stack([vectors, 2 * vectors]))
    assert_same(many, torch.stack([energy(vectors), energy(2 * vectors)]), 1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[:2])
def test_compiled_in_one_graph(implementation, device):
    made = Boxed("changing", 2, device=device)
    cotangents = cotangents_of(made.inputs)
    torch.compiler.reset()
    with backend(implementation):
        expected = results(made.op, made.inputs, cotangents)
        found = results(torch.compile(made.op, backend="aot_eager", fullgraph=True), made.inputs, cotangents)
    torch.compiler.reset()
    for name, a, b in zip(["x_out", "h_out", *NAMES], found, expected, strict=True):
        assert_same(a, b, 1e-6, what=name)


@needs_native
def test_shifts_are_float32_under_autocast_and_for_bfloat16():
    made = Boxed("one", 2, 0)
    x, h, _, vectors, *params = made.inputs
    expected = made.op(*made.inputs, precision="bf16")[0] - x
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(made.op(*made.inputs, precision="bf16")[0] - x, expected, 1e-6)
    x, h, *params = (v.bfloat16() for v in (x, h, *params))
    moved = made.op(x, h, None, vectors, *params)[0]
    with backend("reference"):
        exact = made.op(*(None if v is None else v.double() for v in (x, h, None, vectors, *params)))[0]
    assert_same(moved, exact, 2**-7)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "reference"])
def test_boxes_of_other_positions_are_errors(name):
    made = Boxed("changing", 3, 0)
    x, h, _, vectors, *params = made.inputs
    with backend(name):
        with pytest.raises(ValueError, match=r"egcl: x must be \[N, T, 3\] in periodic boxes, got \[7, 3, 2\]"):
            made.op(x[..., :2], h, None, vectors, *params)
        with pytest.raises(ValueError, match="egcl: the graph must have boxes of 1 or 3 frames, got 2"):
            made.op(x, h, None, vectors[:, :2], *params)
