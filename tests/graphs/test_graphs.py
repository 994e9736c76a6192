"""`Graph`: every maker against brute force, and what runs on it against the reference, frame by frame."""

import pytest
import torch
from cases import MASKS, NUM_FRAMES, case
from native_cases import by_layer, egcl_params, graph, needs_native
from tolerances import assert_same

from geotdm_fast import backend, ops, radius_graph, reference
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.graphs import KINDS, Graph
from geotdm_fast.ops import kernels
from geotdm_fast.reference import EGCLParams

N, T, D, H, A = 6, 4, 3, 16, 2
DEGREES = [3, 0, 2, 4, 1, 0]
IMPLEMENTATIONS = [
    "reference",
    pytest.param("native", marks=needs_native),
    pytest.param("triton", marks=pytest.mark.skipif(kernels.missing() is not None, reason=f"{kernels.missing()}")),
]


def drawn(num_edges=0, num_nodes=N, num_frames=T, dtype=torch.float64):
    """x, h, edge_attr and params."""
    torch.manual_seed(1)
    x, h = torch.randn(num_nodes, num_frames, D), torch.randn(num_nodes, num_frames, H)
    edge_attr = torch.randn(num_edges, A)
    params = EGCLParams(*(p.to(dtype) for p in egcl_params(H, A if num_edges else 0)))
    return x.to(dtype), h.to(dtype), edge_attr.to(dtype) if num_edges else None, params


def frames_of_rows(edge_index, edge_attr, num_frames=T):
    """Of edges between rows i T + t: for each frame edge_index between nodes, and edge_attr."""
    for t in range(num_frames):
        mine = (edge_index[0] % num_frames == t).nonzero()[:, 0]
        yield edge_index[:, mine] // num_frames, None if edge_attr is None else edge_attr[mine]


def frame_by_frame(x, h, edges, params):
    """The reference on every frame alone. edges: (edge_index, edge_attr) of each."""
    found = [reference.egcl(x[:, [t]], h[:, [t]], *its, params) for t, its in enumerate(edges)]
    return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))


def assert_results_and_gradients(run, expected_run, implementation, inputs, bound=3e-6):
    """`run(x, h, edge_attr, params)` in the implementation's dtype beside `expected_run` in float64, and gradients."""
    exact = implementation == "reference"
    found = []
    for function, name, dtype in (
        (run, implementation, torch.float64 if exact else torch.float32),
        (expected_run, "reference", torch.float64),
    ):
        x, h, edge_attr, params = inputs
        tensors = [x, h, *params] + ([] if edge_attr is None else [edge_attr])
        leaves = [v.detach().to(dtype).requires_grad_() for v in tensors]
        attr = None if edge_attr is None else leaves.pop()
        with backend({"native": "auto"}.get(name, name)):
            x_out, h_out = function(leaves[0], leaves[1], attr, EGCLParams(*leaves[2:]))
            loss = (x_out.sin() * 3).sum() + h_out.cos().sum()
            grads = torch.autograd.grad(loss, leaves + ([] if attr is None else [attr]), materialize_grads=True)
        found.append([x_out, h_out, *grads])
    names = ["x_out", "h_out", "x", "h", *EGCLParams._fields] + ([] if inputs[2] is None else ["edge_attr"])
    ours, expected = (by_layer(names, values) for values in found)
    for name in ours:
        assert_same(ours[name], expected[name], 1e-10 if exact else bound, floor=1e-2, what=name)


# --- the makers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_tables_are_those_of_brute_force(dtype, device):
    torch.manual_seed(0)
    edge_index = graph(N, DEGREES).to(device, dtype)
    made = Graph.static(edge_index, N)
    tables = made.tables("native")
    sorted_attr = made.in_order(torch.arange(made.num_edges, device=device))
    rows, cols = edge_index.tolist()
    order = [e for i in range(N) for e in range(len(rows)) if rows[e] == i]
    assert sorted_attr.tolist() == order and tables.sender.tolist() == [cols[e] for e in order]
    assert tables.first.tolist() == [sum(row < i for row in rows) for i in range(N + 1)]
    for j in range(N):
        of_sender = tables.by_sender[tables.sender_first[j] : tables.sender_first[j + 1]].tolist()
        assert of_sender == [place for place, e in enumerate(order) if cols[e] == j]
    (as_it_came,) = made.tables("reference")
    assert as_it_came is edge_index
    if kernels.missing() is None:
        of_triton = made.tables("triton")
        assert of_triton.receiver.tolist() == sorted(rows) and of_triton.sender.tolist() == tables.sender.tolist()
    for kind in KINDS if kernels.missing() is None else ("native", "reference"):
        assert made.tables(kind)[0] is made.tables(kind)[0], "made once"


