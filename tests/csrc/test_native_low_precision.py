"""The compiled ops with products of bfloat16: `precision="bf16"` and bfloat16 tensors, every gradient.

Where the processor has neither AMX nor AVX512_BF16 those products are float32. test_bf16_emulated.py runs this file
once more with the instructions emulated, on any x86-64.
"""

import pytest
import torch
from native_cases import (
    EGCL_NAMES,
    TEMPORAL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    cotangents_of,
    egcl,
    egcl_inputs,
    graph,
    native_call,
    needs_native,
    on_threads,
    poisoned,  # noqa: F401 - a fixture
    results,
    temporal_attention,
    temporal_inputs,
)
from tolerances import ROUNDOFF, relative_error

from geotdm_fast import backend, ops
from geotdm_fast.graphs import EdgeImages, Graph
from geotdm_fast.ops import native
from geotdm_fast.reference import Cell, EGCLParams

pytestmark = [needs_native, pytest.mark.usefixtures("poisoned")]

ROUNDS = (native.build_info() or {}).get("low_precision_isa") in ("avx512bf16", "amx")
OPS = {"egcl": EGCL_NAMES, "temporal_attention": TEMPORAL_NAMES}
DEGREES = [3, 0, 1, 7, 0, 4, 2]


@pytest.mark.parametrize(
    ("num_frames", "dim", "width", "edge_dim", "flags"),
    [
        (1, 3, 16, 2, {}),
        (7, 3, 32, 0, {"pre_norm": True}),
        (13, 2, 48, 1, {"normalize": False}),
        (20, 3, 112, 2, {}),
        (31, 3, 128, 3, {}),
        (3, 2, 256, 0, {}),
        (61, 3, 32, 2, {}),
        (130, 2, 16, 0, {}),
        (7, 3, 32, 2, {"cutoff": 2.0}),
        (20, 2, 112, 0, {"cutoff": 1.5, "pre_norm": True}),
    ],
)
def test_egcl(num_frames, dim, width, edge_dim, flags):
    edge_index = graph(len(DEGREES), DEGREES)
    inputs = bind(egcl_inputs, len(DEGREES), num_frames, dim, width, edge_dim, edge_index)
    op = bind(egcl, edge_index=edge_index, **flags)
    assert_native_as_accurate(bind(op, precision="bf16"), inputs, EGCL_NAMES, "bf16", op)


def test_egcl_in_periodic_boxes():
    edge_index, number = graph(7, DEGREES), torch.randint(-1, 2, (sum(DEGREES), 3), dtype=torch.int8)

    def op(x, h, edge_attr, vectors, *params, **flags):
        images = EdgeImages(number, Cell(vectors, torch.ones(1, 3, dtype=torch.bool)), None)
        return ops.egcl(x, h, Graph.static(edge_index, 7, images=images), edge_attr, EGCLParams(*params), **flags)

    def inputs():
        x, h, edge_attr, *params = egcl_inputs(7, 7, 3, 32, 2, edge_index)
        return [x, h, edge_attr, 3 * torch.eye(3)[None, None] + 0.3 * torch.randn(1, 1, 3, 3), *params]

    names = [*EGCL_NAMES[:3], "vectors", *EGCL_NAMES[3:]]
    assert_native_as_accurate(bind(op, precision="bf16"), inputs, names, "bf16", op)


@pytest.mark.parametrize("num_frames", [1, 2, 15, 30, 31, 32, 47, 49, 50, 95, 96, 97, 130])
def test_temporal_attention_frames(num_frames):
    inputs = bind(temporal_inputs, 3, num_frames, 2 + num_frames % 2, 48)
    assert_native_as_accurate(temporal_attention, inputs, TEMPORAL_NAMES, "bf16")


@pytest.mark.parametrize(("num_nodes", "num_frames", "width"), [(40, 5, 16), (2, 30, 128), (3, 9, 256), (1, 300, 32)])
def test_temporal_attention_sizes(num_nodes, num_frames, width):
    inputs = bind(temporal_inputs, num_nodes, num_frames, 3, width)
    assert_native_as_accurate(temporal_attention, inputs, TEMPORAL_NAMES, "bf16")


@pytest.mark.parametrize("window", [0, 1, 15, 16, 33, 50])
def test_temporal_attention_windows(window):
    inputs = bind(temporal_inputs, 2, 131, 3, 48)
    assert_native_as_accurate(bind(temporal_attention, window=window), inputs, TEMPORAL_NAMES, "bf16")


@pytest.mark.parametrize("name", OPS)
def test_forward_rounds_as_much_as_the_reference(name):
    """Less than one roundoff from the reference with rounded factors; from the exact one, more than float32 has."""
    op, inputs = native_call(name)
    ours = op(*inputs, precision="bf16")
    with backend("reference"):
        exact = op(*(v.double() for v in inputs))
        rounded = op(*(v.double() for v in inputs), precision="bf16")
    for a, b, c in zip(ours, rounded, exact, strict=True):
        assert relative_error(a, b) < ROUNDOFF["bf16"]
        assert (relative_error(a, c) > 100 * ROUNDOFF["fp32"]) == ROUNDS


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_only_bf16_rounds(name, precision):
    op, inputs = native_call(name)
    cotangents = cotangents_of(inputs)
    exact = results(op, inputs, cotangents)
    ours = results(bind(op, precision=precision), inputs, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True)) == (precision == "tf32" or not ROUNDS)


@pytest.mark.parametrize("name", OPS)
def test_fp32_rounds_nothing_on_the_way_back_either(name):
    op, _ = native_call(name)
    assert_native_as_accurate(op, lambda: native_call(name)[1], OPS[name])


@pytest.mark.parametrize("name", OPS)
def test_any_bfloat16_factor_means_bfloat16_products(name):
    """Of x nothing is multiplied by a weight."""
    op, inputs = native_call(name)
    expected = op(inputs[0], inputs[1].bfloat16(), *inputs[2:], precision="bf16")
    ours = op(inputs[0], inputs[1].bfloat16(), *inputs[2:])
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
    low_x = inputs[0].bfloat16()
    expected = op(low_x.float(), *inputs[1:])
    ours = op(low_x, *inputs[1:])
    assert torch.equal(ours[0], expected[0].bfloat16()) and torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("name", OPS)
def test_same_bits_for_any_number_of_threads_and_without_gradients(name):
    if name == "egcl":
        edge_index = graph(37, [5] * 37)
        op, inputs = bind(egcl, edge_index=edge_index), egcl_inputs(37, 31, 3, 48, 2, edge_index)
    else:
        op, inputs = temporal_attention, temporal_inputs(37, 31, 3, 48)
    op = bind(op, precision="bf16")
    cotangents = cotangents_of(inputs)
    run = lambda: results(op, inputs, cotangents)
    first = run()
    for count in (1, 3, 2):
        assert_same_bits(on_threads(count, run), first, OPS[name])
    with torch.no_grad():
        assert_same_bits(list(op(*inputs)), first[:2], [])
