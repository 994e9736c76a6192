"""The emulated CUDA temporal op where a b + c is rounded once, as nvcc compiles it: `make gpu-dry`."""

import emulated_build
import emulated_temporal
import pytest
from native_cases import TEMPORAL_NAMES, assert_same_bits, bind, cotangents_of, results
from test_cuda_temporal import check, inputs_of
from test_cuda_temporal import test_no_frame_sees_itself_alone_but_in_a_window_of_none as window_of_none

pytestmark = [
    pytest.mark.dry,
    pytest.mark.skipif(
        emulated_build.why_not_contracted() is not None, reason=f"{emulated_build.why_not_contracted()}"
    ),
]
PLAIN = emulated_build.kernels
PRECISIONS = ("fp32", "bf16")


@pytest.fixture
def op(monkeypatch):
    """The op by these kernels; the reference in its `backend` block."""
    monkeypatch.setattr(emulated_build, "kernels", emulated_build.contracted_kernels)
    return emulated_temporal.temporal_attention


def test_sums_are_rounded_once(op):
    """Another rounding than that of the kernels without: else these tests show nothing."""
    inputs = inputs_of("cpu", 7, 8, 3, 32)
    once = op(*inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulated_build, "kernels", PLAIN)
        twice = op(*inputs)
    assert all((a != b).any() for a, b in zip(once, twice, strict=True))


def test_products_that_must_cancel_do(op):
    window_of_none(op, "cpu")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", [(7, 8, 3, 32, 13), (3, 30, 2, 32, 7), (1, 65, 3, 17, 6), (2, 9, 3, 128, 32)])
def test_sizes(sizes, precision, op):
    check(op, "cpu", sizes, precision, draws=3 if precision == "fp32" else 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("num_frames", "window"), [(5, 0), (17, 1), (40, 16)])
def test_windows(num_frames, window, precision, op):
    check(op, "cpu", (2, num_frames, 3, 32), precision, window=window)


def test_every_run_gives_the_same_bits(op):
    inputs = inputs_of("cpu", 3, 17, 3, 32)
    cotangents = cotangents_of(inputs)
    run = lambda: results(bind(op, precision="bf16"), inputs, cotangents)
    assert_same_bits(run(), run(), TEMPORAL_NAMES)
