"""What is looked at when data are opened: motion, distances, times, and frames that come twice."""

import warnings

import numpy as np
import pytest
import torch

from geotdm_fast.data import array_dataset, md17_dataset, nbody_dataset, npz_dataset
from geotdm_fast.data.stretches import Stretches, written_twice

RNG = np.random.default_rng(0)
Z = [6, 6, 8, 1, 1, 1, 1, 1, 1]
ETHANOL = np.array([[-1.17, -0.4, 0], [0.05, 0.53, 0], [1.19, -0.3, 0], [-2.08, 0.2, 0], [-1.18, -1.03, 0.89],
                    [-1.18, -1.03, -0.89], [0.05, 1.17, 0.89], [0.05, 1.17, -0.89], [1.95, 0.27, 0]])  # fmt: skip


def walk(frames, drift=0.0):
    """Ethanol that shakes, and drifts along x."""
    shake = 0.02 * np.random.default_rng(1).normal(size=(frames, 9, 3))
    return ETHANOL + shake + np.arange(frames)[:, None, None] * [drift, 0, 0]


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def steps_of(dataset):
    return max(float((item.x[..., 1:] - item.x[..., :-1]).norm(dim=1).max()) for item in dataset)


# --- motion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["charged", "springs", "gravity"])
def test_simulated_systems_move_as_they_should(quiet, kind):
    nbody_dataset(kind, "train", num_systems=40, num_frames=60, progress=False)


def test_motion_that_is_right_is_not_remarked(quiet):
    array_dataset(walk(100), z=Z)
    array_dataset(walk(100)[:, :, :2])
    array_dataset(np.cumsum(RNG.normal(size=(20, 40, 6, 2)), axis=1))
    still = np.cumsum(RNG.normal(size=(8, 30, 4, 2)) * (RNG.random((8, 1, 4, 1)) < 0.5), axis=1)  # half stand still
    array_dataset(still)
    array_dataset(np.zeros((40, 3, 2)))
    array_dataset(RNG.normal(size=(1, 1, 5, 3)))


def test_a_jump_through_a_box_is_told(tmp_path):
    wrapped = (walk(100, 0.3) + 6) % 12
    jumps = np.linalg.norm(np.diff(wrapped, axis=0), axis=2)
    frame, atom = np.unravel_index(jumps.argmax(), jumps.shape)
    message = (
        rf"a step of {jumps.max():.3g} of atom {atom}, from frame {frame} to {frame + 1}, is out of all proportion to "
        r"the usual step, 0\.3; 9 of 9 atoms make such steps\. Atoms that .* periodic box .*NoJump"
    )
    with pytest.warns(UserWarning, match=message):
        array_dataset(wrapped, z=Z)
    np.savez(tmp_path / "m.npz", R=np.concatenate([wrapped, wrapped[-1:]]), z=Z)
    with pytest.warns(UserWarning, match=r"md17_dataset: .*m\.npz: a step of 11\.\d"):
        md17_dataset(tmp_path / "m.npz", "train", down_sample_every=1)
    # The frames' numbers are those of the file, and of many trajectories it is said which.
    with pytest.warns(UserWarning, match=rf"from frame {frame} to {frame + 1}"):
        array_dataset(wrapped, z=Z, frames=[frame - 9, frame + 11], span=20)
    many = np.cumsum(RNG.normal(size=(6, 30, 4, 3)), axis=1)
    many[3, 17:, 2] += 60
    with pytest.warns(UserWarning, match=r"of atom 2 of trajectory 3, from frame 16 to 17, .* usual step, 1\.\d"):
        array_dataset(many)


def test_slow_atoms_beside_fast_ones_are_right(quiet):
    crowd = walk(200)
    fast = np.cumsum(RNG.normal(size=(200, 1, 3)), axis=0)  # 30 times the step of the others, always
    array_dataset(np.concatenate([crowd, fast], axis=1))


def test_positions_that_overflowed_are_no_atoms():
    x = walk(60)
    x[30:, 4] = 21474837.5
    with pytest.raises(ValueError, match=r"x must be positions of atoms in angstrom, got 2\.15e\+07"):
        array_dataset(x, z=Z)


# --- far from zero ----------------------------------------------------------------------------------------------------


def far(frames=40):
    step = [0.05, 0.09] + 0.005 * np.random.default_rng(3).normal(size=(1, frames, 1, 2))
    return np.cumsum(step, axis=1) + np.array([566000.0, 5932000.0])


def test_far_from_zero_steps_are_kept(quiet):
    x = far()
    for item in (array_dataset(x)[0], array_dataset(x[0])[0]):
        t = item.num_frames
        np.testing.assert_allclose(np.diff(item.x[0].numpy()), np.diff(x[0, :t, 0].T), atol=1e-6)
        assert item.origin.dtype == torch.float64
        np.testing.assert_allclose(item.x[0].double() + item.origin[:, None], x[0, :t, 0].T, atol=1e-6)
    assert array_dataset(x, project=True)[0].origin is None
    assert array_dataset(x - [566000.0, 5932000.0])[0].origin is None


