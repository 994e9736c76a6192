"""Masks of given frames, and the split of a batch into what is drawn and what is given."""

import pytest
import torch
from cases import NUM_FRAMES, case

from geotdm_fast.conditioning import cond_mask, frames_of, split_batch


@pytest.mark.parametrize("flags", [[1, 1, 0, 0, 0], [0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0, 1], [0, 1, 0]])
def test_frames_are_taken_and_put_back(flags):
    """Runs of frames at the end, the front and within, and frames apart."""
    frames = frames_of(torch.tensor(flags))
    x = torch.randn(3, len(flags), 2, dtype=torch.float64, requires_grad=True)
    given, noisy = frames.given_of(x, 1), frames.noisy_of(x, 1)
    assert torch.equal(given, x[:, frames.given_index]) and torch.equal(noisy, x[:, frames.noisy_index])
    moved = frames.with_noisy(x, 2 * noisy, 1)
    scale = torch.tensor([1.0 if flag else 2.0 for flag in flags], dtype=torch.float64)
    assert torch.equal(moved, x * scale[:, None])
    (gradient,) = torch.autograd.grad(moved.sum(), x)
    assert torch.equal(gradient, scale[:, None].expand_as(x))


def test_ranges_are_half_open_and_add_up():
    mask = cond_mask([[0, 2], [5, 6], [1, 3]], 7)
    assert mask.shape == (1, 1, 7) and mask.dtype == torch.float32
    assert mask.reshape(-1).tolist() == [1, 1, 1, 0, 0, 1, 0]
    frames = frames_of(mask)
    assert frames.given == (0, 1, 2, 5) and frames.noisy == (3, 4, 6)
    assert frames.given_index.tolist() == [0, 1, 2, 5] and frames.noisy_index.tolist() == [3, 4, 6]


@pytest.mark.parametrize("ranges", [[[2, 8]], [[-1, 2]], [[3, 3]], [[4, 2]]])
def test_ranges_outside_or_empty(ranges):
    message = rf"cond_mask: ranges must lie in 0..7 with start < stop, got \[{ranges[0][0]}, {ranges[0][1]}\]"
    with pytest.raises(ValueError, match=message):
        cond_mask(ranges, 7)


@pytest.mark.parametrize(("ranges", "given"), [([], 0), ([[0, 7]], 7), ([[0, 4], [4, 7]], 7)])
def test_all_or_no_frames(ranges, given):
    message = f"cond_mask must give some frames and leave some, got {given} given of 7"
    with pytest.raises(ValueError, match=message):
        cond_mask(ranges, 7)


@pytest.mark.parametrize("shape", [(1, 2, 7), (3, 1, 7), ()])
def test_mask_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"cond_mask must be \[1, 1, T\], got"):
        frames_of(torch.ones(shape))


def test_mask_that_is_no_tensor():
    with pytest.raises(TypeError, match=r"cond_mask must be a tensor \[1, 1, T\], got list"):
        frames_of([1, 0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_masks_of_every_dtype_and_rank(dtype):
    for shape in ((1, 1, -1), (1, -1), (-1,)):
        assert frames_of(torch.tensor([1, 0, 1]).to(dtype).reshape(shape)).given == (0, 2)


def test_a_mask_that_is_gone_is_forgotten():
    from geotdm_fast.conditioning import _frames_of_mask

    mask = cond_mask([[0, 2]], 5)
    held = len(_frames_of_mask._known)
    del mask
    assert len(_frames_of_mask._known) < held


def test_split_conditional():
    batch = case("molecule").batch
    x_start, model_kwargs = split_batch(batch, {"cond_mask": [[0, 1], [3, 5]]}, "cond")
    assert torch.equal(x_start, batch.x[..., [1, 2, 5, 6]])
    assert model_kwargs["x_given"] is batch.x and model_kwargs["h"] is batch.h
    assert model_kwargs["cond_mask"].reshape(-1).tolist() == [1, 0, 0, 1, 1, 0, 0]
    assert {*model_kwargs} == {"h", "edge_index", "edge_attr", "batch", "cond_mask", "x_given"}


def test_split_unconditional():
    batch = case("pedestrian").batch  # h has frames as well
    x_start, model_kwargs = split_batch(batch, {"tot_len": 4}, "uncond")
    assert torch.equal(x_start, batch.x[..., :4]) and torch.equal(model_kwargs["h"], batch.h[..., :4])
    assert "cond_mask" not in model_kwargs
    x_start, _ = split_batch(batch, {}, "uncond")
    assert torch.equal(x_start, batch.x)
    message = f"train.tot_len must be at most the {NUM_FRAMES} frames of the data, got 8"
    with pytest.raises(ValueError, match=message):
        split_batch(batch, {"tot_len": 8}, "uncond")
