"""The spatial op and layer: against loops, by gradcheck, and on graphs at the edge of what is allowed."""

import pytest
import torch
from tolerances import assert_same
from torch import nn
from transcription import Weights, spatial_layer

from geotdm_fast import ESLayer, ops, reference
from geotdm_fast.reference import EGCLParams

FLAGS = [(True, False), (False, False), (True, True), (False, True)]  # normalize, pre_norm
# Node 0 has a self-loop, 0 -> 1 comes twice, node 2 has one neighbour, node 3 only sends, node 4 has no edge.
EDGES = torch.tensor([[2, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 2, 3, 2]])


def inputs(num_nodes=5, num_frames=3, dim=3, width=4, edge_dim=2, edges=EDGES, per_frame=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    x, h = draw(num_nodes, num_frames, dim), draw(num_nodes, num_frames, width)
    shape = (edges.shape[1], num_frames, edge_dim) if per_frame else (edges.shape[1], edge_dim)
    return x, h, edges, draw(*shape) if edge_dim else None


def layer(normalize, pre_norm, width=4, edge_dim=2, hidden=6) -> ESLayer:
    torch.manual_seed(3)
    return ESLayer(width, edge_dim, hidden, nn.SiLU(), normalize, pre_norm).double()


def params(module: ESLayer) -> EGCLParams:
    mlps = (*module.edge_mlp.tensors, *module.coord_mlp.tensors, *module.node_mlp.tensors)
    return EGCLParams(*(p.detach().clone().requires_grad_() for p in mlps))


@pytest.mark.parametrize(("normalize", "pre_norm"), FLAGS)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("edges", ["none", "constant", "per frame"])
def test_equals_loops_over_nodes_edges_and_frames(normalize, pre_norm, dim, edges):
    edge_dim = 0 if edges == "none" else 2
    x, h, edge_index, edge_attr = inputs(dim=dim, edge_dim=edge_dim, per_frame=edges == "per frame")
    module = layer(normalize, pre_norm, edge_dim=edge_dim)
    flags = {"normalize": normalize, "pre_norm": pre_norm}
    x_out, h_out = reference.egcl(x, h, edge_index, edge_attr, params(module), **flags)
    arrays = [None if v is None else v.numpy() for v in (x, h, edge_index, edge_attr)]
    x_loops, h_loops = spatial_layer(Weights(module), *arrays, normalize, pre_norm)
    assert_same(x_out, x_loops, 1e-13)
    assert_same(h_out, h_loops, 1e-13)


def test_layer_is_the_op_with_frames_last():
    x, h, edge_index, edge_attr = inputs(per_frame=True)
    module = layer(True, False)
    expected = reference.egcl(x, h, edge_index, edge_attr, params(module))
    last = lambda v: v.transpose(1, 2)
    x_out, h_out = module(last(x), last(h), edge_index, last(edge_attr))
    assert torch.equal(x_out, last(expected[0])) and torch.equal(h_out, last(expected[1]))


@pytest.mark.parametrize(("normalize", "pre_norm"), FLAGS)
@pytest.mark.parametrize("edge_dim", [0, 2])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_gradients(normalize, pre_norm, edge_dim, num_frames):
    """Self-loops have a gradient without pre_norm; with it |r| has a kink at 0, tested apart."""
    edges = EDGES[:, EDGES[0] != EDGES[1]] if pre_norm else EDGES
    x, h, edge_index, edge_attr = inputs(num_frames=num_frames, width=2, edge_dim=edge_dim, edges=edges)
    weights = params(layer(normalize, pre_norm, width=2, edge_dim=edge_dim, hidden=3))
    leaves = [v.requires_grad_() for v in (x, h, edge_attr) if v is not None]

    def op(*leaves):
        values = iter(leaves)
        x, h = next(values), next(values)
        edge_attr = next(values) if edge_dim else None
        return reference.egcl(x, h, edge_index, edge_attr, EGCLParams(*values), normalize=normalize, pre_norm=pre_norm)

    assert torch.autograd.gradcheck(op, (*leaves, *weights))


@pytest.mark.parametrize(("normalize", "pre_norm"), FLAGS)
def test_coincident_points_have_finite_gradients_and_no_shift(normalize, pre_norm):
    x, h, _, edge_attr = inputs(num_nodes=2, edges=torch.tensor([[0, 1, 0], [1, 0, 0]]))
    x = x[:1].expand(2, -1, -1).clone().requires_grad_()
    weights = params(layer(normalize, pre_norm))
    edge_index = torch.tensor([[0, 1, 0], [1, 0, 0]])
    x_out, h_out = reference.egcl(x, h, edge_index, edge_attr, weights, normalize=normalize, pre_norm=pre_norm)
    assert torch.equal(x_out, x)
    gradients = torch.autograd.grad(x_out.square().sum() + h_out.square().sum(), (x, *weights))
    assert all(torch.isfinite(g).all() for g in gradients)


def test_node_without_edges_stays_and_node_degree_divides():
    x, h, edge_index, edge_attr = inputs()
    weights = params(layer(True, False))
    x_out, _ = reference.egcl(x, h, edge_index, edge_attr, weights)
    assert torch.equal(x_out[3:], x[3:]) and not torch.isclose(x_out[:3], x[:3]).all(dim=(1, 2)).any()
    # The mean over neighbours does not change when every edge comes twice; their sum in h does.
    twice = torch.cat([edge_index, edge_index], dim=1)
    x_twice, _ = reference.egcl(x, h, twice, edge_attr.repeat(2, 1), weights)
    assert_same(x_twice, x_out, 1e-14)


@pytest.mark.parametrize(("num_nodes", "num_frames"), [(0, 3), (0, 0), (5, 0), (5, 3)])
def test_without_edges_nodes_or_frames(num_nodes, num_frames):
    no_edges = torch.empty(2, 0, dtype=torch.int64)
    x, h, _, edge_attr = inputs(num_nodes=num_nodes, num_frames=num_frames, edges=no_edges)
    x, h = x.requires_grad_(), h.requires_grad_()
    weights = params(layer(True, False))
    x_out, h_out = reference.egcl(x, h, no_edges, edge_attr, weights)
    assert torch.equal(x_out, x) and h_out.shape == h.shape
    gradients = torch.autograd.grad((x_out * 2).sum() + h_out.sum(), (x, h, weights.node_w2))
    assert torch.equal(gradients[0], torch.full_like(x, 2)) and torch.isfinite(gradients[2]).all()


def test_order_of_edges_changes_only_rounding():
    x, h, edge_index, edge_attr = inputs()
    weights = params(layer(True, False))
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    for a, b in zip(
        reference.egcl(x, h, edge_index, edge_attr, weights),
        reference.egcl(x, h, edge_index[:, order], edge_attr[order], weights),
        strict=True,
    ):
        assert_same(a, b, 1e-14)


def test_edge_index_int32_and_not_contiguous():
    x, h, edge_index, edge_attr = inputs()
    module, last = layer(True, False), lambda v: v.transpose(1, 2)
    expected = module(last(x), last(h), edge_index, edge_attr)
    strided = edge_index.T.contiguous().T
    assert not strided.is_contiguous()
    for index in (strided, edge_index.int()):
        for a, b in zip(module(last(x), last(h), index, edge_attr), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 6, 8])
