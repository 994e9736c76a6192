"""Which frames are read: `frames` and `every`."""

import pytest

from geotdm_fast.data.frames import frame_slice


@pytest.mark.parametrize(
    "frames, every, expected",
    [
        (None, None, range(10)),
        (None, 3, range(0, 10, 3)),
        ([2, 8], None, range(2, 8)),
        ([2, 8], 2, range(2, 8, 2)),
        ([None, -1, 4], None, range(0, 9, 4)),
        ([-3, None], None, range(7, 10)),
        ("::2", None, range(0, 10, 2)),
        ("1:10", None, range(1, 10)),
    ],
)
def test_frames_are_chosen_as_a_slice_of_python_chooses_them(frames, every, expected):
    assert frame_slice("here", frames, every, 10) == expected


def test_without_a_number_of_frames_the_slice_itself_comes_back():
    assert frame_slice("here", [5, None], 2, None) == slice(5, None, 2)


@pytest.mark.parametrize(
    "frames, every, error, message",
    [
        ([0, 20], None, ValueError, "here: frames must stop within the 10 frames there are, got 20"),
        ([11, None], None, ValueError, "here: frames must start within the 10 frames there are, got 11"),
        ([4, 4], None, ValueError, r"here: frames must choose at least one of 10 frames, got \[4, 4\]"),
        ([0, 5, 2], 2, ValueError, "here: every must not be given beside a step in frames, got 2 and 2"),
        ([0, 5, 0], None, ValueError, "here: the step in frames must be at least 1, got 0"),
        ("0-5", None, ValueError, r"here: frames must be \[start, stop\] or \[start, stop, step\]"),
        ([1.5, 3], None, TypeError, "whole numbers or null, got"),
        (7, None, ValueError, "here: frames must be"),
        (None, 0, ValueError, "here: every must be at least 1, got 0"),
        (None, 2.0, TypeError, "here: every must be a whole number, got 2.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(frames, every, error, message):
    with pytest.raises(error, match=message):
        frame_slice("here", frames, every, 10)
