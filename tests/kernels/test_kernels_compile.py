"""torch.compile over the Triton EGCL: one graph, any sizes, the same numbers; on a GPU, or in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch
from native_cases import EDGES, bind, cotangents_of, draw, egcl, egcl_inputs, graph, poisoned, results
from tolerances import assert_same
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter

from geotdm_fast import EGTN, backend
from geotdm_fast.graphs import Graph
from geotdm_fast.ops import triton_egcl
from geotdm_fast.reference import EGCLOptions

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
    ),
    pytest.mark.usefixtures("poisoned"),
]
assert poisoned


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network_and_inputs(num_nodes, num_frames, device):
    """A network of one layer of each kind, and a batch for it."""
    torch.manual_seed(0)
    network = EGTN(1, 2, 1, 16, 16, "silu", False, 0, 0).to(device)
    edge_index = torch.randint(0, num_nodes, (2, 3 * num_nodes), device=device)
    x, h = draw(num_nodes, 3, num_frames).to(device), draw(num_nodes, 2, num_frames).to(device)
    edge_attr, step = draw(3 * num_nodes, 1).to(device), torch.zeros(num_nodes, device=device)
    return network, (step, x, h, edge_index, edge_attr, None)


@pytest.mark.recorded("interpreted", always=r"0-None-bf16")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("edge_dim", "cutoff", "has_shift"), [(0, None, False), (2, None, True), (2, 2.0, False), (0, 2.0, True)]
)
def test_opcheck(precision, edge_dim, cutoff, has_shift, device):
    """Schema, fake tensors, tracing with symbolic sizes: of both ops."""
    inputs = [v if v is None else v.to(device) for v in egcl_inputs(4, 3, 3, 16, edge_dim, EDGES)]
    x, h, edge_attr, *params = inputs
    tables = list(Graph.static(EDGES.to(device), 4).tables("triton"))
    term = None if edge_attr is None else draw(EDGES.shape[1], 16).to(device)
    shift = draw(EDGES.shape[1], 3).to(device) if has_shift else None
    for made in {None, term}:  # made by the op, and made before
        arguments = (x, h, tables, edge_attr, made, shift, params, True, False, precision, cutoff, True)
        torch.library.opcheck(torch.ops.geotdm_fast.triton_egcl_forward.default, arguments)
    _, _, *kept = triton_egcl.forward(*arguments[:7], EGCLOptions(precision=precision, cutoff=cutoff))[:6]
    grads = [draw(*x.shape).to(device), draw(*h.shape).to(device)]
    arguments = (
        *grads,
        x,
        h,
        tables,
        edge_attr,
        term,
        shift,
        params,
        kept,
        True,
        False,
        precision,
        cutoff,
        True,
        has_shift,
    )
    torch.library.opcheck(torch.ops.geotdm_fast.triton_egcl_backward.default, arguments)
    torch.library.opcheck(torch.ops.geotdm_fast.sorted_edges.default, (EDGES.to(device), 4))


@pytest.mark.recorded("interpreted", always=r"False-2.0")
@pytest.mark.parametrize(("per_frame", "cutoff"), [(False, None), (True, None), (False, 2.0)])
def test_gradients_under_compile_are_the_eager_ones(per_frame, cutoff, device):
    inputs = [v.to(device) for v in egcl_inputs(4, 3, 3, 16, 2, EDGES)]
    if per_frame:
        inputs[2] = draw(EDGES.shape[1], 3, 2).to(device)
    op, cotangents = bind(egcl, edge_index=EDGES.to(device), cutoff=cutoff), cotangents_of(inputs)
    with backend("triton"):
        expected = results(op, inputs, cotangents)
        found = results(torch.compile(op, backend="aot_eager", fullgraph=True), inputs, cotangents)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b, 1e-6)


@pytest.mark.recorded("interpreted")
def test_a_compiled_network_runs_the_kernels(device):
    network, inputs = network_and_inputs(5, 4, device)
    traced = []

    def trace(partition, example_inputs):
        traced.extend(str(node.target) for node in partition.graph.nodes)
        return partition

    with backend("triton"):
        expected = network(*inputs)
        ours = torch.compile(network, backend=aot_autograd(fw_compiler=trace), fullgraph=True)(*inputs)
    for a, b in zip(ours, expected, strict=True):
        assert_same(a, b, 1e-6)
    sum(v.square().mean() for v in ours).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    for op in ("sorted_edges", "triton_egcl_forward", "triton_egcl_backward"):
        assert sum(f"geotdm_fast.{op}." in target for target in traced) == 1, (op, traced)


@pytest.mark.recorded("interpreted")
def test_other_sizes_do_not_compile_again(device):
    """Nodes, edges and frames change from batch to batch; one graph serves them all."""
    network, _ = network_and_inputs(5, 4, device)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True, dynamic=True)
    with backend("triton"), torch.no_grad():
        for num_nodes, num_frames in ((5, 4), (9, 4), (7, 6), (30, 3)):
            _, inputs = network_and_inputs(num_nodes, num_frames, device)
            for a, b in zip(compiled(*inputs), network(*inputs), strict=True):
                assert_same(a, b, 1e-6)
    assert counter.frame_count == 1


def test_a_graph_that_changes_under_compile(device):
    """The tables are those of the edges that come, not of the ones that were traced."""
    inputs = [v.to(device) for v in egcl_inputs(7, 2, 3, 16, 0, graph(7, [3, 0, 1, 7, 0, 4, 2]))[:2]]
    params = egcl_inputs(7, 2, 3, 16, 0, EDGES)[3:]
    call = lambda edge_index: egcl(*inputs, None, *(p.to(device) for p in params), edge_index=edge_index)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    edge_index = graph(7, [3, 0, 1, 7, 0, 4, 2]).to(device)
    with backend("triton"), torch.no_grad():
        compiled(edge_index)
        edge_index.copy_(edge_index.flip(0))
        for a, b in zip(compiled(edge_index), call(edge_index.clone()), strict=True):
            assert torch.equal(a, b)
