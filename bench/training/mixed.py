"""What a training step on molecules of different size costs, captured for a few padded sizes and launch by launch."""

import argparse
import itertools
import sys

import torch

from bench.common import arguments, record
from bench.common.timing import interleaved, synchronize
from bench.common.workloads import Workload
from bench.training.trainers import BATCHES, PRECISIONS, OurTrainer
from geotdm_fast.data import TrajectoryDataset
from geotdm_fast.data.trajectory import Trajectory, collate
from geotdm_fast.runtime.cuda_graphs import Recorder
from geotdm_fast.scores.tables import text_table

FEWEST, MOST = 5, 40  # atoms of a molecule
HOPS, KINDS, GIVEN = 3, 4, 10
# Loss and gradient's norm after some steps, captured beside eager: sums over padded rows round in another order.
CLOSE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 1e-2}
DESCRIPTION = f"""\
Time training steps on chains of {FEWEST} to {MOST} atoms with edges to {HOPS} hops, other ones in every batch: ours as
`geotdm train` runs it (on CUDA captured graphs of padded batches, of which a few serve all) and eager, launched kernel
by kernel, without padding. Both begin with the same weights and take turns; nearly all is captured before a clock
starts. Loss and gradient must be the same after the steps before, to rounding."""
EPILOG = """\
  python -m bench.training.mixed --device cuda --precision bf16                    what the GPU check runs
  python -m bench.training.mixed --graphs 2 --layers 1 --hidden-dim 16             a trial in seconds"""


def main(argv: list[str] | None = None, recorder: Recorder | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result. recorder: as of `TrainingStep`."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        context, rows = record.context(args.device), []
        for precision in args.precision:
            rows += [row | context for row in measure(precision, args, recorder)]
            record.append(args.out, rows[-2:])
        print(record.describe(context), report(rows), f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.training.mixed", error)


def measure(precision: str, args: argparse.Namespace, recorder: Recorder | None = None) -> list[dict]:
    """A row of each: ours and eager. Raises ValueError where they do not agree."""
    dataset, workload = chains(args)
    lines: list[str] = []
    make = lambda captures: OurTrainer(
        workload, dataset, precision, args.device, recorder if captures else None, captures=captures, say=lines.append
    )
    trainers = {"ours": make(True), "eager": make(False)}
    # Four epochs before the clock: the sizes of nearly all batches.
    before = 4 * trainers["ours"].source.per_epoch
    for _, trainer in itertools.product(range(before), trainers.values()):
        trainer.train()
    sums = {name: trainer.step.sums.tolist() for name, trainer in trainers.items()}
    for one, other in zip(*sums.values(), strict=True):
        if not abs(one - other) <= CLOSE[precision] * abs(other):
            raise ValueError(f"the captured step is wrong, so nothing is timed: loss and norm are {sums}")
    ours = trainers["ours"].step
    steps = args.steps or (20 if torch.device(args.device).type == "cuda" else 1)
    calls = {name: _several(trainer, steps) for name, trainer in trainers.items()}
    synchronize(torch.device(args.device))
    times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
    about = {"benchmark": "mixed", "workload": "molecules", "sizes": workload.sizes, "precision": precision}
    about |= {"dtype": PRECISIONS[precision], "captures": ours.num_padded, "said": lines}
    return [
        about
        | {"implementation": name, "captured": name == "ours" and ours.captures, "repeats": args.repeats}
        | {"seconds": found.median / steps, "seconds_least": found.least / steps, "seconds_most": found.most / steps}
        for name, found in times.items()
    ]


def report(rows: list[dict]) -> str:
    """The table, and what a captured step is worth."""
    cells = [
        [
            row["precision"],
            row["implementation"] + (" (captured)" if row["captured"] else ""),
            *(f"{1e3 * row[key]:.2f}" for key in ("seconds", "seconds_least", "seconds_most")),
            str(row["captures"]) if row["captured"] else "",
        ]
        for row in rows
    ]
    sizes = ", ".join(f"{key} {value}" for key, value in rows[0]["sizes"].items())
    columns = ["precision", "implementation", "ms a step", "least", "most", "captures"]
    pairs = zip(rows[::2], rows[1::2], strict=True)
    worth = [f"{a['precision']}: {b['seconds'] / a['seconds']:.2f} times as fast as eager" for a, b in pairs]
    return "\n".join([f"molecules, the first batch: {sizes}", "", text_table(columns, cells), "", *worth])


def chains(args: argparse.Namespace) -> tuple[TrajectoryDataset, Workload]:
    """`BATCHES` batches of molecules, and the first of them with a network of the sizes that are asked for."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randint(FEWEST, MOST + 1, (BATCHES * args.graphs,), generator=generator).tolist()
    items = [_chain(number, args.frames, generator) for number in atoms]
    num_given = min(GIVEN, args.frames - 1)
    network = {
        "n_layers": args.layers,
        "node_dim": KINDS,
        "edge_dim": HOPS,
        "hidden_dim": args.hidden_dim,
        "time_emb_dim": 32,
        "act_fn": "silu",
        "learn_ref_frame": True,
        "n_layers_ref": 2,
        "num_w": args.frames - num_given,
    }
    first = collate(items[: args.graphs])
    return TrajectoryDataset(items, name="molecules"), Workload("molecules", first, network, num_given)


def _chain(atoms: int, num_frames: int, generator: torch.Generator) -> Trajectory:
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    number = torch.arange(atoms)
    place = torch.stack([1.3 * number, 0.4 * (number % 2), torch.zeros(atoms)], dim=1)
    x = place[..., None] + 0.05 * draw(atoms, 3, num_frames).cumsum(-1)
    hops = (number[:, None] - number).abs()
    edges = ((hops > 0) & (hops <= HOPS)).nonzero().T.contiguous()
    kinds = torch.nn.functional.one_hot(torch.randint(0, KINDS, (atoms,), generator=generator), KINDS)
    features = torch.nn.functional.one_hot(hops[edges[0], edges[1]] - 1, HOPS)
    return Trajectory(x, kinds.float(), edges, features.float(), number)


def _several(trainer: OurTrainer, steps: int):
    def call() -> None:
        for _ in range(steps):
            trainer.train()

    return call


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.training.mixed",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, default, what in (
        ("--graphs", 32, "molecules in a batch"),
        ("--frames", 30, "frames, given and noisy"),
        ("--layers", 6, "layers of the network"),
        ("--hidden-dim", 128, "width of the network"),
    ):
        parser.add_argument(option, type=arguments.count, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="of matrix products")
    parser.add_argument("--steps", type=arguments.count, metavar="K", help="steps a repeat (default: 1; on CUDA 20)")
    arguments.add_run(parser, repeats=5, out=record.RESULTS / "mixed.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
