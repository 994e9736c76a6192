"""Tables of edges with room for more: places from first[N] on have no edge, and nothing of them is read or returned."""

import pytest
import torch
from native_cases import assert_same_bits, cotangents_of, draw, egcl_inputs, graph, needs_native, poisoned
from tolerances import assert_same

from geotdm_fast import backend, ops
from geotdm_fast.graphs.edges import EdgeTables, sorted_edges
from geotdm_fast.reference import EGCLOptions, EGCLParams

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned

DEGREES = [3, 0, 1, 7, 0, 4, 2]
NODES, ROOM = len(DEGREES), 40  # more than twice as many places as edges


def with_room(edges: EdgeTables, num_places: int = ROOM) -> EdgeTables:
    """The same edges; in the other places senders that are any nodes, and edges that are none."""
    more = num_places - edges.sender.numel()
    behind = lambda value, other: torch.cat([value, other.to(value)])
    sender = behind(edges.sender, torch.randint(0, len(edges.first) - 1, (more,)))
    by_sender = behind(edges.by_sender, torch.arange(edges.sender.numel(), num_places))
    return EdgeTables(edges.first, sender, edges.sender_first, by_sender)


def tables(edges: EdgeTables, implementation: str) -> tuple[torch.Tensor, ...]:
    if implementation == "native":
        return tuple(edges)
    from geotdm_fast.kernels.egcl_launch import graph_tables

    return tuple(graph_tables(*edges))


def gradients(prepared: ops.PreparedEGCL, leaves, cotangents, **options):
    """Outputs, and gradients of x, h, edge_attr and the parameters."""
    x, h, edge_attr, *params = leaves
    with backend("auto" if prepared.implementation == "native" else "triton"):
        outputs = ops.run_egcl(x, h, prepared._replace(edge_attr=edge_attr, params=tuple(params)))
    wanted = [leaf for leaf in leaves if leaf is not None]
    return outputs, torch.autograd.grad(outputs, wanted, cotangents, **options)


def case(implementation, width, edge_dim, device, cutoff, num_frames=3, precision="fp32"):
    """A call that is prepared, its tensors that want gradients, and the same with room for more edges."""
    edge_index = graph(NODES, DEGREES).to(device)
    _, edges = sorted_edges(edge_index, NODES)
    drawn = egcl_inputs(NODES, num_frames, 3, width, edge_dim, edge_index)
    drawn = [None if v is None else v.to(device) for v in drawn]
    x, h, edge_attr, *params = drawn
    options = EGCLOptions(precision=precision, cutoff=cutoff)
    with backend("auto" if implementation == "native" else "triton"):
        prepared = ops.prepare_egcl(x, h, edge_index, edge_attr, EGCLParams(*params), options)
    assert prepared.implementation == implementation
    leaf = lambda v: None if v is None else v.detach().clone().requires_grad_()
    exact = [leaf(v) for v in (x, h, prepared.edge_attr, *params)]
    roomy = prepared._replace(tables=tables(with_room(edges), implementation))
    filled = lambda v: None if v is None else torch.cat([v, v.new_full((ROOM - len(v), v.shape[1]), torch.nan)])
    roomy = roomy._replace(edge_term=filled(prepared.edge_term))
    wide = [leaf(v) for v in (x, h, filled(prepared.edge_attr), *params)]
    return prepared, exact, roomy, wide


NAMES = ["x", "h", "edge_attr", *EGCLParams._fields]


def assert_room_changes_nothing(prepared, exact, roomy, wide):
    """But for the order of sums that are taken in slots by places, and by a product over all of them."""
    cotangents = cotangents_of(exact)
    outputs, grads = gradients(prepared, exact, cotangents)
    room_outputs, room_grads = (list(values) for values in gradients(roomy, wide, cotangents))
    names = [name for name, leaf in zip(NAMES, exact, strict=True) if leaf is not None]
    if exact[2] is not None:
        grad_attr = room_grads[2]
        assert grad_attr.shape[0] == ROOM and not grad_attr[len(exact[2]) :].any(), "of no edge, no gradient"
        room_grads[2] = grad_attr[: len(exact[2])]
    assert_same_bits(room_outputs, outputs, [])
    for name, ours, expected in zip(names, room_grads, grads, strict=True):
        assert_same(ours, expected, 1e-6, what=name)


