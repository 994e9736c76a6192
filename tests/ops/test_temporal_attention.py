"""The temporal op and layer: against loops, by gradcheck, with frames that are not consecutive."""

import pytest
import torch
from tolerances import assert_same
from torch import nn
from transcription import Weights, sinusoid, temporal_layer

from geotdm_fast import ETLayer, ops, reference
from geotdm_fast.ops.time_phases import time_phases
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


@pytest.mark.parametrize("window", [0, 1, 2, 4, 9])
@pytest.mark.parametrize("frames", [None, [3, 4, 5, 6, 7], [0, 1, 4, 9, 17]])
def test_a_window_equals_loops_that_leave_out_what_is_farther(frames, window):
    x, h = inputs()
    module = layer()
    x_out, h_out = reference.temporal_attention(x, h, params(module), frames=frames, window=window)
    x_loops, h_loops = temporal_layer(Weights(module), x.numpy(), h.numpy(), TIME_EMB_DIM, frames, window)
    assert_same(x_out, x_loops, 1e-13)
    assert_same(h_out, h_loops, 1e-13)


@pytest.mark.parametrize("frames", [None, [0, 1, 4, 9, 17]])
def test_a_window_that_reaches_every_frame_changes_no_bit(frames):
    x, h = inputs()
    weights = params(layer())
    everything = reference.temporal_attention(x, h, weights, frames=frames)
    for window in (17, 10**30):
        ours = reference.temporal_attention(x, h, weights, frames=frames, window=window)
        assert all(torch.equal(a, b) for a, b in zip(ours, everything, strict=True))


def test_window_0_is_a_frame_that_sees_itself():
    x, h = inputs()
    weights = params(layer())
    x_out, h_out = reference.temporal_attention(x, h, weights, window=0)
    assert torch.equal(x_out, x)
    for t in range(h.shape[1]):
        alone = reference.temporal_attention(x[:, t : t + 1], h[:, t : t + 1], weights)[1]
        assert_same(h_out[:, t : t + 1], alone, 1e-13)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (-1, ValueError, "window must be at least 0, got -1"),
        (2.0, TypeError, "window must be an integer or None, got 2.0"),
        (True, TypeError, "window must be an integer or None, got True"),
    ],
)
def test_windows_are_checked(window, error, message):
    x, h = inputs()
    weights = params(layer())
    for op in (reference.temporal_attention, ops.temporal_attention):
        with pytest.raises(error, match=f"temporal_attention: {message}"):
            op(x, h, weights, window=window)
    with pytest.raises(error, match=f"ETLayer: {message}"):
        ETLayer(4, 4, nn.SiLU(), TIME_EMB_DIM, window=window)


def test_an_unknown_precision_is_refused():
    x, h = inputs()
    with pytest.raises(ValueError, match="temporal_attention: precision must be one of fp32, tf32, bf16; got 'fp16'"):
        ops.temporal_attention(x, h, params(layer()), precision="fp16")


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


@pytest.mark.parametrize(
    ("num_frames", "frames", "window"), [(1, None, None), (4, None, None), (3, [0, 2, 5], None), (4, [0, 2, 3, 5], 2)]
)
def test_gradients(num_frames, frames, window):
    x, h = inputs(num_nodes=2, num_frames=num_frames, dim=2)
    weights = params(layer())

    def op(x, h, *weights):
        return reference.temporal_attention(x, h, TemporalAttentionParams(*weights), frames=frames, window=window)

    assert torch.autograd.gradcheck(op, (x.requires_grad_(), h.requires_grad_(), *weights))


def test_layer_hands_its_window_to_the_op():
    x, h = inputs()
    module, last = ETLayer(4, 4, nn.SiLU(), TIME_EMB_DIM, window=1).double(), lambda v: v.transpose(1, 2)
    assert [*module.state_dict()] == [*layer().state_dict()]
    expected = reference.temporal_attention(x, h, params(module), window=1)
    x_out, h_out = module(last(x), last(h))
    assert torch.equal(x_out, last(expected[0])) and torch.equal(h_out, last(expected[1]))


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
    """The official layer would need N H T T floats, half a GB here."""
    num_nodes, num_frames, width = 2, 1024, 64
    x, h = torch.randn(num_nodes, num_frames, 3), torch.randn(num_nodes, num_frames, width)
    module = ETLayer(width, width, nn.SiLU(), 32)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        module(x.transpose(1, 2), h.transpose(1, 2))
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert 0 < largest < 4 * 4 * num_nodes * num_frames * (4 * num_frames)


@pytest.mark.parametrize("dim", [1, 2, 7, 64])
@pytest.mark.parametrize("frames", [None, [5, 6, 9, 40]])
def test_turns_are_the_sinusoids_of_frames_correctly_rounded(dim, frames):
    numbers = torch.tensor(range(4095) if frames is None else [0, 1, 4, 35])
    exact = reference.sinusoid(numbers, dim, torch.float64)
    sine, cosine = exact[:, : dim // 2], exact[:, dim // 2 : 2 * (dim // 2)]
    ours = time_phases(torch.empty(2, len(numbers), 1), dim, frames)
    assert ours.dtype == torch.float32 and ours.is_contiguous() and ours.shape == (len(numbers), 2 * (dim // 2))
    assert torch.equal(ours, torch.stack([cosine, sine], dim=-1).flatten(1).float())


def test_turns_are_computed_once_and_not_by_what_has_no_values():
    h = torch.empty(1, 300, 1)
    with torch.inference_mode():
        first = time_phases(h, 6)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert type(time_phases(torch.empty(1, 700, 1), 6)) is not torch.Tensor
    assert not first.is_inference() and time_phases(h, 6).data_ptr() == first.data_ptr()
    assert time_phases(torch.empty(1, 257, 1), 6).data_ptr() == first.data_ptr()
    assert type(time_phases(torch.empty(1, 700, 1), 6)) is torch.Tensor


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
