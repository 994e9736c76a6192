"""A file whose frames lie in a cache: the same numbers as in memory, made once, whole or not at all."""

import errno
import json
import os
import shutil
import threading
import warnings

import numpy as np
import pytest
import torch
from full_disk import full_disk
from molecule_frames import ETHANOL, NAMES, dump_text, motion, pdb_text, write, xyz_text
from warm_python import WarmPython

from geotdm_fast.data import file_dataset, open_datasets
from geotdm_fast.data.cache import StoredWindows, folder
from geotdm_fast.data.cache.arrays import describe_array
from geotdm_fast.data.cache.source import describe_source, key_of
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.stretches import TooShort
from geotdm_fast.inspection.look import inspect_file
from geotdm_fast.runtime.sampled_digest import PIECE_BYTES, PIECES, sampled_sha256

BOX = 9.0


def boxed_xyz(path, frames=60, changes=False):
    """Ethanol that drifts through a box, its atoms put back into it, and times."""
    x = motion(frames, drift=(0.21, -0.1, 0.05))
    size = lambda t: BOX * (1 + 0.001 * (t % 7) * changes)
    wrapped = np.stack([frame % size(t) for t, frame in enumerate(x)])
    comment = lambda t: (
        f'Lattice="{size(t)} 0 0 0 {size(t)} 0 0 0 {size(t)}" pbc="T T T" Properties=species:S:1:pos:R:3 time={t * 0.5}'
    )
    return write(path / f"boxed{int(changes)}.xyz", xyz_text(wrapped, comment=comment))


def plain_xyz(path, frames=60, **more):
    return write(path / "plain.xyz", xyz_text(motion(frames, **more)))


def written_twice_xyz(path):
    """Frames 20 to 29 come again after frame 29, and the run starts anew at the end; there are no times."""
    x = motion(60)
    order = [*range(30), *range(20, 60), *range(15)]
    return write(path / "twice.xyz", xyz_text(x[order]))


def gap_dump(path):
    """A LAMMPS dump whose steps have a gap after frame 12."""
    x = motion(60)
    values = lambda t, i: f"{i} {'CCOHHHHHH'[i]} " + " ".join(f"{c:.6f}" for c in x[t, i])
    text = dump_text(x, "id element x y z", values, box="ff ff ff").split("ITEM: TIMESTEP\n")[1:]
    frames = [
        f"ITEM: TIMESTEP\n{100 * t + (5000 if t > 12 else 0)}\n{part.split(chr(10), 1)[1]}"
        for t, part in enumerate(text)
    ]
    return write(path / "gap.lammpstrj", "".join(frames))


def far_xyz(path):
    return write(path / "far.xyz", xyz_text(motion(60) + np.array([1.5e6, 0, -2e6])))


def beads_pdb(path):
    return write(path / "beads.pdb", pdb_text(motion(40), NAMES, elements=[name[0] for name in NAMES]))


def same(one, other) -> None:
    """Two data sets are the same, bit for bit."""
    assert len(one) == len(other) and one.name == other.name and one.unit == other.unit
    assert one.frame_time == other.frame_time
    assert (one.atomic_numbers is None) == (other.atomic_numbers is None)
    if one.atomic_numbers is not None:
        assert torch.equal(one.atomic_numbers, other.atomic_numbers)
    stored = other.items.in_memory()
    assert torch.equal(one.items.x, stored.x) and np.array_equal(one.items.places, stored.places)
    for i in (0, len(one) // 2, len(one) - 1):
        a, b = one[i], other[i]
        for name in ("x", "h", "edge_index", "edge_attr", "scored", "origin", "cell", "pbc"):
            mine, theirs = getattr(a, name), getattr(b, name)
            assert (mine is None) == (theirs is None), name
            assert mine is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs)), name


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


def test_what_is_written(tmp_path):
    path = boxed_xyz(tmp_path, changes=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file_dataset(path, span=6, cache=tmp_path / "cache", frames=[10, None], every=2)
    (made,) = (tmp_path / "cache").iterdir()
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in made.glob("*.npy")}
    assert sorted(arrays) == ["box", "elements", "ends", "first", "frames", "origin", "positions", "times"]
    assert arrays["positions"].shape == (25, 9, 3) and arrays["positions"].dtype == np.float32
    assert arrays["box"].shape == (25, 3, 3) and arrays["ends"].tolist() == [25]
    assert arrays["frames"].tolist() == [*range(10, 60, 2)] and arrays["times"][:2].tolist() == [5.0, 6.0]
    about = json.loads((made / "about.json").read_text())
    assert about["source"]["files"]["path"]["bytes"] == path.stat().st_size
    assert about["arrays"]["positions"]["bytes"] == (made / "positions.npy").stat().st_size


# --- what is not whole, or not ours -----------------------------------------------------------------------------------


def _made(tmp_path):
    path = plain_xyz(tmp_path)
    file_dataset(path, span=7, cache=tmp_path / "cache")
    (made,) = (tmp_path / "cache").iterdir()
    return path, made


def _short(made):
    os.truncate(made / "positions.npy", 1000)


