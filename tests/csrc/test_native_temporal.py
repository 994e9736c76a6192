"""The compiled temporal op against the float64 reference: every gradient, sizes around its blocks."""

import time
import timeit

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_cases import (
    DRAWS,
    TEMPORAL_NAMES,
    assert_native_as_accurate,
    assert_same_bits,
    bind,
    by_layer,
    cotangents_of,
    draw,
    needs_native,
    on_threads,
    peak_memory,
    poisoned,  # noqa: F401 - a fixture
    results,
    temporal_attention,
    temporal_inputs,
)
from tolerances import assert_same

from geotdm_fast import backend

pytestmark = [needs_native, pytest.mark.usefixtures("poisoned")]


def check(num_nodes, num_frames, dim, width, window=None):
    inputs = bind(temporal_inputs, num_nodes, num_frames, dim, width)
    draws = 4 * DRAWS if num_nodes * num_frames * width < 500 else DRAWS
    assert_native_as_accurate(bind(temporal_attention, window=window), inputs, TEMPORAL_NAMES, draws=draws)


@pytest.mark.parametrize("width", [16, 32, 48, 64, 96, 112, 128, 256])
@pytest.mark.parametrize(("num_frames", "dim"), [(9, 3), (50, 2)])
def test_widths(width, num_frames, dim):
    check(3, num_frames, dim, width)


@pytest.mark.parametrize(
    "num_frames", [1, 2, 15, 16, 17, 29, 30, 31, 32, 33, 47, 48, 49, 50, 59, 60, 61, 62, 64, 95, 96, 97, 120, 130]
)
def test_frames(num_frames):
    check(3, num_frames, 2 + num_frames % 2, 48)


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 17, 40])
@pytest.mark.parametrize("num_frames", [1, 5])
def test_nodes(num_nodes, num_frames):
    check(num_nodes, num_frames, 3, 16)


@settings(derandomize=True, deadline=None, max_examples=15, database=None)
@given(
    num_nodes=st.integers(1, 6),
    num_frames=st.integers(1, 110),
    dim=st.integers(2, 3),
    width=st.sampled_from([16, 32, 48, 80]),
)
def test_random_shapes(num_nodes, num_frames, dim, width):
    torch.manual_seed(0)
    check(num_nodes, num_frames, dim, width)


@pytest.mark.parametrize(
    ("num_frames", "window"),
    [
        (num_frames, window)
        for num_frames in (3, 49, 129, 191)
        for window in (0, 1, 2, 15, 16, 31, 33, 47, 48, 49, 80, 127)
        if window < num_frames  # a wider one changes no bit, below
    ],
)
def test_windows(num_frames, window):
    check(2, num_frames, 2 + num_frames % 2, 48, window)


@pytest.mark.parametrize("num_frames", [1, 2, 49, 130])
def test_a_window_that_reaches_every_frame_changes_no_bit(num_frames):
    inputs = temporal_inputs(3, num_frames, 3, 32)
    cotangents = cotangents_of(inputs)
    expected = results(temporal_attention, inputs, cotangents)
    for window in (num_frames - 1, num_frames, 10**30):
        ours = results(bind(temporal_attention, window=window), inputs, cotangents)
        assert_same_bits(ours, expected, TEMPORAL_NAMES)


def test_a_frame_sees_nothing_outside_its_window():
    """Frame 100 with window 7 depends, to the last bit, on the frames 93 .. 107 alone, wherever they lie in a block."""
    inputs = temporal_inputs(2, 200, 3, 32)
    op = bind(temporal_attention, window=7)
    expected = op(*inputs)
    for outside in (slice(0, 93), slice(108, 200)):
        others = [v.clone() for v in inputs]
        others[1][:, outside] = draw(*others[1][:, outside].shape)
        others[0][:, outside] += 1
        others[0][:, 0] = inputs[0][:, 0]  # positions are measured from it
        assert all(torch.equal(a[:, 100], b[:, 100]) for a, b in zip(op(*others), expected, strict=True))


def test_work_is_linear_in_frames_with_a_window():
    """Four times the frames take about four times the CPU time, not sixteen, by the fastest of several runs."""
    op = bind(temporal_attention, window=16)

    def seconds(num_frames):
        inputs = temporal_inputs(1, num_frames, 3, 16)
        cotangents = cotangents_of(inputs)
        return min(timeit.repeat(lambda: results(op, inputs, cotangents), number=1, repeat=5, timer=time.process_time))

    seconds(64)  # what is made once
    assert seconds(16384) < 8 * seconds(4096)


def test_sharp_attention():
    """Logits of +-50: the softmax is nearly one-hot and neither overflows nor divides by zero."""
    inputs = temporal_inputs(2, 33, 3, 32)
    for name in ("q_w2", "k_w2"):
        inputs[TEMPORAL_NAMES.index(name)] *= 6
    ours = temporal_attention(*inputs)
    with backend("reference"):
        plain, exact = (temporal_attention(*(v.to(t) for v in inputs)) for t in (torch.float32, torch.float64))
    for a, b, c in zip(ours, plain, exact, strict=True):
        allowed = 2 * float((b - c).norm() / c.norm()) + 1e-6
        assert_same(a, c, allowed)


