"""The binding of the CUDA op, csrc/cuda/ops.cpp: what it refuses, what it allocates; with emulated kernels, on the CPU.

Compiled so it takes CPU tensors and has a dispatch key of its own, by which the tests call it.
"""

import emulated_build
import emulated_temporal
import pytest
import torch
from native_cases import assert_same_bits, needs_native, poisoned, temporal_inputs

pytestmark = [needs_native, emulated_build.needs_emulation, pytest.mark.usefixtures("poisoned")]
pytestmark += [pytest.mark.recorded("emulated cuda")]
assert poisoned

NODES, FRAMES, DIM, WIDTH, TIME_EMB_DIM = 3, 5, 3, 32, 13
KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


@pytest.fixture(scope="module", autouse=True)
def binding():
    emulated_build.load_binding()


def call(direction: str, *arguments):
    return getattr(torch.ops.geotdm_fast, f"temporal_attention_{direction}").default.redispatch(KEY, *arguments)


def forward_arguments(num_nodes=NODES, window=FRAMES, precision=0) -> dict:
    x, h, *params = temporal_inputs(num_nodes, FRAMES, DIM, WIDTH)
    table = emulated_temporal.turns(range(FRAMES), TIME_EMB_DIM)
    return {"x": x, "h": h, "turns": table, "params": params, "window": window, "keep": False, "precision": precision}


def backward_arguments(**changes) -> dict:
    made = forward_arguments(**changes)
    del made["keep"]
    x, h = torch.randn_like(made["x"]), torch.randn_like(made["h"])
    return (
        {"grad_x_out": x, "grad_h_out": h}
        | made
        | {"kept": [], "window": made["window"], "precision": made["precision"]}
    )


def ordered(made: dict) -> list:
    """`kept` stands before the window."""
    names = [name for name in made if name not in ("kept", "window", "keep", "precision")]
    return [*(made[n] for n in names), *(made[n] for n in ("kept", "window", "keep", "precision") if n in made)]


@pytest.mark.parametrize("precision", [0, 1, 2])
@pytest.mark.parametrize("num_nodes", [0, NODES])
def test_it_gives_what_the_functions_give(num_nodes, precision):
    made = backward_arguments(num_nodes=num_nodes, window=2, precision=precision)
    x, h, params = made["x"], made["h"], made["params"]
    flags = {"window": 2, "precision": emulated_temporal.PRECISIONS[precision]}
    forward = [made[n] for n in ("x", "h", "turns", "params", "window")]
    x_out, h_out, kept = call("forward", *forward, False, precision)
    assert kept == []
    assert_same_bits([x_out, h_out], [*emulated_temporal.Call(x, h, params, **flags).forward()], [])
    grad_x, grad_h, grad_params = call("backward", *ordered(made))
    expected = emulated_temporal.Call(x, h, params, **flags).backward(made["grad_x_out"], made["grad_h_out"])
    for a, b in zip([grad_x, grad_h, *grad_params], expected, strict=True):
        assert torch.equal(a, b)


def test_a_view_that_begins_anywhere_is_taken():
    made = forward_arguments()
    expected = call("forward", *made.values())[:2]
    moved = lambda v: torch.cat([v.new_zeros(1), v.flatten()])[1:].view(v.shape)
    views = {name: moved(made[name]) for name in ("x", "h", "turns")} | {"params": [*map(moved, made["params"])]}
    assert views["h"].data_ptr() % 16 == 4
    assert_same_bits([*call("forward", *(made | views).values())[:2]], [*expected], [])


def with_param(made: dict, index: int, value: torch.Tensor) -> dict:
    return {"params": [*made["params"][:index], value, *made["params"][index + 1 :]]}


WRONG = [
    (lambda m: {"x": m["x"][0]}, r"x must be \[N, T, 2\] or \[N, T, 3\], got \[5, 3\]"),
    (lambda m: {"x": m["x"][..., :1]}, r"x must be \[N, T, 2\] or \[N, T, 3\], got \[3, 5, 1\]"),
    (lambda m: {"x": m["x"][:, :0]}, "x must have 1 to 4096 frames, got 0"),
    (lambda m: {"x": m["x"].double()}, r"x must be \[N, T, D\] float32, got \[3, 5, 3\] Double"),
    (lambda m: {"h": torch.zeros(3, 5, 257)}, r"h must be \[N, T, H\] with H from 1 to 256, got \[3, 5, 257\]"),
    (lambda m: {"h": m["h"][:2]}, r"h must be \[N, T, H\] with N and T of x float32, got \[2, 5, 32\] Float"),
    (lambda m: {"h": m["h"].transpose(0, 1).contiguous().transpose(0, 1)}, "h must be contiguous, got strides"),
    (lambda m: {"h": m["h"].to("meta")}, "h must be on cpu, the same device as x, got meta"),
    (lambda m: {"turns": m["turns"][:, :2]}, r"turns must be \[5, 12\] float32, got \[5, 2\] Float"),
    (lambda m: {"params": m["params"][:3]}, "params must be 18 tensors, got 3"),
    (lambda m: with_param(m, 2, torch.zeros(32, 31)), r"q_w2 must be \[32, 32\] float32, got \[32, 31\] Float"),
    (lambda m: with_param(m, 14, torch.zeros(2, 32)), r"x_w2 must be \[1, 32\] float32, got \[2, 32\] Float"),
    (
        lambda m: with_param(m, 16, torch.zeros(32, 129)),
        r"time_w must be \[H, E\] with E from 1 to 33, got \[32, 129\]",
    ),
    (lambda m: {"window": -1}, "window must be at least 0, got -1"),
    (lambda m: {"precision": 3}, r"precision must be 0 \(fp32\), 1 \(tf32\) or 2 \(bf16\), got 3"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_arguments_are_named(change, message):
    made = forward_arguments()
    with pytest.raises(ValueError, match=f"^temporal_attention_forward: {message}"):
        call("forward", *(made | change(made)).values())


def test_wrong_arguments_of_the_backward_are_named():
    for change, message in (
        ({"grad_x_out": torch.zeros(3, 5, 2)}, r"grad_x_out must be \[3, 5, 3\] float32, got \[3, 5, 2\] Float"),
        ({"grad_h_out": torch.zeros(3, 5, 2)}, r"grad_h_out must be \[3, 5, 32\] float32, got \[3, 5, 2\] Float"),
        ({"kept": [torch.zeros(1)]}, "kept must be empty, got 1 tensors"),
        ({"window": -1}, "window must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=f"^temporal_attention_backward: {message}"):
            call("backward", *ordered(backward_arguments() | change))
