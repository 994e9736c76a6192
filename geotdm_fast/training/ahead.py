"""What the next steps want of the disk, read in a second thread while this one computes."""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Ahead(Generic[Value]):
    """Values by key, made in one second thread in the order in which they are asked for, some before they are wanted.

    What is made depends on its key alone, so that values and their order are the same as without the thread.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._started: dict[Hashable, Future[Value]] = {}

    def get(self, wanted: Sequence[tuple[Hashable, Callable[[], Value]]]) -> Value:
        """The value of the first of the keys, whose function makes it; those of the others are begun.

        wanted: keys in the order in which they will be asked for. What was begun and is not among them is given up.
        Raises what the function of the first key raises.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="windows")
        keys = [key for key, _ in wanted]
        for key in [key for key in self._started if key not in keys]:
            self._started.pop(key).cancel()
        for key, make in wanted:
            if key not in self._started:
                self._started[key] = self._pool.submit(make)
        return self._started.pop(keys[0]).result()
