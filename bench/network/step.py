"""The whole denoiser call, forward and forward + backward: ours and four peers, interleaved in one run."""

import argparse
import pathlib
import sys
from collections.abc import Iterator

import torch

from bench.common import arguments, correctness, record
from bench.common.program import in_turn, over_workloads
from bench.common.timing import Times, interleaved, products_for, rates
from bench.common.workloads import Workload
from bench.network.contenders import (
    IMPLEMENTATIONS,
    PEERS,
    Contender,
    listed,
    make_contender,
    make_truth,
    split_by_memory,
)
from bench.network.memory import measure
from geotdm_fast.scores.tables import text_table

MODES = ("inference", "training")
DESCRIPTION = """\
Time one call of the denoising network (inference), and one call with the gradients of all parameters (training).
Our network runs against plain transcriptions of the peers (bench/peers), all with the same weights and inputs:
A B C D E A B C D E ... in one process; medians count. A large matrix product takes its turn among them: the floor is
the least number of operations (12 H^2 + 6 T H multiply-adds for a node-frame, 2 H^2 for an edge-frame; three
times as many for training) at the matrix rate measured so. Before any clock starts every contender must give the
results of the equations in float64: 1e-4 in float32. A peer that does not fit into memory is left out and named.
Peak memory of forward + backward is measured in a fresh process each (--memory)."""
EPILOG = """\
Machines that do other work at the same time give no numbers for the record: a warning says so.

  python -m bench.network.step --workload nbody md --threads 2 --memory      what the README quotes
  python -m bench.network.step --dtype float32 mixed --modes inference       bfloat16 against the best peer of any
  python -m bench.network.step --hidden-dim 32 --layers 2 --graphs 2         a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result."""
    return over_workloads("bench.network.step", _parser().parse_args(argv), measure_workload, report)


def measure_workload(workload: Workload, args: argparse.Namespace) -> Iterator[dict]:
    """The rows of every mode, then those of memory if they are asked for."""
    for mode in args.modes:
        yield from measure_mode(workload, mode, args)
    if args.memory:
        yield from measure_memory(workload, args)


def measure_mode(workload: Workload, mode: str, args: argparse.Namespace) -> Iterator[dict]:
    """A row for every implementation and dtype."""
    fit, refused = split_by_memory(workload, args.implementations, args.dtype, mode, args.device)
    names = dict.fromkeys(name for name, _ in fit if args.compile or not name.endswith("_compiled"))
    torch.compiler.reset()
    truth, products = make_truth(workload, args.device), products_for(args.dtype, args.device)
    contenders = {}
    for together in in_turn(names, args.ours_first):
        wanted = [key for key in fit if key[0] in together and key not in contenders]
        contenders |= {key: make_contender(workload, *key, args.device) for key in wanted}
        errors = correctness.check([*contenders.values()], truth, mode)
        calls = {key: _call(contender, mode) for key, contender in contenders.items()}
        times = interleaved(calls | products, args.repeats, args.device, progress=not args.quiet)
        rate = rates(products, times)
        rows = [_row(workload, mode, *key, times[key], rate[key[1]], errors[key]) for key in contenders]
        add_ratios(rows)
        yield from rows
    for (name, dtype), why in refused.items():
        yield _about(workload, mode, name, dtype) | {"left_out": why}


def add_ratios(rows: list[dict]) -> None:
    """To our rows: which peer is the best, of the same dtype and in float32, and how many times faster we are.

    times: of every peer of the same dtype
    """
    for row in rows:
        if row["implementation"] in PEERS:
            continue
        for suffix, dtype in (("", row["dtype"]), ("_float32", "float32")):
            peers = {r["implementation"]: r["seconds"] for r in rows if r["dtype"] == dtype}
            peers = {name: seconds for name, seconds in peers.items() if name in PEERS}
            if peers:
                best = min(peers, key=peers.get)
                row[f"best_peer{suffix}"] = best
                row[f"times_best_peer{suffix}"] = peers[best] / row["seconds"]
            if "official" in peers:
                row[f"times_official{suffix}"] = peers["official"] / row["seconds"]
            if not suffix:
                row["times"] = {name: seconds / row["seconds"] for name, seconds in peers.items()}


