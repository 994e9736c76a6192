"""The mean of the learned prior: the reference is its formula, and the Triton kernels are as accurate as it."""

import pytest
import torch
from native_cases import draw, needs_native, on_threads, poisoned
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


SIZES = pytest.mark.parametrize(
    ("num_nodes", "num_frames", "dim", "width", "num_out"),
    [(5, 10, 3, 16, 20), (3, 1, 2, 48, 1), (7, 33, 3, 20, 17), (1, 16, 2, 16, 16)],
)


@SIZES
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


@needs_native
@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "dim", "width", "num_out"), [*SIZES.args[1], (3, 1000, 3, 16, 5), (2, 100, 2, 2000, 3)]
)
def test_the_module_is_as_accurate_as_the_reference_for_any_number_of_threads(
    num_nodes, num_frames, dim, width, num_out, monkeypatch
):
    inputs = inputs_of(num_nodes, num_frames, dim, width, num_out, "cpu")
    exact, plain = reference.reference_frame(*(value.double() for value in inputs)), reference.reference_frame(*inputs)
    monkeypatch.setattr(reference, "reference_frame", None)
    x_ref = ops.reference_frame(*inputs)
    assert_as_accurate(x_ref, plain, exact, "fp32")
    apart = [value.transpose(0, 1).contiguous().transpose(0, 1) for value in inputs[:2]]
    assert torch.equal(ops.reference_frame(*apart, inputs[2]), x_ref)
    many = [value.repeat(500, 1, 1) for value in inputs[:2]]  # enough for all threads
    for threads in (1, 3):
        found = on_threads(threads, lambda: ops.reference_frame(*many, inputs[2]))
        assert torch.equal(found, x_ref.repeat(500, 1, 1))


@needs_native
def test_the_module_leaves_the_way_back_other_dtypes_and_transforms_to_the_reference(monkeypatch):
    inputs, calls = inputs_of(2, 3, 3, 16, 4, "cpu"), []
    plain = reference.reference_frame
    monkeypatch.setattr(reference, "reference_frame", lambda *args: (calls.append(1), plain(*args))[1])
    wanted = [value.clone().requires_grad_() for value in inputs]
    x_ref = ops.reference_frame(*wanted)
    with torch.no_grad():
        assert x_ref.requires_grad and torch.equal(ops.reference_frame(*wanted), x_ref) and not calls
    gradients = torch.autograd.grad(x_ref.square().sum(), wanted)
    assert len(calls) == 1 and not any(gradient.requires_grad for gradient in gradients)
    again = torch.autograd.grad(ops.reference_frame(*wanted).square().sum(), wanted, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))
    assert torch.autograd.grad(again[0].sum(), wanted[:1])[0].any()
    calls[1:] = []
    ops.reference_frame(*(value.double() for value in inputs))
    torch.func.vmap(ops.reference_frame, in_dims=(0, 0, None))(inputs[0][None], inputs[1][None], inputs[2])
    with backend("reference"):
        ops.reference_frame(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.reference_frame(*inputs).dtype == torch.bfloat16
    assert ops.reference_frame(*inputs[:2], inputs[2][0]).shape == (2, 3, 1)
    assert len(calls) == 6


@needs_native
def test_the_module_s_op_is_what_torch_is_told_of_it():
    inputs = tuple(inputs_of(5, 4, 3, 16, 7, "cpu"))
    torch.library.opcheck(torch.ops.geotdm_fast.reference_frame.default, inputs)
    for changed, said in (
        ((inputs[0][:, :0], *inputs[1:]), r"y must be .* T at least 1, got \[5, 0, 3\]"),
        ((inputs[0], inputs[1][:4], inputs[2]), r"z must be \[5, 4, 16\], got \[4, 4, 16\]"),
        ((*inputs[:2], inputs[2].double()), "ws must be Float, got Double"),
    ):
        with pytest.raises(ValueError, match=f"reference_frame: {said}"):
            torch.ops.geotdm_fast.reference_frame(*changed)
