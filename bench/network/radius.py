"""Radius graphs of thousands of atoms: speed and memory against the peers, graphs of every frame, growth with size."""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from bench.common import arguments, correctness, record
from bench.common.timing import Times, interleaved
from bench.common.workloads import LARGE_ATOMS, Workload, make_workload
from bench.network.contenders import Contender, make_contender, make_truth, split_by_memory
from bench.network.memory import measure
from bench.network.radius_report import report
from geotdm_fast import radius_graph

PARTS = ("speed", "memory", "rule", "sizes")
MODES = ("inference", "training")
STRUCTURES = ("official", "efficient", "pyg")
LARGEST = 50_000
SHARES = (8, 4, 2, 1)  # the sizes are the largest one over these
# Of the gas on which both kinds of graph are compared with the equations: in float64, as plain PyTorch, those of a whole
# protein take longer than all that is timed.
CHECKED_ATOMS, CHECKED_FRAMES = 400, 4
DTYPE = "float32"
DESCRIPTION = f"""\
Time one call of the network (inference), and one with the gradients of all parameters (training), in float32, for
radius graphs of 5 angstrom. Parts:
  speed   a protein, 10 frames, the first one's graph: ours and the peers, eager and compiled, interleaved
  memory  the same: peak of forward + backward, a fresh process for each
  rule    ours with the graph of every frame's own positions, searched in every call, against the first frame's with as
          many edges
  sizes   ours on gases of water's density, 1 frame: time and memory against edges
The peers are the structures {", ".join(STRUCTURES)} (torch_geometric's MessagePassing, where it is installed). One that
does not fit into memory is left out by name; in training it then runs with every layer computed again in backward
(NAME_recompute). Before any clock starts all must give the results of the equations: 1e-4; in the parts rule and sizes
on a gas of {CHECKED_ATOMS} atoms and {CHECKED_FRAMES} frames, with as many layers of the same width."""
EPILOG = """\
  python -m bench.network.radius --threads 2 --npz FILE                            what the project asks for
  python -m bench.network.radius --threads 2 --npz FILE --layers 2 --parts speed memory    peers as they are fit
  python -m bench.network.radius --parts rule sizes --atoms 2000 --layers 2 --repeats 1    minutes on a busy machine
  python -m bench.network.radius --layers 1 --hidden-dim 16 --atoms 200 --no-compile       a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Run the parts, add every line to a file as it is known, print the report: 0, or 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        context, rows = record.context(args.device), []
        for part in (name for name in PARTS if name in args.parts):
            for row in MEASURES[part](args):
                rows.append(row | context)
                record.append(args.out, rows[-1:])
        print(record.describe(context), report(rows), f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.network.radius", error)


def measure_speed(args: argparse.Namespace) -> Iterator[dict]:
    """A row for ours and every peer, in both modes."""
    workload = make_workload(**protein(args))
    for mode in MODES:
        names, left_out = choose(workload, mode, args)
        torch.compiler.reset()
        tell(args, f"speed: comparing ours, {', '.join(names)} with the equations, {mode}; compiled ones take minutes")
        contenders = [make_contender(workload, name, DTYPE, args.device) for name in ("ours", *names)]
        errors = correctness.check(contenders, make_truth(workload, args.device), mode)
        times = timed({c.name: c for c in contenders}, mode, args, warm_up=0)  # the check has called them all
        for name, found in times.items():
            yield about("speed", workload, mode, name) | seconds(found) | {"error": errors[name, DTYPE]}
        for name, why in left_out.items():
            yield about("speed", workload, mode, name) | {"left_out": why}


def measure_memory(args: argparse.Namespace) -> Iterator[dict]:
    """A row for ours, with both kinds of graph, and for every peer."""
    spec = protein(args)
    workload = make_workload(**spec)
    names, left_out = choose(workload, "training", args)
    for name in ("ours", "ours_current", *names):
        tell(args, f"memory: {name}, in a process of its own")
        yield about("memory", workload, "training", name) | measure(spec, name, DTYPE, args.device)
    for name, why in left_out.items():
        yield about("memory", workload, "training", name) | {"left_out": why}


def measure_rule(args: argparse.Namespace) -> Iterator[dict]:
    """Rows for edges of every frame, and for as many that are the same in all frames."""
    moving = make_workload(**protein(args))
    edges = moving.edges_of_frames(args.device)
    fixed = with_closest_pairs(moving, edges.shape[1] // (2 * moving.num_frames))
    for mode in MODES:
        errors = errors_of_both(args, "rule", args.frames, mode)
        contenders = {
            "ours": make_contender(fixed, "ours", DTYPE, args.device),
            "ours_current": make_contender(moving, "ours_current", DTYPE, args.device),
        }
        tell(args, f"rule: timing {mode} of {moving.num_nodes} atoms and {moving.num_frames} frames")
        times = timed(contenders, mode, args)
        count = {"ours": fixed.num_edges * fixed.num_frames, "ours_current": edges.shape[1]}
        for name, found in times.items():
            yield about("rule", moving, mode, name) | seconds(found) | errors[name] | {"edge_frames": count[name]}


def measure_sizes(args: argparse.Namespace) -> Iterator[dict]:
    """Rows of every size for both kinds of graph: time in both modes, then memory."""
    specs = [spec_of(args, num_frames=1, num_atoms=args.atoms // share) for share in SHARES]
    workloads = [make_workload(**spec) for spec in specs]
    edges = [workload.edges_of_frames(args.device) for workload in workloads]
    for mode in MODES:
        errors = errors_of_both(args, "sizes", 1, mode)
        contenders = {
            (i, name): make_contender(workload, name, DTYPE, args.device)
            for i, workload in enumerate(workloads)
            for name in errors
        }
        tell(args, f"sizes: timing {mode} of {', '.join(str(workload.num_nodes) for workload in workloads)} atoms")
        for (i, name), found in timed(contenders, mode, args).items():
            row = about("sizes", workloads[i], mode, name) | seconds(found) | errors[name]
            yield row | counted(name, workloads[i], edges[i])
    for spec, workload, found in zip(specs, workloads, edges, strict=True):
        for name in ("ours", "ours_current"):
            tell(args, f"sizes: memory of {name} with {workload.num_nodes} atoms, in a process of its own")
            row = about("sizes", workload, "memory", name) | measure(spec, name, DTYPE, args.device)
            yield row | counted(name, workload, found)


MEASURES = dict(zip(PARTS, (measure_speed, measure_memory, measure_rule, measure_sizes), strict=True))


def errors_of_both(args: argparse.Namespace, part: str, num_frames: int, mode: str) -> dict[str, dict]:
    """By kind of graph what a row says of its error: on a gas of few atoms, with the layers of what is timed.

    Raises ValueError if one is not correct.
    """
    sizes = {"num_frames": min(num_frames, CHECKED_FRAMES), "num_atoms": min(args.atoms, CHECKED_ATOMS)}
    workload, found = make_workload(**spec_of(args, **sizes)), {}
    tell(args, f"{part}: comparing {mode} with the equations, on {' and '.join(f'{k} {v}' for k, v in sizes.items())}")
    for name, edges in (("ours", None), ("ours_current", workload.edges_of_frames(args.device))):
        contender = make_contender(workload, name, DTYPE, args.device)
        errors = correctness.check([contender], make_truth(workload, args.device, edges), mode)
        found[name] = {"error": errors[contender.key], "error_of": sizes}
    return found


def tell(args: argparse.Namespace, text: str) -> None:
    """What the program does now, for somebody who waits for it."""
    if not args.quiet:
        print(f"radius: {text}", file=sys.stderr, flush=True)


def choose(workload: Workload, mode: str, args: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The peers that run, and for the others why not."""
    structures, left_out = list(STRUCTURES), {}
    if importlib.util.find_spec("torch_geometric") is None:
        structures.remove("pyg")
        left_out["pyg"] = "torch_geometric is not installed"
    variants = ("", "_compiled") if args.compile else ("",)
    names = [name + variant for name in structures for variant in variants]
    fit, refused = _split(workload, names, mode, args)
    if mode == "training":
        again = [f"{name}_recompute" for name in structures if name in refused]
        more, too_large = _split(workload, again, mode, args)
        fit, refused = fit + more, refused | too_large
    return fit, left_out | refused


