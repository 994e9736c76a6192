"""Conditions of data: what sections say, what lags cut, and that batches keep whose is whose."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geotdm_fast.data import TrajectoryDataset, array_dataset, collate, nbody_dataset, open_dataset
from geotdm_fast.data.conditions import check_conditions, conditions_of, with_conditions
from geotdm_fast.data.given_frames import given_frames_dataset
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.sampling.graphs import GraphPicker
from geotdm_fast.training.state import fingerprint

NBODY = {"kind": "nbody", "system": "charged", "split": "train", "num_systems": 3, "num_frames": 4}


def opened(**keys):
    return open_dataset(NBODY | keys, progress=False)


def plain(every: int):
    return nbody_dataset("charged", "train", num_systems=3, num_frames=4, every=every, progress=False)


def walk(path, times=None, frames=24, name="x"):
    x = np.random.default_rng(1).normal(size=(frames, 3, 3)).cumsum(axis=0)
    arrays = {} if times is None else {"time": times}
    np.savez(path, **{name: x}, **arrays)
    return x


def each(dataset, name):
    names, _ = conditions_of(dataset)
    place = names.index(name)
    return [round(float(item.conditions[place]), 6) for item in dataset]


@pytest.mark.parametrize(
    ("keys", "lags"),
    [
        ({"conditions": {"lag": [0.1, 0.3]}}, [0.1, 0.3]),
        ({"every": [1, 3], "conditions": {"lag": "time"}}, [0.1, 0.3]),
        ({"every": [1, 3], "conditions": {"lag": "frames"}}, [1.0, 3.0]),
    ],
)
def test_windows_are_cut_at_every_lag(keys, lags):
    found = opened(**keys)
    assert len(found) == 6 and each(found, "lag") == [lags[0]] * 3 + [lags[1]] * 3
    for i, item in enumerate(found):
        assert torch.equal(item.x, plain((1, 3)[i // 3])[i % 3].x)
        assert item.condition_names == ("lag",)
    assert opened().items[0].conditions is None
    untold = opened(every=[1, 3])
    assert conditions_of(untold)[0] == () and torch.equal(untold[4].x, found[4].x)


def test_one_lag_in_each_way():
    for keys, lag in (
        ({"conditions": {"lag": 0.2}}, 0.2),
        ({"every": 2, "conditions": {"lag": 0.2}}, 0.2),
        ({"frames": [0, None, 2], "conditions": {"lag": "time"}}, 0.2),
        ({"every": 2, "conditions": {"lag": "frames", "charge": -1}}, 2.0),
    ):
        found = opened(**keys)
        assert each(found, "lag") == [lag] * 3
        assert torch.equal(found[1].x, plain(2)[1].x)
    assert found[0].condition_names == ("charge", "lag") and each(found, "charge") == [-1.0] * 3


def test_times_of_a_file_say_how_far_frames_are_apart(tmp_path):
    x = walk(tmp_path / "a.npz", times=np.arange(24) * 0.5)
    section = {"kind": "npz", "path": str(tmp_path / "a.npz"), "span": 4, "stride": 4, "split": None}
    found = open_dataset(section | {"conditions": {"lag": [0.5, 1.0], "temperature": 300}})
    assert each(found, "lag") == [0.5] * 6 + [1.0] * 3 and set(each(found, "temperature")) == {300.0}
    expected = torch.from_numpy(x[0:8:2].transpose(1, 2, 0)).float()
    torch.testing.assert_close(found[6].x.diff(dim=-1), expected.diff(dim=-1), rtol=1e-5, atol=1e-5)
    assert each(open_dataset(section | {"every": 3, "conditions": {"lag": "time"}}), "lag") == [1.5, 1.5]
    with pytest.raises(ValueError, match=r"lag must be a whole number of the file's frames.* 0.5 apart, got"):
        open_dataset(section | {"conditions": {"lag": 0.75}})
    with pytest.raises(ValueError, match=r"lag must be 1, the time between the frames that every .* got 0.5"):
        open_dataset(section | {"every": 2, "conditions": {"lag": 0.5}})


def test_without_times_a_lag_is_what_is_said(tmp_path):
    walk(tmp_path / "a.npz")
    section = {"kind": "npz", "path": str(tmp_path / "a.npz"), "span": 4, "every": 2}
    assert set(each(open_dataset(section | {"conditions": {"lag": 7}}), "lag")) == {7.0}
    with pytest.raises(ValueError, match=r"several lags need data with times; give every: .* \{lag: frames\}"):
        open_dataset(section | {"conditions": {"lag": [1, 2]}})
    with pytest.raises(ValueError, match=r"conditions.lag: time needs data with times; lag: frames counts frames"):
        open_dataset(section | {"conditions": {"lag": "time"}})


def test_a_trajectory_file_has_times(tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    top = mdtraj.Topology()
    residue = top.add_residue("MOL", top.add_chain())
    for i, symbol in enumerate("CCO"):
        top.add_atom(f"{symbol}{i}", mdtraj.element.get_by_symbol(symbol), residue)
    x = np.array([[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0]]) + 0.005 * np.random.default_rng(0).normal(size=(24, 3, 3))
    run = mdtraj.Trajectory(x, top, time=2.0 * np.arange(24))
    run.save_xtc(str(tmp_path / "a.xtc"))
    run[0].save_pdb(str(tmp_path / "a.pdb"))
    section = {"kind": "file", "path": str(tmp_path / "a.xtc"), "topology": str(tmp_path / "a.pdb"), "span": 4}
    found = open_dataset(section | {"stride": 4, "conditions": {"lag": [2, 6]}}, progress=False)
    assert each(found, "lag") == [2.0] * 6 + [6.0] * 2
    whole = open_dataset(section | {"every": 3, "stride": 4}, progress=False)
    assert torch.equal(found[7].x, whole[1].x) and whole.frame_time == 6.0
    run[:20].save_xtc(str(tmp_path / "b.xtc"))
    told = {"path": [section["path"], str(tmp_path / "b.xtc")], "conditions": {"lag": 6.0}}
    seen = given_frames_dataset(section | told, [True] * 3 + [False] * 2)
    assert each(seen, "lag") == [6.0] * 2 and len(seen) == 2
    for item, frames in zip(seen, ([17, 20, 23], [13, 16, 19]), strict=True):
        expected = torch.from_numpy(x[frames] * 10).float().permute(1, 2, 0).diff(dim=-1)
        torch.testing.assert_close(item.x[..., :3].diff(dim=-1), expected, rtol=0, atol=0.03)  # .xtc rounds


def test_a_number_for_each_file(tmp_path):
    paths = []
    for name in ("a", "b"):
        walk(tmp_path / f"{name}.npz", frames=8)
        paths.append(str(tmp_path / f"{name}.npz"))
    section = {"kind": "npz", "path": paths, "span": 4, "stride": 4}
    found = open_dataset(section | {"conditions": {"temperature": [300, 350], "lag": "frames"}, "every": [1, 2]})
    assert each(found, "temperature") == [300.0] * 3 + [350.0] * 3
    assert each(found, "lag") == [1.0, 1.0, 2.0] * 2
    with pytest.raises(ValueError, match=r"temperature must be a number, or one for each of the 2 files, got"):
        open_dataset(section | {"conditions": {"temperature": [300, 350, 400]}})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"conditions": 3}, r"data: conditions must be \{name: number\}, got 3"),
        ({"conditions": {"lag": "often"}}, "conditions.lag must be a finite number or a list of them, frames or time"),
        (
            {"conditions": {"temperature": "time"}},
            "temperature must be a finite number or a list of them, got",
        ),
        ({"conditions": {"temperature": float("nan")}}, "conditions.temperature must be a finite number"),
        ({"conditions": {"temperature": []}}, "conditions.temperature must be a finite number"),
        ({"conditions": {"lag": 0}}, "conditions.lag must be above 0, got 0"),
        ({"conditions": {"lag": [1, 1]}}, "conditions.lag must be different numbers, got"),
        (
            {"every": [1, 2], "conditions": {"lag": 0.1}},
            "every must not be a list where conditions.lag says",
        ),
        ({"conditions": {"9": 1}}, "a condition's name must be a word"),
        ({"every": [1, 1], "conditions": {"lag": "time"}}, "every must be different whole numbers"),
        ({"every": [], "conditions": {"lag": "time"}}, "every must be different whole numbers"),
        ({"condition": {"lag": 1}}, "unknown key 'condition'; did you mean 'conditions'"),
    ],
)
def test_bad_sections(keys, message):
    with pytest.raises(ValueError, match=message):
        normalise_section(NBODY | keys)


def test_the_normal_form_is_kept():
    section = normalise_section(NBODY | {"every": [1, 2], "conditions": {"temperature": 3, "lag": "time"}})
    assert section["conditions"] == {"lag": "time", "temperature": 3} and normalise_section(section) == section
    assert "conditions" not in normalise_section(NBODY | {"conditions": {}})


def test_batches_keep_whose_is_whose():
    dataset = opened(conditions={"lag": [0.1, 0.2], "temperature": 300})
    batch = collate(dataset)
    assert batch.conditions.dtype == torch.float32 and batch.condition_names == ("lag", "temperature")
    assert batch.conditions[:, 0].tolist() == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert torch.equal(batch.model_kwargs()["conditions"], batch.conditions)
    assert "conditions" not in collate(opened()).model_kwargs()
    for item, again in zip(dataset, batch.to_data_list(), strict=True):
        assert torch.equal(item.conditions, again.conditions) and again.condition_names == item.condition_names
    picked = GraphPicker(batch)([5, 0, 5])
    assert torch.equal(picked.conditions, batch.conditions[[5, 0, 5]])
    assert batch.to(dtype=torch.float64).conditions.dtype == torch.float32
    assert "conditions=[6, 2]" in repr(batch) and "conditions" not in repr(collate(opened()))
    assert fingerprint(dataset) != fingerprint(opened(every=[1, 2], conditions={"lag": "frames", "temperature": 300}))
    assert fingerprint(plain(1)) == fingerprint(opened())


def test_numbers_of_ones_own():
    dataset = plain(1)
    told = with_conditions(with_conditions(dataset, {"temperature": 300}), {"lag": [1, 2, 4], "temperature": 310})
    assert each(told, "lag") == [1.0, 2.0, 4.0] and each(told, "temperature") == [310.0] * 3
    assert dataset[0].conditions is None and told.name == dataset.name
    assert each(told[1:], "lag") == [2.0, 4.0]
    names, values = conditions_of(told)
    assert names == ("lag", "temperature") and values.shape == (3, 2)
    assert with_conditions(dataset, {}) is dataset
    assert conditions_of(dataset)[0] == ()
    for value, message in (
        ([1, 2], "the condition lag must be a number, or one for each of the 3 trajectories, got"),
        ("x", "the condition lag must be a number"),
        (float("inf"), "the condition lag must be finite, got NaN or Inf"),
    ):
        with pytest.raises(ValueError, match=message):
            with_conditions(dataset, {"lag": value})


def test_mixed_sets_are_told():
    one, other = with_conditions(plain(1), {"lag": 1}), with_conditions(plain(1), {"temperature": 1})
    with pytest.raises(ValueError, match=r"join_datasets: the conditions of .* must be lag as in .*, got none"):
        join_datasets([one, plain(1)])
    with pytest.raises(ValueError, match="collate: conditions of graph 1 must be lag like graph 0, got temperature"):
        collate([one[0], other[0]])
    with pytest.raises(ValueError, match="collate: conditions of graph 1 must be none like graph 0, got lag"):
        collate([plain(1)[0], one[0]])
    mixed = TrajectoryDataset([one[0], other[0]], name="mixed")
    with pytest.raises(ValueError, match="the conditions of part 1 must be lag as in the first, got temperature"):
        conditions_of(mixed)
    item = one[0]
    two = torch.tensor([1.0, 2.0])
    wrong = replace(item, conditions=two, condition_names=("lag",))
    with pytest.raises(ValueError, match=r"conditions must be \[1\], of lag, got \[2\]"):
        conditions_of(TrajectoryDataset([wrong], name="wrong"))
    with pytest.raises(ValueError, match="the model is told no conditions, got lag"):
        check_conditions(one, None, "here")


def test_given_frames_have_one_lag(tmp_path):
    x = walk(tmp_path / "a.npz", times=np.arange(24) * 0.5)
    section = {"kind": "npz", "path": str(tmp_path / "a.npz")}
    given = [True] * 3 + [False] * 2
    found = given_frames_dataset(section | {"every": 2, "conditions": {"lag": "time"}}, given)
    assert each(found, "lag") == [1.0]
    expected = array_dataset(x[19::2], span=3)
    torch.testing.assert_close(found[0].x[..., :3].diff(dim=-1), expected[0].x.diff(dim=-1), rtol=1e-5, atol=1e-5)
    for keys in ({"conditions": {"lag": [0.5, 1.0]}}, {"every": [1, 2], "conditions": {"lag": "time"}}):
        with pytest.raises(ValueError, match="the given frames must have one lag"):
            given_frames_dataset(section | keys, given)
    cut = given_frames_dataset(section | {"conditions": {"lag": 1.0}}, given)
    assert each(cut, "lag") == [1.0] and torch.equal(cut[0].x, found[0].x)
    part = given_frames_dataset(section | {"frames": [0, 20], "conditions": {"lag": 1.0}}, given)
    steps = lambda frames: torch.from_numpy(x[frames]).float().permute(1, 2, 0).diff(dim=-1)
    torch.testing.assert_close(part[0].x[..., :3].diff(dim=-1), steps([14, 16, 18]), rtol=1e-5, atol=1e-5)
    none = given_frames_dataset(section | {"conditions": None}, given)
    torch.testing.assert_close(none[0].x[..., :3].diff(dim=-1), steps([21, 22, 23]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"data: conditions.lag must be a whole number of the file's frames, .* 0.75"):
        given_frames_dataset(section | {"conditions": {"lag": 0.75}}, given)
    with pytest.raises(ValueError, match=r"data: conditions.lag must be 0.5, the time between .* got 1"):
        given_frames_dataset(section | {"every": 1, "conditions": {"lag": 1.0}}, given)
    with pytest.raises(ValueError, match=r"a.npz must have the 13 given frames, got 12"):
        given_frames_dataset(section | {"conditions": {"lag": 1.0}}, [True] * 13 + [False])
    walk(tmp_path / "b.npz", times=np.arange(24) * 0.25)
    both = [section["path"], str(tmp_path / "b.npz")]
    with pytest.raises(ValueError, match=r"lag 1 must be as many frames in every file, got 2 in .*a.npz and 4 in .*b"):
        given_frames_dataset({"kind": "npz", "path": both, "conditions": {"lag": 1.0}}, given)


def test_given_frames_of_molecules_and_people_are_told(tmp_path):
    x = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]]) + 0.02 * np.random.default_rng(0).normal(size=(9, 3, 3))
    np.savez(tmp_path / "water.npz", R=x, z=[8, 1, 1])
    section = {"kind": "md17", "root": str(tmp_path), "molecule_name": "water", "split": "test"}
    given = [True] * 3 + [False] * 2
    conditions = {"temperature": 300, "lag": "frames"}
    found = given_frames_dataset(section | {"down_sample_every": 5, "conditions": conditions}, given)
    assert each(found, "temperature") == [300.0] and each(found, "lag") == [5.0], "as those of the training"
    torch.testing.assert_close(found[0].x[..., :3], torch.from_numpy(x[-3:]).float().permute(1, 2, 0))
    counted = given_frames_dataset(section | {"every": 2, "conditions": conditions}, given)
    assert each(counted, "lag") == [2.0]
    path = tmp_path / "now.txt"
    path.write_text("".join(f"{6 * t} {p} {0.5 * t} {p}\n" for t in range(9) for p in (1, 2)))
    people = {"recordings": [str(path)], "graph": "complete"}
    given = [True] * 8 + [False] * 12
    told = given_frames_dataset(people | {"conditions": {"crowd": [2], "lag": "frames"}}, given)
    assert each(told, "crowd") == [2.0] * 2 and each(told, "lag") == [1.0] * 2
    assert torch.equal(told[1].x, given_frames_dataset(people, given)[1].x) and not told[1].has_target
    with pytest.raises(ValueError, match="data: the given frames must have one lag"):
        given_frames_dataset(people | {"conditions": {"lag": [1, 2]}}, given)
    with pytest.raises(ValueError, match="crowd must be a number, or one for each of the 1 files"):
        given_frames_dataset(people | {"conditions": {"crowd": [2, 3]}}, given)