def test_huge_features_stay_finite():
    inputs = temporal_inputs(2, 33, 3, 32)
    inputs[1] *= 1e3
    leaves = [v.requires_grad_() for v in inputs]
    outputs = temporal_attention(*leaves)
    gradients = torch.autograd.grad(sum(v.sum() for v in outputs), leaves)
    assert all(v.isfinite().all() for v in (*outputs, *gradients))


def test_points_in_one_place_stay_there():
    inputs = temporal_inputs(3, 49, 3, 32)
    inputs[0] = inputs[0][:, :1].expand(-1, 49, -1)
    x_out, _ = temporal_attention(*inputs)
    assert torch.equal(x_out, inputs[0])


def test_far_from_the_origin_no_digits_are_lost():
    """2^20 from the origin positions are multiples of 1/8; the shift is as exact as they are."""
    inputs = temporal_inputs(3, 20, 3, 32)
    far_x = inputs[0] + 2.0**20
    near_x = far_x - 2.0**20
    near = temporal_attention(near_x, *inputs[1:])[0] - near_x
    far = temporal_attention(far_x, *inputs[1:])[0] - far_x
    assert (far - near).abs().max() <= 2.0**-4 * 1.001  # half a step


def test_views_and_slices_give_the_same_bits():
    inputs = temporal_inputs(3, 50, 3, 32)
    cotangents = cotangents_of(inputs)
    expected = results(temporal_attention, inputs, cotangents)

    def strided(v):
        wide = torch.stack([v, torch.full_like(v, float("nan"))], dim=-1)[..., 0]
        return wide.transpose(0, -1).contiguous().transpose(0, -1) if v.dim() > 1 else wide

    views = [strided(v) for v in inputs]
    assert not any(v.is_contiguous() for v in views if v.numel() > v.shape[-1] > 1)
    assert_same_bits(results(temporal_attention, views, [strided(c) for c in cotangents]), expected, TEMPORAL_NAMES)


def test_gradient_of_one_output_alone():
    """The other output's gradient is absent; this one's is expanded from a scalar."""
    inputs = temporal_inputs(3, 50, 3, 32)
    for which in (0, 1):
        leaves = [v.clone().requires_grad_() for v in inputs]
        ours = torch.autograd.grad(temporal_attention(*leaves)[which].sum(), leaves)
        exact = [v.detach().double().requires_grad_() for v in inputs]
        with backend("reference"):
            loss = temporal_attention(*exact)[which].sum()
        expected = torch.autograd.grad(loss, exact, allow_unused=True, materialize_grads=True)
        ours, expected = by_layer(TEMPORAL_NAMES, ours), by_layer(TEMPORAL_NAMES, expected)
        for name in expected:
            assert_same(ours[name], expected[name], 5e-6, floor=1e-3, what=name)


def test_only_some_inputs_require_a_gradient():
    inputs = temporal_inputs(3, 10, 3, 32)
    cotangents = cotangents_of(inputs)
    expected = dict(zip(TEMPORAL_NAMES, results(temporal_attention, inputs, cotangents)[2:], strict=True))
    for names in (["x"], ["h"], ["time_w"], ["q_w1", "x_b2"]):
        leaves = {n: v.clone().requires_grad_(n in names) for n, v in zip(TEMPORAL_NAMES, inputs, strict=True)}
        outputs = temporal_attention(*leaves.values())
        gradients = torch.autograd.grad(outputs, [leaves[n] for n in names], cotangents)
        assert all(torch.equal(g, expected[n]) for n, g in zip(names, gradients, strict=True))


@pytest.mark.parametrize(("num_nodes", "num_frames", "window"), [(37, 31, None), (5, 130, None), (5, 130, 20)])
def test_same_bits_for_any_number_of_threads_and_every_run(num_nodes, num_frames, window):
    inputs = temporal_inputs(num_nodes, num_frames, 3, 48)
    cotangents = cotangents_of(inputs)
    run = lambda: results(bind(temporal_attention, window=window), inputs, cotangents)
    first = run()
    for count in (1, 2, 3, 2):
        assert_same_bits(on_threads(count, run), first, TEMPORAL_NAMES)


def test_number_of_threads_may_change_before_the_backward():
    inputs = temporal_inputs(5, 61, 3, 32)
    cotangents = cotangents_of(inputs)
    expected = results(temporal_attention, inputs, cotangents)
    leaves = [v.clone().requires_grad_() for v in inputs]
    outputs = on_threads(1, lambda: temporal_attention(*leaves))
    gradients = on_threads(3, lambda: torch.autograd.grad(outputs, leaves, cotangents))
    assert_same_bits([*outputs, *gradients], expected, TEMPORAL_NAMES)


def test_peak_memory_is_linear_in_frames(tmp_path):
    def peak(num_frames):
        inputs = temporal_inputs(2, num_frames, 3, 32)
        cotangents = cotangents_of(inputs)
        return peak_memory(lambda: results(temporal_attention, inputs, cotangents), tmp_path / "trace.json")

    peak(4)  # what is made once
    assert peak(2048) < 4.2 * peak(512)
