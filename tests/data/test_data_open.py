"""Data sets by their section of a configuration, official keys as well as ours."""

import numpy as np
import pytest

from geotdm_fast.data import TrajectoryDataset, normalise_section, open_dataset

RNG = np.random.default_rng(0)
ROW = np.array([[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0]])

OFFICIAL = [
    (
        {"root": "d", "name": "nbody_train", "suffix": "train_charged5_initvel1", "force_length": 3000, "span": 30},
        {
            "kind": "nbody",
            "system": "charged",
            "split": "train",
            "num_systems": 3000,
            "num_frames": 30,
            "root": "d",
            "suffix": "train_charged5_initvel1",
        },
    ),
    (
        {
            "root": "d",
            "name": "spring_valid",
            "suffix": "valid_springs5_initvel1",
            "force_length": 256,
            "project": True,
            "obs_noise_scale": 0,
        },
        {
            "kind": "nbody",
            "system": "springs",
            "split": "val",
            "num_systems": 256,
            "project": True,
            "root": "d",
            "suffix": "valid_springs5_initvel1",
        },
    ),
    (
        {"root": "d", "name": "gravity_test", "suffix": "my_own", "span": 20, "return_index": True},
        {"kind": "nbody", "system": "gravity", "split": "test", "num_frames": 20, "root": "d", "suffix": "my_own"},
    ),
    (
        {
            "root": "d",
            "molecule_name": "aspirin",
            "down_sample_every": 10,
            "with_h": True,
            "span": 30,
            "mode": "val",
            "force_length": 256,
        },
        {
            "kind": "md17",
            "root": "d",
            "molecule_name": "aspirin",
            "down_sample_every": 10,
            "with_h": True,
            "span": 30,
            "split": "val",
            "num_windows": 256,
        },
    ),
    (
        {"root": "d", "molecule_name": "aspirin", "mode": "test", "force_length": 9999, "force_reprocess": False},
        {"kind": "md17", "root": "d", "molecule_name": "aspirin", "split": "test", "num_windows": 1000},
    ),
    (
        {"dataset": "eth", "past_frames": 8, "future_frames": 12, "traj_scale": 1.4, "phase": "testing"},
        {
            "kind": "pedestrian",
            "dataset": "eth",
            "past_frames": 8,
            "future_frames": 12,
            "traj_scale": 1.4,
            "phase": "testing",
            "root": "data/eth",
        },
    ),
    (
        {"kind": "npz", "path": "a.npz", "split": "train", "span": 5},
        {"kind": "npz", "path": "a.npz", "split": "train", "span": 5},
    ),
    (
        {"system": "springs", "split": "val"},
        {"kind": "nbody", "system": "springs", "split": "val"},
    ),
]


@pytest.mark.parametrize("section, expected", OFFICIAL)
def test_normal_form(section, expected):
    before = dict(section)
    normal = normalise_section(section, "data.train")
    assert normal == expected
    assert normalise_section(normal) == expected
    assert section == before


BAD_SECTIONS = [
    ({"sufix": "train_charged5"}, r"data\.train: kind must be given: one of nbody, md17, pedestrian, npz, file"),
    ({"kind": "nbdy"}, r"data\.train: kind must be one of .* got 'nbdy'; did you mean 'nbody'"),
    ({"suffix": "train_charged5", "spam": 30}, r"data\.train: unknown key 'spam'; did you mean 'span'"),
    ({"molecule_name": "a", "root": "d", "mode": "train", "down_sample": 1}, r"did you mean 'down_sample_every'"),
    ({"dataset": "eth", "phase": "training", "trajscale": 1}, r"unknown key 'trajscale'; did you mean 'traj_scale'"),
    ({"suffix": "train_x"}, r"system must be charged, springs or gravity, or be named in suffix"),
    ({"suffix": "charged5"}, r"split must be train, val or test, or be named in suffix"),
    ({"system": "charged", "split": "dev"}, r"data\.train: split must be one of train, val, test; got 'dev'"),
    ({"suffix": "train_charged5", "obs_noise_scale": 0.1}, r"obs_noise_scale must be 0"),
    ({"suffix": "train_charged5", "span": 30, "num_frames": 20}, r"span and num_frames must agree, got 30 and 20"),
    ({"suffix": "train_charged5", "force_length": 0}, r"data\.train: force_length must be at least 1, got 0"),
    ({"system": "charged", "split": "val", "num_systems": -1}, r"data\.train: num_systems must be at least 1, got -1"),
    ({"molecule_name": "aspirin", "mode": "train"}, r"data\.train: root must be given"),
    ({"molecule_name": "aspirin", "root": "d"}, r"data\.train: split must be given"),
    ({"molecule_name": "aspirin", "root": "d", "mode": "train", "split": "val"}, r"mode and split must agree"),
    ({"dataset": "zara", "phase": "training"}, r"dataset must be one of .* got 'zara'; did you mean 'zara"),
    ({"dataset": "eth", "phase": "train"}, r"phase must be one of training, validation, testing; got 'train'"),
    ({"recordings": ["a.txt"], "phase": "train"}, r"phase must be one of training, validation, testing; got 'train'"),
    (
        {"kind": "npz", "path": "a", "step": 2},
        r"unknown key 'step'; frames are chosen by frames: \[start, stop, step\] or",
    ),
    ({"kind": "file", "path": "a", "down_sample_every": 2}, r"unknown key 'down_sample_every'; frames are chosen by"),
    ({"kind": "npz"}, r"data\.train: path must be given"),
    ({"kind": "file", "path": "a.xyz", "split": "tests"}, r"split must be one of .* did you mean 'test'"),
]


