"""Norm and mix in one pass: numbers and gradients beside the plain composition, for any place of the noisy frames."""

import pytest
import torch
from tolerances import assert_same
from torch import nn

from geotdm_fast.ays import mixing
from geotdm_fast.ays.given import COUNTS, given_frames
from geotdm_fast.ays.mixing import mixed
from geotdm_fast.ays.prepared import norm_of


def given_of(given, num_frames=5):
    mask = torch.zeros(num_frames, dtype=torch.bool)
    mask[list(given)] = True
    x = torch.zeros(3, 3, num_frames - len(given))
    kind = {0: "none", 1: "forward", 2: "interpolation"}[len(given)]
    return given_frames("test", kind, COUNTS, x, mask, torch.zeros(3, 3, num_frames))


def normed_and_mixed(z, k, norm, alpha, given):
    return mixing.normed_and_mixed(z, k, norm_of(norm), alpha, given)


def plain(z, k, norm, alpha, given):
    z = norm(z)
    return given.put(z, mixed(k, given.noisy(z), alpha))


def inputs(given, dtype=torch.float64):
    torch.manual_seed(0)
    norm = nn.LayerNorm(8).to(dtype)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    z = torch.randn(3, 5, 8, dtype=dtype, requires_grad=True)
    k = torch.randn(3, 5 - len(given), 8, dtype=dtype, requires_grad=True)
    return z, k, norm, torch.tensor(0.7, dtype=dtype, requires_grad=True)


# Frames at the front, at both ends, none, and in the middle, where the noisy ones do not follow one another.
@pytest.mark.parametrize("given", [(0,), (0, 4), (), (2,)])
@pytest.mark.parametrize("has_alpha", [True, False])
def test_equals_the_plain_composition(given, has_alpha):
    z, k, norm, alpha = inputs(given)
    frames, about = given_of(given), [z, k, norm.weight, norm.bias] + ([alpha] if has_alpha else [])
    results = []
    for run in (normed_and_mixed, plain):
        out = run(z, k, norm, alpha if has_alpha else None, frames)
        cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, about, cotangent)])
    for ours, expected in zip(*results, strict=True):
        assert_same(ours, expected, 1e-12)


def test_gradients_and_second_derivatives():
    z, k, norm, alpha = inputs((0,))
    frames = given_of((0,))
    run = lambda z, k, alpha, *_: normed_and_mixed(z, k, norm, alpha, frames)
    assert torch.autograd.gradcheck(run, (z, k, alpha, norm.weight, norm.bias))
    assert torch.autograd.gradgradcheck(run, (z, k, alpha, norm.weight, norm.bias))


def test_inputs_are_not_written_into_and_norms_with_hooks_are_called():
    z, k, norm, alpha = inputs((0,))
    before, calls = z.detach().clone(), []
    expected = normed_and_mixed(z, k, norm, alpha, given_of((0,)))
    assert torch.equal(z, before)
    norm.register_forward_hook(lambda *_: calls.append(1))
    assert_same(normed_and_mixed(z, k, norm, alpha, given_of((0,))), expected, 1e-12)
    assert calls == [1]


def test_a_norm_whose_forward_is_replaced_on_the_instance_is_called():
    z, k, norm, alpha = inputs((0,))
    expected, forward, calls = normed_and_mixed(z, k, norm, alpha, given_of((0,))), norm.forward, []
    norm.forward = lambda value: calls.append(1) or 2 * forward(value)
    out = normed_and_mixed(z, k, norm, alpha, given_of((0,)))
    assert calls == [1]
    assert_same(out[:, :1], 2 * expected[:, :1], 1e-12)


def test_a_share_of_one_keeps_the_structure_models_features():
    z, k, norm, _ = inputs((0,))
    alpha = torch.tensor(float("inf"), dtype=torch.float64, requires_grad=True)
    out = normed_and_mixed(z, k, norm, alpha, given_of((0,)))
    assert torch.equal(out[:, 1:], k)
    out.sum().backward()
    assert torch.isfinite(z.grad).all() and alpha.grad == 0


def test_bfloat16_sums_in_float32():
    results = []
    for dtype, run in ((torch.bfloat16, normed_and_mixed), (torch.float64, plain)):
        z, k, norm, alpha = (v.to(dtype) for v in inputs((0,)))
        leaves = [v.detach().requires_grad_() for v in (z, k, alpha)]
        out = run(leaves[0], leaves[1], norm, leaves[2], given_of((0,)))
        cotangent = torch.linspace(-1, 1, out.numel()).to(dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, [*leaves, norm.weight, norm.bias], cotangent)])
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == torch.bfloat16
        assert_same(ours, expected, 3e-2)
