"""What the compiled ops take and refuse, and what torch knows of them."""

import math
import sys

import pytest
import torch
import warm_python
from native_cases import EDGES, FRAMES, NODES, WIDTH, draw, egcl_params, gv_ff_params, needs_native, temporal_params

from geotdm_fast.graphs import Graph
from geotdm_fast.ops.time_phases import time_phases
from geotdm_fast.runtime.memory import is_out_of_memory

pytestmark = needs_native


def egcl_forward_arguments() -> dict:
    edges = Graph.static(EDGES, NODES).tables("native")
    return {
        "x": draw(NODES, FRAMES, 3),
        "h": draw(NODES, FRAMES, WIDTH),
        "first": edges.first,
        "sender": edges.sender,
        "edge_term": draw(7, WIDTH),
        "shift": draw(7, 3),
        "params": list(egcl_params(WIDTH, 2)),
        "normalize": True,
        "pre_norm": False,
        "cutoff": 2.0,
        "residual": True,
        "keep": True,
        "low_precision": False,
    }


def egcl_backward_arguments() -> dict:
    forward = egcl_forward_arguments()
    edges = Graph.static(EDGES, NODES).tables("native")
    kept = torch.ops.geotdm_fast.egcl_forward(*forward.values())[2]
    gradients = {"grad_x_out": draw(NODES, FRAMES, 3), "grad_h_out": draw(NODES, FRAMES, WIDTH)}
    senders = {"sender_first": edges.sender_first, "by_sender": edges.by_sender}
    wants, options = ("wants_shift", "wants_params"), ("normalize", "pre_norm", "cutoff", "residual", "low_precision")
    last = ("edge_term", "shift", "params", "kept", *wants, *options)
    order = ("x", "h", "first", "sender", "sender_first", "by_sender", *last)
    arguments = forward | senders | {"kept": kept, "wants_shift": True, "wants_params": True}
    return gradients | {name: arguments[name] for name in order}


def gv_ff_forward_arguments() -> dict:
    return {"k": draw(9, WIDTH), "u": draw(9, 3), "params": list(gv_ff_params(WIDTH)), "low_precision": False}


def gv_ff_backward_arguments() -> dict:
    gradients = {"grad_q": draw(9, WIDTH), "grad_w": draw(9, 3)}
    forward = gv_ff_forward_arguments()
    last = {"wants_params": True, "low_precision": False}
    return gradients | {name: forward[name] for name in ("k", "u", "params")} | last


def temporal_attention_forward_arguments() -> dict:
    x, h, params = draw(NODES, FRAMES, 2), draw(NODES, FRAMES, WIDTH), list(temporal_params(WIDTH))
    turned = time_phases(h, params[-2].shape[1]).clone()
    return {"x": x, "h": h, "turns": turned, "params": params, "window": 1, "keep": True, "precision": 0}


def temporal_attention_backward_arguments() -> dict:
    forward = temporal_attention_forward_arguments()
    kept = torch.ops.geotdm_fast.temporal_attention_forward(*forward.values())[2]
    gradients = {"grad_x_out": draw(NODES, FRAMES, 2), "grad_h_out": draw(NODES, FRAMES, WIDTH)}
    order = ("x", "h", "turns", "params", "kept", "window", "precision")
    arguments = forward | {"kept": kept}
    return gradients | {name: arguments[name] for name in order}


def packed_layer_pair_arguments() -> dict:
    params = list(temporal_params(WIDTH))
    turned = time_phases(draw(NODES, FRAMES, WIDTH), params[-2].shape[1]).clone()
    of_egcl = list(egcl_params(WIDTH, 2))
    return {
        "egcl_params": of_egcl,
        "attention_params": params,
        "turns": turned,
        "low_precision": False,
        "precision": 0,
    }


def layer_pairs_arguments() -> dict:
    forward = egcl_forward_arguments()
    packed = [torch.ops.geotdm_fast.packed_layer_pair(*packed_layer_pair_arguments().values()) for _ in range(2)]
    about = {name: forward[name] for name in ("x", "h", "first", "sender")}
    about |= {"edge_terms": [draw(7, WIDTH), draw(7, WIDTH)], "shift": forward["shift"], "packed": packed, "phases": 12}
    about |= {name: forward[name] for name in ("normalize", "pre_norm", "cutoff")}
    return about | {"window": 1, "low_precision": False, "precision": 0}