def _flipped(made):
    data = bytearray((made / "positions.npy").read_bytes())
    data[3000] ^= 1
    (made / "positions.npy").write_bytes(data)


def _header(made):
    data = (made / "ends.npy").read_bytes()
    (made / "ends.npy").write_bytes(b"\x93NUMPY" + b"\xff" * (len(data) - 6))


def _pickle(made):
    np.save(made / "first.npy", np.array([{}], dtype=object), allow_pickle=True)
    about = json.loads((made / "about.json").read_text())
    about["arrays"]["first"]["bytes"] = (made / "first.npy").stat().st_size
    (made / "about.json").write_text(json.dumps(about))


def _gone(made):
    (made / "origin.npy").unlink()


def _no_about(made):
    (made / "about.json").unlink()


def _about(**changed):
    def change(made):
        about = json.loads((made / "about.json").read_text()) | changed
        (made / "about.json").write_text(
            json.dumps({k: v for k, v in about.items() if v != "gone"})
        )  # "gone": no field

    return change


def _replaced(made, name, array):
    """Another array, of which about.json says what is true."""
    np.save(made / f"{name}.npy", array)
    about = json.loads((made / "about.json").read_text())
    about["arrays"][name] = describe_array(made / f"{name}.npy")
    (made / "about.json").write_text(json.dumps(about))


def _other_first(made):
    _replaced(made, "first", np.zeros((8, 3)))


def _other_ends(made):
    _replaced(made, "ends", np.array([70]))


def _text(made):
    (made / "about.json").write_text('{"key": ')


DAMAGE = [
    (_short, r"positions\.npy must have 6608 bytes, as when it was written, got 1000; delete the folder"),
    (_flipped, r"positions\.npy must have the sha256 .* as when it was written"),
    (_header, r"ends\.npy must be an \.npy file of plain numbers"),
    (_pickle, r"first\.npy must be an \.npy file of plain numbers, got an unreadable one \(it holds pickled objects"),
    (_gone, r"origin\.npy: no such file; delete the folder"),
    (_no_about, r"about\.json: no such file"),
    (_text, r"about\.json must be JSON"),
    (_about(key="another"), r"about\.json must be of the cache [0-9a-f]{24}, got another"),
    (_about(shortest="7"), r"about\.json must be what a cache says of itself, got another field 'shortest'"),
    (_about(warnings=[3]), "got another field 'warnings' or 'names'"),
    (_about(arrays={}), "got another choice of arrays"),
    (_about(arrays={"../../positions": {}}), r"got another array '\.\./\.\./positions'"),
    (_about(pbc=[True] * 3), "got another field 'pbc'"),
    (_about(unit="gone"), "got another field 'unit'"),
    (_other_first, "got another shape of the array 'first'"),
    (_other_ends, r"ends\.npy must end at the 60 frames there are"),
]


@pytest.mark.parametrize("damage, message", DAMAGE, ids=[message[:30] for _, message in DAMAGE])
def test_a_damaged_cache_is_an_error_that_names_the_file(tmp_path, damage, message):
    path, made = _made(tmp_path)
    damage(made)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        file_dataset(path, span=7, cache=tmp_path / "cache")
    shutil.rmtree(made)
    same(file_dataset(path, span=7), file_dataset(path, span=7, cache=tmp_path / "cache"))