def with_closest_pairs(workload: Workload, num_pairs: int) -> Workload:
    """The workload with the closest so many pairs of the first frame as edges, both ways."""
    x, cutoff = workload.batch.x[..., 0], workload.cutoff
    row, col = radius_graph(x, cutoff)
    while len(row) < 2 * num_pairs:
        cutoff *= 1.1
        row, col = radius_graph(x, cutoff)
    row, col = row[row < col], col[row < col]
    nearest = (x[row] - x[col]).norm(dim=1).argsort(stable=True)[:num_pairs]
    row, col = torch.cat([row[nearest], col[nearest]]), torch.cat([col[nearest], row[nearest]])
    order = (row * len(x) + col).argsort()
    return replace(workload, batch=replace(workload.batch, edge_index=torch.stack([row, col])[:, order]))


def timed(
    contenders: dict[object, Contender], mode: str, args: argparse.Namespace, warm_up: int = 1
) -> dict[object, Times]:
    """All of them in turn."""
    calls = {key: partial(contender.call, mode) for key, contender in contenders.items()}
    return interleaved(calls, args.repeats, args.device, warm_up=warm_up, progress=not args.quiet)


def seconds(times: Times) -> dict[str, object]:
    """What a row says of them."""
    return {
        "seconds": times.median,
        "seconds_least": times.least,
        "seconds_most": times.most,
        "repeats": len(times.seconds),
    }


