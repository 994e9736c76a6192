"""The temporal op and layer: against loops, by gradcheck, with frames that are not consecutive."""

import pytest
import torch
from tolerances import assert_same
from torch import nn
from transcription import Weights, sinusoid, temporal_layer

from geotdm_fast import ETLayer, reference
from geotdm_fast.reference import TemporalAttentionParams

TIME_EMB_DIM = 7  # odd: a zero is appended


def inputs(num_nodes=3, num_frames=5, dim=3, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return draw(num_nodes, num_frames, dim), draw(num_nodes, num_frames, width)


def layer(width=4) -> ETLayer:
    torch.manual_seed(5)
    return ETLayer(width, width, nn.SiLU(), TIME_EMB_DIM).double()


def params(module: ETLayer) -> TemporalAttentionParams:
    mlps = (*module.q_mlp.tensors, *module.k_mlp.tensors, *module.v_mlp.tensors, *module.x_mlp.tensors)
    tensors = (*mlps, module.time_emb.weight, module.time_emb.bias)
    return TemporalAttentionParams(*(p.detach().clone().requires_grad_() for p in tensors))


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("frames", [None, [0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [0, 1, 4, 9, 17], [2]])
def test_equals_loops_over_nodes_and_frames(dim, frames):
    x, h = inputs(dim=dim, num_frames=5 if frames is None else len(frames))
    module = layer()
    x_out, h_out = reference.temporal_attention(x, h, params(module), frames=frames)
    x_loops, h_loops = temporal_layer(Weights(module), x.numpy(), h.numpy(), TIME_EMB_DIM, frames)
    assert_same(x_out, x_loops, 1e-13)
    assert_same(h_out, h_loops, 1e-13)


def test_frames_matter_by_their_differences_alone():
    x, h = inputs()
    weights = params(layer())
    run = lambda frames: reference.temporal_attention(x, h, weights, frames=frames)
    for a, b in zip(run(None), run([3, 4, 5, 6, 7]), strict=True):
        assert torch.equal(a, b)
    assert (run(None)[1] - run([0, 1, 2, 3, 6])[1]).abs().max() > 1e-3


def test_layer_is_the_op_with_frames_last():
    x, h = inputs()
    module, last = layer(), lambda v: v.transpose(1, 2)
    expected = reference.temporal_attention(x, h, params(module))
    x_out, h_out = module(last(x), last(h))
    assert torch.equal(x_out, last(expected[0])) and torch.equal(h_out, last(expected[1]))


@pytest.mark.parametrize(("num_frames", "frames"), [(1, None), (4, None), (3, [0, 2, 5])])
def test_gradients(num_frames, frames):
    x, h = inputs(num_nodes=2, num_frames=num_frames, dim=2)
    weights = params(layer())

    def op(x, h, *weights):
        return reference.temporal_attention(x, h, TemporalAttentionParams(*weights), frames=frames)

    assert torch.autograd.gradcheck(op, (x.requires_grad_(), h.requires_grad_(), *weights))


def test_one_frame_keeps_its_place():
    x, h = inputs(num_frames=1)
    weights = params(layer())
    x_out, h_out = reference.temporal_attention(x, h, weights)
    assert torch.equal(x_out, x) and not torch.equal(h_out, h)


@pytest.mark.parametrize(("num_nodes", "num_frames"), [(0, 4), (3, 0), (0, 0)])
def test_without_nodes_or_frames(num_nodes, num_frames):
    x, h = inputs(num_nodes=num_nodes, num_frames=num_frames)
    x_out, h_out = reference.temporal_attention(x, h, params(layer()))
    assert x_out.shape == x.shape and h_out.shape == h.shape


def test_far_from_the_origin_no_digits_are_lost():
    """In float32, 1e6 from the origin: the shift is as exact as the positions themselves."""
    x, h = inputs()
    module = layer().float()
    x, h = x.float(), h.float()
    far_x = x + 2.0**20  # there positions are multiples of 1/8
    near_x = far_x - 2.0**20
    near = reference.temporal_attention(near_x, h, params(module))[0] - near_x
    far = reference.temporal_attention(far_x, h, params(module))[0] - far_x
    assert (far - near).abs().max() <= 2.0**-4 * 1.001  # half a step


def test_memory_does_not_grow_with_frames_times_frames_times_width():
    """The official layer would need N H T T floats, 2 GB here."""
    num_nodes, num_frames, width = 2, 2048, 64
    x, h = torch.randn(num_nodes, num_frames, 3), torch.randn(num_nodes, num_frames, width)
    module = ETLayer(width, width, nn.SiLU(), 32)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        module(x.transpose(1, 2), h.transpose(1, 2))
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert 0 < largest < 4 * 4 * num_nodes * num_frames * (4 * num_frames)


@pytest.mark.parametrize("dim", [2, 3, 7, 16])
def test_sinusoid(dim):
    tau = torch.tensor([-12, -1, 0, 3, 999])
    ours = reference.sinusoid(tau, dim, torch.float64)
    if dim >= 4:
        assert_same(ours, [sinusoid(int(t), dim) for t in tau], 1e-13)
    assert ours.shape == (5, dim) and torch.equal(ours[2, : dim // 2], torch.zeros(dim // 2, dtype=torch.float64))


def test_sinusoid_tells_neighbouring_steps_apart_in_bfloat16():
    ours = reference.sinusoid(torch.tensor([998, 999]), 8, torch.bfloat16)
    exact = reference.sinusoid(torch.tensor([998, 999]), 8, torch.float64)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().max() < 2.0**-8
