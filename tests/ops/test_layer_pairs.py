"""All layers in one call: the bits of the ops one by one, and what is not for one call."""

import pytest
import torch
from layer_networks import calls_of, inputs_of, network
from native_cases import draw, egcl_params, graph, needs_native, poisoned, temporal_params

from geotdm_fast import EGTN, backend, ops
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.prepared import denoise
from geotdm_fast.reference import EGCLOptions

pytestmark = [needs_native, pytest.mark.usefixtures("no_gradients")]
__all__ = ["poisoned"]

OPTIONS = {"normalize": True, "pre_norm": False, "precision": "fp32", "cutoff": None}


def pairs_of(x, h, edges, num_pairs=3, edge_dim=0, window=None, precision="fp32", **options):
    """Prepared layers with weights of their own, on one graph."""
    edge_attr = draw(edges.num_edges, edge_dim) if edge_dim else None
    about = EGCLOptions(**(OPTIONS | options | {"precision": precision}))
    return [
        (
            ops.prepare_egcl(x, h, edges, edge_attr, egcl_params(h.shape[-1], edge_dim), about),
            ops.AttentionOptions(temporal_params(h.shape[-1]), window, precision),
        )
        for _ in range(num_pairs)
    ]


def one_by_one(x, h, pairs):
    for spatial, (params, window, precision) in pairs:
        x, h = ops.run_egcl(x, h, spatial)
        x, h = ops.temporal_attention(x, h, params, window=window, precision=precision)
    return x, h


def assert_same_bits(x, h, pairs):
    expected = one_by_one(x, h, pairs)
    prepared = ops.prepare_layer_pairs(x, h, pairs)
    assert prepared is not None
    for _ in range(2):  # the packed weights are read again
        for a, b in zip(prepared.run(x, h), expected, strict=True):
            assert torch.equal(a, b)
    assert all(torch.isfinite(v).all() for v in expected)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "width", "dim"),
    [(5, 30, 64, 3), (1, 1, 16, 2), (4, 3, 48, 3), (7, 61, 112, 2), (90, 5, 32, 3), (400, 7, 16, 3)],
)
def test_bits_of_the_ops_one_by_one(num_nodes, num_frames, width, dim, threads, poisoned):
    """Few nodes, whose layers are tasks of two parts, and many; isolated nodes, loops, edges that come twice."""
    degrees = [(3 * i + 1) % 5 for i in range(num_nodes)]
    edges = Graph.static(graph(num_nodes, degrees), num_nodes)
    x, h = draw(num_nodes, num_frames, dim), draw(num_nodes, num_frames, width)
    for num_pairs in (1, 2, 3):
        assert_same_bits(x, h, pairs_of(x, h, edges, num_pairs, edge_dim=2))


@pytest.mark.parametrize(
    "options",
    [
        {"edge_dim": 0},
        {"window": 0},
        {"window": 2},
        {"window": 100},
        {"pre_norm": True},
        {"normalize": False},
        {"cutoff": 1.5},
        {"precision": "bf16"},
        {"precision": "tf32"},
    ],
    ids=str,
)
def test_every_option(options, threads):
    edges = Graph.static(graph(9, [2, 0, 8, 1, 3, 0, 2, 2, 5]), 9)
    x, h = draw(9, 11, 3), draw(9, 11, 48)
    assert_same_bits(x, h, pairs_of(x, h, edges, **({"edge_dim": 3} | options)))


def test_no_edge_and_no_node(threads):
    nothing = torch.zeros(2, 0, dtype=torch.int64)
    x, h = draw(4, 6, 3), draw(4, 6, 16)
    assert_same_bits(x, h, pairs_of(x, h, Graph.static(nothing, 4)))
    x, h = draw(0, 6, 3), draw(0, 6, 16)
    assert_same_bits(x, h, pairs_of(x, h, Graph.static(nothing, 0)))


def test_inputs_of_any_strides():
    edges = Graph.static(graph(5, [4] * 5), 5)
    x, h = draw(5, 3, 30).transpose(1, 2), draw(5, 1, 16).expand(-1, 30, -1)
    assert_same_bits(x, h, pairs_of(x, h, edges))


def test_the_weights_are_those_of_the_moment_of_preparation():
    edges = Graph.static(graph(5, [4] * 5), 5)
    x, h = draw(5, 8, 3), draw(5, 8, 16)
    pairs = pairs_of(x, h, edges)
    prepared, expected = ops.prepare_layer_pairs(x, h, pairs), one_by_one(x, h, pairs)
    for spatial, attention in pairs:
        for param in (*spatial.params, *attention.params):
            param.zero_()
    assert all(torch.equal(a, b) for a, b in zip(prepared.run(x, h), expected, strict=True))


def test_what_is_not_for_one_call():
    """Whatever the op does not do is left to the ops one by one: they are asked for it in `denoise`."""
    edges = Graph.static(graph(5, [4] * 5), 5)
    x, h = draw(5, 8, 3), draw(5, 8, 16)
    pairs = pairs_of(x, h, edges)
    none = lambda pairs, x=x, h=h: ops.prepare_layer_pairs(x, h, pairs) is None
    assert not none(pairs)
    assert none([])
    assert none(pairs, x=x.double()) and none(pairs, h=h.bfloat16())
    assert none([*pairs, *pairs_of(x, h, edges, 1, normalize=False)])
    assert none([*pairs, *pairs_of(x, h, edges, 1, edge_dim=1)])
    assert none([*pairs, *pairs_of(x, h, edges, 1, window=2)])
    assert none([*pairs, *pairs_of(x, h, Graph.static(graph(5, [3] * 5), 5), 1)])
    assert none(pairs_of(x, h, edges, residual=False))
    with backend("reference"):
        assert none(pairs_of(x, h, edges))
    with torch.enable_grad():
        assert none(pairs)


def test_network_runs_one_op_where_no_gradient_is_wanted():
    net, inputs = network(), inputs_of()
    call = lambda: net(**inputs)
    assert calls_of(call) == ["packed_layer_pair"] * 3 + ["layer_pairs"]
    assert calls_of(call) == ["same_numbers", "layer_pairs"]
    reference = lambda: net(**inputs, compute_ref=True)
    assert calls_of(reference) == ["packed_layer_pair"] * 2 + ["layer_pairs"]
    with torch.enable_grad():
        assert calls_of(call) == ["egcl_forward", "temporal_attention_forward"] * 3
        expected, expected_h = call()
        expected_ref = reference()
    output, h = call()
    assert torch.equal(output, expected) and torch.equal(h, expected_h) and torch.equal(reference(), expected_ref)


def test_what_was_prepared_without_gradients_has_them_where_they_are_wanted():
    network = EGTN(2, 1, 0, 16, 8, "silu", False, 1, 1)
    x, h = draw(4, 3, 5), draw(4, 1)
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    prepared = network.prepare(x, h, edge_index, None, torch.zeros(4, dtype=torch.long))
    assert prepared.pairs is not None
    z = draw(4, 5, 16)

    def gradient(prepared):
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            output, _ = denoise(prepared, leaf, z)
            return torch.autograd.grad(output.square().sum(), leaf)[0]

    assert torch.equal(gradient(prepared), gradient(prepared._replace(pairs=None)))
