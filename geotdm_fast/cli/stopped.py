"""A command that is stopped by a signal says so in a line, and what is kept."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

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


def leave(code: int) -> NoReturn:
    """End this process now: what was printed is flushed, files and groups of processes were closed on the way here.

    The interpreter is not taken down, and hooks of `atexit` are not called: with torch loaded that takes most of a
    second of CPU time, which whoever sent the signal may not give.
    """
    for stream in (sys.stdout, sys.stderr):
        # The reader may have gone, and a process without a terminal has no streams.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def what_is_kept(args: argparse.Namespace) -> str:
    """What a command leaves behind that was stopped, and how it goes on."""
    if args.command == "train":
        return "; what the last checkpoint holds is kept, and the same command goes on from there"
    if args.command == "distill":
        return f"; the pairs and the checkpoint that are written are kept in {args.out}, and the same command goes on"
    if args.command == "sample":
        from geotdm_fast.cli.sample import is_folder

        with contextlib.suppress(ValueError):
            if is_folder(args.out):
                return "; the shards that are written are kept, and the same command goes on with the others"
        return "; nothing was written (a folder for --out keeps what is drawn)"
    if args.command == "simulate" and args.kind.startswith("md:"):
        how = " without --restart" if args.restart else ""
        return f"; what is simulated is kept in {args.out}.parts, and the same command{how} goes on from there"
    if args.command == "reproduce":
        return "; the pieces that are done are kept, and the same command goes on with the others"
    return ""
