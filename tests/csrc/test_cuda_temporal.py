"""The CUDA temporal op against the float64 reference: on a GPU, or its kernels emulated on the host."""

import emulated_build
import emulated_temporal
import pytest
import torch
from native_cases import (
    TEMPORAL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    by_layer,
    cotangents_of,
    draw,
    poisoned,
    results,
    temporal_attention,
    temporal_params,
)
from tolerances import ROUNDOFF, TIMES_PLAIN, assert_as_accurate, assert_same

from geotdm_fast import backend
from geotdm_fast.reference import TemporalAttentionParams

PRECISIONS = ("fp32", "tf32", "bf16")
pytestmark = [pytest.mark.usefixtures("poisoned"), pytest.mark.recorded("emulated cuda")]
assert poisoned


def needs_gpu(test):
    """What no emulation can show."""
    missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")
    return pytest.mark.gpu(missing(test))


# (nodes, frames, D, H, E): tiles that are full, nearly so and just over, and padding of every kind.
SIZES = [
    (0, 5, 3, 32, 13),
    (1, 1, 2, 32, 1),
    (7, 1, 3, 48, 2),
    (9, 2, 3, 33, 13),
    (3, 5, 2, 64, 32),
    (7, 8, 3, 32, 13),
    (2, 15, 3, 16, 7),
    (3, 16, 2, 32, 33),
    (2, 17, 3, 100, 13),
    (3, 30, 3, 64, 32),
    (2, 31, 2, 33, 2),
    (2, 32, 3, 32, 1),
    (1, 33, 3, 48, 13),
    (2, 64, 2, 32, 13),
    (1, 65, 3, 32, 6),
    (1, 100, 3, 16, 13),
    (2, 9, 3, 128, 32),
    (1, 12, 2, 256, 13),
]


@pytest.fixture
def op(device):
    """The op on CUDA tensors, or emulated on CPU tensors; both run the reference in its `backend` block."""
    if device == "cuda":
        return temporal_attention
    if emulated_build.missing:
        pytest.skip(f"the emulation cannot be compiled here: {emulated_build.missing}")
    return emulated_temporal.temporal_attention


def inputs_of(device, num_nodes, num_frames, dim, width, time_emb_dim=13):
    drawn = [
        draw(num_nodes, num_frames, dim),
        draw(num_nodes, num_frames, width),
        *temporal_params(width, time_emb_dim),
    ]
    return [v.to(device) for v in drawn]


def check(op, device, sizes, precision="fp32", draws=1, **flags):
    inputs = bind(inputs_of, device, *sizes)
    exact = bind(op, **flags)
    ours = bind(op, precision=precision, **flags)
    assert_native_as_accurate(ours, inputs, TEMPORAL_NAMES, precision, exact, draws=draws)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "-".join(map(str, s)))
def test_sizes(sizes, precision, op, device):
    check(op, device, sizes, precision, draws=3 if precision == "fp32" else 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("frames", [[4], [3, 4, 5, 6], [0, 2, 3, 7, 40], [*range(10), *range(25, 47)]], ids=len)
def test_frames_with_gaps(frames, precision, op, device):
    draws = 9 if precision == "fp32" else 1  # few numbers, as in native_cases.py
    check(op, device, (3, len(frames), 3, 32), precision, draws, frames=frames)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("num_frames", "window"), [(5, 0), (17, 1), (33, 3), (40, 16), (70, 17), (70, 40), (9, 8), (9, 9), (9, 45)]
)
def test_windows(num_frames, window, precision, op, device):
    check(op, device, (2, num_frames, 3, 32), precision, window=window)


@pytest.mark.parametrize("num_frames", [1, 16, 33, 65])
def test_a_window_over_all_frames_is_full_attention(num_frames, op, device):
    inputs = inputs_of(device, 2, num_frames, 3, 32)
    cotangents = cotangents_of(inputs)
    full = results(op, inputs, cotangents)
    for window in (num_frames - 1, num_frames, 5 * num_frames):
        assert_same_bits(results(bind(op, window=window), inputs, cotangents), full, TEMPORAL_NAMES)


