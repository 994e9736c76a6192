"""Why a run stops before its last step: a signal, or its time is up."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from geotdm_fast.runtime.terminal import leave_closed_terminal

# Seconds after the first signal in which further ones are not heeded: a key pressed twice must not cost the checkpoint.
PATIENCE = 1.0


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
        """Note SIGINT, SIGTERM and SIGHUP instead of dying of them.

        A second signal, a second or more after the first, acts as it would without us. SIGHUP stays ignored under
        `nohup`.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        if before[signal.SIGHUP] is signal.SIG_IGN:
            del before[signal.SIGHUP]
        asked = 0.0

        def note(signum, frame):
            nonlocal asked
            if signum == signal.SIGHUP:
                leave_closed_terminal()
            if not self.signum:
                self.signum, asked = signum, time.monotonic()
            elif time.monotonic() - asked >= PATIENCE:
                signal.signal(signum, before[signum])
                signal.raise_signal(signum)

        for signum in before:
            signal.signal(signum, note)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
