"""Windows of a cache: the same numbers and warnings as in memory, and when a file is read again."""

import os
import warnings

import numpy as np
import pytest
import torch
from cached_files import (
    BOX,
    beads_pdb,
    boxed_xyz,
    far_xyz,
    gap_dump,
    made_cache,
    plain_xyz,
    same,
    written_twice_xyz,
)
from molecule_frames import ETHANOL, motion

from geotdm_fast.data import file_dataset
from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.stretches import TooShort

CASES = {
    "plain": (plain_xyz, {"span": 7}),
    "a split, strides": (plain_xyz, {"span": 5, "stride": 3, "split": "val"}),
    "frames": (plain_xyz, {"span": 5, "frames": [3, 50, 2], "with_h": False}),
    "every": (plain_xyz, {"span": 4, "every": 3, "split": "train", "split_ratio": [0.7, 0.3, 0]}),
    "project": (plain_xyz, {"span": 5, "project": True}),
    "nm": (plain_xyz, {"span": 5, "unit": "bohr"}),
    "box": (boxed_xyz, {"span": 6}),
    "box, drift removed": (boxed_xyz, {"span": 6, "remove_drift": True, "split": "test"}),
    "box that changes, drift removed": (lambda path: boxed_xyz(path, changes=True), {"span": 6, "remove_drift": True}),
    "box left out": (lambda path: boxed_xyz(path, changes=True), {"span": 6, "box": "no", "every": 2}),
    "as stored": (boxed_xyz, {"span": 6, "unwrap": "no"}),
    "written twice": (written_twice_xyz, {"span": 6}),
    "written twice, drift removed": (written_twice_xyz, {"span": 6, "remove_drift": True}),
    "a gap in time": (gap_dump, {"span": 9}),
    "far from 0": (far_xyz, {"span": 6}),
    "beads": (beads_pdb, {"span": 6, "types": "name", "cutoff": 2.5}),
    "bonds given": (plain_xyz, {"span": 6, "bonds": [[0, 1], [1, 2]], "fully_connected": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_bits_and_warnings_are_those_of_memory(tmp_path, case):
    make, options = CASES[case]
    path = make(tmp_path)

    def opened(**more):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            dataset = file_dataset(path, **options, **more)
        return dataset, sorted({str(one.message) for one in said})

    expected, told = opened()
    for _ in range(2):  # made, then found
        cached, again = opened(cache=tmp_path / "cache")
        assert isinstance(cached.items, StoredWindows)
        same(expected, cached)
        assert again == told
    if "twice" in case or "gap" in case or "far" in case:
        assert any(len(text) for text in told) or "far" in case
    if "far" in case:
        assert cached[0].origin is not None and cached[0].origin.abs().max() > 1e6
    assert len(list((tmp_path / "cache").iterdir())) == 1, "nothing is left beside the cache"


@pytest.mark.parametrize("kind", ["xtc", "dcd"])
def test_formats_of_other_packages_and_selections(tmp_path, kind):
    mdtraj = pytest.importorskip("mdtraj")
    topology = beads_pdb(tmp_path)
    x = motion(90, drift=(0.2, 0, 0)) % BOX
    path = tmp_path / f"run.{kind}"
    trajectory = mdtraj.Trajectory(x / 10, mdtraj.load_topology(str(topology)), time=np.arange(90) * 2.0)
    trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((90, 3), BOX / 10), np.full((90, 3), 90.0)
    trajectory.save(str(path))
    options = {"topology": topology, "selection": "element C or element O", "remove_drift": True, "every": 2, "span": 5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for split in ("train", "val", "test"):
            expected = file_dataset(path, split=split, **options)
            for _ in range(2):
                same(expected, file_dataset(path, split=split, cache=tmp_path / "cache", **options))


def test_it_is_opened_once(tmp_path, monkeypatch):
    path = plain_xyz(tmp_path)
    expected = file_dataset(path, span=7, cache=tmp_path / "cache").items.in_memory().x
    monkeypatch.setattr(OpenFile, "molecules", lambda *_: pytest.fail("the file was opened again"))
    # Windows, graphs and names may be others, and the file may have moved.
    moved = path.rename(tmp_path / "moved.xyz")
    for options in ({"span": 9, "stride": 2}, {"span": 60}, {"max_hops": 1}, {"name": "another", "project": True}):
        found = file_dataset(moved, cache=tmp_path / "cache", **{"span": 7} | options)
        assert torch.equal(found.items.in_memory().x, expected)
    assert found.name == "another" and len(file_dataset(moved, cache=tmp_path / "cache", span=60)) == 1
    with pytest.raises(pytest.fail.Exception, match="opened again"):
        file_dataset(moved, cache=tmp_path / "cache", span=7, every=2)


def test_a_file_that_changed_is_read_again(tmp_path):
    path, cache = plain_xyz(tmp_path), tmp_path / "cache"
    before = file_dataset(path, span=7, cache=cache)
    plain_xyz(tmp_path, seed=1)
    os.utime(path, ns=(1, 1))
    after = file_dataset(path, span=7, cache=cache)
    assert not torch.equal(before[0].x, after[0].x)
    same(file_dataset(path, span=7), after)
    assert len(list(cache.iterdir())) == 2, "the earlier one stays until it is deleted"


def test_a_stretch_that_has_room_for_shorter_windows_alone_has_a_cache_of_its_own(tmp_path):
    path, cache = gap_dump(tmp_path), tmp_path / "cache"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for span, caches in ((20, 1), (14, 1), (47, 1), (13, 2), (5, 2), (20, 2)):
            same(file_dataset(path, span=span), file_dataset(path, span=span, cache=cache))
            assert len(list(cache.iterdir())) == caches
        with pytest.raises(
            TooShort, match="must have at least span=48 frames that are equally far apart, got at most 47"
        ):
            file_dataset(path, span=48, cache=cache)
    assert len(list(cache.iterdir())) == 2


def test_windows_are_numbered_as_in_memory(tmp_path):
    path = plain_xyz(tmp_path)
    a, b = file_dataset(path, span=7, stride=4), file_dataset(path, span=7, stride=4, cache=tmp_path / "cache")
    assert torch.equal(a[-1].x, b[-1].x) and len(b.subset([3, 1])) == 2
    for index in (len(b), -len(b) - 1):
        with pytest.raises(IndexError):
            b[index]
    b[0].x.add_(1)  # memory of its own: nothing in the file changes
    assert torch.equal(a[0].x, b[0].x)
    assert np.allclose(ETHANOL, a[0].x[..., 0].numpy(), atol=0.2)


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    path, made = made_cache(tmp_path)
    dataset = file_dataset(path, span=7, cache=tmp_path / "cache")
    os.truncate(made / "positions.npy", 1000)
    with pytest.raises(ValueError, match=r"positions\.npy must have 60 rows, got an end before"):
        dataset[50]


def test_positions_that_fill_the_memory_are_told_of_the_cache(tmp_path, monkeypatch):
    path = plain_xyz(tmp_path)  # 6480 bytes of positions
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file_dataset(path, span=7)
        monkeypatch.setattr("geotdm_fast.data.molecule_files.cached.physical_memory", lambda: 12000)
        file_dataset(path, span=7, cache=tmp_path / "cache")
    with pytest.warns(
        UserWarning, match=r"6\.03e-06 GiB of positions are kept in memory.*cache: FOLDER keeps them on disk"
    ):
        file_dataset(path, span=7)
