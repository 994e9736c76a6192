"""What a periodic box costs as the system grows: gases of water's density, with and without one, and plain peers."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial

from bench.common import arguments, record
from bench.common.timing import interleaved
from bench.common.workloads import Workload, make_workload
from bench.network.agreement import errors_on_few_atoms
from bench.network.contenders import Contender, bytes_needed, make_contender
from bench.network.memory import measure
from geotdm_fast.scores.tables import text_table

SIZES = (100, 300, 1000, 3000, 10_000, 50_000)
PARTS = ("time", "memory")
MODES = ("inference", "training")
OURS = ("ours", "ours_current")
PEERS = ("official", "efficient")
MEMORY = 20 * 2**30  # what a peer may take
MOST_TIMES = 1.3  # asked of a box
DTYPE = "float32"
DESCRIPTION = f"""\
Time one call of the network (inference), one with the gradients of all parameters (training), and the latter's peak
memory, in float32, for gases of {", ".join(map(str, SIZES))} atoms at water's density, 10 frames, neighbours within
5 angstrom: in a periodic box, and the same atoms without one, whose surface has fewer neighbours. By edge the box may
cost at most {MOST_TIMES} times. ours: the first frame's neighbours in all frames; ours_current: every frame's own,
searched in every call. The peers {", ".join(PEERS)} (eager; edges as ours, their images' shifts subtracted) run where
they are estimated to fit into 20 GiB; the size where they no longer do is told. All must give the results of the
equations first, on at most 400 atoms: 1e-4."""
EPILOG = """\
  python -m bench.network.periodic --threads 2                                        what the project asks for
  python -m bench.network.periodic --threads 2 --layers 2 --repeats 1 --no-warm-up --parts time    in half an hour
  python -m bench.network.periodic --atoms 100 300 --layers 1 --hidden-dim 16         a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Measure every size, add its lines to a file as they are known, print the table: 0, or 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        context, rows = record.context(args.device), []
        for atoms in args.atoms:
            for row in (row for part in PARTS if part in args.parts for row in MEASURES[part](atoms, args)):
                rows.append(row | context)
                record.append(args.out, rows[-1:])
        print(record.describe(context), report(rows), f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.network.periodic", error)


def measure_time(atoms: int, args: argparse.Namespace) -> Iterator[dict]:
    """Rows of one size: with and without the box, in both modes; why a peer is left out."""
    specs = {periodic: spec_of(atoms, periodic, args) for periodic in (True, False)}
    workloads = {periodic: make_workload(**spec) for periodic, spec in specs.items()}
    for mode in MODES:
        contenders = list(contenders_of(workloads, mode, args))
        errors = {}
        for periodic, spec in specs.items():
            names = [c.name for box, c in contenders if box == periodic]
            found = errors_on_few_atoms(spec, names, DTYPE, mode, args.device)
            errors |= {(periodic, name): error for name, error in found.items()}
        calls = {(periodic, c.name): partial(c.call, mode) for periodic, c in contenders}
        times = interleaved(calls, args.repeats, args.device, warm_up=int(args.warm_up), progress=not args.quiet)
        for (periodic, name), found in times.items():
            row = about(workloads[periodic], periodic, mode, name) | {"seconds": found.median, "repeats": args.repeats}
            yield row | {"seconds_least": found.least, "seconds_most": found.most} | errors[periodic, name]
        for name in peers_of(args):
            need = bytes_needed(workloads[True], name, DTYPE, mode)
            if need > MEMORY:
                yield about(workloads[True], True, mode, name) | {"left_out": f"needs about {need / 2**30:.0f} GiB"}


def measure_memory(atoms: int, args: argparse.Namespace) -> Iterator[dict]:
    """Rows of one size: the peak of forward and backward with and without the box, each in a process of its own."""
    for periodic in (True, False):
        spec = spec_of(atoms, periodic, args)
        workload = make_workload(**spec)
        for name in OURS:
            yield about(workload, periodic, "memory", name) | measure(spec, name, DTYPE, args.device)


MEASURES = dict(zip(PARTS, (measure_time, measure_memory), strict=True))


def contenders_of(
    workloads: dict[bool, Workload], mode: str, args: argparse.Namespace
) -> Iterator[tuple[bool, Contender]]:
    """Ours with and without the box, and the peers in it that fit."""
    for periodic, workload in workloads.items():
        for name in OURS:
            yield periodic, make_contender(workload, name, DTYPE, args.device)
    for name in peers_of(args):
        if bytes_needed(workloads[True], name, DTYPE, mode) <= MEMORY:
            yield True, make_contender(workloads[True], name, DTYPE, args.device)


def peers_of(args: argparse.Namespace) -> tuple[str, ...]:
    return () if args.ours_alone else PEERS


def spec_of(atoms: int, periodic: bool, args: argparse.Namespace) -> dict:
    """The arguments of `make_workload`, as JSON can hold them."""
    sizes = {"num_frames": args.frames, "n_layers": args.layers, "hidden_dim": args.hidden_dim}
    return {"name": "large", "num_atoms": atoms, "periodic": periodic, **sizes}


def about(workload: Workload, periodic: bool, mode: str, name: str) -> dict[str, object]:
    """What every row begins with."""
    kind = {"benchmark": "periodic", "periodic": periodic, "workload": workload.name, "sizes": workload.sizes}
    return kind | {"mode": mode, "dtype": DTYPE, "implementation": name}


def report(rows: list[dict]) -> str:
    """A line for every size and mode."""
    found = {(r["sizes"]["nodes"], r["mode"], r["implementation"], r["periodic"]): r for r in rows}
    edges = {r["sizes"]["nodes"]: r["sizes"]["edges"] for r in rows if r["periodic"]}
    table = [
        _line(found, atoms, edges[atoms], mode) for atoms in edges for mode in dict.fromkeys(r["mode"] for r in rows)
    ]
    head = ["atoms", "edges", "", *OURS, *PEERS, "box: ours", "box: current", "best peer / ours"]
    left_out = [
        f"{row['implementation']}, {row['mode']}, {row['sizes']['nodes']} atoms: {row['left_out']}, over 20 GiB"
        for row in rows
        if "left_out" in row
    ]
    told = "seconds, memory in MiB; box: times what the same atoms cost without one, by edge"
    return "\n".join([told, "", text_table(head, table), "", *left_out])


def _line(found: dict, atoms: int, edges: int, mode: str) -> list:
    key, unit = ("peak_bytes", 2**20) if mode == "memory" else ("seconds", 1)
    boxed = {name: found.get((atoms, mode, name, True), {}).get(key) for name in (*OURS, *PEERS)}
    cells = [None if value is None else value / unit for value in boxed.values()]
    peers = [boxed[name] for name in PEERS if boxed[name] is not None]
    times = min(peers) / boxed["ours"] if peers else None
    return [atoms, edges, mode, *cells, *(_per_edge(found, atoms, mode, name, key) for name in OURS), times]


def _per_edge(found: dict, atoms: int, mode: str, name: str, key: str) -> float:
    boxed, free = (found[atoms, mode, name, periodic] for periodic in (True, False))
    return boxed[key] / free[key] * free["sizes"]["edges"] / boxed["sizes"]["edges"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.network.periodic",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--atoms", nargs="+", type=arguments.count, default=SIZES, metavar="N", help="sizes")
    parser.add_argument("--frames", type=arguments.count, default=10, metavar="T", help="default: %(default)s")
    parser.add_argument("--layers", type=arguments.count, default=6, metavar="L", help="default: %(default)s")
    parser.add_argument("--hidden-dim", type=arguments.count, default=128, metavar="H", help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all", metavar="PART")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="no round before the clock starts")
    parser.add_argument("--ours-alone", action="store_true", help="leave the peers out")
    arguments.add_run(parser, repeats=3, out=record.RESULTS / "periodic.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
