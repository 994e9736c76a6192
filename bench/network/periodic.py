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
  python -m bench.network.periodic --atoms 100 300 --layers 1 --hidden-dim 16         a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Measure every size, add its lines to a file as they are known, print the table: 0, or 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        context, rows = record.context(args.device), []
        for atoms in args.atoms:
            for row in measure_size(atoms, args):
                rows.append(row | context)
                record.append(args.out, rows[-1:])
        print(record.describe(context), report(rows), f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.network.periodic", error)


def measure_size(atoms: int, args: argparse.Namespace) -> Iterator[dict]:
    """Rows of one size: with and without the box, in both modes, then the memory of training."""
    specs = {True: spec_of(atoms, True, args), False: spec_of(atoms, False, args)}
    workloads = {periodic: make_workload(**spec) for periodic, spec in specs.items()}
    for mode in MODES:
        contenders = list(contenders_of(workloads, mode, args))
        errors = {}
        for periodic, spec in specs.items():
            names = [c.name for box, c in contenders if box == periodic]
            found = errors_on_few_atoms(spec, names, DTYPE, mode, args.device)
            errors |= {(periodic, name): error for name, error in found.items()}
        calls = {(periodic, c.name): partial(c.call, mode) for periodic, c in contenders}
        times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
        for (periodic, name), found in times.items():
            row = about(workloads[periodic], periodic, mode, name) | {"seconds": found.median, "repeats": args.repeats}
            yield row | {"seconds_least": found.least, "seconds_most": found.most} | errors[periodic, name]
        for name in peers_of(args):
            need = bytes_needed(workloads[True], name, DTYPE, mode)
            if need > MEMORY:
                yield about(workloads[True], True, mode, name) | {"left_out": f"needs about {need / 2**30:.0f} GiB"}
    for periodic, spec in specs.items():
        for name in OURS:
            row = about(workloads[periodic], periodic, "memory", name)
            yield row | measure(spec, name, DTYPE, args.device)


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
    table = []
    for atoms in dict.fromkeys(r["sizes"]["nodes"] for r in rows):
        for mode in (*MODES, "memory"):
            key = "peak_bytes" if mode == "memory" else "seconds"
            value = lambda name, box, atoms=atoms, mode=mode, key=key: found.get((atoms, mode, name, box), {}).get(key)
            unit = 2**20 if mode == "memory" else 1
            cells = [None if value(name, True) is None else value(name, True) / unit for name in (*OURS, *PEERS)]
            table.append([atoms, found[atoms, "memory", "ours", True]["sizes"]["edges"], mode, *cells])
            for name in OURS:
                table[-1].append(_per_edge(found, atoms, mode, name, key))
            peers = [value(name, True) for name in PEERS if value(name, True) is not None]
            table[-1].append(min(peers) / value("ours", True) if peers else None)
    head = ["atoms", "edges", "", *OURS, *PEERS, "box: ours", "box: current", "best peer / ours"]
    left_out = [
        f"{row['implementation']}, {row['mode']}, {row['sizes']['nodes']} atoms: {row['left_out']}, over 20 GiB"
        for row in rows
        if "left_out" in row
    ]
    told = "seconds, memory in MiB; box: times what the same atoms cost without one, by edge"
    return "\n".join([told, "", text_table(head, table), "", *left_out])


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
    parser.add_argument("--ours-alone", action="store_true", help="leave the peers out")
    arguments.add_run(parser, repeats=3, out=record.RESULTS / "periodic.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
