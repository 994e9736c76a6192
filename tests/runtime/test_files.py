"""Files are written whole or not at all, and read without executing anything."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from full_disk import assert_earlier_file_survives, full_disk

from geotdm_fast.runtime.files import atomic_path, read_npz, write_json, write_npz


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "deep" / "er" / "note.txt"
    for text in ("first", "second"):
        with atomic_path(path) as aside:
            assert aside.parent == path.parent and aside.suffix == ".txt" and aside != path
            aside.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_within_the_block_keeps_the_earlier_file(tmp_path, error):
    path = tmp_path / "note.txt"
    path.write_text("earlier")
    with pytest.raises(error), atomic_path(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_an_error_without_an_earlier_file(tmp_path):
    path = tmp_path / "new.txt"
    message = r"cannot write .*new\.txt \(No space left on device\); nothing was written"
    with pytest.raises(OSError, match=message) as caught, atomic_path(path) as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_at_the_last_moment(tmp_path, monkeypatch):
    """When the data are flushed, after the block."""
    path = tmp_path / "a.json"
    write_json(path, [1])

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*the earlier file is unchanged"):
        write_json(path, [2])
    assert json.loads(path.read_text()) == [1] and list(tmp_path.iterdir()) == [path]


def test_data_are_flushed_before_the_rename(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (order.append("fsync"), fsync(*a))[1])
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("replace"), replace(*a))[1])
    write_json(tmp_path / "a.json", 1)
    assert order == ["fsync", "replace"]


def test_full_disk(tmp_path):
    big = np.random.default_rng(0).normal(size=10_000)
    write_npz(tmp_path / "a.npz", x=np.arange(3))
    assert_earlier_file_survives(tmp_path / "a.npz", lambda p: write_npz(p, x=big), lambda p: p.read_bytes())
    write_json(tmp_path / "b.json", {"a": 1})
    assert_earlier_file_survives(tmp_path / "b.json", lambda p: write_json(p, [*big]), lambda p: p.read_bytes())
    with full_disk(100), pytest.raises(OSError, match="nothing was written"):
        write_npz(tmp_path / "c.npz", x=big)
    assert {p.name for p in tmp_path.iterdir()} == {"a.npz", "b.json"}


KILLED = """
import sys, time
from geotdm_fast.runtime.files import atomic_path
with atomic_path(sys.argv[1]) as aside:
    aside.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_killed_while_writing(tmp_path):
    """kill -9 keeps the earlier file; a later write does not stumble over what it left."""
    path = tmp_path / "note.txt"
    path.write_text("earlier")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and path.read_text() == "earlier"
    with atomic_path(path) as aside:
        aside.write_text("later")
    assert path.read_text() == "later"


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*a\.json"):
        write_json(tmp_path / "a.json", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_and_npz_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"c": "ü"}}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == value
    arrays = {"x": np.random.default_rng(0).normal(size=(3, 2)), "n": np.array(7), "s": np.array(["a", "bc"])}
    write_npz(tmp_path / "a.npz", **arrays)
    back = read_npz(tmp_path / "a.npz", required=("x", "n"))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)


# --- reading what others wrote ---------------------------------------------------------------------------------------


class Trap:
    """Executes when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_objects_are_refused_and_not_executed(tmp_path):
    sprung = tmp_path / "sprung"
    np.savez(tmp_path / "a.npz", good=np.arange(3), bad=np.array([Trap(sprung)], dtype=object))
    message = r"a\.npz: array 'bad' must be plain numbers, got pickled objects, which are refused"
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(
        ValueError, match=r"b\.npz must be an \.npz archive of plain arrays, got a file of another kind$"
    ):
        read_npz(tmp_path / "b.npz")
    (tmp_path / "b.npz").rename(tmp_path / "b.xtc")
    with pytest.raises(ValueError, match="got a file of another kind; kind: file reads what molecular simulation"):
        read_npz(tmp_path / "b.xtc")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung))).close()  # the trap works
    assert sprung.exists()


def test_missing_file_and_missing_arrays(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        read_npz(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_npz(tmp_path)
    write_npz(tmp_path / "a.npz", x=np.arange(3))
    with pytest.raises(ValueError, match=r"a\.npz must contain x, z; got x"):
        read_npz(tmp_path / "a.npz", required=("x", "z"))


def test_single_array_and_empty_archive(tmp_path):
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(ValueError, match=r"a\.npz must be an \.npz archive, got a single array"):
        read_npz(tmp_path / "a.npz")
    zipfile.ZipFile(tmp_path / "b.npz", "w").close()
    assert read_npz(tmp_path / "b.npz") == {}
    with pytest.raises(ValueError, match="must contain x; got nothing"):
        read_npz(tmp_path / "b.npz", required=("x",))


@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_archives_are_value_errors(tmp_path, compressed):
    """Cut short anywhere, or with a few bytes changed: never another error, never called pickled objects."""
    path, rng = tmp_path / "a.npz", np.random.default_rng(5)
    arrays = {"x": np.arange(100.0), "y": rng.normal(size=20)}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    whole = path.read_bytes()
    refused = 0
    for trial in range(300):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for place in rng.integers(len(data) or 1, size=2 * (trial % 2 == 0)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            back = read_npz(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "pickled objects, which are refused" not in str(error)
        else:
            assert all(np.array_equal(back[name], arrays[name]) for name in back if name in arrays)
    assert refused > 200


def test_a_header_that_is_no_header(tmp_path):
    """numpy raises tokenize.TokenError for this one."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = b"{'descr': '<f8', 'shape': (3," + b" " * 30 + b"\n"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    with pytest.raises(ValueError, match="array 'x' is corrupt"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(10**12,), (3,), (5,), (-4,), (2, 2, 2)])
def test_an_array_is_as_long_as_its_header_says(tmp_path, shape):
    from geotdm_fast.data.npy import read_npy

    np.save(tmp_path / "a.npy", np.arange(4.0))
    data = (tmp_path / "a.npy").read_bytes()
    old, new = b"'shape': (4,), ", f"'shape': {shape}, ".encode()
    length = len(data) - 32 - 10 + len(new) - len(old)
    data = data[:8] + length.to_bytes(2, "little") + data[10:].replace(old, new)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy must be an \.npy file of plain numbers, got an unreadable file"):
        read_npy(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ValueError, match=r"a\.npz: array 'x' is corrupt"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("header", [b"{'descr': \n", b"{'descr': '<f8\n", b"", b"(" * 3000])
def test_headers_that_are_cut(tmp_path, header):
    from geotdm_fast.data.npy import read_npy

    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match=r"a\.npy must be an \.npy file of plain numbers, got an unreadable file"):
        read_npy(tmp_path / "a.npy")
