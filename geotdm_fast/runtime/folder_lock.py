"""One process at a time writes to a folder of a training or of samples."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import IO

NAME = ".lock"
# Nobody here can write to the folder.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def locked(folder: pathlib.Path, doing: str) -> Iterator[None]:
    """Make the folder and hold it against other calls; the system lets go when this process ends, however it ends.

    doing: what the calls do, for the message: `training into`
    The file `.lock` is there meanwhile, and after a kill. A folder that is there and cannot be written to is not
    locked: what is in it can be read all the same.
    Raises OSError when another process holds the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _held(folder, doing)
    except _Busy:
        raise
    except OSError as error:
        if not (folder.is_dir() and error.errno in _READ_ONLY):
            raise OSError(error.errno, f"cannot write to {folder} ({error.strerror or error})") from error
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / NAME).unlink()
        file.close()


class _Busy(OSError):
    """The folder is there and cannot be locked."""


def _held(folder: pathlib.Path, doing: str) -> IO:
    """The folder's lock file, open and locked."""
    import fcntl

    while True:
        file = open(folder / NAME, "a")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have taken the file away between our opening and locking it.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / NAME)):
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            busy = isinstance(error, BlockingIOError)
            why = f"another process is {doing} it" if busy else f"it cannot be locked ({error.strerror})"
            raise _Busy(error.errno, f"cannot write to {folder}: {why}") from error
        file.close()
