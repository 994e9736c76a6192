"""Layers that are prepared again: by one comparison where nothing has changed, anew after whatever changes them."""

import gc
import weakref

import pytest
import torch
from layer_networks import calls_of, inputs_of, network
from native_cases import draw, graph, needs_native

from geotdm_fast import backend, ops
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.prepared import prepare_layers
from geotdm_fast.runtime.cuda_graphs import signature

pytestmark = [needs_native, pytest.mark.usefixtures("no_gradients")]


def edges_of(num_nodes=7):
    torch.manual_seed(4)
    return Graph.static(graph(num_nodes, [3, 0, 2, 6, 1, 1, 2][:num_nodes]), num_nodes)


def prepared(net, num_frames=10, edges=None, dtype=torch.float32):
    """Layers one by one and as one op, for inputs of some size, and what both make of them."""
    edges = edges_of() if edges is None else edges
    nodes = edges.num_nodes
    torch.manual_seed(5)
    x, h = draw(nodes, num_frames, 3).to(dtype), draw(nodes, num_frames, 32).to(dtype)
    edge_attr = draw(edges.num_edges, net.edge_dim).to(dtype)
    pairs = list(zip(net.s_modules, net.t_modules, strict=True))
    layers, in_one = prepare_layers(pairs, x, h, edges, edge_attr, net.s_modules)
    y, z = x, h
    for layer in layers:
        y, z = layer.run(y, z)
    return layers, in_one, (y, z), None if in_one is None else in_one.run(x, h)


def assert_same(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("edge_dim", [1, 3])
def test_the_second_time_has_the_bits_of_the_first(edge_dim):
    net = network(edge_dim)
    first_layers, first, one_by_one, as_one = prepared(net)
    assert_same(as_one, one_by_one)
    layers, again, one_by_one_again, as_one_again = prepared(net)
    assert all(a is b for a, b in zip(again.packed, first.packed, strict=True)) and again.options == first.options
    assert_same(one_by_one_again, one_by_one)
    assert_same(as_one_again, as_one)
    # A captured graph is taken again where its inputs have the same structure.
    assert signature((layers, again)) == signature((first_layers, first))


@pytest.mark.parametrize("edge_dim", [1, 3])
def test_other_weights_of_edge_features_are_taken_and_kept(edge_dim):
    net = network(edge_dim)
    _, _, _, before = prepared(net)
    net.s_modules[1].edge_mlp.actions[0].weight.data[:, -1] += 1
    for _ in range(2):  # the second time by what the first has kept
        _, _, one_by_one, as_one = prepared(net)
        assert_same(as_one, one_by_one)
        assert not torch.equal(as_one[0], before[0])


@pytest.mark.parametrize("edge_dim", [1, 3])
def test_autocast_does_not_round_what_edge_features_make(edge_dim):
    net = network(edge_dim)
    _, _, _, expected = prepared(net)
    with torch.autocast("cpu", torch.bfloat16):
        x, h, edge_attr = draw(7, 10, 3), draw(7, 10, 32), draw(edges_of().num_edges, edge_dim)
        pairs = list(zip(net.s_modules, net.t_modules, strict=True))
        _, rounded = prepare_layers(pairs, x, h, edges_of(), edge_attr, net.s_modules)
    _, exact = prepare_layers(pairs, x, h, edges_of(), edge_attr, net.s_modules)
    assert_same(rounded.edge_terms, exact.edge_terms)
    assert_same(prepared(net)[3], expected)


def test_the_default_device_is_not_asked():
    net = network()
    _, first, _, _ = prepared(net)
    graph_of = edges_of()
    x, h, edge_attr = draw(7, 10, 3), draw(7, 10, 32), draw(graph_of.num_edges, 1)
    pairs = list(zip(net.s_modules, net.t_modules, strict=True))
    with torch.device("meta"):
        net.s_modules[0].edge_mlp.actions[0].weight.data.mul_(2)
        _, anew = prepare_layers(pairs, x, h, graph_of, edge_attr, net.s_modules)
        _, again = prepare_layers(pairs, x, h, graph_of, edge_attr, net.s_modules)
    assert anew.packed[0] is not first.packed[0] and anew.packed[0] is again.packed[0]


def test_quantised_weights_are_not_those_that_were_kept():
    net = network()
    prepared(net)
    layer = net.s_modules[0].edge_mlp.actions[2]
    weight = layer._parameters.pop("weight")
    layer.weight = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    x, h, edge_attr = draw(7, 10, 3), draw(7, 10, 32), draw(edges_of().num_edges, 1)
    pairs = list(zip(net.s_modules, net.t_modules, strict=True))
    assert prepare_layers(pairs, x, h, edges_of(), edge_attr, net.s_modules)[1] is None


def test_another_graph_and_other_features_of_edges_are_taken():
    net = network()
    prepared(net)
    unsorted = Graph.static(edges_of().edge_index.flip(1), 7)
    for edges in (edges_of(5), unsorted):
        _, _, one_by_one, as_one = prepared(net, edges=edges)
        assert_same(as_one, one_by_one)
        _, _, expected, _ = prepared(network(), edges=edges)
        assert_same(as_one, expected)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [("s_modules", "normalize", False), ("s_modules", "pre_norm", True), ("s_modules", "cutoff", 1.5),
     ("t_modules", "window", 1)],
)  # fmt: skip
def test_an_option_of_a_layer_is_seen(module, name, value):
    net, other = network(), network()
    before = prepared(net)[2]
    for one in (net, other):
        for layer in getattr(one, module):
            setattr(layer, name, value)
    found, in_one = prepared(net)[2], prepared(net)[3]
    assert_same(found, prepared(other)[2])
    assert_same(in_one, found)
    assert not torch.equal(found[0], before[0])


