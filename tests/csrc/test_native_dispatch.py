"""How the public ops reach the compiled ones: inference, autocast, bfloat16, torch.compile; what falls back."""

import platform

import pytest
import torch
from native_cases import (
    EDGES,
    EGCL_NAMES,
    FRAMES,
    NODES,
    TEMPORAL_NAMES,
    WIDTH,
    assert_native_as_accurate,
    bind,
    cotangents_of,
    draw,
    egcl,
    egcl_inputs,
    egcl_params,
    graph,
    native_call,
    needs_native,
    results,
    temporal_attention,
    temporal_inputs,
)
from tolerances import GOLDEN, ROUNDOFF, assert_as_accurate, assert_same
from torch._dynamo.backends.common import aot_autograd

from geotdm_fast import EGTN, backend, ops
from geotdm_fast.ops import native
from geotdm_fast.ops.egcl import why_not_native as egcl_why_not
from geotdm_fast.ops.temporal_attention import why_not_compiled as temporal_why_not
from geotdm_fast.reference import EGCLParams, TemporalAttentionParams

pytestmark = needs_native


# --- inference, autocast, bfloat16, compile ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["egcl", "temporal_attention"])
def test_inference_mode_gives_the_same_bits(name):
    op, inputs = native_call(name)
    expected = op(*inputs)
    with torch.inference_mode():
        ours = op(*(v.clone() for v in inputs))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_inference_mode_takes_edges_that_were_made_in_it():
    _, inputs = native_call("egcl")
    with torch.inference_mode():
        ours = egcl(*inputs, edge_index=EDGES.clone())
    assert all(torch.equal(a, b) for a, b in zip(ours, egcl(*inputs, edge_index=EDGES), strict=True))


