"""One progress bar, in trajectories per second."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
_SECONDS_BETWEEN_LOOKS = 2.0


class TrajectoryBar:
    """Counts trajectories; a batch counts in parts as its steps go by.

    total: of the whole request; done: drawn before, which do not count as speed
    elsewhere: how many other processes have finished by now; asked for every two seconds at most
    """

    def __init__(self, total: int, done: int = 0, *, elsewhere: Callable[[], int] | None = None, show: bool = True):
        from geotdm_fast.runtime.bars import progress_bar

        options: dict[str, Any] = {
            "desc": "sampling",
            "unit": " trajectories",
            "bar_format": _FORMAT,
            "smoothing": 0.05,
        }
        self._bar = progress_bar(total=total, initial=done, disable=not show, **options)
        self._elsewhere, self._looked, self._others = elsewhere, time.monotonic(), 0
        self._own = float(done)

    def __enter__(self) -> "TrajectoryBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    @contextlib.contextmanager
    def batch(self, size: int, num_steps: int) -> Iterator[Callable[[], None]]:
        """What to call after each of the `num_steps` steps of a batch. A batch that fails does not count."""
        before = self._own

        def step() -> None:
            self._own += size / num_steps
            self.show()

        try:
            yield step
        except BaseException:
            self._own = before
            raise
        self._own = before + size
        self.show()

    def show(self, *, look: bool = False) -> None:
        """Draw the bar, with what other processes did; look: at once."""
        now = time.monotonic()
        if self._elsewhere is not None and (look or now - self._looked >= _SECONDS_BETWEEN_LOOKS):
            self._looked, self._others = now, self._elsewhere()
        # The sums of parts may pass the whole by rounding.
        self._bar.update(min(self._own + self._others, self._bar.total) - self._bar.n)