def test_what_float32_has_blurred_already_is_told():
    with pytest.warns(UserWarning, match=r"float32 numbers near 5\.93e\+06 are 0\.5 apart, .*in float64"):
        array_dataset(far(400).astype(np.float32))


def test_what_a_narrower_dtype_of_the_file_has_blurred_is_told(tmp_path, quiet):
    np.savez(tmp_path / "near.npz", x=np.cumsum(RNG.normal(size=(40, 5, 3)), axis=0).astype(np.float16))
    npz_dataset(tmp_path / "near.npz")
    np.savez(tmp_path / "far.npz", x=(walk(60) + 2000).astype(np.float16))
    with pytest.warns(
        UserWarning, match=r"float16 numbers near 2e\+03 are [12] apart, .* blurred; store them in float64"
    ):
        npz_dataset(tmp_path / "far.npz")


# --- distances --------------------------------------------------------------------------------------------------------


def test_nanometres_are_refused_unless_they_are_stated(tmp_path, quiet):
    np.savez(tmp_path / "nm.npz", R=walk(60) / 10, z=Z)
    message = (
        r"nm\.npz: distances look like nm: .* 0\.1\d* apart, .* 1\.07 angstrom; multiply R by 10, or give unit: nm"
    )
    with pytest.raises(ValueError, match=message):
        npz_dataset(tmp_path / "nm.npz")
    dataset = npz_dataset(tmp_path / "nm.npz", unit="nm")
    assert dataset.unit == "angstrom"
    np.testing.assert_allclose(dataset[0].x, array_dataset(walk(60), z=Z)[0].x, atol=1e-6)
    assert torch.equal(dataset[0].edge_index, array_dataset(walk(60), z=Z)[0].edge_index)


@pytest.mark.parametrize("unit, factor", [("bohr", 0.529177210903), ("pm", 0.01)])
def test_other_units_are_told_and_converted(unit, factor):
    with pytest.warns(UserWarning, match=f"distances look like {unit}: .*or give unit: {unit}"):
        array_dataset(walk(40) / factor, z=Z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = array_dataset(walk(40) / factor, z=Z, unit=unit)
    np.testing.assert_allclose(dataset[0].x, array_dataset(walk(40), z=Z)[0].x, atol=1e-5)
    assert dataset.unit == "angstrom"


def test_other_distances_that_cannot_be(quiet):
    with pytest.raises(ValueError, match=r"unit must be one of angstrom, nm, bohr, pm for molecules \(z\), got 'mm'"):
        array_dataset(walk(40), z=Z, unit="mm")
    assert array_dataset(walk(40), unit="mm").unit == "mm"
    water = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
    oxygens = 2.8 * np.argwhere(np.ones((3, 3, 3))) + np.zeros((40, 1, 1))  # water without its hydrogens
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".*pieces")
    array_dataset(oxygens + 0.01 * RNG.normal(size=oxygens.shape), z=[8] * 27)
    array_dataset(3.8 * np.arange(9.0)[:, None] * [1, 0, 0] + 0.1 * RNG.normal(size=(40, 9, 3)), z=[6] * 9)  # CA alone
    with pytest.warns(
        UserWarning, match=r"atoms (1 and 3|3 and 1) are 0\.1\d* angstrom apart in the first frame, nearer than any"
    ):
        array_dataset(np.concatenate([water, water[1:2] + 0.1]) + 0.01 * RNG.normal(size=(40, 4, 3)), z=[8, 1, 1, 1])
    shared = np.array([[0, 0, 0], [1.2, 0, 0], [2.4, 0, 0]]) + 0.01 * RNG.normal(size=(40, 3, 3))
    with pytest.warns(UserWarning, match="atom 1, a hydrogen, is within a bond's length of 2 atoms .* 1 of 1 hyd"):
        array_dataset(shared, z=[8, 1, 8])


# --- times ------------------------------------------------------------------------------------------------------------


