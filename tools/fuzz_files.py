"""Read damaged files of every kind: each must be read or refused in a line, in little time and memory.

python -m tools.fuzz_files                          200 damaged versions of every kind
python -m tools.fuzz_files --number 20 --seed 1 --kind manifest --keep failed

Prints a line for each kind and for each failure; exit status 1 where there was one. The same seed damages alike.
"""

import argparse
import collections
import contextlib
import io
import multiprocessing
import os
import pathlib
import resource
import sys
import tempfile
import time
import warnings
import zlib

import numpy as np

from tools.fuzz_cases import Case, damaged_path, make_cases

GIGABYTE = 2**30
# What a read file may cost beyond what Python and torch take.
MOST_BYTES = 2 * GIGABYTE
MOST_SECONDS = 60.0
# Characters of a message.
LONGEST = 2200


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.fuzz_files", description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=200, metavar="N", help="damaged versions of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", metavar="WORD", help="only kinds with this word in their name")
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="keep the files that failed")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        failures = 0
        cases = make_cases(pathlib.Path(folder))
        print(f"{'kind':26} {'read':>6} {'refused':>8} {'failed':>7} {'seconds':>8}")
        for name, case in cases.items():
            if args.kind in name:
                began = time.monotonic()
                outcomes = fuzz(name, case, args.number, args.seed, pathlib.Path(folder) / "damaged", args.keep)
                count = collections.Counter(word for word, _ in outcomes)
                bad = [(i, *outcome) for i, outcome in enumerate(outcomes) if outcome[0] not in ("read", "refused")]
                spent = time.monotonic() - began
                print(f"{name:26} {count['read']:6} {count['refused']:8} {len(bad):7} {spent:8.1f}", flush=True)
                for number, word, detail in bad:
                    print(f"  {number}: {word}: {detail[:300]}")
                failures += len(bad)
    print(f"{failures} failures")
    return int(failures > 0)


def fuzz(
    name: str, case: Case, number: int, seed: int, folder: pathlib.Path, keep: pathlib.Path | None = None
) -> list[tuple[str, str]]:
    """How each of `number` damaged versions ended: (`read`, ``), (`refused`, message), or a failure and its detail.

    Failures: `traceback` (no ValueError, TypeError or OSError), `message` (empty, long, or with control characters),
    `memory` (over 2 GB), `slow` (over a minute), `crash` (the process is gone).
    """
    outcomes: list[tuple[str, str]] = []
    while len(outcomes) <= number:
        theirs, ours = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_read_all, args=(name, case, range(len(outcomes) - 1, number), seed, folder, ours), daemon=True
        )
        child.start()
        ours.close()
        try:
            while len(outcomes) <= number:
                if not theirs.poll(MOST_SECONDS):
                    outcomes.append(("slow", f"over {MOST_SECONDS:.0f} s"))
                    break
                outcomes.append(theirs.recv())
        except EOFError:
            child.join()
            outcomes.append(("crash", f"exit status {child.exitcode}"))
        child.kill()
        child.join()
        if outcomes[0][0] != "read":
            raise ValueError(f"{name}: the whole file must be read, got {outcomes[0]}")
    del outcomes[0]
    if keep is not None:
        for i, (word, _) in enumerate(outcomes):
            if word not in ("read", "refused"):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name.replace(' ', '_')}_{i}_{case.file.name}").write_bytes(_version(name, case, i, seed))
    return outcomes


def _version(name: str, case: Case, number: int, seed: int) -> bytes:
    if number < 0:
        return case.file.read_bytes()
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed, number])
    return case.damage(case.file.read_bytes(), rng)


def _read_all(name: str, case: Case, numbers: range, seed: int, folder: pathlib.Path, tell) -> None:
    """In a process of its own: read the versions and tell how each ended. Number -1 is the whole file."""
    # Libraries in C write where Python cannot catch it.
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.setpgrp()
    warnings.simplefilter("ignore")
    for number in numbers:
        path = damaged_path(case, folder, _version(name, case, number, seed))
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            outcome = _outcome(case, path)
        tell.send(outcome)
    tell.close()


def _outcome(case: Case, path: pathlib.Path) -> tuple[str, str]:
    try:
        case.read(path)
    except (ValueError, TypeError, OSError) as error:
        message = " ".join(str(error).split())
        if any(said in message for said in ("out of memory", "allocate")):
            return "memory", message
        wrong = not message or len(message) > LONGEST or not message.isprintable()
        return "message" if wrong else "refused", message
    except MemoryError as error:
        return "memory", str(error)
    except BaseException as error:
        place = error.__traceback__
        while place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
        return "traceback", f"{type(error).__name__}: {error} ({where})"
    return "read", ""


if __name__ == "__main__":
    sys.exit(main())
