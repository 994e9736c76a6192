"""The compiled spatial op against the float64 reference: every gradient, odd sizes, graphs at the edge."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import (
    EGCL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    cotangents_of,
    draw,
    egcl,
    egcl_inputs,
    graph,
    needs_native,
    on_threads,
    peak_memory,
    poisoned,  # noqa: F401 - a fixture
    results,
)
from tolerances import assert_same

from geotdm_fast import backend

pytestmark = [needs_native, pytest.mark.usefixtures("poisoned")]

FLAGS = {
    "normalize": {"normalize": True, "pre_norm": False},
    "pre_norm": {"normalize": True, "pre_norm": True},
    "plain": {"normalize": False, "pre_norm": False},
}
DEGREES = [3, 0, 1, 7, 0, 4, 2]  # two nodes without an edge


def check(num_frames, dim, width, edge_dim, flags="normalize", degrees=tuple(DEGREES), num_nodes=None):
    num_nodes = len(degrees) if num_nodes is None else num_nodes
    edge_index = graph(num_nodes, list(degrees))
    inputs = bind(egcl_inputs, num_nodes, num_frames, dim, width, edge_dim, edge_index)
    assert_native_as_accurate(bind(egcl, edge_index=edge_index, **FLAGS[flags]), inputs, EGCL_NAMES)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 112, 128, 256])
@pytest.mark.parametrize(("num_frames", "dim", "edge_dim", "flags"), [(7, 3, 2, "normalize"), (5, 2, 0, "pre_norm")])
def test_widths(width, num_frames, dim, edge_dim, flags):
    check(num_frames, dim, width, edge_dim, flags)


@pytest.mark.parametrize("num_frames", [1, 2, 19, 20, 21, 29, 30, 31, 47, 59, 60, 61, 62, 120, 130])
def test_frames(num_frames):
    dim = 2 + num_frames % 2
    check(num_frames, dim, 48, 3, flags=("normalize", "pre_norm", "plain")[num_frames % 3])


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("num_frames", [1, 7])
def test_degrees_from_0_to_200_in_one_graph(num_frames, flags):
    check(num_frames, 3, 32, 1, flags, degrees=(0, 200, 1, 59, 60, 61, 0, 119, 2, 8, 9, 0))


def test_edges_beyond_one_chunk_of_the_backward():
    """5000 edges of 30 frames and 32 channels hold 19 MB: more than one chunk of 16 MB, senders all over."""
    check(30, 3, 32, 1, degrees=[100] * 25 + [0] * 5 + [50] * 50)


@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "degrees"),
    [(0, 3, []), (0, 0, []), (5, 0, [2, 0, 3, 0, 0]), (5, 3, []), (1, 1, []), (1, 1, [1]), (1, 70, [5])],
)
@pytest.mark.parametrize("edge_dim", [0, 2])
def test_without_nodes_frames_or_edges(num_nodes, num_frames, degrees, edge_dim):
    check(num_frames, 3, 16, edge_dim, degrees=degrees, num_nodes=num_nodes)


@pytest.mark.parametrize("flags", FLAGS)
def test_coincident_points(flags):
    """Two of three nodes in one place, one with a self-loop: all gradients are finite and right."""
    edge_index = torch.tensor([[0, 1, 0, 2], [1, 0, 0, 1]])

    def inputs():
        x, *rest = egcl_inputs(3, 6, 3, 32, 0, edge_index)
        return [x[[0, 0, 2]], *rest]

    assert_native_as_accurate(bind(egcl, edge_index=edge_index, **FLAGS[flags]), inputs, EGCL_NAMES)


@pytest.mark.parametrize("flags", FLAGS)
def test_far_and_near_points(flags):
    """Positions from 1e-4 to 1: the gradient of the distance keeps its digits."""
    edge_index = graph(7, DEGREES)

    def inputs():
        x, *rest = egcl_inputs(7, 4, 3, 32, 0, edge_index)
        return [x * torch.logspace(-4, 0, 7)[:, None, None], *rest]

    assert_native_as_accurate(bind(egcl, edge_index=edge_index, **FLAGS[flags]), inputs, EGCL_NAMES)


@settings(derandomize=True, deadline=None, max_examples=12, database=None)
@given(
    degrees=st.lists(st.integers(0, 12), min_size=1, max_size=9),
    num_frames=st.integers(1, 70),
    dim=st.integers(2, 3),
    width=st.sampled_from([16, 32, 48, 80]),
    edge_dim=st.integers(0, 3),
    flags=st.sampled_from([*FLAGS]),
)
def test_random_shapes(degrees, num_frames, dim, width, edge_dim, flags):
    torch.manual_seed(0)
    check(num_frames, dim, width, edge_dim, flags, degrees)


def test_views_and_slices_give_the_same_bits():
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 9, 3, 32, 2, edge_index)
    cotangents = cotangents_of(inputs)
    expected = results(bind(egcl, edge_index=edge_index), inputs, cotangents)

    def strided(v):
        wide = torch.stack([v, torch.full_like(v, float("nan"))], dim=-1)[..., 0]
        return wide.transpose(0, -1).contiguous().transpose(0, -1) if v.dim() > 1 else wide

    views = [strided(v) for v in inputs]
    assert not any(v.is_contiguous() for v in views if v.numel() > v.shape[-1] > 1)
    strided_index = edge_index.T.contiguous().T
    ours = results(bind(egcl, edge_index=strided_index), views, [strided(c) for c in cotangents])
    # W_a a is a plain product, which may sum in another order.
    for name, a, b in zip(["x_out", "h_out", *EGCL_NAMES], ours, expected, strict=True):
        assert_same(a, b, 1e-6 if name in ("edge_attr", "edge_w1") else 0.0, what=name)


def test_gradient_of_one_output_alone():
    """The other output's gradient is absent; this one's is expanded from a scalar."""
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 5, 3, 32, 2, edge_index)
    for which in (0, 1):
        leaves = [v.clone().requires_grad_() for v in inputs]
        wanted = leaves if which == 1 else leaves[:-4]  # the node MLP does not move the points
        ours = torch.autograd.grad(egcl(*leaves, edge_index=edge_index)[which].sum(), wanted)
        exact = [v.double() for v in leaves]
        with backend("reference"):
            loss = egcl(*exact, edge_index=edge_index)[which].sum()
            expected = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        for name, a, b in zip(EGCL_NAMES, ours, expected, strict=False):
            assert_same(a, b, 2e-6, floor=1e-5, what=name)


def test_only_some_inputs_require_a_gradient():
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 5, 3, 32, 2, edge_index)
    cotangents = cotangents_of(inputs)
    expected = dict(zip(EGCL_NAMES, results(bind(egcl, edge_index=edge_index), inputs, cotangents)[2:], strict=True))
    for names in (["x"], ["h"], ["edge_attr"], ["edge_w1", "node_b2"]):
        leaves = {n: v.clone().requires_grad_(n in names) for n, v in zip(EGCL_NAMES, inputs, strict=True)}
        outputs = egcl(*leaves.values(), edge_index=edge_index)
        gradients = torch.autograd.grad(outputs, [leaves[n] for n in names], cotangents)
        assert all(torch.equal(g, expected[n]) for n, g in zip(names, gradients, strict=True))


@pytest.mark.parametrize("edge_dim", [0, 3])
def test_same_bits_for_any_number_of_threads_and_every_run(edge_dim):
    edge_index = graph(60, [97, 0, 3] * 20)
    inputs = egcl_inputs(60, 31, 3, 32, edge_dim, edge_index)
    cotangents = cotangents_of(inputs)
    names = [n for n, v in zip(EGCL_NAMES, inputs, strict=True) if v is not None]
    at = names.index("edge_w1") - len(names)  # gradients come last

    def run():
        out = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
        # the columns that multiply edge_attr are torch's product: its bits change with the threads where MKL's do
        assert out[at].shape == (32, 2 * 32 + 1 + edge_dim)
        return [*out[:at], out[at][:, : 2 * 32 + 1], *out[at + 1 :]]

    first = run()
    for count in (1, 2, 3, 2):
        assert_same_bits(on_threads(count, run), first, names)


def test_number_of_threads_may_change_before_the_backward():
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 40, 3, 32, 2, edge_index)
    cotangents = cotangents_of(inputs)
    expected = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
    leaves = [v.clone().requires_grad_() for v in inputs]
    outputs = on_threads(1, lambda: egcl(*leaves, edge_index=edge_index))
    gradients = on_threads(3, lambda: torch.autograd.grad(outputs, leaves, cotangents))
    assert_same_bits([*outputs, *gradients], expected, EGCL_NAMES)


def test_peak_memory_does_not_grow_with_the_number_of_edges(tmp_path):
    """18 MB of edges, or four times as many: a chunk of 16 MB is held, and an index for every edge."""
    num_nodes, num_frames, width = 100, 16, 32
    inputs = egcl_inputs(num_nodes, num_frames, 3, width, 0, graph(0, []))
    cotangents = cotangents_of(inputs)
    peaks = {}
    op = lambda edge_index: results(bind(egcl, edge_index=edge_index), inputs, cotangents)
    for degree in (90, 360):
        edge_index = graph(num_nodes, [degree] * num_nodes)
        op(edge_index)  # sorts the edges
        peaks[degree] = peak_memory(bind(op, edge_index=edge_index), tmp_path / "trace.json")
    activations = 4 * (360 - 90) * num_nodes * num_frames * width
    assert peaks[360] - peaks[90] < activations / 50, peaks


def test_order_of_edges_changes_only_rounding():
    edge_index = graph(7, DEGREES)
    x, h, edge_attr, *params = egcl_inputs(7, 5, 3, 32, 2, edge_index)
    order = torch.randperm(edge_index.shape[1])
    expected = egcl(x, h, edge_attr, *params, edge_index=edge_index)
    for a, b in zip(egcl(x, h, edge_attr[order], *params, edge_index=edge_index[:, order]), expected, strict=True):
        assert_same(a, b, 1e-6)


def test_edges_written_in_place_are_read_again():
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 5, 3, 32, 0, edge_index)
    egcl(*inputs, edge_index=edge_index)
    edge_index[1] = edge_index[1].flip(0)
    ours = egcl(*inputs, edge_index=edge_index)
    assert all(torch.equal(a, b) for a, b in zip(ours, egcl(*inputs, edge_index=edge_index.clone()), strict=True))


def test_extreme_inputs_stay_where_the_reference_is():
    """Silu of +-1e4 neither overflows nor loses its sign."""
    edge_index = graph(7, DEGREES)
    inputs = egcl_inputs(7, 5, 3, 32, 0, edge_index)
    inputs[1] = draw(7, 5, 32, scale=1e4)
    ours = egcl(*inputs, edge_index=edge_index)
    with backend("reference"):
        exact = egcl(*(v if v is None else v.double() for v in inputs), edge_index=edge_index)
    for a, b in zip(ours, exact, strict=True):
        assert_same(a, b, 1e-5)


def test_nan_in_one_node_reaches_its_receivers_alone():
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 2, 1, 0]])
    inputs = egcl_inputs(4, 3, 3, 16, 0, edge_index)
    inputs[1][1] = float("nan")
    _, h_out = egcl(*inputs, edge_index=edge_index)
    assert h_out.isnan().any(dim=(1, 2)).tolist() == [True, True, True, False]