def measure_memory(workload: Workload, args: argparse.Namespace) -> Iterator[dict]:
    """Peak of forward + backward, ours and the official structure, a process each."""
    for dtype in args.dtype:
        for implementation in ("ours", "official"):
            fit, refused = split_by_memory(workload, [implementation], [dtype], "training", args.device)
            row = _about(workload, "memory", implementation, dtype)
            if fit:
                row |= measure(arguments.spec_of(args, workload.name), implementation, dtype, args.device)
            else:
                row["left_out"] = refused[implementation, dtype]
            yield row


def report(workload: Workload, rows: list[dict]) -> str:
    """The table of one workload, and what it comes to in sentences."""
    sizes = ", ".join(f"{key} {value}" for key, value in workload.sizes.items())
    head = f"W-{workload.name}: {sizes}; {workload.flop() / 1e9:.1f} GFLOP a call"
    columns = ["mode", "dtype", "implementation", "ms", "least", "most", "GFLOP/s", "x floor", "error"]
    timed = [row for row in rows if "seconds" in row]
    cells = [
        [
            row["mode"],
            row["dtype"],
            row["implementation"].replace("_", " "),
            *(f"{1000 * row[key]:.1f}" for key in ("seconds", "seconds_least", "seconds_most")),
            f"{row['gflop'] / row['seconds']:.1f}",
            f"{row['seconds'] / row['floor_seconds']:.2f}",
            f"{row['error']:.0e}",
        ]
        for row in timed
    ]
    lines = [head, "", text_table(columns, cells)] if cells else [head]
    lines += ["", *_sentences(rows)]
    return "\n".join(lines).rstrip()


def _sentences(rows: list[dict]) -> list[str]:
    lines = []
    for row in rows:
        what = f"{row['mode']}, {row['dtype']}"
        if row["implementation"] == "ours" and "seconds" in row:
            said = []
            if "times_best_peer" in row:
                best = row["best_peer"].replace("_", " ")
                said.append(f"{row['times_best_peer']:.2f} times as fast as the best peer ({best})")
            if "times_official" in row:
                said.append(f"{row['times_official']:.1f} times as fast as the official structure, eager")
            if "times_best_peer_float32" in row and row["dtype"] != "float32":
                said.append(f"{row['times_best_peer_float32']:.2f} times as fast as the best peer in float32")
            over = row["seconds"] / row["floor_seconds"]
            said.append(f"{over:.2f} times the floor at {row['matrix_gflops']:.0f} GFLOP/s")
            lines.append(f"{what}: {', '.join(said)}")
        elif "left_out" in row:
            lines.append(f"{what}: {row['implementation'].replace('_', ' ')} left out, {row['left_out']}")
        elif "peak_bytes" in row:
            peak = f"{row['implementation']} {row['peak_bytes'] / 2**20:.0f} MiB"
            lines.append(f"peak of forward + backward, {row['dtype']}: {peak}")
    peaks = {(r["implementation"], r["dtype"]): r["peak_bytes"] for r in rows if "peak_bytes" in r}
    for (name, dtype), peak in peaks.items():
        if name == "ours" and ("official", dtype) in peaks:
            lines.append(f"peak, {dtype}: ours is {peak / peaks['official', dtype]:.3f} of the official structure's")
    return lines


def _row(
    workload: Workload, mode: str, name: str, dtype: str, times: Times, rate: float, error: float
) -> dict[str, object]:
    return _about(workload, mode, name, dtype) | times.row(workload.flop(mode), rate) | {"error": error}


def _about(workload: Workload, mode: str, name: str, dtype: str) -> dict[str, object]:
    return {
        "benchmark": "step",
        "workload": workload.name,
        "sizes": workload.sizes,
        "mode": mode,
        "dtype": dtype,
        "implementation": name,
    }


def _call(contender: Contender, mode: str):
    return lambda: contender.call(mode)


def _parser() -> argparse.ArgumentParser:
    epilog = f"{EPILOG}\n\n{listed(IMPLEMENTATIONS)}"
    parser = arguments.make_parser("bench.network.step", DESCRIPTION, epilog)
    arguments.add_workload(parser, several=True)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    arguments.add_dtypes(parser)
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=IMPLEMENTATIONS,
        default=list(IMPLEMENTATIONS),
        metavar="NAME",
        help="who runs (default: all five)",
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave the compiled peers out")
    parser.add_argument("--memory", action="store_true", help="also measure the peak memory of forward + backward")
    arguments.add_ours_first(parser)
    arguments.add_run(parser, repeats=9, out=pathlib.Path(record.RESULTS / "step.jsonl"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
