"""Pedestrian windows on small handmade recordings: every branch of who stands beside whom."""

import hashlib

import numpy as np
import pytest
import torch

from geotdm_fast.data import collate, pedestrian, pedestrian_dataset, pedestrian_windows


def walk(person, frames, y, speed=1.0):
    """Rows of someone walking along x at height y."""
    return [(10 * t, person, speed * t, y) for t in frames]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted(rows, key=lambda row: row[0])  # by frame; the order within a frame stays
    path.write_text("".join("\t".join(f"{value}" for value in row) + "\n" for row in rows))


@pytest.fixture
def root(tmp_path):
    # Person 1 is there for 22 frames, 2 for 20, 3 for 19 (too few), 4 misses one in between.
    rows = walk(1, range(22), 0.0) + walk(2, range(1, 21), 1.0) + walk(3, range(19), 2.0)
    rows += [row for row in walk(4, range(22), 3.0) if row[0] != 100]
    write(tmp_path / "all_data" / "crowds_zara01.txt", rows)
    write(tmp_path / "all_data" / "biwi_eth.txt", rows)
    return tmp_path


def test_only_whole_tracks_count(root):
    data, num = pedestrian_windows(root, "eth", "testing")
    assert data.shape == (4, 1, 20, 2)
    assert num.tolist() == [1, 1, 1, 1]
    # By moment, and in the recording's order within one: 1 | 1, 2 | 1.
    np.testing.assert_array_equal(data[:, 0, 0], [[0, 0], [1, 0], [1, 1], [2, 0]])
    np.testing.assert_array_equal(data[2, 0, :, 0], np.arange(1, 21))