ARGUMENTS = {
    "packed_layer_pair": packed_layer_pair_arguments,
    "layer_pairs": layer_pairs_arguments,
    "egcl_forward": egcl_forward_arguments,
    "egcl_backward": egcl_backward_arguments,
    "gv_ff_forward": gv_ff_forward_arguments,
    "gv_ff_backward": gv_ff_backward_arguments,
    "temporal_attention_forward": temporal_attention_forward_arguments,
    "temporal_attention_backward": temporal_attention_backward_arguments,
}


# --- what torch knows of the ops --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "without_term"), [*((name, False) for name in ARGUMENTS), ("egcl_forward", True), ("egcl_backward", True)]
)
def test_opcheck(name, without_term):
    """Schema, fake tensors (shapes, strides, dtypes), and tracing with symbolic sizes."""
    arguments = ARGUMENTS[name]()
    arguments |= {"edge_term": None, "shift": None} if without_term else {}
    arguments |= {"wants_shift": False} if without_term and "wants_shift" in arguments else {}
    torch.library.opcheck(getattr(torch.ops.geotdm_fast, name).default, tuple(arguments.values()))


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("num_frames", [1, 61])
@pytest.mark.parametrize("width", [16, 48, 112])
def test_fake_results_have_the_shapes_and_strides_of_real_ones(name, num_frames, width, monkeypatch):
    monkeypatch.setitem(globals(), "FRAMES", num_frames)
    monkeypatch.setitem(globals(), "WIDTH", width)
    arguments, op = ARGUMENTS[name](), getattr(torch.ops.geotdm_fast, name)
    real = op(*arguments.values())
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        fake = op(*arguments.values())
    flat = torch.utils._pytree.tree_leaves
    for a, b in zip(flat(fake), flat(real), strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_ops_return_new_tensors_and_write_to_none(name):
    arguments = ARGUMENTS[name]()
    flat = lambda values: [v for v in torch.utils._pytree.tree_leaves(values) if torch.is_tensor(v)]
    before = [v.clone() for v in flat(arguments)]
    results = flat(getattr(torch.ops.geotdm_fast, name)(*arguments.values()))
    assert all(torch.equal(a, b) for a, b in zip(flat(arguments), before, strict=True))
    places = [v.untyped_storage().data_ptr() for v in (*flat(arguments), *results)]
    assert len({*places}) == len(places)


# --- errors -----------------------------------------------------------------------------------------------------------

wide = lambda v: torch.cat([v, v], dim=-1)
double = lambda v: v.double()
apart = lambda v: torch.stack([v, v], dim=-1)[..., 0]
flat = lambda v: v.flatten()
first_of = lambda change: lambda params: [change(params[0]), *params[1:]]
at = lambda index, value: lambda v: v.clone().index_fill_(0, torch.tensor([index]), value)

# op, argument, what is done to it, the error, what it says
ERRORS = [
    ("packed_layer_pair", "egcl_params", lambda p: p[:1], ValueError, "edge_b1 must be .H. with H a multiple of 16"),
    ("packed_layer_pair", "egcl_params", lambda p: p[:-1], ValueError, "params must be 12 tensors, got 11"),
    ("packed_layer_pair", "attention_params", first_of(wide), ValueError, r"q_w1 must be \[16, 16\], got \[16, 32\]"),
    ("packed_layer_pair", "turns", lambda v: v[:0], ValueError, r"turns must be .* T at least 1, got \[0, 12\]"),
    ("packed_layer_pair", "turns", wide, ValueError, r"turns must be \[3, 12\], got \[3, 24\]"),
    ("packed_layer_pair", "precision", lambda _: 3, ValueError, "precision must be 0, 1 or 2, got 3"),
    ("layer_pairs", "x", wide, ValueError, r"x must be \[N, T, 2\] or \[N, T, 3\], got \[4, 3, 6\]"),
    ("layer_pairs", "h", double, ValueError, "h must be Float, got Double"),
    ("layer_pairs", "first", at(1, 9), ValueError, "first must ascend from 0 to 7"),
    ("layer_pairs", "sender", at(2, 4), ValueError, "sender must be in 0..3, got 4 at index 2"),
    ("layer_pairs", "edge_terms", lambda v: v[:1], ValueError, "edge_terms must be none or 2 tensors, got 1"),
    ("layer_pairs", "edge_terms", first_of(wide), ValueError, r"edge_terms must be \[7, 16\], got \[7, 32\]"),
    ("layer_pairs", "shift", wide, ValueError, r"shift must be \[7, 3\], got \[7, 6\]"),
    ("layer_pairs", "packed", lambda v: [], ValueError, "packed must be one tensor at least, got none"),
    ("layer_pairs", "packed", first_of(lambda v: v[:-1].clone()), ValueError, r"packed must be \[\d+\], got \[\d+\]"),
    ("layer_pairs", "packed", first_of(double), ValueError, "packed must be Float, got Double"),
    ("layer_pairs", "phases", lambda _: 40, ValueError, r"packed must be \[\d+\], got \[\d+\]"),
    ("layer_pairs", "phases", lambda _: -1, ValueError, "phases must not be negative, got -1"),
    ("layer_pairs", "cutoff", lambda _: 0.0, ValueError, "cutoff must be finite and over 0, got 0"),
    ("layer_pairs", "window", lambda _: -1, ValueError, "window must not be negative, got -1"),
    ("layer_pairs", "precision", lambda _: 3, ValueError, "precision must be 0, 1 or 2, got 3"),
    ("egcl_forward", "x", wide, ValueError, r"x must be \[N, T, 2\] or \[N, T, 3\], got \[4, 3, 6\]"),
    ("egcl_forward", "x", flat, ValueError, r"x must be \[N, T, 2\] or \[N, T, 3\], got \[36\]"),
    ("egcl_forward", "x", double, ValueError, "x must be Float, got Double"),
    ("egcl_forward", "x", apart, ValueError, r"x must be contiguous, got strides \[18, 6, 2\]"),
    ("egcl_forward", "h", lambda h: h[..., :8], ValueError, r"H a multiple of 16 up to 256, got \[4, 3, 8\]"),
    ("egcl_forward", "h", lambda h: h.repeat(1, 1, 17), ValueError, r"up to 256, got \[4, 3, 272\]"),
    ("egcl_forward", "h", lambda h: h[:3].clone(), ValueError, r"h must be \[4, 3, 16\], got \[3, 3, 16\]"),
    ("egcl_forward", "h", torch.Tensor.bfloat16, ValueError, "h must be Float, got BFloat16"),
    ("egcl_forward", "first", torch.Tensor.int, ValueError, "first must be Long, got Int"),
    ("egcl_forward", "first", lambda v: v[1:], ValueError, r"first must be \[5\], got \[4\]"),
    ("egcl_forward", "first", at(1, 9), ValueError, "first must ascend from 0 to 7"),
    ("egcl_forward", "first", at(0, -1), ValueError, "first must ascend from 0 to 7"),
    ("egcl_forward", "first", at(4, 8), ValueError, "first must ascend from 0 to 7"),
    ("egcl_forward", "sender", at(2, 4), ValueError, "sender must be in 0..3, got 4 at index 2"),
    ("egcl_forward", "sender", at(0, -1), ValueError, "sender must be in 0..3, got -1 at index 0"),
    ("egcl_forward", "sender", torch.Tensor.float, ValueError, "sender must be Long, got Float"),
    ("egcl_forward", "edge_term", wide, ValueError, r"edge_term must be \[7, 16\], got \[7, 32\]"),
    ("egcl_forward", "edge_term", double, ValueError, "edge_term must be Float, got Double"),
    ("egcl_forward", "shift", wide, ValueError, r"shift must be \[7, 3\], got \[7, 6\]"),
    ("egcl_forward", "shift", double, ValueError, "shift must be Float, got Double"),
    ("egcl_backward", "shift", apart, ValueError, r"shift must be contiguous, got strides \[6, 2\]"),
    ("egcl_forward", "params", lambda p: p[1:], ValueError, "params must be 12 tensors, got 11"),
    ("egcl_forward", "params", lambda p: [], ValueError, "params must be 12 tensors, got 0"),
    ("egcl_forward", "params", first_of(flat), ValueError, r"edge_w1 must be \[16, 33\], got \[560\]"),
    ("egcl_forward", "params", first_of(lambda w: w[:, :32]), ValueError, r"edge_w1 must be \[16, 33\]"),
    ("egcl_forward", "params", lambda p: [*p[:-1], p[-1][:3]], ValueError, r"node_b2 must be \[16\], got \[3\]"),
    ("egcl_forward", "cutoff", lambda _: 0.0, ValueError, "cutoff must be finite and over 0, got 0"),
    ("egcl_backward", "cutoff", lambda _: math.nan, ValueError, "cutoff must be finite and over 0, got nan"),
    ("egcl_backward", "grad_x_out", wide, ValueError, r"grad_x_out must be \[4, 3, 3\], got \[4, 3, 6\]"),
    ("egcl_backward", "grad_h_out", apart, ValueError, "grad_h_out must be contiguous"),
    ("egcl_backward", "sender_first", at(1, 9), ValueError, "sender_first must ascend from 0 to 7"),
    ("egcl_backward", "by_sender", lambda v: v.flip(0), ValueError, "by_sender must hold the edges of each sender"),
    ("egcl_backward", "by_sender", at(0, 7), ValueError, "by_sender must hold the edges of each sender"),
    ("egcl_backward", "by_sender", at(0, -1), ValueError, "by_sender must hold the edges of each sender"),
    ("egcl_backward", "kept", lambda kept: kept[1:], ValueError, "kept must be 5 tensors, got 4"),
    ("egcl_backward", "kept", lambda kept: [*kept[:2], kept[2][1:], *kept[3:]], ValueError, "m_sum must be"),
    ("egcl_backward", "params", lambda p: p[1:], ValueError, "params must be 12 tensors, got 11"),
    ("gv_ff_forward", "k", lambda k: k[:, :8], ValueError, r"H a multiple of 16 up to 256, got \[9, 8\]"),
    ("gv_ff_forward", "u", wide, ValueError, r"u must be \[R, 2\] or \[R, 3\], got \[9, 6\]"),
    ("gv_ff_forward", "u", lambda u: u[1:], ValueError, r"u must be \[9, 3\], got \[8, 3\]"),
    ("gv_ff_forward", "k", double, ValueError, "k must be Float, got Double"),
    ("gv_ff_forward", "params", lambda p: p[1:], ValueError, "params must be 12 tensors, got 11"),
    ("gv_ff_forward", "params", first_of(wide), ValueError, r"vector_w1 must be \[4, 1\], got \[4, 2\]"),
    ("gv_ff_backward", "grad_q", apart, ValueError, "grad_q must be contiguous"),
    ("gv_ff_backward", "grad_w", wide, ValueError, r"grad_w must be \[9, 3\], got \[9, 6\]"),
    ("temporal_attention_forward", "x", lambda x: x[:, :0], ValueError, "x must be|h must be"),
    ("temporal_attention_forward", "turns", lambda v: v[1:], ValueError, r"turns must be \[3, 12\], got \[2, 12\]"),
    ("temporal_attention_forward", "turns", double, ValueError, "turns must be Float, got Double"),
    ("temporal_attention_forward", "window", lambda _: -1, ValueError, "window must not be negative, got -1"),
    ("temporal_attention_forward", "precision", lambda _: 3, ValueError, "precision must be 0, 1 or 2, got 3"),
    ("temporal_attention_forward", "params", lambda p: p[:-2], ValueError, "params must be 18 tensors, got 16"),
    ("temporal_attention_forward", "params", lambda p: [*p[:16], flat(p[16]), p[17]], ValueError, "time_w must be"),
    ("temporal_attention_forward", "params", lambda p: [*p[:17], p[17][1:]], ValueError, r"time_b must be \[16\]"),
    ("temporal_attention_forward", "params", first_of(wide), ValueError, r"q_w1 must be \[16, 16\], got \[16, 32\]"),
    ("temporal_attention_forward", "params", first_of(double), ValueError, "q_w1 must be Float, got Double"),
    ("temporal_attention_backward", "window", lambda _: -2, ValueError, "window must not be negative, got -2"),
    ("temporal_attention_backward", "grad_h_out", double, ValueError, "grad_h_out must be Float, got Double"),
    ("temporal_attention_backward", "kept", first_of(wide), ValueError, "q must be"),
    ("temporal_attention_backward", "kept", lambda kept: [*kept[:4], wide(kept[4])], ValueError, "gate must be"),
    ("temporal_attention_backward", "kept", lambda kept: [], ValueError, "kept must be 5 tensors, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "argument", "change", "error", "message"), ERRORS)
def test_errors_name_op_argument_expected_and_got(op, argument, change, error, message):
    arguments = ARGUMENTS[op]()
    arguments[argument] = change(arguments[argument])
    with pytest.raises(error, match=rf"{op}: .*({message})"):
        getattr(torch.ops.geotdm_fast, op)(*arguments.values())


def test_another_device_is_named():
    """By the CPU's own implementation: torch gives tensors on two devices to that of the other one."""
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    arguments = gv_ff_forward_arguments() | {"u": torch.zeros(9, 3, device="meta")}
    with pytest.raises(ValueError, match="gv_ff_forward: u must be on cpu, got meta"):
        torch.ops.geotdm_fast.gv_ff_forward.default.redispatch(cpu, *arguments.values())


def test_no_frame_is_refused_by_the_temporal_op():
    arguments = temporal_attention_forward_arguments()
    arguments |= {"x": arguments["x"][:, :0].clone(), "h": arguments["h"][:, :0].clone()}
    with pytest.raises(
        ValueError, match=r"temporal_attention_forward: x must have at least one frame, got \[4, 0, 2\]"
    ):
        torch.ops.geotdm_fast.temporal_attention_forward(*arguments.values())


# --- where memory is out ----------------------------------------------------------------------------------------------


def test_memory_that_is_out_is_told_as_such():
    """So that sampling draws smaller batches."""
    message = r"not enough memory for a tensor \[10, 281474976710656\]"
    with pytest.raises(MemoryError, match=message) as caught:
        torch.ops.geotdm_fast.radius_neighbours(torch.rand(5, 2, 3), None, 1.0, 2**48, False)
    assert is_out_of_memory(caught.value)


# 64 MiB of features, and a process that may have 32 MiB more: no room for the results.
LITTLE_MEMORY = """
import resource
import torch
from geotdm_fast.runtime.memory import is_out_of_memory
from native_cases import egcl_params, gv_ff_params, temporal_params

rows = 2**20
x, h, none = torch.zeros(rows, 1, 3), torch.zeros(rows, 1, 16), torch.zeros(0, dtype=torch.int64)
first, turns = torch.zeros(rows + 1, dtype=torch.int64), torch.zeros(1, 12)
op = torch.ops.geotdm_fast
weights = [*egcl_params(16)], [*gv_ff_params(16)], [*temporal_params(16)]
options = (True, False, None, True, False, False)
calls = {
    "egcl": lambda: op.egcl_forward(x, h, first, none, None, None, weights[0], *options),
    "gv_ff": lambda: op.gv_ff_forward(h[:, 0], x[:, 0], weights[1], False),
    "temporal_attention": lambda: op.temporal_attention_forward(x, h, turns, weights[2], 1, False, 0),
}
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25, resource.RLIM_INFINITY))
for name, call in calls.items():
    try:
        call()
        print(name, "had room")
    except Exception as error:
        print(name, is_out_of_memory(error), type(error).__name__, error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux how much memory a process has")
def test_memory_that_is_out_for_results_is_told_as_such():
    done = warm_python.run("-c", LITTLE_MEMORY)
    said = "True MemoryError not enough memory for a tensor"
    shapes = {"egcl": "[1048576, 1, 16]", "gv_ff": "[1048576, 16]", "temporal_attention": "[1048576, 1, 16]"}
    assert done.stdout.splitlines() == [f"{name} {said} {shape}" for name, shape in shapes.items()], done.stderr
