"""Progress bars, all made here: drawn over themselves on a terminal or in a notebook, as lines elsewhere."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

# A log of an hour has 360 lines of a bar, not a megabyte.
SECONDS_BETWEEN_LINES = 10.0


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> plain_tqdm:
    """A tqdm bar on stderr, around `iterable` or moved by `update`.

    Where stderr is a file or a pipe, the bar is a line every ten seconds at most, and one at its end.

    options: those of `tqdm.tqdm`
    """
    return (tqdm if _draws() else _Lines)(iterable, **options)


def say(text: str) -> None:
    """A line on stderr that no bar is drawn over."""
    if _draws():
        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def _draws() -> bool:
    """Whether what is written can be drawn over."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


class _Lines(plain_tqdm):
    """A bar for files and pipes."""

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any):
        options |= {"mininterval": SECONDS_BETWEEN_LINES, "maxinterval": SECONDS_BETWEEN_LINES, "miniters": 0}
        super().__init__(iterable, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, but not of a bar that has yet to move."""
        ends = self.disable  # `close` has disabled it, and ends the line itself
        text = str(self) if msg is None else msg
        if text and (ends or self.n > self.initial):
            self.fp.write(text if ends else f"{text}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Leave the lines that are written."""
