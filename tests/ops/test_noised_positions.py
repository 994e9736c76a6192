"""Noise around the prior's mean: the Triton kernels beside the reference, which test_gaussian_closed_form.py knows."""

import pytest
import torch
from native_cases import draw, poisoned
from tolerances import assert_as_accurate

from geotdm_fast import backend, ops, reference

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned


def inputs_of(num_nodes, dim, num_frames, ref_frames, device):
    """x_start, a part of longer trajectories, x_ref, a transposed tensor, noise, both tables, t."""
    abar = torch.linspace(0.999, 0.001, 50)
    drawn = (
        draw(num_nodes, dim, num_frames + 3)[..., 2:-1],
        draw(num_nodes, ref_frames, dim).transpose(1, 2),
        draw(num_nodes, dim, num_frames),
        abar.sqrt(),
        (1 - abar).sqrt(),
    )
    return [*(value.to(device) for value in drawn), torch.randint(0, 50, (num_nodes,), device=device)]


def results(inputs, name="reference", dtype=torch.float32):
    """x and the gradient of x_ref, if it has all frames."""
    *values, t = inputs
    values = [value.to(dtype) for value in values]
    values[1].requires_grad_(values[1].shape == values[2].shape)
    with backend(name):
        x = ops.noised_positions(*values, t)
    if not values[1].requires_grad:
        return [x]
    cotangent = torch.linspace(-1, 1, x.numel(), dtype=dtype, device=x.device).cos().view(x.shape)
    return [x, *torch.autograd.grad(x, values[1], cotangent)]


@pytest.mark.parametrize(("num_nodes", "dim", "num_frames"), [(5, 3, 20), (1, 2, 1), (103, 3, 7), (0, 3, 4)])
@pytest.mark.parametrize("one_frame", [False, True])
def test_the_kernels_are_as_accurate_as_the_reference(num_nodes, dim, num_frames, one_frame, device):
    inputs = inputs_of(num_nodes, dim, num_frames, 1 if one_frame else num_frames, device)
    exact, plain, ours = results(inputs, dtype=torch.float64), results(inputs), results(inputs, "triton")
    for name, a, b, c in zip(("x", "grad x_ref"), ours, plain, exact, strict=False):
        assert_as_accurate(a, b, c, "fp32", what=name)


def test_a_gradient_of_one_frame_or_of_data_comes_from_the_reference(device):
    *values, t = inputs_of(4, 3, 5, 1, device)
    for wanted in (0, 1, 2):
        leaves = [value.clone().requires_grad_(i == wanted) for i, value in enumerate(values)]
        gradients = []
        for name in ("triton", "reference"):
            with backend(name):
                gradients += torch.autograd.grad(ops.noised_positions(*leaves, t).square().sum(), leaves[wanted])
        assert torch.equal(*gradients)
    assert torch.equal(ops.noised_positions(*values, t), reference.noised_positions(*values, t))
