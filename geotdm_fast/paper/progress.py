"""The pieces of an experiment, each done once and kept, and the time that is left for them."""

import math
import pathlib
import time
from collections.abc import Callable

from geotdm_fast.runtime.files import write_json
from geotdm_fast.runtime.parsing import parse_json


class OutOfTime(Exception):
    """The budget is spent, `at` being the piece that waits; what is done is kept, and the same call goes on.

    done, left: parts of the experiment that are finished, and those that are not, the one that `at` is in first
    """

    def __init__(self, at: str, done: tuple[str, ...] = (), left: tuple[str, ...] = ()):
        super().__init__(at)
        self.at, self.done, self.left = at, done, left

    def __str__(self) -> str:
        done, left = (", ".join(parts) or "nothing" for parts in (self.done, self.left))
        return f"stopped at {self.at}; done: {done}; left: {left}"


class Pieces:
    """Results of pieces of work as files of a folder: a piece that has its file is not done again.

    folder: one `<name>.json` for each piece, written aside and renamed when the piece is finished
    budget: minutes from now on, after which no piece is begun; None: no limit
    data: SHA-256 of the data that the work is on, which every piece carries; None: no files
    """

    def __init__(self, folder: pathlib.Path, budget: float | None = None, data: str | None = None):
        self.folder = folder
        self.data = data
        self._deadline = math.inf if budget is None else time.monotonic() + 60 * budget

    def once(self, name: str, work: Callable[[], dict]) -> dict:
        """The result of `work`, a dict that JSON keeps, from its file if there is one; with the `seconds` it took.

        Raises OutOfTime when it is not done and the time is up, and ValueError for a file that is not ours or of other
        data.
        """
        done = self.known(name)
        if done is not None:
            return done
        self.check(name)
        began = time.monotonic()
        result = work()
        result = {"seconds": round(time.monotonic() - began, 3)} | result
        if self.data is not None:
            result |= {"data_sha256": self.data}
        write_json(self.folder / f"{name}.json", result)
        return result

    def known(self, name: str) -> dict | None:
        """The result of a piece that is done, or None. Raises ValueError for one of other data."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        piece = read_piece(path)
        # A piece from before there were digests has none.
        if "data_sha256" in piece and piece["data_sha256"] != self.data:
            raise ValueError(
                f"{path} must be of the data with SHA-256 {self.data or '(none: simulated)'}, got one of "
                f"{piece['data_sha256']}; remove it to do it anew"
            )
        return piece

    def check(self, name: str) -> None:
        """Raise OutOfTime naming the piece `name` if no time is left."""
        if self.minutes_left() <= 0:
            raise OutOfTime(name)

    def minutes_left(self) -> float:
        """inf without a budget."""
        return (self._deadline - time.monotonic()) / 60


def read_piece(path: pathlib.Path) -> dict:
    """A file of `Pieces.once`. Raises ValueError naming it if it holds something else."""
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} must be JSON that `geotdm reproduce` wrote ({error}); remove it to do it anew"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be an object that `geotdm reproduce` wrote, got {type(value).__name__}")
    return value
