"""A folder is written to by one process at a time."""

import contextlib
import errno
import os

import pytest

from geotdm_fast.runtime.folder_lock import locked


def test_held_until_the_end(tmp_path):
    folder = tmp_path / "run"
    with locked(folder, "training into"):
        with pytest.raises(OSError, match="run: another process is training into it"), locked(folder, "training into"):
            raise AssertionError
        assert [path.name for path in folder.iterdir()] == [".lock"]
    assert list(folder.iterdir()) == []
    with locked(folder, "training into"):
        pass


def test_a_file_that_a_kill_left_is_no_lock(tmp_path):
    (tmp_path / ".lock").write_text("")
    with locked(tmp_path, "training into"):
        pass


def test_the_file_is_taken_away_while_it_is_being_locked(tmp_path, monkeypatch):
    import fcntl

    flock, calls = fcntl.flock, []

    def as_the_holder_ends(file, operation):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", as_the_holder_ends)
    with locked(tmp_path, "training into"):
        assert len(calls) == 2
        with pytest.raises(OSError, match="another process is"), locked(tmp_path, "training into"):
            raise AssertionError


def test_errors_are_told_with_the_folder(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to"), locked(tmp_path / "file" / "run", "training into"):
        raise AssertionError


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_read_without_a_lock(tmp_path, monkeypatch, number):
    import builtins

    opened = builtins.open

    def refuse(path, *rest):
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number))
        return opened(path, *rest)

    monkeypatch.setattr(builtins, "open", refuse)
    entered = False
    with contextlib.suppress(AssertionError), locked(tmp_path, "drawing samples into"):
        entered = True
    assert entered and list(tmp_path.iterdir()) == []
