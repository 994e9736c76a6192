"""Peak memory of forward + backward, against the number of frames and of edges; a fresh process for every figure."""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import torch

from bench.common import arguments, record
from bench.common.workloads import make_workload
from bench.network.contenders import make_contender, split_by_memory
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
Peak memory of one call with the gradients of all parameters, as the operating system sees it: the highest resident set
during the call (VmHWM, reset before it) over that before the call, in a fresh process for every figure. So scratch
memory of kernels and what the allocator does not give back count too; weights and inputs, the same for all, do not.
What making them left free is given back to the system first, else the call would take it and seem to need less.
On CUDA: the peak of torch's allocator over what it held before."""
EPILOG = """\
  python -m bench.network.memory --sweep frames            workload long, T = 64 ... 1024, one graph
  python -m bench.network.memory --sweep edges             workload large, radius graphs of 3 to 6 angstrom
  python -m bench.network.memory --sweep edges --large FILE"""
FRAMES = (64, 128, 256, 512, 1024)
CUTOFFS = (3.0, 4.0, 5.0, 6.0)
IMPLEMENTATIONS = ("ours", "official", "efficient")


def main(argv: list[str] | None = None) -> int:
    """Run a sweep: 0, or 2 for a user's error."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--child"]:
        return child(json.loads(argv[1]))
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.network.memory", error)


def run(args: argparse.Namespace) -> int:
    """Measure every point, write the lines, print the table."""
    arguments.set_up(args)
    context = record.context(args.device)
    name = "long" if args.sweep == "frames" else "large"
    base = arguments.spec_of(args, name)
    if args.sweep == "frames":
        points = [
            base | {"num_graphs": args.graphs or 1, "num_frames": frames} for frames in map(int, args.points or FRAMES)
        ]
    else:
        points = [base | {"cutoff": cutoff} for cutoff in args.points or CUTOFFS]
    rows = []
    for spec in points:
        workload = make_workload(**spec)
        for implementation in args.implementations:
            row = {"benchmark": "memory", "workload": name, "sizes": workload.sizes, "sweep": args.sweep}
            row |= {"implementation": implementation, "dtype": args.dtype}
            fit, refused = split_by_memory(workload, [implementation], [args.dtype], "training", args.device)
            if fit:
                row |= measure(spec, implementation, args.dtype, args.device)
            else:
                row["left_out"] = refused[implementation, args.dtype]
            rows.append(row)
            record.append(args.out, [row | context])
            if not args.quiet:
                print(_progress(row), file=sys.stderr)
    print(record.describe(context), report(rows, args.sweep), f"lines added to {args.out}", sep="\n\n")
    return 0


def measure(spec: dict, implementation: str, dtype: str, device: str = "cpu") -> dict:
    """Peak bytes of forward + backward of the workload that `make_workload(**spec)` gives, from a fresh process.

    Returns `peak_bytes` and `measured`, how. Raises RuntimeError with the process's last line if it fails.
    """
    order = {"spec": spec, "implementation": implementation, "dtype": dtype, "device": device}
    order["threads"] = torch.get_num_threads()
    words = [sys.executable, "-m", "bench.network.memory", "--child", json.dumps(order)]
    path = os.pathsep.join([str(record.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"memory of {implementation} at {spec['name']}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def child(order: dict) -> int:
    """The fresh process: build, touch every library with a tiny call, then measure one call."""
    torch.set_num_threads(order["threads"])
    choice = order["implementation"], order["dtype"], order["device"]
    tiny = order["spec"] | {"n_layers": 1, "num_frames": 4, "num_graphs": 1, "cutoff": 1.0}
    tiny |= {"num_atoms": 64} if tiny.get("num_atoms") else {}
    make_contender(make_workload(**tiny), *choice).training()
    contender = make_contender(make_workload(**order["spec"]), *choice)
    if order["implementation"].endswith("_compiled"):
        contender.training()  # what the compiler takes is not the call's
    peak, measured = peak_of(contender.training, contender.device)
    print(json.dumps({"peak_bytes": peak, "measured": measured}))
    return 0


def peak_of(call: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Bytes at the peak of `call` beyond those before it, and how they were measured."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before, "torch.cuda.max_memory_allocated"
    _give_back_freed_memory()
    try:
        before = _status("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        # Not Linux: ru_maxrss cannot be reset, so what was highest before the call is the base line.
        before = _ru_maxrss()
        call()
        return _ru_maxrss() - before, "ru_maxrss"
    call()
    return _status("VmHWM") - before, "VmHWM"


def _give_back_freed_memory() -> None:
    """What is free in the heap of glibc's malloc is the system's again; another C library keeps what it keeps."""
    gc.collect()
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _ru_maxrss() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def report(rows: list[dict], sweep: str) -> str:
    """A line for every point: MiB of each implementation, and ours for each frame or thousand edges more."""
    key = "frames" if sweep == "frames" else "edges"
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    points = list(dict.fromkeys(row["sizes"][key] for row in rows))
    found = {(row["sizes"][key], row["implementation"]): row.get("peak_bytes") for row in rows}
    unit, per = ("frame", 1) if sweep == "frames" else ("1000 edges", 1000)
    table, last = [], None
    for point in points:
        peaks = [found[point, name] for name in names]
        mine = found.get((point, "ours"))
        rises = last is not None and mine is not None
        slope = f"{(mine - last[1]) / (point - last[0]) * per / 2**20:.3f}" if rises else ""
        table.append([point, *("left out" if peak is None else f"{peak / 2**20:.0f}" for peak in peaks), slope])
        last = None if mine is None else (point, mine)
    sizes = {name: value for name, value in rows[0]["sizes"].items() if name not in (key, "given")}
    head = f"peak of forward + backward in MiB, {rows[0]['dtype']}, " + ", ".join(f"{k} {v}" for k, v in sizes.items())
    table = text_table([key, *names, f"ours, MiB per {unit} more"], table)
    why = sorted(
        {
            f"left out: {row['implementation']} at {row['sizes'][key]} {key} {row['left_out']}"
            for row in rows
            if "left_out" in row
        }
    )
    return "\n".join([head, "", table, *([""] if why else []), *why])


def _progress(row: dict) -> str:
    got = f"{row['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in row else f"left out, {row['left_out']}"
    return f"{row['implementation']}, {row['sizes']['frames']} frames, {row['sizes']['edges']} edges: {got}"


def _parser() -> argparse.ArgumentParser:
    parser = arguments.make_parser("bench.network.memory", DESCRIPTION, EPILOG)
    parser.add_argument("--sweep", choices=("frames", "edges"), default="frames", help="default: frames")
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=IMPLEMENTATIONS,
        default=IMPLEMENTATIONS,
        metavar="NAME",
        help=f"of {' '.join(IMPLEMENTATIONS)} (default: all)",
    )
    parser.add_argument(
        "--points", nargs="+", type=float, metavar="P", help="frames, or cutoffs in angstrom, instead of the usual ones"
    )
    arguments.add_sizes(parser)
    parser.add_argument("--dtype", choices=arguments.DTYPES, default="float32", help="default: float32")
    arguments.add_run(parser, repeats=1, out=record.RESULTS / "memory.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
