"""The mean of the learned prior: the reference is its formula, and the Triton kernels are as accurate as it."""

import pytest
import torch
from native_cases import draw, poisoned
from tolerances import SAME, assert_as_accurate, assert_same

from geotdm_fast import backend, ops, reference

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned


def inputs_of(num_nodes, num_frames, dim, width, num_out, device):
    """y far from the origin, z, ws."""
    drawn = (draw(num_nodes, num_frames, dim) + 5, draw(num_nodes, num_frames, width), draw(num_out))
    return [value.to(device) for value in drawn]


def results(inputs, name="reference", dtype=torch.float32):
    """x_ref, and the gradients of y, z and ws."""
    inputs = [value.to(dtype).requires_grad_() for value in inputs]
    with backend(name):
        x_ref = ops.reference_frame(*inputs)
    cotangent = torch.linspace(-1, 1, x_ref.numel(), dtype=dtype, device=x_ref.device).cos().view(x_ref.shape)
    return [x_ref, *torch.autograd.grad(x_ref, inputs, cotangent)]


def test_the_reference_is_the_formula():
    """A loop over nodes, noisy frames and given frames."""
    y, z, ws = (value.double() for value in inputs_of(2, 4, 3, 5, 3, "cpu"))
    expected = torch.empty(2, 3, 3, dtype=torch.float64)
    for i in range(2):
        for s in range(3):
            weights = [float(ws[s] * z[i, t].mean()) for t in range(3)]
            weights.append(1 - sum(weights))
            expected[i, :, s] = sum(weight * y[i, t] for t, weight in enumerate(weights))
    assert_same(reference.reference_frame(y, z, ws), expected, SAME)


@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "dim", "width", "num_out"),
    [(5, 10, 3, 16, 20), (3, 1, 2, 48, 1), (7, 33, 3, 20, 17), (1, 16, 2, 16, 16)],
)
def test_the_kernels_are_as_accurate_as_the_reference(num_nodes, num_frames, dim, width, num_out, device):
    inputs = inputs_of(num_nodes, num_frames, dim, width, num_out, device)
    exact, plain, ours = results(inputs, dtype=torch.float64), results(inputs), results(inputs, "triton")
    for name, a, b, c in zip(("x_ref", "grad y", "grad z", "grad ws"), ours, plain, exact, strict=True):
        assert_as_accurate(a, b, c, "fp32", what=name)
    for a, b in zip(ours, results(inputs, "triton"), strict=True):
        assert torch.equal(a, b)


def test_no_node(device):
    x_ref, grad_y, grad_z, grad_ws = results(inputs_of(0, 3, 3, 16, 4, device), "triton")
    assert x_ref.shape == (0, 3, 4) and grad_y.shape == (0, 3, 3) and grad_z.shape == (0, 3, 16)
    assert not grad_ws.any()


def test_other_dtypes_run_the_reference(device):
    inputs = [value.double() for value in inputs_of(2, 3, 3, 16, 4, device)]
    with backend("triton"):
        assert torch.equal(ops.reference_frame(*inputs), reference.reference_frame(*inputs))
