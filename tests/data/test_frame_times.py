"""Times of frames: what comes twice, runs back, or is not equally spaced."""

import struct
import sys
import types
import warnings

import numpy as np
import pytest

from geotdm_fast.data import array_dataset, join_datasets, npz_dataset
from geotdm_fast.data.molecule_files.mdanalysis_files import MdanalysisFile
from geotdm_fast.data.molecule_files.xdr import read_headers
from geotdm_fast.data.times import even_stretches, runs_in_time, tell_apart


def frames_of(times, every=1, name="times"):
    """The frames of every stretch."""
    return [stretch.tolist() for stretch in even_stretches("f.xtc", name, np.asarray(times, float), every=every)]


def test_steps_of_gsd_are_its_times(tmp_path, monkeypatch):
    """GSD has no times: those that MDAnalysis counts for it say nothing of a gap."""
    steps = [types.SimpleNamespace(time=float(k), data={"step": step}) for k, step in enumerate([0, 100, 200, 900])]
    universe = types.SimpleNamespace(trajectory=steps, load_new=lambda *args, **options: None)
    universe_class = types.SimpleNamespace(empty=lambda *args, **options: universe)
    monkeypatch.setitem(sys.modules, "MDAnalysis", types.SimpleNamespace(Universe=universe_class))
    assert MdanalysisFile(tmp_path / "a.gsd", "gsd", 2).times.tolist() == [0, 100, 200, 900]
    assert MdanalysisFile(tmp_path / "a.trz", "trz", 2).times.tolist() == [0, 1, 2, 3]
    assert MdanalysisFile(tmp_path / "a.dcd", "dcd", 2).times is None


def test_even_times_are_one_stretch():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frames_of(np.arange(5) * 0.1) == [[0, 1, 2, 3, 4]]
        assert frames_of([3.0]) == [[0]]
        # Rounded to a few digits, and as an XTC file keeps them.
        assert len(frames_of(np.round(np.arange(50) / 3, 3))) == 1
        assert len(frames_of(np.arange(20000, dtype=np.float32) * np.float32(0.002))) == 1


def test_a_restarted_run_replaces_the_frames_that_it_wrote_again():
    """As `gmx trjcat`: the frames from the checkpoint on are those of the second run."""
    times = np.array([*range(60), *range(50, 110)])
    with pytest.warns(
        UserWarning, match=r"f\.xtc: times run back in 1 place, first to 50 .* after 59: 10 .* are left out$"
    ):
        runs, again = runs_in_time("f.xtc", "times", times)
    assert [run.tolist() for run in runs] == [[*range(50), *range(60, 120)]] and again == [(50, 60)]
    with pytest.warns(UserWarning, match="times run back in 2 places, .*: 4 frames"):
        runs, again = runs_in_time("f", "times", np.array([0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 8]))  # restarted twice
    assert runs[0].tolist() == [0, 1, 4, 5, 8, 9, 10, 11, 12] and again == [(2, 4), (6, 8)]
    with pytest.warns(UserWarning, match="1 frames that come again"):
        assert frames_of([0, 1, 1, 2]) == [[0, 2, 3]]  # the first frame of the second part is written again
    with pytest.warns(UserWarning, match="1 frames that come again"):
        assert frames_of([0, 0, 1, 2]) == [[1, 2, 3]]
    with pytest.warns(UserWarning, match="first to 3 in frame 14 after 4: 2 frames"):
        stretches = even_stretches("f", "time", [0, 1, 2, 3, 4, 3, 4, 5], frames=range(9, 17))
    assert stretches[0].tolist() == [0, 1, 2, 5, 6, 7] and len(stretches) == 1


def test_every_frame_is_looked_at_before_every_nth_is_taken():
    """Runs 0 ... 9 and 7 ... 16: of times 0 ... 16 every third."""
    with pytest.warns(UserWarning, match="first to 7 in frame 10 after 9"):
        assert frames_of([*range(10), *range(7, 17)], every=3) == [[0, 3, 6, 12, 15, 18]]


def test_a_run_that_starts_over_is_a_stretch_of_its_own():
    with pytest.warns(UserWarning, match="frame 5 after 4: 0 frames .*; 1 runs start over, and no window goes"):
        assert frames_of([0, 1, 2, 3, 4, 0, 1, 2]) == [[0, 1, 2, 3, 4], [5, 6, 7]]
    with pytest.warns(UserWarning, match="run back in 1 place"):
        assert frames_of([0, 1, 2, 3, 4, 0, 1, 2], every=2) == [[0, 2, 4], [5, 7]]


def test_a_gap_ends_a_stretch():
    with pytest.warns(UserWarning, match=r"step are 2 apart but in 1 places, the first 10 after frame 2; .* 4 frames"):
        assert frames_of([0, 2, 4, 14, 16, 18, 20], name="step") == [[0, 1, 2], [3, 4, 5, 6]]
    with pytest.warns(UserWarning, match="are 1 apart but in 5 places, the first 10 after frame 60; .* 61 frames"):
        assert list(map(len, frames_of(np.r_[0:61, 70:120:10]))) == [61, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "times, message",
    [
        ([4, 3, 2, 1], r"f\.xtc: times must ascend, got 3 in frame 1 after 4"),
        ([20000, 20001, 20010, 20100, 21000], r"f\.xtc: times must be equally far apart, got .*, with frames: \[start"),
        ([0, 1, np.nan], r"f\.xtc: times must be finite, got nan at \[2\]"),
    ],
)
def test_times_that_nobody_can_use(times, message):
    with pytest.raises(ValueError, match=message):
        frames_of(times)


def test_times_that_tell_frames_apart():
    assert tell_apart(np.arange(3.0)) and tell_apart(np.array([2.0, 1.0]))
    for times in (np.zeros(5), np.full(5, np.nan), np.array([3.0]), np.array([0, np.inf])):
        assert not tell_apart(times)
    late = (1e6 + np.arange(500) * 0.002).astype(np.float32)  # single precision has steps of 0.0625 there
    assert not tell_apart(late) and tell_apart(1e6 + np.arange(500) * 0.002)


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


def test_data_know_the_time_between_their_frames(tmp_path):
    x = np.cumsum(np.random.default_rng(0).normal(size=(40, 3, 3)), axis=0)
    times = np.arange(40) * 0.2
    assert array_dataset(x, times=times, every=3, span=5)[:2].frame_time == pytest.approx(0.6)
    assert array_dataset(np.stack([x, x]), times=times).frame_time == 0.2
    assert array_dataset(x).frame_time is None
    np.savez(tmp_path / "a.npz", x=x, time=times.astype(np.float32))
    assert npz_dataset(tmp_path / "a.npz", frames=[0, None, 1]).frame_time == 0.2
    far = array_dataset(x, times=times + 5, name="b")
    assert join_datasets([far, array_dataset(x, times=times)]).frame_time == 0.2
    assert join_datasets([far, array_dataset(x)]).frame_time is None
