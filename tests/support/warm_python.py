"""Processes that begin where Python has imported torch and this package: forks of one that has done nothing else.

A new Python needs seconds of CPU time for these imports. What is run is as in one: code, a file or a module with
arguments, its environment, its output, its exit status, signals to its process, what it registers with `atexit`. Only
an interpreter's start is not there, nor what it takes down after these hooks: tests of that start one of their own.
"""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from typing import NamedTuple

IMPORTED = ["torch", "torch.distributed", "geotdm_fast.cli", "geotdm_fast.model", "geotdm_fast.training"]


class Done(NamedTuple):
    """As subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


class WarmPython:
    """A process as `python *arguments` would start it: -c CODE, -m MODULE, or a file.

    environment: variables beside ours, or without those that are None
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str | None] | None = None):
        self._folder = tempfile.TemporaryDirectory(prefix="warm-python-")
        self.stdout, self.stderr = (pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr"))
        given = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        given = {name: value for name, value in given.items() if value is not None}
        self._process = _started(_run, [*map(str, arguments)], given, str(self.stdout), str(self.stderr))

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signum)

    def wait(self, timeout: float = 120) -> Done:
        """When it has ended; after `timeout` seconds it is killed, and TimeoutError raised with what it said."""
        self._process.join(timeout)
        late = self.poll() is None
        if late:
            self._process.kill()
            self._process.join()
        done = Done(self.poll(), self.stdout.read_text(), self.stderr.read_text())
        self._folder.cleanup()
        if late:
            raise TimeoutError(f"after {timeout} s it had not ended and said: {done.stdout}{done.stderr}")
        return done


def run(*arguments: str, environment: Mapping[str, str | None] | None = None, timeout: float = 120) -> Done:
    return WarmPython(*arguments, environment=environment).wait(timeout)


def run_together(count: int, *arguments: str, timeout: float = 120) -> list[Done]:
    """`count` processes with the environment that torchrun gives; when one fails the others get SIGTERM, as of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    ours = [
        WarmPython(*arguments, environment=together | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(one.poll() is None for one in ours):
        if any(one.poll() for one in ours):
            for one in ours:
                one.send_signal(signal.SIGTERM)
            break
        time.sleep(0.01)
    return [one.wait(max(1.0, deadline - time.monotonic())) for one in ours]


def torchrun(count: int, *arguments: str, timeout: float = 120) -> Done:
    """torchrun itself, which starts `count` new Pythons."""
    words = ["--standalone", "--nproc-per-node", str(count), *map(str, arguments)]
    return run("-m", "torch.distributed.run", *words, timeout=timeout)


def cpu_seconds() -> float:
    """Of the process that is forked and of its forks that have ended; it is no child of this one."""
    pid = forkserver._forkserver._forkserver_pid
    if pid is None or not os.path.exists(f"/proc/{pid}/stat"):
        return 0.0
    numbers = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, numbers[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, cutime, cstime


def _started(function, *arguments) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def _run(arguments: Sequence[str], environment: Mapping[str, str], stdout: str, stderr: str) -> None:
    """In the fork."""
    for path, number in ((stdout, 1), (stderr, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit._clear()  # of the process that was forked
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    kind, *rest = arguments
    status = 0
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
