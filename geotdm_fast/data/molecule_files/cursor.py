"""A file whose frames are taken one after the other, by several readings."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class Cursor:
    """A file that is read on where the last reading left it, and anew only where an earlier frame is asked for.

    open_file: opens it; the result has a method `close`
    position: the number of the frame that comes next; who reads keeps it up to date
    """

    def __init__(self, open_file: Callable[[], Any]):
        self._open, self._stream, self.position = open_file, None, 0

    @contextlib.contextmanager
    def before(self, number: int) -> Iterator[Any]:
        """The open file, `position` frames into it, at most `number`."""
        if self._stream is None or number < self.position:
            self.close()
            self._stream = self._open()
        try:
            yield self._stream
        except Exception:
            self.close()  # nobody knows where it stands
            raise

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream, self.position = None, 0