@pytest.mark.parametrize("name", ["egcl", "temporal_attention"])
def test_autocast_changes_no_bit(name):
    op, inputs = native_call(name)
    expected = op(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        ours = op(*inputs)
        assert op(inputs[0], inputs[1].bfloat16(), *inputs[2:])[1].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(("num_frames", "dim", "width", "edge_dim"), [(7, 3, 32, 2), (31, 2, 64, 0), (1, 3, 16, 1)])
def test_bfloat16_is_as_accurate_as_the_reference_in_bfloat16(num_frames, dim, width, edge_dim):
    edge_index = graph(8, [3, 0, 1, 7, 0, 4, 2])
    low = lambda inputs: [None if v is None else v.bfloat16() for v in inputs]
    spatial = lambda: low(egcl_inputs(8, num_frames, dim, width, edge_dim, edge_index))
    temporal = lambda: low(temporal_inputs(8, num_frames, dim, width))
    x, h, edge_attr, *params = spatial()
    assert egcl_why_not(x, h, edge_attr, EGCLParams(*params)) is None
    assert_native_as_accurate(bind(egcl, edge_index=edge_index), spatial, EGCL_NAMES, "bf16")
    assert_native_as_accurate(temporal_attention, temporal, TEMPORAL_NAMES, "bf16")


def test_bfloat16_results_are_float32_results_rounded():
    for name in ("egcl", "temporal_attention"):
        op, inputs = native_call(name)
        low = [v.bfloat16() for v in inputs]
        cotangents = [c.bfloat16() for c in cotangents_of(inputs)]
        ours = results(op, low, cotangents)
        expected = results(bind(op, precision="bf16"), low, cotangents, torch.float32)
        assert all(torch.equal(a, b.bfloat16()) for a, b in zip(ours, expected, strict=True))


def network(n_layers: int = 2, **options) -> tuple[EGTN, dict]:
    sizes = {"n_layers": n_layers, "node_dim": 1, "edge_dim": 1, "hidden_dim": 32, "time_emb_dim": 16}
    model = EGTN(**sizes, act_fn="silu", learn_ref_frame=False, n_layers_ref=1, num_w=1, **options)
    edge_index = graph(5, [4, 3, 0, 4, 2])
    graph_inputs = {"h": draw(5, 1), "edge_index": edge_index, "edge_attr": draw(edge_index.shape[1], 1)}
    batch = torch.zeros(5, dtype=torch.int64)
    return model, {"diffusion_t": batch + 7, "x": draw(5, 3, 9), "batch": batch, **graph_inputs}


def test_a_network_in_bfloat16():
    model, inputs = network()
    model.bfloat16()
    inputs["x"] = inputs["x"].bfloat16()
    ours = model(**inputs)
    with backend("reference"):
        plain = model(**inputs)
        exact = model.double()(**inputs | {"x": inputs["x"].double()})
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert_as_accurate(a, b, c, "bf16")
    model.bfloat16()
    sum(v.float().square().mean() for v in model(**inputs)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_network_under_autocast():
    model, inputs = network()
    exact = model(**inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(**inputs)[0]
        ours.square().mean().backward()
    assert_same(ours + inputs["x"], exact + inputs["x"], 16 * ROUNDOFF["bf16"])
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("name", "calls", "window"), [("auto", 1, None), ("auto", 1, 3), ("reference", 0, 3)])
def test_a_compiled_network_equals_the_eager_one_and_runs_the_same_ops(name, calls, window):
    """torch.compile takes the whole network as one graph, with the ops that the backend at that moment chooses."""
    torch.compiler.reset()
    model, inputs = network(n_layers=1, window=window)
    run = lambda module: module(**inputs)
    traced = []

    def keep_graph(graph, example_inputs):
        def trace(partition, example_inputs):
            traced.extend(str(node.target) for node in partition.graph.nodes)
            return partition

        return aot_autograd(fw_compiler=trace)(graph, example_inputs)

    with backend(name):
        expected, ours = run(model), run(torch.compile(model, backend=keep_graph, fullgraph=True))
    for a, b in zip(ours, expected, strict=True):
        assert_same(a, b, GOLDEN["forward"])
    parameters = [*model.parameters()]
    gradients = [torch.autograd.grad(sum(v.square().mean() for v in out), parameters) for out in (ours, expected)]
    floor = 1e-3 * max(float(g.norm()) for g in gradients[1])
    for a, b in zip(*gradients, strict=True):
        assert_same(a, b, GOLDEN["gradient"], floor)
    for op in ("egcl_forward", "temporal_attention_forward", "egcl_backward", "temporal_attention_backward"):
        assert sum(f"geotdm_fast.{op}." in target for target in traced) == calls, (op, traced)


def test_one_compiled_op_takes_any_number_of_frames():
    """Compiled for symbols: the turns are part of the graph, and the window does not ask for the sizes."""
    torch.compiler.reset()
    compiled = torch.compile(bind(temporal_attention, window=4), backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for num_frames in (9, 30, 50):
            inputs = temporal_inputs(NODES, num_frames, 3, WIDTH)
            ours, expected = (op(*inputs) for op in (compiled, bind(temporal_attention, window=4)))
            for a, b in zip(ours, expected, strict=True):
                assert_same(a, b, GOLDEN["forward"])


# --- what runs the reference ------------------------------------------------------------------------------------------


def unsupported_egcl():
    yield "the width 24 is not", egcl_inputs(NODES, FRAMES, 3, 24, 2, EDGES)
    yield "the width 272 is not", egcl_inputs(NODES, FRAMES, 3, 272, 0, EDGES)
    yield "D = 4 is not", egcl_inputs(NODES, FRAMES, 4, WIDTH, 0, EDGES)
    yield "D = 1 is not", egcl_inputs(NODES, FRAMES, 1, WIDTH, 0, EDGES)
    yield "inputs are not all float32", [v.double() for v in egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)]


def test_consecutive_frames_run_compiled_wherever_they_begin():
    inputs = temporal_inputs(NODES, FRAMES, 3, WIDTH)
    ours, expected = (temporal_attention(*inputs, frames=frames, window=1) for frames in ([7, 8, 9], None))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_frames_with_gaps_see_by_their_numbers():
    inputs = temporal_inputs(NODES, FRAMES, 3, WIDTH)
    ours = temporal_attention(*inputs, frames=[0, 1, 3], window=1)
    with backend("reference"):
        expected = temporal_attention(*inputs, frames=[0, 1, 3], window=1)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    assert not torch.equal(ours[1], temporal_attention(*inputs, frames=[0, 1, 3], window=2)[1])


@pytest.mark.parametrize("index", range(5))
def test_egcl_falls_back_to_the_reference(index):
    reason, inputs = [*unsupported_egcl()][index]
    x, h, edge_attr, *params = inputs
    told = egcl_why_not(x, h, edge_attr, EGCLParams(*params))
    assert told is not None and (reason in told or "not float32" in told)
    ours = egcl(*inputs, edge_index=EDGES)
    with backend("reference"):
        expected = egcl(*inputs, edge_index=EDGES)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_half_edge_attributes_are_told():
    x, h, edge_attr, *params = egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)
    assert egcl_why_not(x, h, edge_attr.half(), EGCLParams(*params)) == "edge_attr is not float32 or bfloat16"


def test_edge_attributes_that_change_from_frame_to_frame():
    def inputs():
        drawn = egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)
        drawn[2] = draw(EDGES.shape[1], FRAMES, 2)
        return drawn

    x, h, edge_attr, *params = inputs()
    assert egcl_why_not(x, h, edge_attr, EGCLParams(*params)) is None
    op = bind(egcl, edge_index=EDGES)
    assert_native_as_accurate(op, inputs, EGCL_NAMES, "fp32", op)


