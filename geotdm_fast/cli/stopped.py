"""A command that is stopped by a signal says so in a line, and what is kept."""

import argparse
import contextlib
import signal
import threading
from collections.abc import Iterator

from geotdm_fast.runtime.terminal import leave_closed_terminal


class Stopped(BaseException):
    """SIGTERM or SIGHUP came; no error, so that nothing on the way takes it for one."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` for SIGTERM and SIGHUP where they would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum, frame):
        if signum == signal.SIGHUP:
            leave_closed_terminal()
        raise Stopped(signum)

    ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for signum in ours:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum in ours:
            signal.signal(signum, signal.SIG_DFL)


def what_is_kept(args: argparse.Namespace) -> str:
    """What a command leaves behind that was stopped, and how it goes on."""
    if args.command == "train":
        return "; what the last checkpoint holds is kept, and the same command goes on from there"
    if args.command == "sample":
        from geotdm_fast.cli.sample import is_folder

        with contextlib.suppress(ValueError):
            if is_folder(args.out):
                return "; the shards that are written are kept, and the same command goes on with the others"
        return "; nothing was written (a folder for --out keeps what is drawn)"
    if args.command == "reproduce":
        return "; the pieces that are done are kept, and the same command goes on with the others"
    return ""