def test_no_frame_sees_itself_alone_but_in_a_window_of_none(op, device):
    """Window 0: alpha is one, so x stays, and h moves by v + psi(0)."""
    x, h, *params = inputs_of(device, 3, 20, 3, 32)
    x_out, h_out = op(x, h, *params, window=0)
    assert torch.equal(x_out, x)
    one_frame = op(x.reshape(-1, 1, 3), h.reshape(-1, 1, 32), *params)[1]
    assert_same(h_out, one_frame.view_as(h), 1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_frames", [20, 70])
def test_points_in_one_place_stay_there(num_frames, precision, op, device):
    x, *others = inputs_of(device, 2, num_frames, 3, 32)
    x = x[:, :1].expand(-1, num_frames, -1).contiguous()
    assert torch.equal(op(x, *others, precision=precision)[0], x)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_frames", [20, 70])
def test_far_from_the_origin_no_digits_are_lost(num_frames, precision, op, device):
    """2^20 from the origin positions are multiples of 1/8; the shift is as exact as they are."""
    x, *others = inputs_of(device, 2, num_frames, 3, 32)
    far_x = x + 2.0**20
    near_x = far_x - 2.0**20
    near = op(near_x, *others, precision=precision)[0] - near_x
    far = op(far_x, *others, precision=precision)[0] - far_x
    assert (far - near).abs().max() <= 2.0**-4 * 1.001  # half a step


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_frames", [17, 70])
def test_sharp_attention(num_frames, precision, op, device):
    """Logits of +-50: the softmax is nearly one-hot and neither overflows nor divides by zero."""
    inputs = inputs_of(device, 2, num_frames, 3, 32)
    for name in ("q_w2", "k_w2"):
        inputs[TEMPORAL_NAMES.index(name)] *= 6
    ours = op(*inputs, precision=precision)
    with backend("reference"):
        plain = op(*inputs, precision=precision)
        exact = op(*(v.double() for v in inputs))
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert_as_accurate(a, b, c, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_huge_features_stay_finite(precision, op, device):
    inputs = inputs_of(device, 2, 33, 3, 32)
    inputs[1] *= 1e3
    values = results(bind(op, precision=precision), inputs, cotangents_of(inputs))
    assert all(v.isfinite().all() for v in values)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("num_frames", [9, 40])
def test_every_run_gives_the_same_bits(num_frames, precision, op, device):
    inputs = inputs_of(device, 9, num_frames, 3, 32)
    cotangents = cotangents_of(inputs)
    run = lambda: results(bind(op, precision=precision), inputs, cotangents)
    first = run()
    assert_same_bits(run(), first, TEMPORAL_NAMES)
    for order in emulated_temporal.ORDERS[1:] if device == "cpu" else ():
        with emulated_temporal.order(order, 5):
            assert_same_bits(run(), first, TEMPORAL_NAMES)


@emulated_build.needs_emulation
@pytest.mark.parametrize("sizes", [(9, 30, 3, 128, 32), (1, 1, 2, 100, 13), (33, 5, 3, 64, 7), (3, 32, 3, 48, 13)])
@pytest.mark.parametrize("window", [None, 2])
def test_products_of_warpgroups_change_no_bit(sizes, window):
    """The kernel for compute capability 9.0 against the one for every GPU; the emulation sums both in one order."""
    inputs = inputs_of("cpu", *sizes)
    run = lambda: emulated_temporal.temporal_attention(*inputs, window=window, precision="bf16")
    ours = run()
    with emulated_temporal.without_warpgroups():
        assert_same_bits(run(), ours, [])


@pytest.mark.parametrize("which", [0, 1])
def test_gradient_of_one_output_alone(which, op, device):
    """The other output's gradient is zero; this one's is expanded from a scalar."""
    inputs = inputs_of(device, 3, 20, 3, 32)
    leaves = [v.clone().requires_grad_() for v in inputs]
    ours = torch.autograd.grad(op(*leaves)[which].sum(), leaves)
    exact = [v.double().requires_grad_() for v in inputs]
    with backend("reference"):
        loss = op(*exact)[which].sum()
    expected = torch.autograd.grad(loss, exact, allow_unused=True, materialize_grads=True)
    ours, expected = by_layer(TEMPORAL_NAMES, ours), by_layer(TEMPORAL_NAMES, expected)
    for name in expected:
        assert_same(ours[name], expected[name], 5e-6, floor=1e-3, what=name)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_rounds_as_the_reference_does(precision, op, device):
    """Nearer to the reference with rounded factors than a roundoff; farther from the exact one than float32 is."""
    inputs = inputs_of(device, 3, 30, 3, 64)
    ours = op(*inputs, precision=precision)
    with backend("reference"):
        exact = op(*(v.double() for v in inputs))
        rounded = op(*(v.double() for v in inputs), precision=precision)
    for a, b, c in zip(ours, rounded, exact, strict=True):
        error = float((a - c).norm() / c.norm())
        assert_same(a, b, TIMES_PLAIN * ROUNDOFF[precision])
        assert error > 20 * ROUNDOFF["fp32"]


def test_nodes_do_not_meet(op, device):
    """What is NaN in one node is NaN there alone."""
    inputs = inputs_of(device, 9, 5, 3, 32)
    inputs[1][4, 2] = float("nan")
    x_out, h_out = op(*inputs)
    expected = [node == 4 for node in range(9)]
    assert h_out.isnan().any(dim=(1, 2)).tolist() == expected == x_out.isnan().any(dim=(1, 2)).tolist()


@needs_gpu
def test_the_kernels_run_and_not_the_reference():
    """The op must not fall back behind these tests' back."""
    inputs = inputs_of("cuda", 3, 9, 3, 32)
    for precision in PRECISIONS:
        with torch.profiler.profile() as profile:
            results(bind(temporal_attention, precision=precision), inputs, cotangents_of(inputs))
        called = {event.key for event in profile.key_averages()}
        names = {f"geotdm_fast::temporal_attention_{direction}" for direction in ("forward", "backward")}
        assert names <= called and not [name for name in called if "softmax" in name]


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_peak_memory_is_linear_in_frames(precision):
    """Forward and backward: no [N, T, T], here 128 MiB for each of its like."""

    def peak(num_frames):
        inputs = inputs_of("cuda", 8, num_frames, 3, 32)
        cotangents = cotangents_of(inputs)
        run = lambda: results(bind(temporal_attention, precision=precision), inputs, cotangents)
        run()  # what is made once
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before

    assert peak(2048) < 4.2 * peak(512)
    assert peak(2048) < 8 * 2048 * 2048 * 4


@needs_gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_most_frames_that_there_may_be(precision):
    inputs = inputs_of("cuda", 1, 4096, 3, 32)
    assert_native_as_accurate(
        bind(temporal_attention, precision=precision), lambda: inputs, TEMPORAL_NAMES, precision, temporal_attention
    )


@needs_gpu
def test_rows_beyond_2_to_the_31_numbers():
    """The last nodes of h, whose numbers begin at 2^31, give what they give alone."""
    torch.use_deterministic_algorithms(False)
    width, num_frames, num_nodes = 256, 16, 2**19 + 64
    params = [v.cuda() for v in temporal_params(width)]
    x, h = (torch.zeros(num_nodes, num_frames, size, device="cuda") for size in (3, width))
    assert h.numel() > 2**31
    x[-5:], h[-5:] = draw(5, num_frames, 3), draw(5, num_frames, width)
    with torch.no_grad():
        found = temporal_attention(x, h, *params, precision="bf16")
        alone = temporal_attention(x[-5:], h[-5:], *params, precision="bf16")
    for a, b in zip(found, alone, strict=True):
        assert_same(a[-5:], b, 1e-6)


def test_params_are_in_the_order_of_the_header():
    header = (emulated_build.CUDA / "temporal_attention.h").read_text()
    listed = header[header.index("enum Param {") : header.index("kNumParams")].split("{")[1]
    names = [name.strip()[1:].replace("Time", "time_").lower() for name in listed.split(",") if name.strip()]
    spelled = [name if name.startswith("time") else f"{name[0]}_{name[1:]}" for name in names]
    assert tuple(spelled) == TemporalAttentionParams._fields
