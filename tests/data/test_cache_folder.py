"""The folder of a cache: made once, whole or not at all, and what is damaged or not ours is named."""

import errno
import json
import os
import shutil
import threading
import warnings

import numpy as np
import pytest
from cached_files import boxed_xyz, made_cache, plain_xyz, same
from full_disk import full_disk
from molecule_frames import motion, write, xyz_text
from warm_python import WarmPython

from geotdm_fast.data import file_dataset, open_datasets
from geotdm_fast.data.cache import folder
from geotdm_fast.data.cache.arrays import ArrayWriter, StoredRows, describe_array, keep_rows
from geotdm_fast.data.cache.source import describe_source, key_of
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.inspection.look import inspect_file
from geotdm_fast.runtime.sampled_digest import PIECE_BYTES, PIECES, sampled_sha256


def test_what_is_written(tmp_path):
    path = boxed_xyz(tmp_path, changes=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file_dataset(path, span=6, cache=tmp_path / "cache", frames=[10, None], every=2)
    (made,) = (tmp_path / "cache").iterdir()
    arrays = {file.stem: np.load(file, allow_pickle=False) for file in made.glob("*.npy")}
    assert sorted(arrays) == ["box", "elements", "ends", "first", "origin", "positions"]
    assert arrays["positions"].shape == (25, 9, 3) and arrays["positions"].dtype == np.float32
    assert arrays["box"].shape == (25, 3, 3) and arrays["ends"].tolist() == [25]
    about = json.loads((made / "about.json").read_text())
    assert about["source"]["files"]["path"]["bytes"] == path.stat().st_size
    assert about["arrays"]["positions"]["bytes"] == (made / "positions.npy").stat().st_size


# --- what is not whole, or not ours -----------------------------------------------------------------------------------


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
    (
        _other_ends,
        r"ends\.npy must hold ascending ends .* the 60 frames there are, got \[70\]; delete the folder .*cache/",
    ),
]


@pytest.mark.parametrize("damage, message", DAMAGE, ids=[message[:30] for _, message in DAMAGE])
def test_a_damaged_cache_is_an_error_that_names_the_file(tmp_path, damage, message):
    path, made = made_cache(tmp_path)
    damage(made)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        file_dataset(path, span=7, cache=tmp_path / "cache")
    shutil.rmtree(made)
    same(file_dataset(path, span=7), file_dataset(path, span=7, cache=tmp_path / "cache"))


def test_a_name_of_an_array_is_of_no_other_folder(tmp_path):
    path, made = made_cache(tmp_path)
    about = json.loads((made / "about.json").read_text())
    about["arrays"]["../x"] = about["arrays"]["positions"]
    (made / "about.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"another array '\.\./x'"):
        file_dataset(path, span=7, cache=tmp_path / "cache")


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
    path, made = made_cache(tmp_path)
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


def test_a_file_that_vanishes_while_it_is_read_is_named_at_once(tmp_path, monkeypatch):
    path, cache, tried = plain_xyz(tmp_path), tmp_path / "cache", []

    def vanished(*_, **__):
        tried.append(1)
        path.with_name("away.xyz").read_bytes()

    monkeypatch.setattr(OpenFile, "molecules", vanished)
    with pytest.raises(FileNotFoundError) as caught:
        file_dataset(path, span=7, cache=cache)
    assert caught.value.filename == str(tmp_path / "away.xyz") and "cache" not in str(caught.value)
    assert len(tried) == 1 and not [*cache.glob("*")]
    monkeypatch.setattr(OpenFile, "molecules", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk")))
    with pytest.raises(OSError, match=r"^\[Errno 5\] broken disk$"):
        file_dataset(path, span=7, cache=tmp_path)  # a file in the folder of the caches is no cache


def test_frames_left_out_need_no_room_beside(tmp_path):
    """A run of which frames were written twice: the file is made shorter in its place, whatever its header."""
    rng, path = np.random.default_rng(0), tmp_path / "rows.npy"
    for count, wanted in ((100, np.arange(1, 100, 3)), (11, np.array([0, 10])), (5, np.arange(4)), (3, np.arange(0))):
        x = rng.normal(size=(count, 4, 3)).astype(np.float32)
        with ArrayWriter(path, x.shape, x.dtype) as writer:
            writer.write(x)
        keep_rows(path, wanted, block_bytes=100)
        begin = StoredRows(path).begin
        assert begin % 64 == 0 and path.stat().st_size == begin + 48 * len(wanted)
        assert np.array_equal(np.load(path), x[wanted])


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


def test_a_folder_of_caches_is_looked_into(tmp_path):
    path, made = made_cache(tmp_path)
    file_dataset(path, split="val", span=7, cache=tmp_path / "cache")
    found = dict(inspect_file(tmp_path / "cache").facts)
    assert found["kind"].startswith("2 caches") and found[made.name] == f"60 frames of 9 atoms of {path}, 6.93e-06 GiB"
    assert any(text.startswith("12 frames of 9 atoms") and "split val" in text for text in found.values())
    shown = inspect_file(path, keys={"cache": str(tmp_path / "cache")})
    assert shown.facts == inspect_file(path).facts
    _short(made)
    assert "damaged: " in dict(inspect_file(tmp_path / "cache").facts)[made.name]
