"""Why a run stops before its last step: a signal, or its time is up."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator


class StopRequest:
    """What has been asked for: `signum` of a signal (0: none), or the end of `max_minutes`."""

    TIME_UP = 1000

    def __init__(self, max_minutes: float | None):
        self.signum = 0
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes

    def reason(self) -> int:
        """0 to go on, TIME_UP, or the number of the signal."""
        if self.signum:
            return self.signum
        return self.TIME_UP if self.deadline is not None and time.monotonic() >= self.deadline else 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM instead of dying of them; the second one acts as it would without us."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

        def note(signum, frame):
            self.signum = signum
            signal.signal(signum, before[signum])

        for signum in before:
            signal.signal(signum, note)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