@pytest.mark.parametrize("section, message", BAD_SECTIONS)
def test_bad_sections(section, message):
    with pytest.raises(ValueError, match=message):
        normalise_section(section, "data.train")


def test_a_section_is_a_mapping():
    with pytest.raises(TypeError, match=r"data\.train must be a section of keys and values, got 'eth'"):
        normalise_section("eth", "data.train")


def test_opens_nbody_and_says_what_it_simulates(capsys):
    section = {"suffix": "train_charged5_initvel1", "root": "nowhere", "force_length": 3, "span": 2}
    dataset = open_dataset(section, "data.train")
    assert isinstance(dataset, TrajectoryDataset)
    assert (len(dataset), dataset[0].num_frames) == (3, 2)
    said = capsys.readouterr().err
    assert "data.train: simulating 3 charged systems, split train, seed 0" in said
    assert "(no loc_train_charged5_initvel1.npy in nowhere)" in said
    open_dataset(section, "data.train", progress=False)
    assert capsys.readouterr().err == ""
    assert (
        open_dataset({"system": "springs", "split": "val", "num_systems": 2, "num_frames": 3}, progress=False)[
            1
        ].num_frames
        == 3
    )


def test_opens_md17_under_the_official_or_the_plain_name(tmp_path):
    noisy = ROW + 0.01 * RNG.standard_normal((401, 3, 3))
    section = {
        "root": str(tmp_path),
        "molecule_name": "benzene",
        "mode": "val",
        "down_sample_every": 2,
        "force_length": 4,
    }
    with pytest.raises(FileNotFoundError, match=r"data\.val: neither .*md17_benzene2017\.npz nor .*benzene\.npz"):
        open_dataset(section, "data.val")
    np.savez(tmp_path / "benzene.npz", R=noisy, z=[6, 6, 6])
    dataset = open_dataset(section, "data.val")
    assert (dataset.name, len(dataset)) == ("benzene", 4)
    np.savez(tmp_path / "md17_benzene2017.npz", R=noisy, z=[6, 6, 6])
    assert open_dataset(section, "data.val").name == "md17_benzene2017"
    own = {"kind": "md17", "path": str(tmp_path / "benzene.npz"), "split": "test", "down_sample_every": 1, "span": 80}
    assert open_dataset(own)[0].num_frames == 80
    with pytest.raises(ValueError, match=r"data: md17_dataset: .*benzene\.npz: split 'test' must have"):
        open_dataset(own | {"span": 100})


def test_opens_pedestrians(tmp_path):
    (tmp_path / "all_data").mkdir()
    rows = "".join(f"{10 * t}\t1\t{t}\t0\n" for t in range(21))
    (tmp_path / "all_data" / "biwi_eth.txt").write_text(rows)
    section = {"dataset": "eth", "phase": "testing", "root": str(tmp_path), "past_frames": 8, "future_frames": 12}
    dataset = open_dataset(section | {"traj_scale": 2, "return_index": True})
    assert len(dataset) == 2
    np.testing.assert_allclose(dataset[1].x[0, 0], np.arange(1, 21) / 2)
    with pytest.raises(TypeError, match=r"data\.test: pedestrian_dataset: traj_scale must be a number, got 'two'"):
        open_dataset(section | {"traj_scale": "two"}, "data.test")


def test_opens_own_files(tmp_path):
    noisy = ROW + 0.01 * RNG.standard_normal((40, 3, 3))
    np.savez(tmp_path / "a.npz", x=noisy, z=[6, 6, 8])
    section = {
        "kind": "npz",
        "path": str(tmp_path / "a.npz"),
        "mode": "train",
        "span": 4,
        "stride": 2,
        "bonds": [[0, 2], [1, 2]],
        "max_hops": 1,
    }
    dataset = open_dataset(section)
    assert len(dataset) == 11
    assert dataset[0].edge_index.tolist() == [[0, 1, 2, 2], [2, 2, 0, 1]]
    lines = [
        f"3\n\nC {' '.join(map(str, a))}\nC {' '.join(map(str, b))}\nO {' '.join(map(str, c))}\n" for a, b, c in noisy
    ]
    (tmp_path / "a.xyz").write_text("".join(lines))
    dataset = open_dataset(
        {"kind": "file", "path": str(tmp_path / "a.xyz"), "span": 10, "split_ratio": [0.5, 0.25, 0.25], "split": "val"}
    )
    assert len(dataset) == 1
    np.testing.assert_allclose(dataset[0].x.permute(2, 0, 1), noisy[20:30], rtol=1e-5)


def test_frames_are_chosen_in_every_kind(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{6 * t} 1 {t} 0\n" for t in range(50)))
    people = {"recordings": [str(tmp_path / "a.txt")], "phase": "testing", "every": 2, "num_slots": 2, "frame_step": 6}
    assert len(open_dataset(people)) == 6
    np.savez(tmp_path / "a.npz", R=ROW + 0.01 * RNG.standard_normal((100, 3, 3)), z=[6, 6, 8])
    own = {"kind": "npz", "path": str(tmp_path / "a.npz"), "frames": [10, 50], "every": 2, "span": 5}
    assert len(open_dataset(own)) == 16
    official = {"kind": "md17", "path": str(tmp_path / "a.npz"), "split": "train", "frames": [0, 50], "span": 5}
    assert len(open_dataset(official | {"every": 1})) == 26
    systems = {"system": "springs", "split": "val", "num_systems": 2, "num_frames": 4, "frames": [2, None], "every": 3}
    assert open_dataset(systems, progress=False)[0].x.shape == (5, 3, 4)