def test_edges_that_came_sorted_stay_as_they_are():
    edge_index = torch.tensor([[0, 0, 1, 3], [1, 2, 0, 0]])
    made, edge_attr = Graph.static(edge_index, 4), torch.randn(4, 2)
    assert made.in_order(edge_attr) is edge_attr
    tables = made.tables("native")
    edge_index += 1000  # the tables are no view of what is not theirs
    assert tables.sender.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Graph.static([[0], [1]], 2), TypeError, r"Graph\.static: edge_index must be a tensor \[2, E\], got"),
        (lambda: Graph.static(torch.zeros(3, 1).long(), 2), ValueError, r"Graph\.static: edge_index must be \[2, E\]"),
        (lambda: Graph.static(torch.zeros(2, 1), 2), TypeError, r"edge_index must be int64, got torch\.float32"),
        (lambda: Graph.per_frame(torch.zeros(2, 1), 2, 3), TypeError, r"Graph\.per_frame: edge_index_of_rows must be"),
        (lambda: Graph.static(torch.tensor([[0], [2]]), 2).tables("native"), ValueError, r"must be in 0\.\.1, got 2"),
        (lambda: Graph.static(torch.tensor([[-1], [0]]), 2).tables("native"), ValueError, r"not be negative, got -1"),
        (lambda: Graph.per_frame(torch.tensor([[6], [0]]), 2, 3).tables("native"), ValueError, r"in 0\.\.5, got 6"),
        (lambda: Graph.static(torch.zeros(2, 0).long(), 2).tables("cuda"), ValueError, r"kind must be one of .*cuda"),
        (lambda: Graph.per_frame(torch.zeros(2, 0).long(), 2, 3).of_frames(3), ValueError, "the same in all frames"),
    ],
)  # fmt: skip
def test_errors_of_the_makers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_graph_is_moved_with_its_tables():
    made = Graph.static(graph(N, DEGREES), N)
    assert made.to("cpu") is made
    moved = made.to("meta")
    order, tables = moved._sorted
    assert moved.device.type == "meta" and {v.device.type for v in (order, *tables)} == {"meta"}
    assert tables.sender.shape == made.tables("native").sender.shape


