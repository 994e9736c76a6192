"""Graphs with rows and places to spare: the same edges, tables that hold together, and the same results."""

import contextlib

import pytest
import torch
from exact_sums import ExactSums

from geotdm_fast import backend
from geotdm_fast.data.windows import complete_edges
from geotdm_fast.graphs import Graph, NearestRule, RadiusRule
from geotdm_fast.graphs.padding import (
    GraphParts,
    at_places,
    padded_batch,
    padded_graph,
    padded_rows,
    padded_tables,
    with_more_bonds,
    with_tables,
)
from geotdm_fast.ops import egcl
from geotdm_fast.reference import EGCLParams
from geotdm_fast.reference.row_sums import num_graphs


def padded(graph: Graph, num_nodes: int, num_edges: int):
    """The graph in room for more, by the tuple that a CUDA graph holds, and where its edges come from."""
    made, source = padded_graph(graph, num_nodes, num_edges)
    return GraphParts.of(made).graph, source


def shuffled(edge_index: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return edge_index[:, torch.randperm(edge_index.shape[1], generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("edges", ["sorted", "shuffled", "none", "int32"])
def test_tables(edges):
    edge_index = complete_edges(5)
    edge_index = {"shuffled": shuffled(edge_index), "none": edge_index[:, :0], "int32": edge_index.int()}.get(
        edges, edge_index
    )
    graph = Graph.static(edge_index, 5)
    number = graph.num_edges
    room, source = padded(graph, 8, number + 7)
    assert room.num_nodes == 8 and room.num_edges == number + 7 and room.has_room
    expected, found = graph.tables("native"), room.tables("native")
    assert torch.equal(found.first[:6], expected.first) and (found.first[6:] == number).all()
    assert torch.equal(found.sender_first[:6], expected.sender_first) and (found.sender_first[6:] == number).all()
    assert torch.equal(found.sender[:number], expected.sender) and (found.sender[number:] == 0).all()
    assert torch.equal(found.by_sender[:number], expected.by_sender)
    assert found.by_sender.sort().values.tolist() == list(range(number + 7))
    assert torch.equal(room.edge_index[:, :number], edge_index.long()[:, source[:number]])
    assert (room.edge_index[:, number:] == 8).all() and (source[number:] == 0).all()
    again, _ = padded(room, 9, number + 8)  # of one that has room already
    assert (again.edge_index[:, number:] == 9).all()
    assert at_places(torch.ones(number, 2), source).shape == (number + 7, 2)


def test_errors():
    graph = Graph.static(complete_edges(3), 3)
    for nodes, edges in ((2, 6), (3, 5)):
        with pytest.raises(ValueError, match="padded_graph: there must be at least 3 nodes and 6 edges"):
            padded_graph(graph, nodes, edges)
    with pytest.raises(ValueError, match="the same in every frame, got 3 and 12 of 2 frames"):
        padded_graph(graph.of_frames(2), 3, 12)
    with pytest.raises(ValueError, match="padded_batch: more_graphs must be at least the 2 nodes more, got 1"):
        padded_batch(torch.zeros(3, dtype=torch.int64), 5, 1, 1)


def test_nodes_more_are_graphs_of_their_own():
    batch = padded_batch(torch.tensor([0, 0, 1]), 5, 2, 4)
    assert batch.tolist() == [0, 0, 1, 2, 3] and num_graphs(batch) == 6
    assert padded_rows(torch.tensor([[1.0], [2]]), 4).tolist() == [[1], [2], [1], [1]]


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("kernels", ["reference", "native", "triton"])
def test_the_spatial_op_gives_the_same_bits(kernels, per_frame, device):
    """Results of the nodes that there were, and gradients by them; those by nodes more are as if they were alone."""
    if kernels == "native" and device != "cpu":
        return
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device)
    edge_index = shuffled(complete_edges(5)).to(device)
    x, h = draw(5, 3, 3), draw(5, 3, 16)
    edge_attr = draw(20, 3, 2) if per_frame else draw(20, 2)
    params = _params(draw)
    graph = Graph.static(edge_index, 5)
    room, source = padded(graph, 8, 27)

    def run(x, h, edge_attr, graph, weight):
        inputs = [value.clone().requires_grad_() for value in (x, h, edge_attr)]
        # The reference is torch's own operations, some of whose instructions depend on the number of rows.
        as_any_size = ExactSums() if kernels == "reference" else contextlib.nullcontext()
        with backend({"native": "auto"}.get(kernels, kernels)), as_any_size:
            x_out, h_out = egcl(*inputs[:2], graph, inputs[2], params)
            loss = ((x_out.sin() + h_out.cos().mean(-1, keepdim=True)) * weight).sum()
            return [x_out, h_out, *torch.autograd.grad(loss, inputs)]

    ones = torch.ones(5, 1, 1, device=device)
    plain = run(x, h, edge_attr[source[:20]], Graph.static(graph.edge_index[:, source[:20]], 5), ones)
    more = run(padded_rows(x, 8), padded_rows(h, 8), edge_attr[source], room, torch.cat([ones, 0 * ones[:3]]))
    for own, found in zip(plain, more, strict=True):
        assert torch.equal(own, found[: len(own)])
        assert found.isfinite().all()
    for gradient in more[2:]:
        assert (gradient[5 if len(gradient) == 8 else 20 :] == 0).all()


def _params(draw) -> EGCLParams:
    shapes = [(16, 35), (16,), (16, 16), (16,), (16, 16), (16,), (1, 16), (1,), (16, 32), (16,), (16, 16), (16,)]
    return EGCLParams(*(draw(*shape) / 4 for shape in shapes))


RULES = {
    "radius": lambda batch, **bonds: RadiusRule(1.5, 6, batch, **bonds),
    "nearest": lambda batch, **bonds: NearestRule(3, batch, **bonds),
}


@pytest.mark.parametrize("has_bonds", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_a_rule_finds_the_same_edges(kind, has_bonds, device):
    batch = torch.tensor([0] * 5 + [1] * 3).to(device)
    bonds = torch.tensor([[0, 1, 5, 6], [1, 0, 6, 5]]).to(device)
    about = {"bonds": bonds, "bond_attr": torch.arange(8.0, device=device).view(4, 2)} if has_bonds else {}
    rule = RULES[kind](batch, **about)
    wide = padded_batch(batch, 12, 2, 5)
    other = with_more_bonds(with_tables(rule, padded_tables(rule, wide, 7, 3)), 6)
    x = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(1)).to(device)
    one, two = rule(x), other(padded_rows(x, 12))
    kept = lambda graph: graph.edge_index[:, graph.edge_index[0] < graph.num_rows]
    assert torch.equal(kept(one), kept(two)), "none of the nodes more"
    assert one.num_edges / 8 < two.num_edges / 12 if has_bonds else one.num_edges / 8 == two.num_edges / 12
    if has_bonds:
        number = kept(one).shape[1]
        assert torch.equal(one.edge_attr[:number], two.edge_attr[:number])
    assert other.needed is rule.needed and other.capacity == rule.capacity
