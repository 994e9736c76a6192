"""The noise by counter: the kernel beside the reference, whose bits have known answers in test_sampler.py."""

import pytest
import torch

from geotdm_fast import backend, ops, reference
from geotdm_fast.diffusion.noise import TrajectoryNoise


def counters(device, seed=2**63 + 12345, dim=3, num_frames=7):
    batch = torch.tensor([0, 0, 0, 1, 2, 2], device=device)
    who = torch.tensor([2**31 + 5, 7, 0])
    return TrajectoryNoise(seed, who, who.flip(0), batch, dim, num_frames, torch.float32).counters


@pytest.mark.parametrize("shape", [(3, 7), (2, 1), (3, 60), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_draws_the_numbers_of_the_reference(shape, dtype, device):
    who = counters(device, dim=shape[0], num_frames=shape[1])
    draws = torch.tensor([0, 5, 2**31 + 1], device=device)
    with backend("triton"):
        found = ops.trajectory_noise(who, draws, shape, dtype)
    expected = reference.trajectory_noise(who, draws, shape, dtype)
    assert found.shape == (3, 6, *shape) and found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=1e-15)


def test_the_kernel_is_asked_for_by_its_backend_alone_on_a_cpu(monkeypatch):
    who, draws = counters("cpu"), torch.tensor([3])
    assert torch.equal(
        ops.trajectory_noise(who, draws, (3, 7), torch.float32),
        reference.trajectory_noise(who, draws, (3, 7), torch.float32),
    )
    monkeypatch.setattr(ops.trajectory_noise.__globals__["kernels"], "why_not_on", lambda device: "no triton")
    with backend("triton"), pytest.raises(ValueError, match="trajectory_noise: backend triton does not take the input"):
        ops.trajectory_noise(who, draws, (3, 7), torch.float32)


def test_no_node(device):
    none = torch.zeros(0, dtype=torch.int64, device=device)
    noise = TrajectoryNoise(1, none.cpu(), none.cpu(), none, 3, 5, torch.float32)
    assert noise(4).shape == (0, 3, 5)