def counted(name: str, workload: Workload, edges_of_frames: torch.Tensor) -> dict[str, int]:
    """How many edges all frames together have."""
    fixed = workload.num_edges * workload.num_frames
    return {"edge_frames": edges_of_frames.shape[1] if name == "ours_current" else fixed}


def about(part: str, workload: Workload, mode: str, name: str) -> dict[str, object]:
    """What every row begins with."""
    kind = {"benchmark": "radius", "part": part, "workload": workload.name, "sizes": workload.sizes}
    return kind | {"mode": mode, "dtype": DTYPE, "implementation": name}


def spec_of(args: argparse.Namespace, **sizes: object) -> dict:
    """The arguments of `make_workload`, as JSON can hold them."""
    return {"name": "large", "n_layers": args.layers, "hidden_dim": args.hidden_dim, **sizes}


def protein(args: argparse.Namespace) -> dict:
    """That of the first three parts: the file, or a gas of as many atoms as the protein has, or --atoms if fewer."""
    if args.npz:
        return spec_of(args, num_frames=args.frames, large_file=str(args.npz))
    return spec_of(args, num_frames=args.frames, num_atoms=min(args.atoms, LARGE_ATOMS))


def _split(
    workload: Workload, names: Sequence[str], mode: str, args: argparse.Namespace
) -> tuple[list[str], dict[str, str]]:
    fit, refused = split_by_memory(workload, names, [DTYPE], mode, args.device)
    return [name for name, _ in fit], {name: why for (name, _), why in refused.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.network.radius",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all", metavar="PART")
    parser.add_argument(
        "--npz",
        type=pathlib.Path,
        metavar="FILE",
        help="the protein: R [frames, atoms, 3] in angstrom, z [atoms] (default: a gas of 3341 atoms)",
    )
    parser.add_argument(
        "--atoms",
        type=_atoms,
        default=LARGEST,
        metavar="N",
        help="of the largest gas; the others have N/8, N/4, N/2 (default: %(default)s)",
    )
    parser.add_argument("--frames", type=arguments.count, default=10, metavar="T", help="default: %(default)s")
    parser.add_argument("--layers", type=arguments.count, default=6, metavar="L", help="default: %(default)s")
    parser.add_argument("--hidden-dim", type=arguments.count, default=128, metavar="H", help="default: %(default)s")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave the compiled peers out")
    arguments.add_run(parser, repeats=3, out=record.RESULTS / "radius.jsonl")
    return parser


def _atoms(text: str) -> int:
    value = arguments.count(text)
    if value < 2 * SHARES[0]:
        raise argparse.ArgumentTypeError(f"must be at least {2 * SHARES[0]}, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
