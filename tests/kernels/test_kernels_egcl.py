"""The Triton kernels of the spatial op against the reference in float64: on a GPU, or in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch
from native_cases import (
    EDGES,
    EGCL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    cotangents_of,
    draw,
    egcl,
    egcl_inputs,
    egcl_params,
    graph,
    poisoned,
    results,
)
from tolerances import assert_same

from geotdm_fast import EGTN, backend, ops, reference
from geotdm_fast.graphs import Graph
from geotdm_fast.ops import kernels, native
from geotdm_fast.reference import EGCLOptions, EGCLParams

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
    ),
    pytest.mark.usefixtures("poisoned"),
]
assert poisoned

FLAGS = {
    "normalize": {"normalize": True, "pre_norm": False},
    "pre_norm": {"normalize": True, "pre_norm": True},
    "plain": {"normalize": False, "pre_norm": False},
}
DEGREES = [3, 0, 1, 7, 0, 4, 2]  # two nodes without an edge


def on_device(values, device):
    return [None if v is None else v.to(device) for v in values]


def check(
    device,
    num_frames,
    dim,
    width,
    edge_dim,
    precision="fp32",
    flags="normalize",
    edge_index=None,
    num_nodes=7,
    x=None,
    draws=1,
):
    edge_index = (graph(7, DEGREES) if edge_index is None else edge_index).to(device)

    def inputs():
        drawn = egcl_inputs(num_nodes, num_frames, dim, width, edge_dim, edge_index)
        return on_device(drawn if x is None else [x(drawn[0]), *drawn[1:]], device)

    op = bind(egcl, edge_index=edge_index, **FLAGS[flags])
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu" and width > 32:
            # A wide layer's weights take thousands of programs of 128 places, which the interpreter runs one by one.
            patch.setattr("geotdm_fast.kernels.egcl_weights_launch.FINISH_BLOCK", 4096)
        assert_native_as_accurate(bind(op, precision=precision), inputs, EGCL_NAMES, precision, op, "triton", draws)


@pytest.mark.recorded("interpreted", always=r"48-bf16|17-tf32|64-tf32")
@pytest.mark.parametrize(
    ("width", "precision", "num_frames", "dim", "edge_dim", "flags"),
    [
        (32, "fp32", 7, 3, 2, "normalize"),
        (48, "bf16", 5, 2, 3, "pre_norm"),
        (64, "tf32", 3, 3, 0, "normalize"),
        (96, "fp32", 1, 3, 1, "plain"),
        (128, "bf16", 5, 3, 2, "normalize"),
        (256, "bf16", 2, 2, 0, "normalize"),
        (17, "tf32", 4, 2, 1, "plain"),
        (16, "fp32", 9, 2, 2, "pre_norm"),
    ],
)
def test_widths_precisions_dimensions_and_flags(width, precision, num_frames, dim, edge_dim, flags, device):
    check(device, num_frames, dim, width, edge_dim, precision, flags, draws=3 if precision == "fp32" else 1)


@pytest.mark.recorded("interpreted")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_degrees_from_none_to_hundreds_in_one_batch(precision, device):
    degrees = [2, 300, 0, 1, 45, 3]
    check(device, 1, 3, 16, 2, precision, edge_index=graph(6, degrees), num_nodes=6)


@pytest.mark.parametrize("flags", FLAGS)
def test_self_loops_repeats_and_coincident_points(flags, device):
    """Node 0 has a self-loop and a twin in the same place; |r| has a kink there, whose gradient is 0."""
    check(device, 3, 3, 16, 2, flags=flags, edge_index=EDGES, num_nodes=4, x=lambda x: x[[0, 0, 2, 3]])


@pytest.mark.parametrize("flags", FLAGS)
def test_near_points(flags, device):
    """Positions from 1e-4 to 1: the gradient of the distance keeps its digits."""
    check(device, 4, 3, 16, 0, flags=flags, x=lambda x: x * torch.logspace(-4, 0, 7)[:, None, None])


@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "degrees"), [(5, 3, []), (0, 3, []), (5, 0, [1, 2]), (5, 2, [0, 1])]
)
def test_without_edges_nodes_or_frames(num_nodes, num_frames, degrees, device):
    check(device, num_frames, 3, 16, 2, edge_index=graph(num_nodes, degrees), num_nodes=num_nodes)


def test_bfloat16_inputs_return_bfloat16(device):
    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device([v.bfloat16() for v in egcl_inputs(7, 4, 3, 16, 2, edge_index)], device)
    with backend("triton"):
        ours = egcl(*inputs, edge_index=edge_index)
    with backend("reference"):
        exact = egcl(*(v.double() for v in inputs), edge_index=edge_index)
    assert {v.dtype for v in ours} == {torch.bfloat16}
    for a, b in zip(ours, exact, strict=True):
        assert_same(a, b, 2.0**-8)


@pytest.mark.recorded("interpreted")
def test_every_run_gives_the_same_bits_and_views_too(device):
    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device(egcl_inputs(7, 5, 3, 16, 2, edge_index), device)
    cotangents = cotangents_of(inputs)

    def strided(v):
        wide = torch.stack([v, torch.full_like(v, float("nan"))], dim=-1)[..., 0]
        return wide.transpose(0, -1).contiguous().transpose(0, -1) if v.dim() > 1 else wide

    with backend("triton"):
        expected = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
        again = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
        views = results(
            bind(egcl, edge_index=edge_index.T.contiguous().T),
            [strided(v) for v in inputs],
            [*map(strided, cotangents)],
        )
    assert_same_bits(again, expected, EGCL_NAMES)
    # W_a a is a plain product, which may sum in another order.
    for name, a, b in zip(["x_out", "h_out", *EGCL_NAMES], views, expected, strict=True):
        assert_same(a, b, 1e-6 if name in ("edge_attr", "edge_w1") else 0.0, what=name)


@pytest.mark.recorded("interpreted")
def test_backward_in_chunks(monkeypatch, device):
    """Chunks of two edges cut receivers and senders apart."""
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_backward_launch")
    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device(egcl_inputs(7, 3, 3, 16, 2, edge_index), device)
    cotangents = cotangents_of(inputs)
    with backend("triton"):
        whole = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
        monkeypatch.setattr(launch, "CHUNK", 6)
        parts = results(bind(egcl, edge_index=edge_index), inputs, cotangents)
    for name, a, b in zip(["x_out", "h_out", *EGCL_NAMES], parts, whole, strict=True):
        assert_same(a, b, 1e-6, what=name)


@pytest.mark.recorded("interpreted")
@pytest.mark.parametrize("flags", FLAGS)
def test_programs_with_many_tiles_and_sums_of_their_own(flags, monkeypatch, device):
    """As one tile a program with its rows; the last tile of a chunk is not full, and one program has no tile there."""
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_backward_launch")
    from geotdm_fast.kernels.configurations import Configuration

    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device(egcl_inputs(7, 5, 3, 16, 2, edge_index), device)
    cotangents = cotangents_of(inputs)
    op = bind(egcl, edge_index=edge_index, **FLAGS[flags])
    monkeypatch.setattr(launch, "multiprocessors", lambda x: 4)
    found = {}
    with backend("triton"):
        for chunk in (1000, 40):  # 85 places: 6 tiles; 3 chunks of 3, 3 and 1
            monkeypatch.setattr(launch, "CHUNK", chunk)
            for programs in (0, 1):
                tiles = Configuration(16, 16, 4, programs=programs)
                monkeypatch.setattr(launch, "backward_configuration", lambda *_, tiles=tiles: tiles)
                found[chunk, programs] = results(op, inputs, cotangents)
        again = results(op, inputs, cotangents)
    assert_same_bits(again, found[40, 1], EGCL_NAMES)
    for key in ((1000, 1), (40, 0), (40, 1)):
        for name, a, b in zip(["x_out", "h_out", *EGCL_NAMES], found[key], found[1000, 0], strict=True):
            assert_same(a, b, 1e-6, what=f"{name} {key}")


def test_one_output_and_some_inputs(device):
    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device(egcl_inputs(7, 2, 3, 16, 2, edge_index), device)
    for which, names in ((0, ["x", "edge_w1"]), (1, ["edge_attr", "node_b2"])):
        gradients = {}
        for name in ("triton", "reference"):
            leaves = {n: v.clone().requires_grad_(n in names) for n, v in zip(EGCL_NAMES, inputs, strict=True)}
            with backend(name):
                output = egcl(*leaves.values(), edge_index=edge_index)[which]
            gradients[name] = torch.autograd.grad(output.sum(), [leaves[n] for n in names])
        for name, a, b in zip(names, *gradients.values(), strict=True):
            assert_same(a, b, 1e-5, what=name)


@pytest.mark.parametrize("name", ["auto", "triton"])
def test_what_is_prepared_without_gradients_passes_on_those_of_positions(name, device):
    """As a guided sample wants it; W_a, whose part was prepared, gets none. The reference prepares none."""
    if name == "auto" and device == "cpu" and native.missing:
        pytest.skip(f"geotdm_fast._C is {native.missing}")
    edge_index = graph(7, DEGREES).to(device)
    x, h, edge_attr, *params = on_device(egcl_inputs(7, 3, 3, 16, 2, edge_index), device)
    params = EGCLParams(*(p.requires_grad_() for p in params))
    found = []
    with backend(name):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                prepared = ops.prepare_egcl(x, h, edge_index, edge_attr, params, EGCLOptions())
            moved = x.clone().requires_grad_()
            outputs = ops.run_egcl(moved, h, prepared)
            found.append(torch.autograd.grad(sum(v.square().sum() for v in outputs), [moved, params.edge_w1]))
    (grad_x, grad_w1), (grad_x_alone, grad_w1_alone) = found
    # With gradients Triton's W_a a comes from its own kernel, without from torch; the C++ module's always from torch.
    bound = 0 if name == "auto" and device == "cpu" else 1e-6
    assert_same(grad_x_alone, grad_x, bound)
    assert_same(grad_w1_alone[:, :-2], grad_w1[:, :-2], bound)
    assert not grad_w1_alone[:, -2:].any() and grad_w1.all()


def test_nan_in_one_node_reaches_its_receivers_alone(device):
    edge_index = torch.tensor([[0, 1, 2, 3, 3, 3], [1, 2, 1, 0, 0, 3]], device=device)
    inputs = on_device(egcl_inputs(4, 3, 3, 16, 0, edge_index), device)
    inputs[1][1] = float("nan")
    with backend("triton"):
        x_out, h_out = egcl(*inputs, edge_index=edge_index)
    assert h_out.isnan().any(dim=(1, 2)).tolist() == [True, True, True, False]
    assert x_out.isnan().any(dim=(1, 2)).tolist() == [True, True, True, False]


def test_large_inputs_stay_where_the_reference_is(device):
    """Silu of +-1e4 neither overflows nor loses its sign."""
    edge_index = graph(7, DEGREES).to(device)
    inputs = on_device(egcl_inputs(7, 3, 3, 16, 0, edge_index), device)
    inputs[1] = inputs[1] * 1e4
    with backend("triton"):
        ours = egcl(*inputs, edge_index=edge_index)
    with backend("reference"):
        exact = egcl(*(v if v is None else v.double() for v in inputs), edge_index=edge_index)
    for a, b in zip(ours, exact, strict=True):
        assert_same(a, b, 1e-5)


def test_a_graph_for_each_frame_is_a_graph_over_nodes_times_frames(device):
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_launch")
    num_nodes, num_frames, width = 5, 3, 16
    x, h, _, *params = on_device(egcl_inputs(num_nodes, num_frames, 3, width, 0, EDGES), device)
    frames = [graph(num_nodes, degrees).to(device) for degrees in ([2, 0, 3], [1, 1, 1, 1, 1], [])]
    rows = torch.cat([edge_index * num_frames + t for t, edge_index in enumerate(frames)], dim=1)
    tables = Graph.per_frame(rows, num_nodes, num_frames).tables("triton")
    flat = lambda v: v.reshape(num_nodes * num_frames, 1, -1)
    ours = launch.egcl_forward(flat(x), flat(h), tables, None, None, EGCLParams(*params), EGCLOptions())
    for t, edge_index in enumerate(frames):
        expected = reference.egcl(x[:, [t]].double(), h[:, [t]].double(), edge_index, None, doubled(params))
        for a, b in zip(ours, expected, strict=False):
            assert_same(a.reshape(num_nodes, num_frames, -1)[:, t], b[:, 0], 1e-6)


@pytest.mark.recorded("interpreted")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_edge_attributes_that_change_from_frame_to_frame(precision, device):
    edge_index = graph(7, DEGREES).to(device)

    def inputs():
        drawn = egcl_inputs(7, 3, 3, 16, 2, edge_index)
        drawn[2] = draw(edge_index.shape[1], 3, 2)
        return on_device(drawn, device)

    op = bind(egcl, edge_index=edge_index)
    assert_native_as_accurate(bind(op, precision=precision), inputs, EGCL_NAMES, precision, op, "triton")


def doubled(params):
    return EGCLParams(*(p.double() for p in params))


def test_rows_beyond_2_to_the_31_numbers(device):
    """One tile of a graph whose last rows begin at number 2^31 of P and Q; memory is reserved, not touched."""
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_launch")
    from geotdm_fast.kernels.configurations import edges_configuration
    from geotdm_fast.kernels.egcl import egcl_edges_kernel

    width, num_nodes = 256, 2**22 + 64
    torch.use_deterministic_algorithms(False)
    x, pq = torch.empty(num_nodes, 1, 3, device=device), torch.empty(num_nodes, 1, 2, width, device=device)
    x_out, m_sum = torch.empty_like(x), torch.empty(num_nodes, 1, width, device=device)
    assert pq.numel() > 2**31
    params = EGCLParams(*on_device(egcl_params(width), device))
    last = torch.tensor([num_nodes - 1, num_nodes - 2], device=device)
    small_x, small_h = draw(2, 1, 3).to(device), draw(2, 1, width).to(device)
    tables = Graph.static(torch.tensor([[0, 1], [1, 0]], device=device), 2).tables("triton")
    expected_x, _, kept = launch.egcl_forward(small_x, small_h, tables, None, None, params, EGCLOptions())
    x[last], pq[last] = small_x, kept.pq
    table = lambda values, dtype=torch.int32: torch.tensor(values, dtype=dtype, device=device)
    tiles = edges_configuration(width, "fp32", launch.capability(x))  # other tiles or warps sum in another order
    egcl_edges_kernel[(1,)](
        x, pq, last.int(), table([0, 1]), table([1, 1], torch.float32), last.flip(0).int(), x, kept.halved,
        params.edge_w1, params.edge_b2, params.coord_b1, params.coord_w2, params.coord_b2, x_out, m_sum, x, x,
        2, 1, params.edge_w1.stride(0), 0.0, DIM=3, WIDTH=width, PADDED=width, BLOCK=tiles.block, SLICE=tiles.slice,
        HAS_TERM=False, HAS_CUTOFF=False, HAS_SHIFT=False, NORMALIZE=True, PRE_NORM=False, IS_RESIDUAL=True,
        PRECISION="fp32", num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    assert torch.equal(x_out[last], expected_x) and torch.equal(m_sum[last], kept.m_sum)


def test_a_network_computes_what_the_reference_computes(device):
    torch.manual_seed(0)
    network = EGTN(2, 2, 1, 16, 16, "silu", False, 0, 0).to(device)
    x, h, edge_attr = draw(7, 3, 5).to(device), draw(7, 2, 5).to(device), draw(sum(DEGREES), 1).to(device)
    edge_index, step = graph(7, DEGREES).to(device), torch.zeros(7, device=device)
    outputs = {}
    for name in ("triton", "reference"):
        with backend(name):
            outputs[name] = network(step, x, h, edge_index, edge_attr, None)
    for a, b in zip(*outputs.values(), strict=True):
        assert_same(a, b, 1e-5)


def test_tables_are_made_once_for_a_graph(device):
    edge_index = graph(9, DEGREES).to(device)
    made = Graph.static(edge_index, 9)
    tables = made.tables("triton")
    assert made.tables("triton") is tables and made.tables("native") is made.tables("native")
    assert tables.degree.tolist() == [7, 4, 3, 2, 1, 0, 0, 0, 0] and tables.node[:5].tolist() == [3, 5, 0, 6, 2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, h, a, p: (x.double(), h, a, p), "inputs are not all float32 or bfloat16"),
        (lambda x, h, a, p: (x[..., :1], h, a, p), "D = 1 is not 2 or 3"),
        (lambda x, h, a, p: (x, h, a.double(), p), "edge_attr is not float32 or bfloat16"),
        (lambda x, h, a, p: (x, h, a, egcl_params(32, 2)), "the hidden width 32 is not the width of h, 16"),
        (lambda x, h, a, p: (x, draw(4, 2, 257), a, egcl_params(257, 2)), "the width 257 is not in 1..256"),
    ],
)
def test_inputs_that_the_kernels_do_not_take(change, reason):
    x, h, edge_attr, *params = egcl_inputs(4, 2, 3, 16, 2, EDGES)
    x, h, edge_attr, params = change(x, h, edge_attr, EGCLParams(*params))
    with backend("triton"), pytest.raises(ValueError, match=f"egcl: backend triton does not take the input: {reason}"):
        ops.egcl(x, h, EDGES, edge_attr, params)


def test_without_triton_or_its_interpreter(monkeypatch):
    inputs = egcl_inputs(4, 2, 3, 16, 2, EDGES)
    monkeypatch.setattr(kernels, "interpreted", lambda: False)
    with backend("triton"), pytest.raises(ValueError, match="inputs are on cpu, and TRITON_INTERPRET is not 1"):
        egcl(*inputs, edge_index=EDGES)
    monkeypatch.setattr(kernels, "missing", lambda: "triton is not installed")
    with backend("triton"), pytest.raises(ValueError, match="triton is not installed"):
        egcl(*inputs, edge_index=EDGES)
    assert kernels.why_not_device(torch.device("meta")) == "inputs are on meta"


def test_too_many_rows_are_refused(device):
    launch = pytest.importorskip("geotdm_fast.kernels.egcl_launch")
    x, h = torch.empty(2**31, 1, 3, device="meta"), torch.empty(2**31, 1, 16, device="meta")
    tables = Graph.static(EDGES.to(device), 4).tables("triton")
    with pytest.raises(
        ValueError, match=r"egcl: nodes times frames and edges must be under 2\^31, got 2147483648 and 7"
    ):
        launch.egcl_forward(x, h, tables, None, None, egcl_params(16), EGCLOptions())