def test_a_name_of_an_array_is_of_no_other_folder(tmp_path):
    path, made = _made(tmp_path)
    about = json.loads((made / "about.json").read_text())
    about["arrays"]["../x"] = about["arrays"]["positions"]
    (made / "about.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"another array '\.\./x'"):
        file_dataset(path, span=7, cache=tmp_path / "cache")


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    path, made = _made(tmp_path)
    dataset = file_dataset(path, span=7, cache=tmp_path / "cache")
    _short(made)
    with pytest.raises(ValueError, match=r"positions\.npy must have 60 rows, got an end before"):
        dataset[50]


def test_a_making_that_fails_leaves_nothing(tmp_path, monkeypatch):
    text = xyz_text(motion(60)).replace("C", "C", 1).split("\n")
    broken = write(
        tmp_path / "broken.xyz", "\n".join([*text[: 11 * 40 + 4], "C 1.0 nonsense 3.0", *text[11 * 40 + 5 :]])
    )
    with pytest.raises(ValueError, match=r"broken\.xyz"):
        file_dataset(broken, span=7, cache=tmp_path / "cache")
    path = plain_xyz(tmp_path)
    monkeypatch.setattr("geotdm_fast.data.cache.making.check_motion", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        file_dataset(path, span=7, cache=tmp_path / "cache")
    monkeypatch.undo()
    assert not [*(tmp_path / "cache").glob("*")], "no folder that could be taken for a cache"
    same(file_dataset(path, span=7), file_dataset(path, span=7, cache=tmp_path / "cache"))


def _interrupted(*_, **__):
    raise KeyboardInterrupt


def test_what_a_killed_process_left_is_made_anew(tmp_path):
    path, made = _made(tmp_path)
    left = made.parent / f".{made.name}" / "building"
    left.parent.mkdir()
    made.rename(left)
    (left / "about.json").unlink()
    (left.parent / ".lock").touch()
    same(file_dataset(path, span=7), file_dataset(path, span=7, cache=tmp_path / "cache"))
    assert [own.name for own in made.parent.iterdir()] == [made.name]


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    path, cache = plain_xyz(tmp_path), tmp_path / "cache"
    with (
        full_disk(3000),
        pytest.raises(OSError, match=f"cannot write the cache {cache}.*cache: names another") as caught,
    ):
        file_dataset(path, span=7, cache=cache)
    assert caught.value.errno == errno.EFBIG and not [*cache.glob("*")]
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(OSError, match=r"it needs 6\.03e-06 GiB, and 9\.31e-07 GiB are free") as caught:
        file_dataset(path, span=7, cache=cache)
    assert caught.value.errno == errno.ENOSPC and not [*cache.glob("*")]


def test_the_cache_must_be_a_folder(tmp_path):
    path = plain_xyz(tmp_path)
    with pytest.raises(ValueError, match=r"cache: .*plain\.xyz must be a folder, got a file"):
        file_dataset(path, span=7, cache=path)
    with pytest.raises(ValueError, match="unknown key 'cache'"):
        open_datasets({"data": {"kind": "npz", "path": "a.npz", "cache": "c"}})


# --- several processes ------------------------------------------------------------------------------------------------

OPEN = """
import hashlib, sys
from geotdm_fast.data import file_dataset
dataset = file_dataset(sys.argv[1], span=7, cache=sys.argv[2])
print(hashlib.sha256(dataset.items.in_memory().x.numpy().tobytes()).hexdigest())
"""


def test_two_processes_that_make_the_same_cache_at_once_are_both_right(tmp_path):
    path = plain_xyz(tmp_path, frames=2000)
    processes = [WarmPython("-c", OPEN, str(path), str(tmp_path / "cache")) for _ in range(3)]
    done = [process.wait() for process in processes]
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert len({one.stdout for one in done}) == 1
    (made,) = (tmp_path / "cache").iterdir()
    assert not made.name.startswith(".")


def test_one_waits_for_the_other_and_says_so(tmp_path, monkeypatch):
    path, cache, lines = plain_xyz(tmp_path), tmp_path / "cache", []
    begun, go_on = threading.Event(), threading.Event()
    inside = folder.FrameCache._made

    def slow(self, *args):
        begun.set()
        assert go_on.wait(30)
        return inside(self, *args)

    monkeypatch.setattr(folder.FrameCache, "_made", slow)
    monkeypatch.setattr(folder, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr("geotdm_fast.data.molecule_files.cached.say", lambda text: (lines.append(text), go_on.set()))
    results = []
    first = threading.Thread(target=lambda: results.append(file_dataset(path, span=7, cache=cache)))
    first.start()
    assert begun.wait(30)
    monkeypatch.setattr(folder.FrameCache, "_made", lambda *_: pytest.fail("made twice"))
    results.append(file_dataset(path, span=7, cache=cache))
    first.join()
    assert len(lines) == 1 and "another process is making the cache" in lines[0]
    for own in results:
        same(file_dataset(path, span=7), own)


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_key_follows_the_bytes_and_the_settings_alone(tmp_path):
    path = plain_xyz(tmp_path)
    how = {"selection": "all", "elements": {1: "O", 2: "H"}, "frames": [0, 5], "bonds": np.array([[0, 1]])}
    key = lambda **more: key_of(describe_source(path, None, how | more))
    first = key()
    assert first == key(elements={2: "H", 1: "O"}, frames=(0, 5), bonds=[[0, 1]])
    others = [key(selection="name CA"), key(elements={"1": "O", 2: "H"}), key(frames=[0, 6]), key(bonds=None)]
    assert len({first, *others}) == 5
    assert first != key_of(describe_source(path, path, how))


def test_the_digest_of_a_large_file_sees_its_pieces(tmp_path):
    path = tmp_path / "large"
    size = 4 * PIECES * PIECE_BYTES
    with open(path, "wb") as file:
        file.truncate(size)

    def digest(place):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\x01")
        found = sampled_sha256(path)
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\x00")
        return found

    plain = sampled_sha256(path)
    assert digest(0) != plain and digest(size - 1) != plain and digest((size - PIECE_BYTES) // 63 + 5) != plain
    assert digest(PIECE_BYTES) == plain, "what lies between the pieces is not read"


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


def test_a_folder_of_caches_is_looked_into(tmp_path):
    path, made = _made(tmp_path)
    file_dataset(path, split="val", span=7, cache=tmp_path / "cache")
    found = dict(inspect_file(tmp_path / "cache").facts)
    assert found["kind"].startswith("2 caches") and found[made.name] == f"60 frames of 9 atoms of {path}, 7.5e-06 GiB"
    assert any(text.startswith("12 frames of 9 atoms") and "split val" in text for text in found.values())
    shown = inspect_file(path, keys={"cache": str(tmp_path / "cache")})
    assert shown.facts == inspect_file(path).facts
    _short(made)
    assert "damaged: " in dict(inspect_file(tmp_path / "cache").facts)[made.name]


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
