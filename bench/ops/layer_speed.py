"""One layer on a GPU: our kernels against plain PyTorch, eager and compiled; and time against edges."""

import argparse
import functools
import math
import sys
import time

import torch

from bench.common import arguments, record
from bench.common.device_timing import captured, data_sheet, device_times
from bench.common.timing import MatrixProduct, Times
from bench.common.workloads import Workload, make_workload
from bench.network.memory import peak_of
from bench.ops.layer import DIRECTIONS, LAYERS, PRECISIONS, bound, errors, make_layer, names_of, tf32, wrong
from bench.ops.single_op import SingleOp
from geotdm_fast import backend
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
Time one layer, forward and forward + backward, in fp32, tf32 and bf16 products: our kernels, the plain transcription of
the official structure in eager PyTorch (bf16: autocast) and the same under torch.compile; of the temporal layer the
memory-efficient structure too, and, over 128 frames, where the official one finds no memory, FlexAttention and SDPA
with a bias, compiled. Each is first compared with the reference in float64: who is wrong is not timed. Then each is
captured in a CUDA graph and replayed in turn between CUDA events, A B C A B C ..., with a large matrix product of each
precision among them; the same is done with plain calls ("launched"). The floor is 5 H^2 multiply-adds for a node-frame
and 2 H^2 for an edge-frame, of the temporal layer 7 H^2 + 6 T H for a node-frame (backward: three times), at the rate
of those products, and at the data sheet's. Peak memory is that of one call.
--sweep edges: ours alone, workload large, against the number of edges."""
EPILOG = """\
  python -m bench.ops.layer_speed --device cuda --workload md --graphs 128
  python -m bench.ops.layer_speed --device cuda --layer temporal --workload md long
  python -m bench.ops.layer_speed --device cuda --sweep edges
  TRITON_INTERPRET=1 python -m bench.ops.layer_speed --trial        every line of it on the CPU, at a tiny size"""
# Radii in angstrom: about 0.7, 1.3, 2.3, 4.1, 6.6 and 10 million edge-frames of 10 frames of 3341 atoms.
CUTOFFS = (4.0, 5.0, 6.0, 7.5, 9.0, 10.5)
TRIAL_SIZES = {"num_graphs": 1, "num_frames": 2, "n_layers": 1, "hidden_dim": 16}


def main(argv: list[str] | None = None) -> int:
    """Run: 0; 1 if a result was wrong; 2 for a user's error."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        args.products = _Products(args.device, 64 if args.trial else None)
        with backend("triton"):
            return sweep(args) if args.sweep else compare(args)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.ops.layer_speed", error)


def compare(args: argparse.Namespace) -> int:
    """Every precision and direction of every workload; the lines of one are written before the next begins."""
    context = record.context(args.device)
    bad = 0
    for name in args.workload:
        workload, shown = make_workload(name, **_sizes(args)), []
        for precision in args.precision:
            for direction in args.directions:
                rows = measure(workload, precision, direction, args)
                record.append(args.out, [row | context for row in rows])
                bad += sum("wrong" in row for row in rows)
                shown += rows
        print(report(shown), flush=True)
    return 1 if bad else 0


def measure(workload: Workload, precision: str, direction: str, args: argparse.Namespace) -> list[dict]:
    """A row for every implementation."""
    torch.compiler.reset()
    device = torch.device(args.device)
    names = [name for name in names_of(args.layer, workload.num_frames) if name in (args.implementations or [name])]
    ops = {name: make_layer(workload, name, precision, device, args.compiler, args.layer) for name in names}
    calls = {name: bound(op, direction, precision) for name, op in ops.items()}
    by_precision = {(name, precision): call for name, call in calls.items()}
    found = checked(workload, direction, by_precision, device, args.layer)
    refused = {name: why for (name, _), why in wrong(found).items()}
    calls = {name: call for name, call in calls.items() if name not in refused}
    replays = {name: captured(call, device) for name, call in calls.items()}
    first = {"product": _product(precision, args)}
    options = {"warm_up": 0 if args.trial else 3, "limit": args.limit}
    replayed = first | {name: graph.replay for name, graph in replays.items()}
    times = device_times(replayed, args.repeats, device, **options)
    launched = device_times(first | calls, args.repeats, device, **options)
    rate = args.products[precision].flop / times["product"].median
    # The pool of a graph is not the call's own memory.
    why_not = {name: graph.why_not for name, graph in replays.items()}
    del replays, replayed
    rows = []
    for name in names:
        error, where = found[name, precision]
        row = about(workload, direction, precision, name, args.layer) | {"error": error, "error_in": where}
        if name in refused:
            # A peer that cannot run is no fault of ours.
            rows.append(row | {"failed" if where.startswith("failed") else "wrong": refused[name]})
            continue
        row |= timing(times[name], ops[name], direction, precision, rate, args)
        peak, measured = peak_of(calls[name], device)
        row |= {"launched_seconds": launched[name].median, "peak_bytes": peak, "measured": measured}
        rows.append(row | {"captured": why_not[name] is None, "not_captured": why_not[name]})
    add_ratios(rows)
    return rows


