"""A system at a time: seconds of a draw by a shipped model, this build beside another one in turns."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import torch

from bench.common import arguments, record
from bench.common.timing import Times
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
Draw one system of five particles (or --systems) by the shipped charged model, and time the whole call of
`Sampler.draw`: checks, learned prior, preparation and all steps. With --beside FOLDER, a checkout of another commit
with its modules built, a process of each build draws in turns; medians count, and both must draw the same numbers up to
rounding, so both take the model from this checkout, or from --checkpoint. Nothing else should run on the machine."""
EPILOG = """\
  python -m bench.sampling.small --threads 2 --beside ../before                one system, this build and an older one
  GEOTDM_CPU_ISA=avx2 python -m bench.sampling.small --threads 2 --systems 1 64 --beside ../before
  python -m bench.sampling.small --beside ../before --checkpoint old.safetensors   one that an older build can read"""
WORKER = pathlib.Path(__file__).with_name("small_worker.py")
CHECKPOINT = record.ROOT / "geotdm_fast" / "checkpoints" / "nbody_charged_small.safetensors"
# Of a checksum, the sum of all coordinates: other orders of additions, nothing else.
ROUNDING = 1e-3


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 where the builds draw other numbers."""
    args = _parser().parse_args(argv)
    try:
        torch.set_num_threads(args.threads)
        context = record.context()
        rows = [row | context for systems in args.systems for row in measure(systems, args)]
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        return record.fail("bench.sampling.small", error)
    record.append(args.out, rows)
    print(record.describe(context), report(rows), f"lines added to {args.out}", sep="\n\n")
    return 0


def measure(num_systems: int, args: argparse.Namespace) -> Iterator[dict]:
    """A row for each build, this one first."""
    folders = {"this": record.ROOT} | ({} if args.beside is None else {"beside": args.beside.resolve()})
    workers = {name: Worker(folder, num_systems, args) for name, folder in folders.items()}
    try:
        ready = {name: worker.read() for name, worker in workers.items()}
        for name, folder in folders.items():
            check_package(ready[name]["package"], folder)
        check_same({name: found["checksum"] for name, found in ready.items()})
        answers = {name: [] for name in workers}
        for _ in range(args.repeats):
            for name, worker in workers.items():
                answers[name].append(worker.draw(args.draws))
    finally:
        for worker in workers.values():
            worker.end()
    medians = {name: Times(tuple(s for one in found for s in one["seconds"])) for name, found in answers.items()}
    for name, times in medians.items():
        yield {
            "benchmark": "small",
            "build": name,
            "build_commit": commit_of(folders[name]),
            "systems": num_systems,
            "method": args.method,
            "steps": args.steps,
            "seconds": times.median,
            "seconds_least": times.least,
            "cpu_seconds": sum(one["cpu"] for one in answers[name]) / len(times.seconds),
            "draws": len(times.seconds),
            "times_beside": medians["beside"].median / times.median if "beside" in medians else None,
        }


def check_package(package: str, folder: pathlib.Path) -> None:
    """Raises ValueError where a worker has not imported the build in `folder`."""
    if not pathlib.Path(package).resolve().is_relative_to(folder):
        raise ValueError(f"--beside must be a checkout with its modules built, got {folder}: {package} was imported")


def check_same(sums: dict[str, float]) -> None:
    """Raises ValueError where two builds draw other numbers."""
    low, high = min(sums.values()), max(sums.values())
    if not high - low <= ROUNDING * max(1.0, abs(low)):
        raise ValueError(f"the builds must draw the same numbers, got sums of {sums}: nothing is timed")


class Worker:
    """A process of one build that draws when it is asked to."""

    def __init__(self, folder: pathlib.Path, num_systems: int, args: argparse.Namespace):
        checkpoint = args.checkpoint.resolve()
        command = [sys.executable, str(WORKER), checkpoint, num_systems, args.method, args.steps, args.threads]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=folder,
        )

    def read(self) -> dict:
        """Its next answer. Raises ValueError where it ended."""
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(f"a worker must answer, got its end with status {self._process.wait()}")
        return json.loads(line)

    def draw(self, count: int) -> dict:
        """Let it draw `count` times."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self.read()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def commit_of(folder: pathlib.Path) -> str:
    """The commit of a checkout, short."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def report(rows: list[dict]) -> str:
    """A table of all rows."""
    columns = ["systems", "build", "commit", "ms a draw", "least", "CPU ms", "draws", "times beside"]
    cells = [
        [
            str(row["systems"]),
            row["build"],
            row["build_commit"],
            f"{1000 * row['seconds']:.2f}",
            f"{1000 * row['seconds_least']:.2f}",
            f"{1000 * row['cpu_seconds']:.2f}",
            str(row["draws"]),
            "-" if row["times_beside"] is None else f"{row['times_beside']:.2f}",
        ]
        for row in rows
    ]
    return text_table(columns, cells)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampling.small",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--systems", type=arguments.count, nargs="+", default=[1], metavar="N", help="default: 1")
    parser.add_argument("--beside", type=pathlib.Path, metavar="FOLDER", help="a checkout of another build")
    parser.add_argument("--checkpoint", type=pathlib.Path, default=CHECKPOINT, metavar="FILE", help="default: shipped")
    parser.add_argument("--method", default="dpmpp_2m", help="default: dpmpp_2m")
    parser.add_argument("--steps", type=arguments.count, default=5, metavar="K", help="default: 5")
    parser.add_argument("--draws", type=arguments.count, default=40, metavar="N", help="in a turn (default: 40)")
    parser.add_argument("--threads", type=arguments.count, default=2, metavar="N", help="default: 2")
    parser.add_argument("--repeats", type=arguments.count, default=9, metavar="N", help="turns (default: 9)")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "small.jsonl", help="JSON lines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
