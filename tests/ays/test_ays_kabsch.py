"""Turns of points onto points beside a singular value decomposition in float64, where they are unique and where not."""

import pytest
import torch
from tape import Tape
from torch import Tensor

from geotdm_fast import ays
from geotdm_fast.ays.kabsch import turns

# Singular values of covariances: well apart, alike, of points near a plane, near a line, and both.
SPECTRA = [(1, 0.5, 0.2), (1, 1, 1), (1, 1, 1e-3), (1, 0.5, 1e-5), (1, 1e-3, 1e-4), (1, 1e-4, 1e-4)]
SCALES = [1e-30, 1e-3, 1.0, 1e30]


def orthogonal(count: int, seed: int) -> Tensor:
    """[count, 3, 3]: of determinant 1 and -1."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator, dtype=torch.float64))[0]
    return q * torch.randint(0, 2, (count, 1, 1), generator=generator).mul(2).sub(1)


def covariances(spectrum, dtype, scale=1.0, count=300) -> Tensor:
    """Turned and reflected at random."""
    middle = torch.diag(torch.tensor(spectrum, dtype=torch.float64))
    return (scale * orthogonal(count, 1) @ middle @ orthogonal(count, 2)).to(dtype)


def by_svd(covariance: Tensor) -> Tensor:
    u, _, v_t = torch.linalg.svd(covariance.double())
    return (u @ v_t).transpose(-2, -1)


def trace(r: Tensor, covariance: Tensor) -> Tensor:
    return (r.double() @ covariance.double()).diagonal(dim1=-2, dim2=-1).sum(-1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_turns_are_those_of_a_decomposition_in_float64(spectrum, scale):
    """To the rounding of R itself in float32; in float64 to that over the distance of the solutions."""
    covariance = covariances(spectrum, torch.float32, scale)
    error = (turns(covariance).double() - by_svd(covariance)).abs().max()
    assert error < 1.2e-7
    assert set(torch.linalg.det(turns(covariance).double()).round().tolist()) == {-1.0, 1.0}
    covariance = covariances(spectrum, torch.float64, scale)
    error = (turns(covariance) - by_svd(covariance)).abs().max()
    assert error < 1e-13 / (spectrum[1] + spectrum[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", [*SPECTRA, (1, 0.5, 0), (1, 1, 0), (1, 0, 0), (1, 1e-9, 1e-12), (0, 0, 0)])
def test_nothing_fits_better(spectrum, dtype):
    """Orthogonal, and the sum of the singular values, to rounding: also where the turn is not unique."""
    covariance, eps = covariances(spectrum, dtype), torch.finfo(dtype).eps
    r = turns(covariance)
    assert (r.double() @ r.double().transpose(-2, -1) - torch.eye(3)).abs().max() < 8 * eps
    best = torch.linalg.svdvals(covariance.double()).sum(-1)
    assert (best - trace(r, covariance)).max() <= 20 * eps * max(sum(spectrum), 1)


def test_points_in_a_plane_are_rotated():
    """A reflection fits as well, and rounding would choose between them."""
    covariance = covariances((1, 0.7, 0), torch.float32)
    assert torch.linalg.det(by_svd(covariance)).min() < 0
    assert torch.linalg.det(turns(covariance)).min() > 0.99


def test_points_on_a_line_are_rotated():
    """Onto the other line, by the least angle where the covariance is exact; of half a turn, about any axis."""
    generator = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 100, 3, generator=generator, dtype=torch.float64)
    unit = lambda v: v / v.norm(dim=-1, keepdim=True)
    for target in (other, -one):
        r = turns(one[:, :, None] * target[:, None, :])
        torch.testing.assert_close((r @ unit(one)[..., None])[..., 0], unit(target))
        assert torch.linalg.det(r).min() > 0.99
    covariance = torch.zeros(3, 3)
    covariance[0, 1] = 5.0  # x onto y
    torch.testing.assert_close(turns(covariance), torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    covariance = torch.diag(torch.tensor([-2.0, 0, 0]))
    assert turns(covariance)[0, 0] == -1


def test_what_tells_nothing_is_not_turned():
    """No points, one point, and points of which one side lies in one place."""
    assert torch.equal(turns(torch.zeros(4, 5, 3, 3)), torch.eye(3).expand(4, 5, 3, 3))
    assert turns(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    x, batch = torch.randn(4, 3, 2), torch.tensor([0, 1, 1, 1])
    assert torch.equal(ays.align_frames(x, x + 2, batch)[0], x[0] + 2)
    centred = lambda v: v - v.mean(dim=(0, 2))[:, None]
    in_one_place = x[1:2, :, :1].expand(4, 3, 2)
    moved = ays.align_jointly(x, in_one_place, batch)
    torch.testing.assert_close(centred(moved[1:]), centred(x[1:]), atol=1e-5, rtol=1e-5)


def test_what_is_not_finite_stays_so():
    covariance = torch.eye(3).repeat(3, 1, 1)
    covariance[0, 1, 2], covariance[1, 0, 0] = float("nan"), float("inf")
    r = turns(covariance)
    assert bool(r[:2].isnan().all()) and torch.equal(r[2], torch.eye(3))


def test_on_the_device(device):
    """As on the CPU, to rounding."""
    covariance = covariances((1, 0.5, 1e-4), torch.float32)
    torch.testing.assert_close(turns(covariance.to(device)).cpu(), turns(covariance), atol=2e-7, rtol=0)


def test_a_matrix_has_the_same_turn_beside_others():
    covariance = torch.randn(67, 3, 3)
    together = turns(covariance)
    assert all(torch.equal(turns(one[None])[0], own) for one, own in zip(covariance, together, strict=True))
    assert torch.equal(turns(covariance), together)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_turn_is_a_constant_for_gradients(dtype):
    """And the points themselves are not."""
    covariance = torch.randn(2, 3, 3, requires_grad=True)
    assert not turns(covariance).requires_grad and turns(covariance.to(dtype)).dtype == dtype
    x, y, batch = torch.randn(5, 3, 2, requires_grad=True), torch.randn(5, 3, 2), torch.zeros(5, dtype=torch.int64)
    (ays.align_jointly(x, y, batch) - y.mean((0, 2))[:, None]).square().sum().backward()
    a = x.detach() - x.detach().mean((0, 2))[:, None]
    torch.testing.assert_close(x.grad, 2 * a, atol=1e-5, rtol=1e-5)


def test_what_is_captured_turns_other_points():
    """Nothing waits, and a replay makes all of it anew."""
    covariance = covariances((1, 0.5, 0.2), torch.float32, count=4)
    with Tape() as tape:
        r = turns(covariance)
    tape.spoil([covariance])
    covariance.copy_(covariances((1, 0.6, 0.1), torch.float32, count=4) + 0.1)
    tape.play()
    assert torch.equal(r, turns(covariance))


@pytest.mark.parametrize("align", [ays.align_jointly, ays.align_frames])
@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_a_mirror_image_of_a_thin_cloud_is_reflected(align, kind):
    """In half precision as in float64: the thickness is a small part of the covariance, but no rounding."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(24, 3, 4, generator=generator) * torch.tensor([1.5, 1.5, 0.3])[:, None]
    turn = orthogonal(1, 3)[0].float()
    turn = turn * -torch.linalg.det(turn).sign()  # a reflection
    y, batch = torch.einsum("ed,ndt->net", turn, x), torch.arange(2).repeat_interleave(12)
    x, y = (x.bfloat16(), y.bfloat16()) if kind == "bfloat16" else (x, y)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        moved = align(x, y, batch)
    assert moved.dtype == x.dtype
    assert (moved - y).double().square().mean().sqrt() < (0.02 if kind == "bfloat16" else 1e-5)