@needs_native
@pytest.mark.parametrize("cutoff", [None, 2.0])
@pytest.mark.parametrize("edge_dim", [0, 2])
def test_the_cpu_kernels(edge_dim, cutoff):
    assert_room_changes_nothing(*case("native", 32, edge_dim, "cpu", cutoff))


@pytest.mark.recorded("interpreted", always=r"cpu-16-")
@pytest.mark.parametrize(
    ("width", "edge_dim", "cutoff", "precision"),
    [(16, 2, None, "fp32"), (32, 0, None, "bf16"), (48, 2, 2.0, "bf16"), (64, 1, 2.0, "fp32")],
)
def test_the_triton_kernels(device, width, edge_dim, cutoff, precision):
    pytest.importorskip("triton")
    assert_room_changes_nothing(*case("triton", width, edge_dim, device, cutoff, precision=precision))


@pytest.mark.recorded("interpreted", always=r"15-1")
@pytest.mark.parametrize("programs", [0, 1, 2])
@pytest.mark.parametrize("chunk", [None, 15])
def test_chunks_of_edges_that_are_not_there(device, programs, chunk):
    """Chunks end within the edges and behind them; few programs sum many tiles, or every tile is a program."""
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_launch")
    from geotdm_fast.kernels.configurations import Configuration
    from geotdm_fast.kernels.egcl_backward_launch import egcl_backward

    edge_index = graph(NODES, DEGREES).to(device)
    _, edges = sorted_edges(edge_index, NODES)
    x, h, edge_attr, *params = (v.to(device) for v in egcl_inputs(NODES, 3, 3, 16, 2, edge_index))
    params, options = EGCLParams(*params), EGCLOptions(cutoff=2.0)
    grads_out = [draw(*x.shape).to(device), draw(*h.shape).to(device)]
    configuration = Configuration(16, 16, 4, 1, programs)
    found = []
    for made, attr in (
        (edges, edge_attr),
        (with_room(edges), torch.cat([edge_attr, edge_attr.new_full((23, 2), torch.nan)])),
    ):
        *outputs, kept = launch.egcl_forward(x, h, launch.graph_tables(*made), attr, None, params, options)
        inputs = (*grads_out, x, h, launch.graph_tables(*made), attr, params, kept, options)
        grads = egcl_backward(*inputs, chunk=chunk, configuration=configuration)
        found.append([*outputs, grads.x, grads.h, grads.edge_term[:17], *grads.params])
    for ours, expected in zip(*reversed(found), strict=True):
        assert_same(ours, expected, 1e-6)  # other chunks and programs, another order of sums


@needs_native
def test_second_derivatives():
    prepared, exact, roomy, wide = case("native", 16, 2, "cpu", 2.0)
    cotangents = cotangents_of(exact)

    def twice(prepared, leaves):
        _, grads = gradients(prepared, leaves, cotangents, create_graph=True)
        total = sum(grad.square().sum() for grad in grads)
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    ours, expected = twice(roomy, wide), twice(prepared, exact)
    for name, a, b in zip(NAMES, ours, expected, strict=True):
        if name == "edge_attr":
            assert not a[len(b) :].any()
            a = a[: len(b)]
        assert_same(a, b, 1e-5, what=name)


@needs_native
def test_a_table_that_promises_more_edges_than_it_has_is_refused():
    prepared, (x, h, *_), *_ = case("native", 16, 0, "cpu", None)
    first, *others = prepared.tables
    first = first.clone()
    first[-1] += 1
    with pytest.raises(ValueError, match="first must ascend from 0 to 17"):
        ops.run_egcl(x, h, prepared._replace(tables=(first, *others)))