def checked(
    workload: Workload, direction: str, calls: dict, device: torch.device, layer: str = "spatial"
) -> dict[tuple[str, str], tuple[float, str]]:
    """The error of every call against the reference in float64."""
    truth = make_layer(workload, "truth", "fp32", device, layer=layer)
    with backend("reference"):
        expected = bound(truth, direction, "fp32")()
    return errors(calls, expected)


def timing(
    times: Times, op: SingleOp, direction: str, precision: str, rate: float, args: argparse.Namespace
) -> dict[str, object]:
    """What stands in every row about its time and its floors."""
    flop = op.flop * (3 if direction == "backward" else 1)
    sheet = data_sheet(torch.cuda.get_device_name(op.device) if op.device.type == "cuda" else args.sheet)
    return times.row(flop, rate) | {"sheet_floor_seconds": flop / sheet[precision] if sheet else None}


def add_ratios(rows: list[dict]) -> None:
    """To our rows: how many times faster than each peer in the same precision, and the share of its memory."""
    known = {(row["implementation"], row["precision"]): row for row in rows if "seconds" in row}
    for row in rows:
        if row["implementation"] != "ours" or "seconds" not in row:
            continue
        peers = {name: other for (name, precision), other in known.items() if precision == row["precision"]}
        del peers["ours"]
        for peer, other in peers.items():
            row[f"times_{peer}"] = other["seconds"] / row["seconds"]
            row[f"memory_of_{peer}"] = row["peak_bytes"] / max(other["peak_bytes"], 1)
        if peers:
            row["times_best"] = min(other["seconds"] for other in peers.values()) / row["seconds"]


def sweep(args: argparse.Namespace) -> int:
    """Ours at growing radii: a line for each, and the exponent of time against edges."""
    context = record.context(args.device)
    device = torch.device(args.device)
    rows = []
    stop = time.perf_counter() + 4 * args.limit
    for cutoff in args.cutoffs:
        sizes = {key: value for key, value in _sizes(args).items() if key != "num_graphs"}
        workload = make_workload("large", cutoff=cutoff, large_file=args.large, **sizes)
        for precision in args.precision:
            op = make_layer(workload, "ours", precision, device)
            for direction in args.directions:
                call = bound(op, direction, precision)
                call()  # compiles, and sorts the edges
                times = device_times({precision: call}, args.repeats, device, warm_up=1, limit=args.limit / 10)
                peak, _ = peak_of(call, device)
                row = about(workload, direction, precision, "ours") | {"benchmark": "edges", "cutoff": cutoff}
                row |= {"edge_frames": workload.num_edges * workload.num_frames, "peak_bytes": peak}
                rows.append(row | {"seconds": times[precision].median, "repeats": len(times[precision].seconds)})
                record.append(args.out, [rows[-1] | context])
        if time.perf_counter() > stop:
            print(f"edges: stopped after {cutoff} angstrom, out of time")
            break
    print(report_sweep(rows))
    return 0


