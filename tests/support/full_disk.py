"""A disk that is full, for real: writes beyond a few bytes fail within the block."""

import contextlib
import errno
import resource

import pytest


@contextlib.contextmanager
def full_disk(free: int):
    """No file of this process grows beyond `free` bytes (Python ignores the signal, so `write` fails: EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_earlier_file_survives(path, write, read, *, free: int = 4096) -> None:
    """`write(path)` on a full disk raises OSError naming the file; the file stays, and nothing lies beside it."""
    before, siblings = read(path), sorted(path.parent.iterdir())
    with full_disk(free), pytest.raises(OSError, match="the earlier file is unchanged") as caught:
        write(path)
    assert caught.value.errno == errno.EFBIG and str(path) in str(caught.value)
    assert read(path) == before and sorted(path.parent.iterdir()) == siblings
