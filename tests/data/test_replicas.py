"""Several runs of one system: patterns of paths, splits by run or in time, and runs too short for a window."""

import os
import re
import warnings

import numpy as np
import pytest
import torch
from molecule_frames import motion, write, xyz_text

from geotdm_fast.data import open_dataset, open_datasets
from geotdm_fast.data.replicas import expanded_paths
from geotdm_fast.data.windows import Joined

LENGTHS = (40, 25, 33, 3)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/0 ... runs/3, of other lengths; the last has no room for a window."""
    monkeypatch.chdir(tmp_path)
    for number, frames in enumerate(LENGTHS):
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        write(folder / "traj.xyz", xyz_text(motion(frames, seed=number)))
    return tmp_path


def section(**more):
    return {"kind": "file", "path": "runs/*/traj.xyz", "span": 5} | more


def first_frames(dataset):
    """The first frame of every file, which tells it."""
    return [part.x[0, :, :, 0] for part in dataset.items.parts]


def test_patterns_are_files_in_the_order_of_their_names(runs):
    write(runs / "runs" / "x[1].xyz", "")
    assert expanded_paths("data", "runs/*/traj.xyz") == [f"runs/{i}/traj.xyz" for i in range(4)]
    assert expanded_paths("data", ["b.xyz", "runs/[12]/*"]) == ["b.xyz", "runs/1/traj.xyz", "runs/2/traj.xyz"]
    assert expanded_paths("data", "runs/x[1].xyz") == "runs/x[1].xyz", "a file that is there is no pattern"
    assert expanded_paths("data", "runs/?/traj.xyz") == expanded_paths("data", "**/traj.xyz")
    assert expanded_paths("data", 3) == 3 and expanded_paths("data", "none.xyz") == "none.xyz"
    with pytest.raises(FileNotFoundError, match=r"data.train: path runs/\*\.none: no file has such a name"):
        expanded_paths("data.train", "runs/*.none")
    with pytest.raises(FileNotFoundError, match=r"data: path runs/\*\.none"):
        open_dataset(section(path="runs/*.none"))


def test_every_window_is_of_one_file_and_files_weigh_by_their_windows(runs):
    with pytest.warns(UserWarning, match=r"data: 1 of 4 files have no room for a window and are left out, runs/3/"):
        dataset = open_dataset(section())
    assert isinstance(dataset.items, Joined) and dataset.name == "traj"
    assert [len(part) for part in dataset.items.parts] == [frames - 4 for frames in LENGTHS[:3]]
    assert isinstance(dataset.atomic_numbers, torch.Tensor) and len(dataset.numbers_of(70)) == 9
    alone = [open_dataset(section(path=f"runs/{i}/traj.xyz")) for i in range(3)]
    expected = torch.cat([torch.stack([item.x for item in own]) for own in alone])
    assert torch.equal(torch.stack([item.x for item in dataset]), expected)


def test_a_lag_without_room_is_told(tmp_path):
    paths = [str(tmp_path / f"{name}.npz") for name in ("long", "short")]
    for path, frames in zip(paths, (24, 9), strict=True):
        np.savez(path, x=np.random.default_rng(0).normal(size=(frames, 3, 3)), time=np.arange(frames) * 0.5)
    made = {"kind": "npz", "path": paths, "span": 5}
    told = r"1 of 4 parts \(a file at one lag\) have no room for a window and are left out, .*short.npz at {}: "
    for keys, lag in (
        ({"conditions": {"lag": [0.5, 2.0]}}, "conditions.lag 2"),
        ({"every": [1, 4], "conditions": {"lag": "time"}}, "every 4"),
        ({"every": [1, 4]}, "every 4"),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(open_dataset(made | keys)) == 20 + 2 + 5
        assert len(caught) == 1 and re.search(told.format(lag), str(caught[0].message))
    alone = made | {"path": paths[1], "conditions": {"lag": [0.5, 2.0]}}
    with pytest.warns(UserWarning) as caught:
        assert len(open_dataset(alone)) == 5
    assert [re.search("data: (.*?),", str(one.message))[1] for one in caught] == [
        "1 of 2 parts (a file at one lag) have no room for a window and are left out",
        "no file has room for a window at conditions.lag 2",
    ]
    with pytest.raises(ValueError, match="must have at least span=30 frames, got 9"):
        open_dataset(alone | {"span": 30})


def test_a_split_in_time_is_of_every_file(runs):
    with pytest.warns(UserWarning, match="1 of 4 files"):
        train = open_dataset(section(split="train"))
    assert [part.x.shape[-1] for part in train.items.parts] == [24, 15, 19]
    with pytest.warns(
        UserWarning, match=r"data: 1 of 4 files.*split 'val' must have at least span=5 frames, got 1 of \d"
    ):
        assert [part.x.shape[-1] for part in open_dataset(section(split="val", split_by="time")).items.parts] == [
            8,
            5,
            7,
        ]


def test_a_split_by_replica_is_of_whole_files(runs):
    every = [f"runs/{i}/traj.xyz" for i in range(3)]
    sections = {
        split: section(
            path=every, split=split, split_by="replica", split_ratio=[0.34, 0.33, 0.33], name=["a", "b", "c"]
        )
        for split in ("train", "val", "test")
    }
    opened = open_datasets(sections)
    assert [dataset.name for dataset in opened.values()] == ["a", "b", "c"]
    assert [len(dataset) for dataset in opened.values()] == [36, 21, 29]
    assert len(open_dataset(section(path=every, split_by="replica"))) == 86, "without a split all of them"


def test_conditions_of_files_are_split_with_them(runs):
    every = [f"runs/{i}/traj.xyz" for i in range(3)]
    about = {"path": every, "split_by": "replica", "split_ratio": [0.34, 0.33, 0.33]}
    told = section(conditions={"temperature": [300, 310, 320], "pressure": 1}, **about)
    assert open_dataset(told | {"split": "val"})[0].conditions.tolist() == [1, 310]
    assert open_dataset(told | {"split": "test"})[0].conditions.tolist() == [1, 320]
    with pytest.raises(
        ValueError, match=r"path and conditions.temperature must be lists of the same length, got 3 and"
    ):
        open_dataset(section(conditions={"temperature": [300, 310]}, split="val", **about))


def test_what_a_split_by_replica_wants(runs):
    two = ["runs/0/traj.xyz", "runs/1/traj.xyz"]
    with pytest.raises(
        ValueError, match=r"data: split 'val' must hold a file where split_by is replica, got none of 2"
    ):
        open_dataset(section(path=two, split="val", split_by="replica"))
    with pytest.raises(ValueError, match="data: split_by must be one of time, replica"):
        open_dataset(section(split_by="run"))
    with pytest.raises(ValueError, match=r"name must be lists of the same length, got \{'path': 2, 'name': 3\}"):
        open_dataset(section(path=two, split="train", split_by="replica", name=["a", "b", "c"]))
    with pytest.raises(ValueError, match="data: path and name must be lists of the same length, got 4 and 3"):
        open_dataset(section(split="train", split_by="replica", name=["a", "b", "c"]))


def test_where_no_file_has_room_it_is_an_error(runs):
    with pytest.raises(
        ValueError, match=r"data: file_dataset: runs/0/traj\.xyz must have at least span=50 frames, got 40"
    ):
        open_dataset(section(span=50))
    with pytest.raises(ValueError, match="must have at least span=5 frames, got 3"):
        open_dataset(section(path="runs/3/traj.xyz"))


def test_many_names_are_told_by_the_first_and_the_last(runs):
    for number in range(9):
        os.symlink(runs / "runs" / "0" / "traj.xyz", runs / f"r{number}.xyz")
    assert open_dataset(section(path="r*.xyz")).name == "r0 + ... + r8 (9 files)"
    assert open_dataset(section(path="r[01].xyz")).name == "r0 + r1"


def test_replicas_in_a_cache_are_those_in_memory(runs):
    with pytest.warns(UserWarning, match="1 of 4 files"):
        expected = open_datasets({name: section(split=name) for name in ("train", "val")})
    with pytest.warns(UserWarning, match="1 of 4 files"):
        cached = open_datasets({name: section(split=name, cache="cache") for name in ("train", "val")})
    for name, dataset in expected.items():
        assert len(dataset) == len(cached[name]) and dataset.name == cached[name].name
        assert all(torch.equal(a.x, b.x) for a, b in zip(dataset, cached[name], strict=True))
    assert len(os.listdir("cache")) == 6


def test_files_beside_each_run(runs):
    """`{folder}` is the folder of each file."""
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("W", topology.add_chain())
    for name in ("O", "H", "H"):
        topology.add_atom(name, mdtraj.element.Element.getBySymbol(name), residue)
    for number in (1, 2):
        x = 0.1 * np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + np.zeros((12, 3, 3))
        x += 0.001 * np.random.default_rng(number).normal(size=x.shape)
        made = mdtraj.Trajectory(x, topology, time=np.arange(12.0))
        made.save(f"runs/{number}/m.xtc")
        made[0].save(f"runs/{number}/m.pdb")
    both = open_dataset(section(path="runs/*/m.xtc", topology="{folder}/m.pdb"))
    assert len(both.items.parts) == 2 and both.atomic_numbers.tolist() == [8, 1, 1]
    alone = open_dataset(section(path="runs/2/m.xtc", topology="runs/2/m.pdb"))
    assert torch.equal(both.items.parts[1].x, alone.items.x)
    with pytest.raises(FileNotFoundError, match=r"runs/1/none\.pdb: no such file"):
        open_dataset(section(path="runs/*/m.xtc", topology="{folder}/none.pdb"))


def test_windows_of_every_third_frame_begin_anywhere(runs):
    about = section(path="runs/0/traj.xyz", every=3)
    one, some = open_dataset(about), open_dataset(about | {"phases": True})
    whole = open_dataset(section(path="runs/0/traj.xyz", span=40))[0].x
    assert len(one) == 14 - 4 and len(some) == 40 - 12
    found = [item.x for item in some]
    for first in range(len(some)):
        expected = whole[..., first : first + 13 : 3]
        assert any(torch.equal(x, expected) for x in found)
    late = open_dataset(about | {"phases": True, "frames": [4, 25]})
    assert len(late) == 21 - 12 and torch.equal(late[0].x, whole[..., 4:17:3])
    for wrong in ({"every": None}, {"frames": [0, 9, 2], "every": None}, {"frames": [-9, None]}):
        with pytest.raises(ValueError, match=r"data: phases goes with every: N"):
            open_dataset(about | {"phases": True} | wrong)


@pytest.mark.parametrize("kind", ["file", "npz"])
def test_a_run_of_fewer_frames_than_every_is_left_out_once(runs, kind):
    suffix = "xyz"
    if kind == "npz":
        suffix = "npz"
        for number, frames in enumerate(LENGTHS):
            np.savez(runs / "runs" / str(number) / "traj.npz", x=motion(frames, seed=number))
    about = section(kind=kind, path=f"runs/*/traj.{suffix}", span=2, every=5, phases=True)
    message = (
        rf"data: 1 of 4 files have no room for a window and are left out, runs/3/traj\.{suffix}: .*span=2 frames, got 1"
    )
    with pytest.warns(UserWarning, match=message) as told:
        dataset = open_dataset(about)
    assert len(told) == 1 and len(dataset) == sum(frames - 5 for frames in LENGTHS[:3])
    with pytest.raises(ValueError, match="must have at least span=2 frames, got 1"):
        open_dataset(about | {"path": f"runs/3/traj.{suffix}"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of the 25 frames of the second run one window alone begins early enough.
        some = open_dataset(about | {"path": [f"runs/{i}/traj.{suffix}" for i in (0, 1)], "span": 3, "every": 12})
    assert some.entry_sizes == [40 - 24, 1]
    with pytest.raises(ValueError, match="frames must start within the 25 frames there are, got 30"):
        open_dataset(about | {"path": f"runs/1/traj.{suffix}", "frames": [30, None]})
