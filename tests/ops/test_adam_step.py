"""A step of Adam with clipping and average: the reference is torch's, and the Triton kernels are the reference."""

import pytest
import torch
from pairwise import pairwise
from tolerances import assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.reference import AdamSettings, AdamState

SETTINGS = AdamSettings(clip=0.5, weight_decay=0.1, first_decayed=100)


def state_of(size, device="cpu", dtype=torch.float32, has_average=True):
    """Weights and an average that is elsewhere, before the first step."""
    weights, average = torch.randn(size), torch.randn(size)
    moments = torch.zeros(2, size)
    tensors = (weights, torch.zeros(size), *moments, torch.zeros(()), average if has_average else None)
    return AdamState(*(value if value is None else value.to(device, dtype) for value in tensors))


def copied(state, dtype):
    return AdamState(*(value if value is None else value.to(dtype, copy=True) for value in state))


def steps(count, size, clip_reached=True):
    """A gradient, and rate and share, for each step."""
    scale = 1.0 if clip_reached else 1e-4
    return [(torch.randn(size) * scale, torch.tensor([1e-2 * (1 + i), 0.8 / (1 + i)])) for i in range(count)]


@pytest.mark.parametrize("clip_reached", [True, False])
def test_the_reference_is_torchs_adam(clip_reached):
    state = state_of(300, dtype=torch.float64)
    weights, average = torch.nn.Parameter(state.weights.clone()), state.average.clone()
    adam = torch.optim.Adam([weights])
    for gradient, coefficients in steps(4, 300, clip_reached):
        weights.grad = gradient.double()
        state.gradient.copy_(gradient)
        expected = torch.nn.utils.clip_grad_norm_([weights], SETTINGS.clip)
        rate, share = adam.param_groups[0]["lr"], _ = coefficients.double().tolist()
        weights.data[100:] *= 1 - rate * SETTINGS.weight_decay
        adam.step()
        average.lerp_(weights.data, share)
        norm = reference.adam_step(state, coefficients.double(), SETTINGS)
        assert_same(norm, expected)
    assert_same(state.weights, weights)
    assert_same(state.average, average)
    assert float(state.step) == 4 and not state.gradient.any()


@pytest.mark.parametrize(
    ("size", "has_average", "settings"),
    pairwise([1, 300, 5000], [True, False], [SETTINGS, AdamSettings(float("inf"))]),
)
def test_the_kernels_are_the_reference(size, has_average, settings, device):
    """Ten steps, the gradient put in place before each."""
    ours = state_of(size, device, has_average=has_average)
    exact, again = copied(ours, torch.float64), copied(ours, torch.float32)
    for gradient, coefficients in steps(10, size):
        for state in (ours, exact, again):
            state.gradient.copy_(gradient)
        with backend("triton"):
            norm = ops.adam_step(ours, coefficients.to(device), settings)
            ops.adam_step(again, coefficients.to(device), settings)
        expected = reference.adam_step(exact, coefficients.to(device).double(), settings)
        assert norm.shape == () and not ours.gradient.any()
        assert_same(norm, expected, 1e-6)
    for name, a, b, c in zip(AdamState._fields, ours, exact, again, strict=True):
        if a is not None:
            assert_same(a, b, 2e-6, what=name)
            assert torch.equal(a, c), name


def test_a_gradient_that_is_no_number_spoils_every_weight_as_torchs_does(device):
    state = state_of(3000, device)
    state.gradient[7] = float("nan")
    with backend("triton"):
        norm = ops.adam_step(state, torch.tensor([1e-2, 0.5], device=device), SETTINGS)
    assert norm.isnan() and state.weights.isnan().all() and state.average.isnan().all()
    assert not state.gradient.any()


def test_elsewhere_the_reference_runs():
    ours = state_of(40)
    plain = copied(ours, torch.float32)
    assert not ops.has_adam_step(ours.weights), "on a CPU its backend must ask for the kernels"
    with backend("triton"):
        assert not ops.has_adam_step(ours.weights.double())
    for state, step in ((ours, ops.adam_step), (plain, reference.adam_step)):
        state.gradient.fill_(1)
        step(state, torch.tensor([1e-2, 0.5]), SETTINGS)
    assert torch.equal(ours.weights, plain.weights)