# --- the op -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("of_frames", [False, True])
def test_egcl_takes_a_graph_in_place_of_edges(implementation, of_frames):
    torch.manual_seed(0)
    edge_index = graph(N, DEGREES)
    dtype = torch.float64 if implementation == "reference" else torch.float32
    x, h, edge_attr, params = drawn(edge_index.shape[1], dtype=dtype)
    if of_frames:
        edge_attr = edge_attr[:, None] * torch.linspace(0.5, 2, T, dtype=dtype)[:, None]
    made = Graph.static(edge_index, N)
    with backend({"native": "auto"}.get(implementation, implementation)):
        expected = ops.egcl(x, h, edge_index, edge_attr, params)
        for _ in range(2):
            for a, b in zip(ops.egcl(x, h, made, edge_attr, params), expected, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("edge_dim", [0, A])
def test_edges_of_every_frame_are_the_reference_frame_by_frame(implementation, edge_dim):
    torch.manual_seed(0)
    edge_index = torch.cat([graph(N, degrees) * T + t for t, degrees in enumerate([DEGREES, [], [1] * N, [N]])], dim=1)
    edge_index = edge_index[:, torch.randperm(edge_index.shape[1])]
    inputs = drawn(edge_index.shape[1] if edge_dim else 0)
    made = Graph.per_frame(edge_index, N, T)
    run = lambda x, h, a, params: ops.egcl(x, h, made, a, params)
    expected = lambda x, h, a, params: frame_by_frame(x, h, frames_of_rows(edge_index, a), params)
    assert_results_and_gradients(run, expected, implementation, inputs)


def test_second_derivatives_of_edges_of_every_frame():
    edge_index = torch.cat([graph(N, DEGREES) * T + t for t in range(T)], dim=1)
    x, h, edge_attr, params = drawn(edge_index.shape[1], dtype=torch.float32)

    def second(op, *inputs):
        x = inputs[0].detach().requires_grad_()
        (grad,) = torch.autograd.grad(op(x, *inputs[1:])[0].sin().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    made = Graph.per_frame(edge_index, N, T)
    found = second(lambda x, h, a: ops.egcl(x, h, made, a, params)[:2], x, h, edge_attr)
    doubled = EGCLParams(*(p.double() for p in params))
    by_frame = lambda x, h, a: frame_by_frame(x, h, frames_of_rows(edge_index, a), doubled)
    assert_same(found, second(by_frame, x.double(), h.double(), edge_attr.double()), 1e-5)


@pytest.mark.parametrize(
    ("make", "edge_attr", "message"),
    [
        (lambda: Graph.static(torch.zeros(2, 0).long(), N + 1), None, r"egcl: .* 6 nodes and 4 frames, got one of 7"),
        (lambda: Graph.per_frame(torch.zeros(2, 0).long(), N, 3), None, "4 frames, got one of 6 nodes and 3 frames"),
        (lambda: Graph.per_frame(torch.zeros(2, 0).long(), N, T), torch.zeros(0, T, A), r"must be \[E, A\] where"),
    ],
)  # fmt: skip
def test_errors_of_the_op(make, edge_attr, message):
    x, h, _, params = drawn()
    with pytest.raises(ValueError, match=message):
        ops.egcl(x, h, make(), edge_attr, params)


# --- the network ------------------------------------------------------------------------------------------------------


def in_every_frame(batch, num_frames=NUM_FRAMES):
    """The edges of a batch as edges of every frame, and their features."""
    frame = torch.arange(num_frames)
    rows = (batch.edge_index[:, :, None] * num_frames + frame).flatten(1)
    return Graph.per_frame(rows, len(batch.x), num_frames), batch.edge_attr.repeat_interleave(num_frames, 0)


@pytest.mark.parametrize("kind", ["static", "per_frame", "per_frame, called"])
@pytest.mark.parametrize("place", ["edge_index", "graph"])
@pytest.mark.parametrize("domain", ["nbody", "molecule"])
def test_a_network_takes_a_graph(domain, place, kind):
    network, x, kwargs = case(domain).conditional(MASKS["ends"], learned=True)
    batch, step = case(domain).batch, torch.arange(len(x)) % 5
    call = lambda kwargs: (*network(step, x, **kwargs), network(None, None, compute_ref=True, **kwargs))
    expected = call(kwargs)
    if kind == "static":
        made, bound = Graph.static(kwargs["edge_index"], len(x)), 0
    else:
        made, kwargs["edge_attr"] = in_every_frame(batch)
        bound = 1e-12
    if kind == "per_frame, called":
        for layer in (*network.s_modules, *network.s_modules_ref):
            layer.edge_mlp.register_forward_hook(lambda *_: None)
    for a, b in zip(call(kwargs | {place: made}), expected, strict=True):
        assert_same(a, b, bound)


def test_edges_that_differ_from_frame_to_frame_reach_the_learned_prior():
    """Edges of frames that are not given change nothing there; those of given frames do."""
    network, x, kwargs = case("nbody").conditional(MASKS["holes"], learned=True)
    made, kwargs["edge_attr"] = in_every_frame(case("nbody").batch)
    frames = frames_of(cond_mask(MASKS["holes"], NUM_FRAMES))
    of_frame = made.edge_index[0] % NUM_FRAMES

    def without(t):
        kept = (of_frame != t).nonzero()[:, 0]
        graph = Graph.per_frame(made.edge_index[:, kept], len(x), NUM_FRAMES)
        given = kwargs | {"graph": graph, "edge_attr": kwargs["edge_attr"][kept]}
        return network(None, None, compute_ref=True, **given)

    whole = network(None, None, compute_ref=True, **kwargs | {"graph": made})
    for t in range(NUM_FRAMES):
        assert torch.equal(without(t), whole) == (t in frames.noisy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": Graph.static(torch.zeros(2, 0).long(), 3)}, "EGTN: the graph must be of 9 nodes and 7 frames, got"),
        ({"edge_attr": torch.zeros(3, 1).double()}, r"EGTN: edge_attr must be \[\d+, A\], got \[3, 1\]"),
        ({"graph": Graph.static(torch.tensor([[0], [8]]), 9), "edge_attr": torch.zeros(1, 1).double()}, "stay within"),
        ({"graph": Graph.static(torch.zeros(2, 1).long(), 9).to("meta")}, "edge_index must be on cpu like the network"),
        ({"batch": torch.zeros(8).long()}, r"EGTN: batch must be \[9\], got \[8\]"),
    ],
)
def test_errors_of_the_network(change, message):
    network, x, kwargs = case("nbody").conditional(MASKS["prefix"])
    kwargs["graph"] = Graph.static(kwargs["edge_index"], len(x))
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(len(x)), x, **kwargs | change)


def test_radius_graphs_are_edges_of_every_frame():
    x, h, _, params = drawn()
    edge_index = radius_graph(x, 1.8)
    assert edge_index.shape[1] > 0
    made = Graph.per_frame(edge_index, N, T)
    found = ops.egcl(x, h, made, None, params)
    for t in range(T):
        expected = reference.egcl(x[:, [t]], h[:, [t]], radius_graph(x[:, t], 1.8), None, params)
        for a, b in zip(found, expected, strict=True):
            assert_same(a[:, [t]], b, 1e-12)