def exponent(points: list[tuple[float, float]]) -> float:
    """k of the least squares fit log y = k log x + c."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    spread = sum((x - mean[0]) ** 2 for x, _ in logs)
    return sum((x - mean[0]) * (y - mean[1]) for x, y in logs) / spread if spread else math.nan


def about(workload: Workload, direction: str, precision: str, name: str, layer: str = "spatial") -> dict[str, object]:
    return {
        "benchmark": "layer",
        "layer": layer,
        "workload": workload.name,
        "sizes": workload.sizes,
        "direction": direction,
        "precision": precision,
        "implementation": name,
    }


COLUMNS = (
    *("layer", "workload", "direction", "precision", "who", "ms", "launched", "floor/t", "sheet/t"),
    *("x eager", "x compiled", "x best", "MiB", "of eager", "error"),
)


def report(rows: list[dict]) -> str:
    """The table of `compare`'s rows; floor/t: the floor over the time, at the measured and the data sheet's rate."""

    def share(part, whole):
        return "" if part is None else f"{100 * part / whole:.0f} %"

    cells, lines = [], []
    for row in rows:
        start = [row["layer"], f"W-{row['workload']}", row["direction"], row["precision"], row["implementation"]]
        if "seconds" not in row:
            lines.append(" ".join([*start, row.get("wrong") or row["failed"]]))
            continue
        if row["not_captured"] and row["measured"].startswith("torch.cuda"):
            lines.append(" ".join([*start, "is no CUDA graph:", row["not_captured"]]))
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("times_eager", "times_compiled", "times_best")]
        memory = f"{row['memory_of_eager']:.3f}" if "memory_of_eager" in row else ""
        cells.append([
            *start, f"{1e3 * row['seconds']:.3f}", f"{1e3 * row['launched_seconds']:.3f}",
            share(row["floor_seconds"], row["seconds"]), share(row["sheet_floor_seconds"], row["seconds"]),
            *ratios, f"{row['peak_bytes'] / 2**20:.0f}", memory, f"{row['error']:.0e}",
        ])  # fmt: skip
    return "\n".join([text_table(list(COLUMNS), cells) if cells else "nothing was timed", *lines])


def report_sweep(rows: list[dict]) -> str:
    """Time and memory against edges, and the exponent of time over the upper half."""
    columns = ["W-large", "precision", "direction", "edge-frames", "ms", "ns an edge-frame", "MiB"]
    cells, lines = [], []
    for precision, direction in dict.fromkeys((row["precision"], row["direction"]) for row in rows):
        mine = [row for row in rows if (row["precision"], row["direction"]) == (precision, direction)]
        for row in mine:
            count = max(row["edge_frames"], 1)
            time_ = [f"{1e3 * row['seconds']:.3f}", f"{1e9 * row['seconds'] / count:.3f}"]
            peak = f"{row['peak_bytes'] / 2**20:.0f}"
            cells.append([f"{row['cutoff']} A", precision, direction, f"{row['edge_frames']:,}", *time_, peak])
        points = [(max(row["edge_frames"], 1), row["seconds"]) for row in mine][len(mine) // 2 :]
        lines.append(f"{precision}, {direction}: time grows with the power {exponent(points):.2f} of the edges")
    return "\n".join([text_table(columns, cells), *lines])


def _product(precision: str, args: argparse.Namespace):
    product = args.products[precision]

    def call() -> None:
        with tf32(precision == "tf32"):
            product()

    return call


class _Products(dict):
    """The matrix product of a precision, made when it is asked for."""

    def __init__(self, device: str, size: int | None):
        super().__init__()
        self.make = functools.partial(MatrixProduct, device, size=size)

    def __missing__(self, precision: str) -> MatrixProduct:
        self[precision] = self.make(torch.bfloat16 if precision == "bf16" else torch.float32)
        return self[precision]


def _sizes(args: argparse.Namespace) -> dict[str, int | None]:
    given = {"num_graphs": args.graphs, "num_frames": args.frames, "hidden_dim": args.hidden_dim, "n_layers": 1}
    return {key: given[key] or value for key, value in TRIAL_SIZES.items()} if args.trial else given


def _parser() -> argparse.ArgumentParser:
    parser = arguments.make_parser("bench.ops.layer_speed", DESCRIPTION, EPILOG)
    arguments.add_workload(parser, several=True)
    parser.add_argument("--layer", choices=LAYERS, default="spatial", help="default: spatial")
    parser.add_argument("--sweep", choices=("edges",), help="workload large against its edges, instead")
    parser.add_argument("--cutoffs", nargs="+", type=float, default=CUTOFFS, metavar="R", help="of the sweep, angstrom")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="default: all three")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=DIRECTIONS, help="default: both")
    parser.add_argument("--implementations", nargs="+", metavar="NAME", help="who runs (default: ours and all peers)")
    parser.add_argument("--compiler", default="inductor", help="backend of torch.compile (default: inductor)")
    parser.add_argument("--limit", type=float, default=8, metavar="S", help="about so long each round of timing (8)")
    parser.add_argument("--sheet", default="", help=argparse.SUPPRESS)
    parser.add_argument("--trial", action="store_true", help="tiny sizes, for Triton's interpreter")
    arguments.add_run(parser, repeats=30, out=record.RESULTS / "layer.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