def test_edge_features_have_a_row_for_each_edge(num_rows, per_frame, dtype):
    """More rows were passed over where the edges came in any order, and one row was taken for all in float64."""
    x, h, edge_index, _ = inputs(width=16)
    edge_attr = torch.zeros(num_rows, 2, 3)[..., slice(None) if per_frame else 0]
    weights = EGCLParams(*(w.detach().to(dtype) for w in params(layer(True, False, width=16, hidden=16))))
    message = rf"egcl: edge_attr must have a row for each of the 7 edges, got \[{num_rows}, 2"
    with pytest.raises(ValueError, match=message):
        ops.egcl(x.to(dtype), h.to(dtype), edge_index, edge_attr.to(dtype), weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("size", [300, 1000])
def test_many_neighbours_lose_nothing_in_any_dtype(size, dtype):
    """A star both ways: one node hears all others, and all others hear it, whose gradients come together in it."""
    others, centre = torch.arange(1, size + 1), torch.zeros(size, dtype=torch.int64)
    edges = torch.stack([torch.cat([centre, others]), torch.cat([others, centre])])
    x, h, _, _ = inputs(num_nodes=size + 1, num_frames=1, edge_dim=0, edges=edges)
    weights = params(layer(True, False, edge_dim=0, hidden=4))

    def run(dtype):
        leaves = [v.to(dtype).requires_grad_() for v in (x, h)]
        outputs = reference.egcl(*leaves, edges, None, EGCLParams(*(w.to(dtype) for w in weights)))
        total = sum(output.float().mean() for output in outputs)
        return [outputs[0] - leaves[0], outputs[1], *torch.autograd.grad(total, leaves)]

    for name, ours, exact in zip(("shift", "h", "grad x", "grad h"), run(dtype), run(torch.float64), strict=True):
        assert_same(ours, exact, 6 * torch.finfo(dtype).eps, what=name)
