"""The command `geotdm`: one module for each subcommand, heavy imports inside their `run`."""

import argparse
import contextlib
import os
import signal
import sys
import warnings
from typing import Any, NoReturn

from geotdm_fast.cli.renamed import warn_of_renamed
from geotdm_fast.cli.stopped import Stopped, leave, stopped_by_signals, what_is_kept
from geotdm_fast.runtime.allocator import keep_freed_memory
from geotdm_fast.runtime.memory import is_out_of_memory
from geotdm_fast.runtime.shown import plain

# Characters of an error's line; values and texts in it are cut before, see `shown`.
LONGEST_LINE = 2000
# What helps where memory is out, by command.
_LESS_MEMORY = {
    "train": "a larger train.accumulate, a smaller train.batch_size or a smaller network needs less",
    "distill": "a smaller --batch-size, train.batch_size or number of --pairs needs less",
    "plot": "fewer --num-systems need less",
    "simulate": "fewer --num-systems or --num-frames need less",
}

DESCRIPTION = """\
Diffusion over geometric trajectories (GeoTDM): forecast, interpolate or generate how particles, molecules
or people move.

a tour:
  geotdm simulate charged --num-systems 100 --out charged.npz      make data, or bring your own
  geotdm inspect charged.npz                                       what is in it, and what would train on it
  geotdm train configs/nbody_charged_small.yaml                    train; stop and start again at any moment
  geotdm sample outputs/nbody_charged_small --num-samples 5 --out samples.npz
  geotdm evaluate samples.npz                                      ADE, FDE and more, beside simple baselines
  geotdm plot samples.npz --out forecast.png                       or .gif, or .html to turn in three dimensions

`geotdm COMMAND --help` explains each; `geotdm doctor` says what runs on this machine."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line, with the way to the help."""

    def error(self, message: str):
        if "arguments are required" in message and "--data" in getattr(self, "words", ()):
            message += "; --data takes every path up to the next option"
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's; what it was given is kept for messages."""
        self.words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args=None, namespace=None):
        """As argparse's; a command itself tells of an argument that it does not know, and the nearest it knows."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(parsed, "parser", self)
            known = [option for option in parser._option_string_actions if option.startswith("--")]
            meant = _meant(unknown[0].partition("=")[0], known, parser.prog)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return parsed


def command() -> NoReturn:
    """The process `geotdm`: `main`, and the end of the process by its code, at once after a signal."""
    try:
        code = main()
    except KeyboardInterrupt:
        print("geotdm: interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except SystemExit as stop:
        code = stop.code
    if isinstance(code, int) and code > 128:
        leave(code)
    sys.exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run the command line: 0 when all went well, 1 when a check failed, 2 for a user's error, 3 when
    `reproduce` has more to do, 128 + its number for a signal (130 for Ctrl-C).

    A user's error (ValueError, TypeError, OSError, ImportError) is one line on stderr; `--debug` shows where it arose.
    """
    args = build_parser().parse_args(argv)
    prefix = f"geotdm {args.command}"
    keep_freed_memory()
    try:
        with stopped_by_signals(), _short_warnings(prefix, args.debug):
            warn_of_renamed(args)
            return args.run(args)
    except KeyboardInterrupt:
        print(f"{prefix}: interrupted{what_is_kept(args)}", file=sys.stderr)
        return 130
    except Stopped as stop:
        print(f"{prefix}: stopped by {signal.Signals(stop.signum).name}{what_is_kept(args)}", file=sys.stderr)
        return 128 + stop.signum
    except BrokenPipeError:
        # The reader (`| head`) has gone; give the interpreter's last flush somewhere to go.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError, RuntimeError, MemoryError) as error:
        message = _message(error, args.command)
        if args.debug or message is None:
            raise
        print(f"{prefix}: error: {message}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser of `geotdm` and all its subcommands."""
    from geotdm_fast import __version__
    from geotdm_fast.cli import (
        check_equivariance,
        distill,
        doctor,
        drift,
        evaluate,
        inspect,
        plot,
        reproduce,
        sample,
        simulate,
        train,
    )

    parser = _Parser(prog="geotdm", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"geotdm {__version__}")
    debug: dict[str, Any] = {"action": "store_true", "help": "show the whole traceback of an error"}
    parser.add_argument("--debug", **debug)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (
        simulate,
        inspect,
        train,
        distill,
        sample,
        evaluate,
        drift,
        plot,
        reproduce,
        check_equivariance,
        doctor,
    ):
        subparser = command.add_parser(subparsers)
        subparser.set_defaults(parser=subparser)
        # Its default must not undo `geotdm --debug COMMAND`.
        subparser.add_argument("--debug", default=argparse.SUPPRESS, **debug)
    return parser


def _meant(option: str, known: list[str], prog: str) -> str:
    """`; did you mean --x?` for an option near to one that is known, or the key of the configuration of that name."""
    import difflib

    from geotdm_fast.config.settings import TRAIN

    close = difflib.get_close_matches(option, known, n=1, cutoff=0.7)
    if close:
        return f"; did you mean {close[0]}?"
    name = option.lstrip("-").replace("-", "_")
    key = next((key for key in (name, f"num_{name}") if key in TRAIN), None)
    return (
        f"; did you mean --set train.{key}=...?" if key and prog.endswith((" train", " distill", " reproduce")) else ""
    )


def _message(error: Exception, command: str) -> str | None:
    """What to tell the user in one line; None for an error that is ours."""
    text = " ".join(str(error).split())
    if isinstance(error, (RuntimeError, MemoryError)) and is_out_of_memory(error):
        first = " ".join((str(error).splitlines() or [""])[0].split()) or "out of memory"
        return plain(f"{first}; {_LESS_MEMORY.get(command, 'a smaller --batch-size needs less')}", LONGEST_LINE)
    if isinstance(error, RuntimeError):
        return None
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        text = f"{error.filename}: no such file"
    elif isinstance(error, OSError) and error.filename is None and error.strerror:
        text = " ".join(error.strerror.split())  # without the number of the system's error
    return plain(text or type(error).__name__, LONGEST_LINE)


@contextlib.contextmanager
def _short_warnings(prefix: str, debug: bool):
    """Show warnings as one line on stderr, without the place in the code."""
    with warnings.catch_warnings():
        if not debug:

            def show(message, *_, **__):
                print(f"{prefix}: warning: {plain(message, LONGEST_LINE)}", file=sys.stderr)

            warnings.showwarning = show
        yield
