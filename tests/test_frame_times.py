"""Times of frames: what comes twice, runs back, or is not equally spaced."""

import struct
import warnings

import numpy as np
import pytest

from geotdm_fast.data.molecule_files.times import check_spacing, frames_in_time
from geotdm_fast.data.molecule_files.xdr import read_headers


def in_time(times, numbers=None):
    times = np.asarray(times, np.float64)
    return frames_in_time("f.xtc", times, np.arange(len(times)) if numbers is None else numbers)


def test_a_restarted_run_replaces_the_frames_that_it_wrote_again():
    """As `gmx trjcat`: the frames from the checkpoint on are those of the second run."""
    times = [*range(60), *range(50, 110)]
    with pytest.warns(
        UserWarning, match=r"f\.xtc: 10 of 120 frames come twice .* frame 60 goes back from time 59 to 50"
    ):
        kept, again = in_time(times)
    assert kept.tolist() == [*range(50), *range(60, 120)]
    assert again == [(50, 60)]
    check_spacing("f.xtc", np.array(times, float), kept)
    with pytest.warns(UserWarning, match="4 of 13 frames come twice"):
        kept, again = in_time([0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 8])  # restarted twice
    assert kept.tolist() == [0, 1, 4, 5, 8, 9, 10, 11, 12] and again == [(2, 4), (6, 8)]
    with pytest.warns(UserWarning, match="1 of 4 frames come twice"):
        assert in_time([0, 1, 1, 2])[0].tolist() == [0, 2, 3]  # the first frame of the second part is written again
    with pytest.warns(UserWarning, match="1 of 4 frames come twice"):
        assert in_time([0, 0, 1, 2]) == (pytest.approx([1, 2, 3]), [(0, 1)])


def test_two_trajectories_in_one_file_are_refused():
    with pytest.raises(ValueError, match=r"frame 3 goes back from 2 to 0, .* frames: \[0, 3\] and frames: \[3, null\]"):
        in_time([0, 1, 2, 0, 1, 2])
    assert in_time([0, 1, 2, 0, 1, 2], np.arange(3, 6))[0].tolist() == [3, 4, 5]  # each by itself is one


@pytest.mark.parametrize("times", [None, np.zeros(5), np.full(5, np.nan), np.array([1.0] * 5)])
def test_without_times_frames_are_taken_as_they_are(times):
    numbers = np.arange(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frames_in_time("f", times, numbers)[0].tolist() == numbers.tolist()
        check_spacing("f", times, numbers)


@pytest.mark.parametrize(
    "times, message",
    [
        ([*range(60), *range(60, 110, 10)], r"is 1 mostly and 10 from frame 60 \(time 60\) to frame 61 \(time 70\)"),
        ([0, 1, 2, 4, 5, 6], r"and 2 from frame 2 \(time 2\) .* frames: \[0, 3\] or frames: \[3, null\]"),
        ([20000, 20001, 20010, 20100, 21000], "equally spaced in time"),
    ],
)  # fmt: skip
def test_a_change_of_the_step_is_refused(times, message):
    times = np.array(times, float)
    with pytest.raises(ValueError, match=rf"f\.xtc: frames must be equally spaced in time, .*{message}|{message}"):
        check_spacing("f.xtc", times, np.arange(len(times)))
    check_spacing("f.xtc", times, np.arange(2))


def test_rounded_times_are_equally_spaced():
    check_spacing("f", np.round(np.arange(50) / 3, 3), np.arange(50))
    check_spacing("f", (np.arange(5000) * np.float32(0.002)).astype(np.float32), np.arange(5000))
    late = (1e6 + np.arange(500) * 0.002).astype(np.float32)  # single precision has steps of 0.0625 there
    check_spacing("f", late, np.arange(500))
    assert frames_in_time("f", late, np.arange(500))[0].tolist() == list(range(500))


def trr_frame(time, positions, double=False, atoms=3):
    """As GROMACS writes it: header, box, positions or none, velocities."""
    real = "d" if double else "f"
    size = 8 if double else 4
    box, x, v = 9 * size, (3 * atoms * size) * positions, 3 * atoms * size
    header = struct.pack(">3i", 1993, 13, 12) + b"GMX_trn_file"
    header += struct.pack(">13i", 0, 0, box, 0, 0, 0, 0, x, v, 0, atoms, 7, 0) + struct.pack(f">2{real}", time, 0)
    return header + bytes(box + x + v)


@pytest.mark.parametrize("double", [False, True])
def test_headers_of_trr_say_which_frames_hold_positions(tmp_path, double):
    path = tmp_path / "a.trr"
    path.write_bytes(b"".join(trr_frame(0.5 * k, k % 3 == 0, double) for k in range(7)))
    headers = read_headers(path, "trr")
    assert headers.num_atoms == 3
    assert headers.times.tolist() == [0.5 * k for k in range(7)]
    assert headers.has_positions.tolist() == [k % 3 == 0 for k in range(7)]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.trr must hold whole frames, got an end within frame 6"):
        read_headers(path, "trr")
    path.write_bytes(trr_frame(0, True) + trr_frame(1, True, atoms=4))
    with pytest.raises(ValueError, match=r"must have 3 atoms in every frame, got 4 in 1"):
        read_headers(path, "trr")
    path.write_bytes(b"something else that is long enough for a header")
    with pytest.raises(ValueError, match=r"a\.trr must be a file of format trr, got other bytes at byte 0"):
        read_headers(path, "trr")


@pytest.mark.parametrize("atoms", [1, 9, 10, 57])
def test_headers_of_xtc(tmp_path, atoms):
    """Up to nine atoms are stored as plain numbers, more are compressed."""
    formats = pytest.importorskip("mdtraj.formats")
    path = tmp_path / "a.xtc"
    x = np.random.default_rng(0).normal(size=(11, atoms, 3)).astype(np.float32)
    with formats.XTCTrajectoryFile(str(path), "w") as file:
        file.write(x, time=np.arange(11, dtype=np.float32) * 2, step=np.arange(11, dtype=np.int32))
    headers = read_headers(path, "xtc")
    assert (
        headers.num_atoms == atoms and headers.times.tolist() == list(range(0, 22, 2)) and headers.has_positions.all()
    )
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="got an end within frame 10"):
        read_headers(path, "xtc")