def test_egcl_with_another_hidden_width_falls_back():
    params = egcl_params(32)
    narrow = params._replace(edge_w1=draw(32, 33), node_w1=draw(32, 48), node_w2=draw(16, 32), node_b2=draw(16))
    x, h = draw(NODES, FRAMES, 3), draw(NODES, FRAMES, 16)
    assert "hidden width 32 is not the width of h, 16" in egcl_why_not(x, h, None, narrow)
    ours = egcl(x, h, None, *narrow, edge_index=EDGES)
    with backend("reference"):
        expected = egcl(x, h, None, *narrow, edge_index=EDGES)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(
    ("reason", "num_frames", "dim", "width", "dtype", "frames"),
    [
        ("the frames have gaps", 3, 3, 16, torch.float32, [0, 2, 5]),
        ("there is no frame", 0, 3, 16, torch.float32, None),
        ("the width 24 is not", 3, 3, 24, torch.float32, None),
        ("the width 272 is not", 3, 3, 272, torch.float32, None),
        ("D = 4 is not", 3, 4, 16, torch.float32, None),
        ("inputs are not all float32", 3, 3, 16, torch.float64, None),
    ],
)
def test_temporal_attention_falls_back_to_the_reference(reason, num_frames, dim, width, dtype, frames):
    inputs = [v.to(dtype) for v in temporal_inputs(NODES, num_frames, dim, width)]
    assert reason in temporal_why_not(*inputs[:2], TemporalAttentionParams(*inputs[2:]), frames, None)
    ours = temporal_attention(*inputs, frames=frames)
    with backend("reference"):
        expected = temporal_attention(*inputs, frames=frames)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_without_the_module_the_reference_runs(monkeypatch):
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "missing", "not built")
    assert native.build_info() is None
    rows = {row.op: (row.active, row.reason) for row in ops.status()}
    assert rows["egcl"] == rows["temporal_attention"] == ("reference", "geotdm_fast._C is not built")
    for name in ("egcl", "temporal_attention"):
        op, inputs = native_call(name)
        ours = op(*inputs)
        with backend("reference"):
            assert all(torch.equal(a, b) for a, b in zip(ours, op(*inputs), strict=True))


def test_status_says_what_the_module_takes():
    rows = [row for row in ops.status() if row.op in ("egcl", "temporal_attention")]
    isa, low_isa = native.build_info()["isa"], native.build_info()["low_precision_isa"]
    assert isa in ("baseline", "avx2", "avx512") and low_isa in (isa, "avx512bf16", "amx")
    assert {row.active for row in rows} == {f"cpu ({isa})"} and all("H a multiple of 16" in r.reason for r in rows)
    products = "in float32, without AMX or AVX512_BF16" if low_isa == isa else low_isa
    assert all(row.reason.endswith(f"bfloat16 products: {products}") for row in rows)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="a register of x86-64")
@pytest.mark.parametrize("name", ["egcl", "temporal_attention"])
def test_subnormal_numbers_are_zero_inside_and_nowhere_else(name):
    """Processors take a hundred times as long for them; the threads' registers are afterwards as they were."""
    op, (x, h, *rest) = native_call(name)
    ours = op(x, torch.full_like(h, 1e-40), *rest)
    assert all(torch.equal(a, b) for a, b in zip(ours, op(x, torch.zeros_like(h), *rest), strict=True))
    assert (torch.full((2**20,), 1e-40) * 1).count_nonzero() == 2**20  # by every thread of torch


def test_compiled_kernels_do_run():
    """`auto` and `reference` differ in the last bits: else the tests here compared the reference with itself."""
    for name in ("egcl", "temporal_attention"):
        op, inputs = native_call(name)
        with backend("reference"):
            expected = op(*inputs)
        assert not torch.equal(op(*inputs)[1], expected[1])