def test_an_option_of_one_layer_is_seen_where_the_layers_are_no_longer_one_op():
    net = network()
    assert prepared(net)[1] is not None
    net.s_modules[1].normalize = False
    _, in_one, found, _ = prepared(net)
    assert in_one is None
    assert not torch.equal(found[0], prepared(network())[2][0])


def test_a_weight_that_changed_between_two_frames_numbers_is_seen():
    """What is kept is of the last number of frames; a weight changes while it is another one."""
    net = network()
    prepared(net, num_frames=10)
    prepared(net, num_frames=12)
    net.s_modules[1].node_mlp.actions[2].weight.data.mul_(2)
    for num_frames in (12, 10, 12):
        _, _, one_by_one, as_one = prepared(net, num_frames=num_frames)
        assert_same(as_one, one_by_one)


def test_what_is_prepared_elsewhere_with_the_same_owner_is_not_taken_for_it():
    net = network()
    _, _, _, expected = prepared(net)
    net.s_modules[0].edge_mlp.actions[0].weight.data.mul_(2)
    weights = net.s_modules[0].weights
    spatial = ops.prepare_egcl(
        draw(7, 10, 3), draw(7, 10, 32), edges_of(), draw(edges_of().num_edges, 1), weights.params, weights.options
    )
    temporal = net.t_modules[0].prepared
    attention = ops.AttentionOptions(temporal.params, temporal.window, temporal.precision)
    ops.prepare_layer_pairs(draw(7, 10, 3), draw(7, 10, 32), [(spatial, attention)], net.s_modules)
    _, _, one_by_one, as_one = prepared(net)
    assert_same(as_one, one_by_one)
    assert not torch.equal(as_one[0], expected[0])


def test_another_dtype_another_backend_and_gradients_do_not_take_what_is_kept():
    net = network()
    prepared(net)
    with backend("reference"):
        layers, in_one, _, _ = prepared(net)
        assert in_one is None and all(layer.spatial.prepared.implementation is None for layer in layers)
    with torch.enable_grad():
        assert prepared(net)[1] is None
    assert prepared(net.double(), dtype=torch.float64)[1] is None
    net.float()
    net.s_modules[0].node_mlp.actions[2].weight.data = net.s_modules[0].node_mlp.actions[2].weight.data.t()
    _, in_one, one_by_one, as_one = prepared(net)  # not contiguous: it is packed from a copy
    assert in_one is not None
    assert_same(as_one, one_by_one)


def test_a_graph_of_other_sizes_is_refused_as_the_first_time():
    net = network()
    prepared(net)
    x, h, pairs = draw(6, 10, 3), draw(6, 10, 32), list(zip(net.s_modules, net.t_modules, strict=True))
    with pytest.raises(ValueError, match="egcl: the graph must be of 6 nodes and 10 frames, got one of 7 nodes"):
        prepare_layers(pairs, x, h, edges_of(), draw(edges_of().num_edges, 1), net.s_modules)


def test_a_network_compares_all_weights_at_once():
    net, inputs = network(), inputs_of()
    net(**inputs)
    assert calls_of(lambda: net(**inputs)) == ["same_numbers", "layer_pairs"]


def test_float32_weights_are_not_taken_for_the_bfloat16_ones_that_they_equal():
    net = network()
    for dtype in (torch.bfloat16, torch.float32):
        net.s_modules.to(dtype), net.t_modules.to(dtype)
        _, in_one, one_by_one, as_one = prepared(net)
        assert in_one.options.precision == ("fp32" if dtype is torch.float32 else "bf16")
        assert_same(as_one, one_by_one)
    other = network()
    other.load_state_dict(net.state_dict())
    assert_same(as_one, prepared(other)[3])


def test_a_weight_of_another_shape_is_refused_as_the_first_time():
    net = network()
    prepared(net)
    weight = net.s_modules[0].node_mlp.actions[2].weight
    weight.data = weight.data.flatten()
    with pytest.raises(ValueError, match=r"packed_layer_pair: node_w2 must be \[32, 32\], got \[1024\]"):
        prepared(net)


def test_a_graph_goes_with_its_owner():
    net, edges = network(), edges_of()
    prepared(net, edges=edges)
    tables = [weakref.ref(table) for table in edges.tables("native")]
    del edges
    gc.collect()
    assert all(table() is None for table in tables)
