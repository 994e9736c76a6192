"""Options that the benchmarks share."""

import argparse
import pathlib

import torch

from bench.common.workloads import ABOUT, SIZES, Workload, make_workload
from bench.network.contenders import DTYPES


def make_parser(program: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that lists the workloads below its options."""
    listed = "\n".join(f"  {name:6} {about}" for name, about in ABOUT.items())
    return argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        epilog=f"{epilog}\n\nworkloads:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_workload(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """--workload and the sizes that change it."""
    if several:
        parser.add_argument(
            "--workload", nargs="+", choices=SIZES, default=["nbody", "md"], help="default: nbody md", metavar="NAME"
        )
    else:
        parser.add_argument("--workload", choices=SIZES, default="nbody", help="default: nbody", metavar="NAME")
    add_sizes(parser)


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Sizes other than a workload's own, and the file of `large`."""
    parser.add_argument("--graphs", type=count, metavar="B", help="graphs in the batch (default: the workload's)")
    parser.add_argument("--frames", type=count, metavar="T", help="frames, given and noisy (default: the workload's)")
    parser.add_argument("--layers", type=count, metavar="L", help="layers of the network (default: the workload's)")
    parser.add_argument("--hidden-dim", type=count, metavar="H", help="width of the network (default: the workload's)")
    parser.add_argument(
        "--large",
        type=pathlib.Path,
        metavar="FILE",
        help="workload large: .npz, R [frames, atoms, 3] in angstrom, z [atoms]",
    )


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """--dtype: one or more."""
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        default=["float32"],
        help="float32 (default); bfloat16: everything in bfloat16; mixed: float32 with bfloat16 matrix products "
        "(peers: autocast). Several are interleaved in one run",
    )


def add_run(parser: argparse.ArgumentParser, *, repeats: int, out: pathlib.Path) -> None:
    """How often, with how many threads, where, and where to."""
    parser.add_argument("--repeats", type=count, default=repeats, metavar="K", help=f"rounds (default: {repeats})")
    parser.add_argument("--threads", type=count, metavar="N", help="default: torch's own choice, every core")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--out", type=pathlib.Path, default=out, metavar="FILE", help="JSON lines are added to it")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_ours_first(parser: argparse.ArgumentParser) -> None:
    """--ours-first, for runs whose end may come before the peers are compiled."""
    parser.add_argument(
        "--ours-first",
        action="store_true",
        help="time ours alone and write its line before the peers are made; then all of them in turns",
    )


def set_up(args: argparse.Namespace) -> None:
    """Threads and device. Before anything is compiled: generated code holds the number of threads."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {args.device}: torch finds no usable GPU")
    # Float32 means float32 on a GPU too.
    torch.backends.cuda.matmul.allow_tf32 = False


def spec_of(args: argparse.Namespace, name: str) -> dict:
    """The arguments of `make_workload` for the workload `name`, as JSON can hold them."""
    return {
        "name": name,
        "num_graphs": args.graphs,
        "num_frames": args.frames,
        "n_layers": args.layers,
        "hidden_dim": args.hidden_dim,
        "large_file": str(args.large) if args.large and name == "large" else None,
    }


def workload_of(args: argparse.Namespace, name: str) -> Workload:
    """The workload `name` at the sizes that the options ask for."""
    return make_workload(**spec_of(args, name))


def count(text: str) -> int:
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
