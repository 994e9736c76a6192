"""Masks of given frames, and the split of a batch into what is drawn and what is given."""

import pytest
import torch

from geotdm_fast.conditioning import cond_mask, frames_known, frames_of, known_cell


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


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ((0, 1, 2), [0, 1, 2, 2, 2, 2]),
        ((0,), [0, 0, 0, 0, 0, 0]),
        ((1, 4), [1, 1, 1, 1, 4, 4]),
        ((5,), [5, 5, 5, 5, 5, 5]),
        ((), [0, 0, 0, 0, 0, 0]),
    ],
)
def test_boxes_of_frames_that_are_drawn_are_told_by_the_given_ones(given, known):
    cell = torch.randn(2, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    assert frames_known(given, 6) == known
    assert torch.equal(known_cell(cell, given), cell[:, known])
    future = cell.clone()
    future[:, [t for t in range(6) if t not in known]] = torch.nan
    assert torch.equal(known_cell(future, given), known_cell(cell, given)), "no other frame is looked at"


def test_a_box_that_does_not_change_stays():
    cell = torch.randn(2, 1, 3, 3)
    assert known_cell(cell, (0, 1)) is cell
