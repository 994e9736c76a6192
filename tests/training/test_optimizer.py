"""Muon against a loop over the matrices in float64, and what it leaves to Adam."""

import copy

import pytest
import torch
from torch import nn

from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.optimizer import Optimizer, orthogonal_factor


def by_svd(matrix: torch.Tensor) -> torch.Tensor:
    """Jordan's polynomial, five times, on the singular values of [..., r, c], which are divided by their norm first."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm(dim=-1, keepdim=True)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ values.diag_embed() @ v


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 5, 12), (2, 12, 5)])
def test_orthogonal_factor(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal_factor(matrices)
    torch.testing.assert_close(found.double(), by_svd(matrices), rtol=0, atol=1e-4)
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.25
    assert torch.equal(orthogonal_factor(torch.zeros(shape)), torch.zeros(shape))


def network() -> nn.Module:
    """Two shapes of matrices in no order, a column, which is none, and biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 9), nn.Linear(9, 5), nn.Linear(5, 7), nn.Linear(7, 1))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_steps(device, name, weight_decay):
    plain = network().to(device)
    weights = FlatWeights(copy.deepcopy(plain))
    all_matrices = [p for p in plain.parameters() if p.dim() == 2 and min(p.shape) > 1]
    matrices = all_matrices if name == "muon" else []
    others = [p for p in plain.parameters() if all(p is not matrix for matrix in matrices)]
    momenta = [torch.zeros_like(matrix) for matrix in matrices]
    adam, optimizer = torch.optim.Adam(others), Optimizer(name, weights, weight_decay)
    rng = torch.Generator().manual_seed(1)
    for number in range(4):
        gradients = weights.named(weights.flat.grad)
        for parameter, value in plain.named_parameters():
            value.grad = torch.randn(value.shape, generator=rng).to(device)
            gradients[parameter].copy_(value.grad)
        rate = adam.param_groups[0]["lr"] = 1e-2 * (1 + number)
        for matrix in all_matrices:
            matrix.data *= 1 - rate * weight_decay
        adam.step()
        for matrix, momentum in zip(matrices, momenta, strict=True):
            momentum.lerp_(matrix.grad, 0.05)
            move = by_svd(0.95 * momentum + 0.05 * matrix.grad)
            matrix.data -= rate * 0.2 * max(matrix.shape) ** 0.5 * move
        optimizer.step(torch.tensor(rate))
    found = weights.named(weights.flat)
    for parameter, value in plain.named_parameters():
        torch.testing.assert_close(found[parameter], value.detach(), rtol=1e-4, atol=1e-5, msg=parameter)
    # Adam's second moment is of what Adam moves.
    squares = weights.named(optimizer.moments["exp_avg_sq"])
    moved_by_adam = {parameter for parameter, square in squares.items() if square.any()}
    assert moved_by_adam == {p for p, value in plain.named_parameters() if any(value is other for other in others)}


def test_matrices_are_views_of_the_flat_tensor():
    weights = FlatWeights(network())
    found = weights.matrices(weights.flat)
    assert [tuple(batch.shape) for batch in found] == [(1, 5, 9), (2, 7, 5), (1, 9, 7)]
    named = weights.named(weights.flat)
    for batch, places in zip(found, (["2"], ["0", "3"], ["1"]), strict=True):
        for matrix, place in zip(batch, places, strict=True):
            assert torch.equal(matrix, named[f"{place}.weight"])
    found[1].zero_()
    assert not named["0.weight"].any() and not named["3.weight"].any() and named["0.bias"].any()