def test_times_in_a_file(tmp_path, quiet):
    path = tmp_path / "m.npz"
    again = np.r_[0:60, 50:110]
    np.savez(path, R=walk(110, 0.1)[again], z=Z, time=again * 0.5)
    with pytest.warns(UserWarning, match=r"m\.npz: time run back in 1 place, first to 25 in frame 60 after 29\.5: 10"):
        dataset = npz_dataset(path, span=20)
    assert len(dataset) == 91 and steps_of(dataset) < 0.3
    np.testing.assert_allclose(dataset[90].x.permute(2, 0, 1), walk(110, 0.1)[90:], atol=1e-5)
    np.savez(path, R=walk(65), z=Z, steps=np.r_[0:60, 60:110:10])
    with pytest.warns(UserWarning, match="steps are 1 apart but in 4 places, the first 10 after frame 60"):
        assert len(npz_dataset(path, span=20)) == 42
    np.savez(path, R=walk(60), z=Z, step=np.cumsum(np.arange(60)))
    with pytest.raises(ValueError, match=r"m\.npz: step must be equally far apart, got .*frames: \[start, stop, s"):
        npz_dataset(path)
    with pytest.raises(ValueError, match=r"must have at least span=40 frames that are equally far apart, got at most"):
        np.savez(path, R=walk(60), z=Z, time=np.r_[0:30, 50:80])
        warnings.simplefilter("ignore")
        npz_dataset(path, span=40)
    # One number, a distance in time, is no array of times.
    np.savez(path, R=walk(60), z=Z, time=0.5, step=np.array(["a"]))
    assert len(npz_dataset(path)) == 31
    np.savez(path, x=RNG.normal(size=(3, 10, 4, 2)), time=np.r_[0:5, 9:14])
    with pytest.raises(ValueError, match="time must be equally far apart in each of many trajectories, got"):
        npz_dataset(path)
    assert len(npz_dataset(path, frames=[0, 5])) == 3
    np.savez(path, x=RNG.normal(size=(3, 10, 4, 2)), time=np.arange(9))
    with pytest.warns(UserWarning, match=r"time \[9\] is passed over, x has 10 frames"):
        npz_dataset(path)
    np.savez(path, R=walk(60), z=Z, time=np.arange(59))
    with pytest.warns(UserWarning, match=r"time \[59\] is passed over, R has 60 frames"):
        npz_dataset(path)
    for times, dtype in ((np.datetime64("2026-01-01") + np.arange(60), r"datetime64\[D\]"), (["a"] * 60, "<U1")):
        np.savez(path, R=walk(60), z=Z, time=times)
        with pytest.warns(UserWarning, match=rf"time \[60\] is passed over, times must be numbers, got {dtype}"):
            npz_dataset(path)


# --- frames that come twice -------------------------------------------------------------------------------------------


def test_frames_that_were_written_twice(tmp_path, quiet):
    x = walk(110, 0.1)
    with pytest.warns(
        UserWarning, match=r"10 frames equal an earlier one, the first is frame 60, which equals frame 5"
    ):
        dataset = array_dataset(x[np.r_[0:60, 50:110]], z=Z, span=20)
    assert len(dataset) == 91 and steps_of(dataset) < 0.3
    with pytest.warns(UserWarning, match=r"2 frames equal an earlier one, the first is frame 31, which equals frame 3"):
        assert len(array_dataset(x[np.r_[0:31, 30, 30, 31:50]], z=Z, span=20)) == 31
    # A molecule that does not move.
    with pytest.warns(UserWarning, match=r"39 frames equal an earlier one, .* frame 0; .* none is left out"):
        assert len(array_dataset(x[np.zeros(40, dtype=int)], z=Z, span=20)) == 21
    # Two runs from one frame: the second does not go on from the first.
    other = np.concatenate([x[:40], x[:1], walk(39, -0.1)[1:]])
    with pytest.warns(UserWarning, match="1 frames equal an earlier one, the first is frame 40, which equals frame 0"):
        dataset = array_dataset(other, z=Z, span=20)
    assert len(dataset) == 21 + 20 and steps_of(dataset) < 0.5
    np.savez(tmp_path / "m.npz", R=x[np.r_[0:31, 30:60]], z=Z)
    with pytest.warns(UserWarning, match="1 frames equal an earlier one, the first is frame 31, which equals frame 3"):
        assert len(md17_dataset(tmp_path / "m.npz", "train", down_sample_every=1)) == 7
    with pytest.warns(UserWarning, match=r"1 frames equal the one before, the first is frame 31, though all nodes"):
        array_dataset(x[np.r_[0:31, 30:60]])


def test_what_was_written_twice():
    for repeats, twice, anew in (
        ([0, 1, 2, 3], [], []),
        ([0, 1, 1, 1, 4], [2, 3], []),
        ([0, 1, 2, 3, 2, 3, 6], [4, 5], []),
        ([0, 1, 2, 3, 0, 1, 6], [], [4]),
        ([0, 1, 2, 3, 1, 5], [], [4]),
    ):
        assert written_twice(np.array(repeats)) == (twice, anew)
    cut = Stretches.of([range(10, 20)]).cut_before([4]).without([1, 6])
    assert cut.frames.tolist() == [10, 12, 13, 14, 15, 17, 18, 19] and cut.ends.tolist() == [3, 8]
    assert cut.starts(3, 1).tolist() == [0, 3, 4, 5] and cut.seams == [2] and cut.longest == 5
    part = cut.cut(range(2, 7))
    assert part.frames.tolist() == [13, 14, 15, 17, 18] and part.starts(2, 2).tolist() == [1, 3]