def test_fewer_people_than_slots(root):
    data, num = pedestrian_windows(root, "zara1", "testing")
    assert data.shape == (4, 3, 20, 2)
    assert num.tolist() == [1, 2, 2, 1]
    np.testing.assert_array_equal(data[1, :, 0], [[1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(data[2, :, 0], [[1, 1], [1, 0], [0, 0]])


def test_others_come_in_order_without_a_distance_test(tmp_path):
    write(tmp_path / "all_data" / "crowds_zara01.txt", walk(9, range(20), 0.0) + walk(2, range(20), 50.0))
    data, num = pedestrian_windows(tmp_path, "zara1", "testing")
    assert num.tolist() == [2, 2]
    np.testing.assert_array_equal(data[:, :, 0, 1], [[0, 50, 0], [50, 0, 0]])


def test_nearest_within_five_metres(tmp_path):
    heights = {1: 0.0, 2: 4.0, 3: 6.0, 4: 1.0, 5: 100.0, 6: 9.0}
    rows = [row for person, y in heights.items() for row in walk(person, range(20), y)]
    write(tmp_path / "all_data" / "crowds_zara01.txt", rows)
    data, num = pedestrian_windows(tmp_path, "zara1", "testing")
    assert num.tolist() == [3, 3, 3, 3, 1, 2]
    expected = [
        [0, 1, 4],  # nearest two of those within 5 m
        [4, 6, 1],
        [6, 4, 9],
        [1, 0, 4],
        [100, 0, 0],  # nobody near: empty slots are zero
        [9, 6, 0],  # 4.0 is exactly 5 m away, which is not nearer than 5 m
    ]
    np.testing.assert_array_equal(data[:, :, 0, 1], expected)
    assert (data[4, 1:] == 0).all()


def test_distance_is_taken_at_the_eighth_frame(tmp_path):
    # Person 2 comes past person 1 at frame 7 and is far before and after.
    still = [(10 * t, 1, 0.0, 0.0) for t in range(20)]
    passing = [(10 * t, 2, 10.0 * (t - 7), 1.0) for t in range(20)]
    away = [(10 * t, 3, 3.0 + 10.0 * abs(t - 8), 0.0) for t in range(20)]  # near at frame 8 only
    for name in ("students003", "students001"):
        write(tmp_path / "all_data" / f"{name}.txt", still + passing + away)
    data, num = pedestrian_windows(tmp_path, "univ", "testing")
    assert data.shape == (6, 2, 20, 2)  # both recordings, two slots
    assert num.tolist() == [2, 2, 1] * 2
    np.testing.assert_array_equal(data[0, :, 7], [[0, 0], [0, 1]])


def test_slot_zero_is_the_person_even_where_two_stand_together(tmp_path):
    rows = walk(1, range(20), 0.0) + [(10 * t, 2, float(t) if t <= 7 else 99.0, 0.0) for t in range(20)]
    for name in ("students001", "students003"):
        write(tmp_path / "all_data" / f"{name}.txt", rows)
    data, num = pedestrian_windows(tmp_path, "univ", "testing")
    assert num.tolist() == [2] * 4
    np.testing.assert_array_equal(data[:2, :, 19, 0], [[19, 99], [99, 19]])


def test_training_takes_the_other_scenes_by_name(tmp_path):
    for i, name in enumerate(["uni_examples", "biwi_eth", "students001", "crowds_zara02", "biwi_hotel"]):
        write(tmp_path / "train" / f"{name}_train.txt", walk(1, range(20 + i), float(i)))
    data, _ = pedestrian_windows(tmp_path, "hotel", "training")
    # biwi_eth 2 windows, zara02 4, students001 3, uni_examples 1
    np.testing.assert_array_equal(data[:, 0, 0, 1], [1] * 2 + [3] * 4 + [2] * 3 + [0])
    data, _ = pedestrian_windows(tmp_path, "univ", "training")
    np.testing.assert_array_equal(data[:, 0, 0, 1], [1] * 2 + [4] * 5 + [3] * 4 + [0])


def test_dataset(root):
    dataset = pedestrian_dataset(root, "zara1", "testing", traj_scale=2.0)
    assert len(dataset) == 4
    assert dataset.scale == 2.0
    assert dataset.unit == "m"
    alone, two = dataset[0], dataset[1]
    assert alone.x.shape == (1, 2, 20)
    assert alone.edge_index.tolist() == [[0], [0]]
    assert two.x.shape == (2, 2, 20)
    assert two.edge_index.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert two.edge_attr is None
    assert two.scored.tolist() == [0]
    np.testing.assert_allclose(two.x[1, 0], np.arange(1, 21) / 2.0)
    assert two.h.dtype == torch.float32
    assert two.h[:, 0].tolist() == [[1.0] * 8 + [0.0] * 12] * 2
    np.testing.assert_allclose(two.h[:, 1], 0.5)
    batch = collate([dataset[i] for i in range(4)])
    assert batch.x.shape == (6, 2, 20)
    assert batch.scored.tolist() == [0, 1, 3, 5]


def test_speed_features(tmp_path):
    place = np.cumsum(np.arange(20.0))  # speed t at frame t
    write(tmp_path / "all_data" / "biwi_eth.txt", [(10 * t, 1, 0.0, place[t]) for t in range(20)])
    h = pedestrian_dataset(tmp_path, "eth", "testing", past_frames=6, future_frames=14)[0].h[0]
    np.testing.assert_allclose(h[1], [1, 1, 2, 3, 4, 5] + [5] * 14)
    np.testing.assert_allclose(h[0], [1] * 6 + [0] * 14)


def test_reads_processed_files(root):
    data, num = pedestrian_windows(root, "zara1", "testing")
    np.save(root / "zara1_data_train.npy", data[:3] + 1.0)
    np.save(root / "zara1_num_train.npy", num[:3])
    dataset = pedestrian_dataset(root, "zara1", "training")
    assert len(dataset) == 3
    np.testing.assert_allclose(dataset[1].x, (data[1, :2] + 1.0).transpose(0, 2, 1))
    np.save(root / "zara1_num_train.npy", np.array([1, 2, 4]))
    with pytest.raises(ValueError, match=r"zara1_num_train\.npy must hold numbers from 1 to 3, got 1\.\.4"):
        pedestrian_dataset(root, "zara1", "training")
    np.save(root / "zara1_num_train.npy", np.array([1, 2]))
    with pytest.raises(ValueError, match=r"zara1_num_train\.npy must be \[3\], got \[2\]"):
        pedestrian_dataset(root, "zara1", "training")
    (root / "zara1_num_train.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"zara1_num_train\.npy"):
        pedestrian_dataset(root, "zara1", "training")


@pytest.mark.parametrize(
    "text, message",
    [
        ("0\t1\t2.0\n", r"biwi_eth\.txt, line 1: must hold frame, person, x, y, got 3 values"),
        ("", r"must hold lines of frame, person, x, y, got none"),
        ("frame,person,x,y\n", r"must hold lines of frame, person, x, y, got a header alone"),
        ("a,b,c,d,e\n", r"line 1: the header must name frame, person, x and y, got a, b, c, d, e; give columns"),
        ("0 1 2 3\n\n0 a b c\n", r"line 3: person must be a number, got 'a'"),
        ("0 1 2 3\n# four\n10 1 two 3\n", r"line 3: x must be a number, or \? for a hidden person, got 'two'"),
        ("0 1 2 3\n10 1 2 inf\n", r"line 2: y must be a number, .* got 'inf'"),
        (
            "0 1 0 0\n10 1 0 0\n20 1 0 0\n26 1 0 0\n",
            r"line 4: frames must be whole steps of 10 apart, got frame 26, the first is 0; give frame_step",
        ),
        ("0 1 0 0\n1 1 0 0\n1e300 1 0 0\n", r"line 3: frames must be whole steps of 1 apart, got frame 1e\+300"),
        ("10\t1\t0\t0\n10\t1\t1\t1\n", r"line 2: a person must be once in a frame, got person 1 twice in frame 10"),
        ("10\t1\t0\t0\n", r"must have a person in 20 successive frames, got none"),
    ],
)
def test_bad_recordings(tmp_path, text, message):
    (tmp_path / "all_data").mkdir()
    (tmp_path / "all_data" / "biwi_eth.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        pedestrian_windows(tmp_path, "eth", "testing")


def test_bad_arguments(root):
    with pytest.raises(ValueError, match=r"pedestrian_windows: scene must be .* got 'zara01'; did you mean 'zara1'"):
        pedestrian_windows(root, "zara01", "testing")
    with pytest.raises(ValueError, match=r"phase must be one of training, validation, testing; got 'test'"):
        pedestrian_windows(root, "eth", "test")
    with pytest.raises(FileNotFoundError, match=r"train must hold recordings \*_train\.txt, got none"):
        pedestrian_windows(root, "eth", "training")
    with pytest.raises(FileNotFoundError, match=r"val must hold recordings \*_val\.txt, got none"):
        pedestrian_windows(root, "eth", "validation")
    with pytest.raises(FileNotFoundError, match=r"biwi_hotel\.txt: no such recording"):
        pedestrian_windows(root, "hotel", "testing")
    with pytest.raises(ValueError, match=r"past_frames \+ future_frames must be 20, got 8 \+ 20"):
        pedestrian_dataset(root, "eth", "testing", future_frames=20)
    with pytest.raises(ValueError, match=r"pedestrian_dataset: past_frames must be at least 2, got 1"):
        pedestrian_dataset(root, "eth", "testing", past_frames=1, future_frames=19)
    with pytest.raises(ValueError, match=r"pedestrian_dataset: traj_scale must be positive and finite, got 0"):
        pedestrian_dataset(root, "eth", "testing", traj_scale=0)
    with pytest.raises(ValueError, match=r"num_slots must be at least 1, got 0"):
        pedestrian_windows(root, "eth", "testing", num_slots=0)
    with pytest.raises(ValueError, match=r"root, scene and phase must be given, or recordings: \[files\]"):
        pedestrian_windows(root, "eth")
    for wrong in ([], [3]):
        with pytest.raises(ValueError, match="recordings must be a list of files, got"):
            pedestrian_windows(recordings=wrong)


ROWS = [(t, person, 0.5 * t, float(person)) for t in range(24) for person in (1, 2)]


def as_text(form, numbers=lambda t: t, head=""):
    return head + "".join(form.format(numbers(t), person, x, y) for t, person, x, y in ROWS)


@pytest.mark.parametrize(
    "text",
    [
        as_text("{} {} {} {}\n"),
        as_text("{}\t{}\t{}\t{}\n", lambda t: 780 + 6 * t),
        as_text("{}, {}, {}, {}\n", lambda t: 12 * t),
        as_text("{};{};{};{}\n", lambda t: f"{0.4 * t:.3f}".replace(".", ",")).replace("\n", "\r\n"),
        as_text("{:.3f} {} {} {}\n", lambda t: t / 3),
        as_text("{} {} {} {}\n", lambda t: t + 0.5, head="\ufeff# made by hand\n\n"),
        as_text("{},{},{},{}\n", head="frame,id,x,y\n"),
        "y,x,person,frame,name\n" + "".join(f"{y},{x},{person},{t},somebody\n" for t, person, x, y in ROWS),
        "".join(f"{t} {person} {x} {y} 0.7\n" for t, person, x, y in ROWS),
        "".join(f"{6 * t} {person} {x} 0 {y} 1 0 0\n" for t, person, x, y in ROWS),
    ],
    ids=["1", "6", "12", "semicolons", "seconds", "halves", "header", "mixed", "five", "obsmat"],
)
def test_every_way_of_writing_a_recording(tmp_path, text):
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    data, num = pedestrian_windows(recordings=tmp_path / "mine.txt", num_slots=2)
    assert num.tolist() == [2] * 10
    np.testing.assert_array_equal(data[2, 0], [(0.5 * t, 1.0) for t in range(1, 21)])
    np.testing.assert_array_equal(data[2, 1], [(0.5 * t, 2.0) for t in range(1, 21)])


@pytest.mark.parametrize("mark", ["?", "nan", ""])
def test_who_is_hidden_is_not_there(tmp_path, mark):
    lines = [f"{10 * t},{person},{mark if (t, person) == (22, 2) else x},{y}\n" for t, person, x, y in ROWS]
    (tmp_path / "mine.csv").write_text("".join(lines))
    data, _ = pedestrian_windows(recordings=[tmp_path / "mine.csv"])
    assert data[:, 0, 0].tolist() == [[0, 1], [0, 2], [0.5, 1], [0.5, 2], [1, 1], [1, 2], [1.5, 1], [2.0, 1]]


def test_frames_of_a_recording_are_chosen(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(f"{5 * t} 1 {t} 0\n" for t in range(50)))
    data, _ = pedestrian_windows(recordings=path, every=2)
    assert data.shape[0] == 6 and data[1, 0, :, 0].tolist() == [2 + 2 * t for t in range(20)]
    data, _ = pedestrian_windows(recordings=path, frames=[3, 24])
    assert data[:, 0, 0, 0].tolist() == [3, 4]
    # Numbers that are 10 apart are successive frames to whom frame_step says so.
    with pytest.raises(ValueError, match="line 2: frames must be whole steps of 10 apart, got frame 5"):
        pedestrian_windows(recordings=path, frame_step=10)
    data, _ = pedestrian_windows(recordings=path, columns=[0, 1, 3, 2])
    assert data[0, 0, :, 1].tolist() == [*range(20)]
    with pytest.raises(ValueError, match="columns must be four different numbers from 0"):
        pedestrian_windows(recordings=path, columns=[0, 1, 1, 2])


def test_scenes_of_ones_own(tmp_path):
    write(tmp_path / "all_data" / "plaza.txt", walk(1, range(21), 0.0))
    write(tmp_path / "train" / "plaza_train.txt", walk(1, range(20), 1.0))
    write(tmp_path / "train" / "station_train.txt", walk(1, range(22), 2.0))
    assert len(pedestrian_dataset(tmp_path, "plaza", "testing")) == 2
    data, _ = pedestrian_windows(tmp_path, "plaza", "training")
    assert data[:, 0, 0, 1].tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"scene must be one of eth, .*, or the name of a recording in .*; got"):
        pedestrian_windows(tmp_path, "forum", "testing")
    dataset = pedestrian_dataset(recordings=[tmp_path / "all_data" / "plaza.txt"])
    assert dataset.name == "pedestrians plaza" and len(dataset) == 2


def test_the_folders_of_social_gan(tmp_path):
    write(tmp_path / "eth" / "test" / "biwi_eth.txt", walk(1, range(21), 0.0))
    write(tmp_path / "eth" / "train" / "crowds_zara01_train.txt", walk(1, range(20), 1.0))
    for root in (tmp_path, tmp_path / "eth"):
        assert len(pedestrian_dataset(root, "eth", "testing")) == 2
        assert len(pedestrian_dataset(root, "eth", "training")) == 1


def test_far_from_zero_people_keep_their_steps(tmp_path):
    rows = [(t, 1, 566000.25, 5932000.5 + 0.09 * t) for t in range(21)]
    (tmp_path / "utm.txt").write_text("".join(f"{t} {p} {x:.2f} {y:.2f}\n" for t, p, x, y in rows))
    item = pedestrian_dataset(recordings=tmp_path / "utm.txt", traj_scale=2.0)[1]
    np.testing.assert_allclose(np.diff(item.x[0, 1].numpy()) * 2.0, 0.09, atol=1e-6)
    whole = (item.x[0].double() + item.origin[:, None]) * 2.0
    np.testing.assert_allclose(whole, [[566000.25] * 20, [5932000.5 + 0.09 * t for t in range(1, 21)]], atol=1e-6)


def test_the_papers_test_set_is_known_by_its_digest(tmp_path, monkeypatch):
    data, num = np.zeros((2, 1, 20, 2)), np.ones(2, dtype=np.int64)
    np.save(tmp_path / "eth_data_test.npy", data)
    np.save(tmp_path / "eth_num_test.npy", num)
    assert pedestrian_dataset(tmp_path, "eth", "testing").experiment is None
    assert not pedestrian.is_papers_test_set(tmp_path, "eth")
    sha = hashlib.sha256(data.astype("<f4").tobytes() + num.astype("<i8").tobytes()).hexdigest()
    monkeypatch.setitem(pedestrian._TEST_SHA256, "eth", sha)
    assert pedestrian_dataset(tmp_path, "eth", "testing").experiment == "eth"
    assert pedestrian.is_papers_test_set(tmp_path, "eth") and not pedestrian.is_papers_test_set(tmp_path, "univ")
