"""Training steps per second, end to end: ours and the peers under a plain PyTorch loop, interleaved in one run."""

import argparse
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from bench.common import arguments, correctness, record
from bench.common.program import in_turn, over_workloads
from bench.common.timing import Times, interleaved
from bench.common.workloads import SIZES, Workload
from bench.network.contenders import PEERS, listed, split_by_memory
from bench.network.step import add_ratios
from bench.training.trainers import PRECISIONS, OurTrainer, PlainTrainer, dataset_of
from geotdm_fast.scores.tables import text_table
from geotdm_fast.training.batches import Draw

IMPLEMENTATIONS = ("ours", *PEERS)
WORKLOADS = tuple(name for name in SIZES if name != "large")
# What we hold ourselves to: times the best peer on a CPU in float32, and seconds a step of 128 graphs on an H100 in
# bf16 or tf32.
TIMES_BEST_PEER = 2.0
H100_SECONDS = {"nbody": 1.0e-3, "md": 8.0e-3}
H100_GRAPHS = 128
DESCRIPTION = """\
Time whole training steps: cutting the batch, drawing noise and diffusion steps, the learned prior and the denoiser with
their loss, backward, clipping, Adam, the moving average. Ours is the step of `geotdm train` (on CUDA a captured graph);
the peers are plain transcriptions (bench/peers), eager and compiled, in a plain PyTorch loop: collate, autograd,
clip_grad_norm_, torch.optim.Adam, AveragedModel. All begin with the same weights and take turns; medians count. Before
any clock starts every one must give the loss and the gradients of the equations in float64 for the same batch, steps
and noise (1e-4 in fp32)."""
EPILOG = f"""\
Targets: on the CPU in fp32 {TIMES_BEST_PEER:g} times as fast as the best peer; on an H100 in bf16 or tf32 with
{H100_GRAPHS} graphs, W-nbody {1e3 * H100_SECONDS["nbody"]:g} ms a step and W-md {1e3 * H100_SECONDS["md"]:g} ms.

  python -m bench.training.train --threads 2                                               W-nbody, 32 graphs; W-md, 8
  python -m bench.training.train --device cuda --graphs 128 --precision bf16 tf32 fp32
  python -m bench.training.train --hidden-dim 32 --layers 2 --graphs 2 --no-compile        a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result."""
    return over_workloads("bench.training.train", _parser().parse_args(argv), measure, report)


def measure(workload: Workload, args: argparse.Namespace) -> Iterator[dict]:
    """A row for every implementation, one precision after the other."""
    torch.compiler.reset()
    dataset = dataset_of(workload)
    truth = true_gradient(workload, dataset, args.device)
    for precision in args.precision:
        yield from measure_precision(workload, dataset, truth, precision, args)


def measure_precision(
    workload: Workload, dataset, truth: tuple[Draw, dict[str, Tensor]], precision: str, args: argparse.Namespace
) -> Iterator[dict]:
    """The rows of one precision."""
    dtype = PRECISIONS[precision]
    fit, refused = split_by_memory(workload, args.implementations, [dtype], "training", args.device)
    names = [name for name, _ in fit if args.compile or not name.endswith("_compiled")]
    steps = args.steps or (20 if torch.device(args.device).type == "cuda" else 1)
    trainers, errors = {}, {}
    for together in in_turn(names, args.ours_first):
        new = [name for name in together if name not in trainers]
        made = {name: make(name, workload, dataset, precision, args.device) for name in new}
        errors |= {(name, dtype): error for name, error in check(made, truth, dtype).items()}
        worst = correctness.judge(errors, "training")
        trainers |= made
        calls = {name: _several(trainers[name], steps) for name in together}
        times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
        rows = [
            _about(workload, name, dtype, precision)
            | _speed(times[name], steps)
            | {"error": worst[name, dtype], "captured": name == "ours" and trainers[name].step.captures}
            for name in together
        ]
        add_ratios(rows)
        yield from rows
    for (name, _), why in refused.items():
        yield _about(workload, name, dtype, precision) | {"left_out": why}


def make(name: str, workload: Workload, dataset, precision: str, device: str) -> OurTrainer | PlainTrainer:
    """The trainer of an implementation."""
    if name == "ours":
        return OurTrainer(workload, dataset, precision, device)
    return PlainTrainer(workload, dataset, name, precision, device)


def true_gradient(workload: Workload, dataset, device: str) -> tuple[Draw, dict[str, Tensor]]:
    """A draw, and its loss and gradients in float64."""
    (draw,) = OurTrainer(workload, dataset, "fp32", "cpu").source.training(0)
    truth = PlainTrainer(workload, dataset, "efficient", "fp32", device, torch.float64).gradient(draw)
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # at W-md float64 takes half the memory of the GPU
    return draw, truth


def check(
    trainers: dict[str, OurTrainer | PlainTrainer], truth: tuple[Draw, dict[str, Tensor]], dtype: str
) -> dict[str, tuple[float, str]]:
    """The worst error of loss and gradients of each trainer, and where it is.

    Our whole step, which is captured on CUDA, must have the loss and the gradient's norm of the same batch besides.
    Raises ValueError if it has not.
    """
    draw, expected = truth
    errors = {}
    for name, trainer in trainers.items():
        found = trainer.gradient(draw)
        errors[name] = correctness.worst_error(found, expected, dtype)
        if isinstance(trainer, OurTrainer):
            trainer.train()
            gradients = [value.double().square().sum() for name, value in found.items() if name != "loss"]
            wanted = torch.stack([found["loss"].double(), torch.stack(gradients).sum().sqrt()])
            if not torch.allclose(trainer.step.sums, wanted, rtol=1e-3):
                came = f"{trainer.step.sums.tolist()} instead of {wanted.tolist()}"
                raise ValueError(f"our step is wrong, so nothing is timed: loss and gradient norm are {came}")
    return errors


def report(workload: Workload, rows: list[dict]) -> str:
    """The table of one workload, and what it comes to in sentences."""
    sizes = ", ".join(f"{key} {value}" for key, value in workload.sizes.items())
    columns = ["precision", "implementation", "ms a step", "least", "most", "steps/s", "x ours", "error"]
    timed = [row for row in rows if "seconds" in row]
    ours = {row["dtype"]: row["seconds"] for row in timed if row["implementation"] == "ours"}
    cells = [
        [
            row["precision"],
            row["implementation"].replace("_", " ") + (" (captured)" if row["captured"] else ""),
            *(f"{1e3 * row[key]:.2f}" for key in ("seconds", "seconds_least", "seconds_most")),
            f"{row['steps_per_second']:.2f}",
            f"{row['seconds'] / ours[row['dtype']]:.2f}" if row["dtype"] in ours else "",
            f"{row['error']:.0e}",
        ]
        for row in timed
    ]
    lines = [f"W-{workload.name}: {sizes}", "", text_table(columns, cells), ""]
    for row in rows:
        if "left_out" in row:
            lines.append(f"{row['precision']}: {row['implementation'].replace('_', ' ')} left out, {row['left_out']}")
        elif row["implementation"] == "ours":
            gpu = row["machine"].get("gpu", "")
            lines += [f"{row['precision']}: {sentence}" for sentence in verdicts(workload, row, gpu)]
    return "\n".join(lines).rstrip()


def verdicts(workload: Workload, row: dict, gpu: str) -> list[str]:
    """What a row of ours comes to, beside the targets that are for it: those of the paper's network."""
    met = lambda good: "met" if good else "missed"
    *_, layers, width = SIZES[workload.name]
    whole = (workload.sizes["layers"], workload.sizes["hidden"]) == (layers, width)
    said = []
    if "times_best_peer" in row:
        times = row["times_best_peer"]
        said.append(f"{times:.2f} times as fast as the best peer ({row['best_peer'].replace('_', ' ')})")
        if whole and not gpu and row["precision"] == "fp32":
            said[-1] += f"; target {TIMES_BEST_PEER:g}: {met(times >= TIMES_BEST_PEER)}"
    target = H100_SECONDS.get(workload.name)
    whole = whole and workload.batch.num_graphs == H100_GRAPHS
    if "H100" in gpu and target is not None and whole and row["precision"] != "fp32":
        said.append(f"{1e3 * row['seconds']:.2f} ms; target {1e3 * target:g} ms: {met(row['seconds'] <= target)}")
    return said


def _several(trainer: OurTrainer | PlainTrainer, steps: int):
    def call() -> None:
        for _ in range(steps):
            trainer.train()

    return call


def _speed(times: Times, steps: int) -> dict[str, object]:
    return {
        "seconds": times.median / steps,
        "seconds_least": times.least / steps,
        "seconds_most": times.most / steps,
        "steps_per_second": steps / times.median,
        "repeats": len(times.seconds),
        "steps_a_repeat": steps,
    }


def _about(workload: Workload, name: str, dtype: str, precision: str) -> dict[str, object]:
    about = {"benchmark": "train", "workload": workload.name, "sizes": workload.sizes}
    return about | {"dtype": dtype, "precision": precision, "implementation": name}


def _parser() -> argparse.ArgumentParser:
    epilog = f"{EPILOG}\n\n{listed(IMPLEMENTATIONS)}"
    parser = arguments.make_parser("bench.training.train", DESCRIPTION, epilog)
    parser.add_argument(
        "--workload", nargs="+", choices=WORKLOADS, default=["nbody", "md"], help="default: nbody md", metavar="NAME"
    )
    arguments.add_sizes(parser)
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32"],
        help="of matrix products (default: fp32; peers: tf32 by torch's switch, bf16 by autocast); weights are float32",
    )
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=IMPLEMENTATIONS,
        default=list(IMPLEMENTATIONS),
        metavar="NAME",
        help="who runs (default: all five)",
    )
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave the compiled peers out")
    parser.add_argument("--steps", type=arguments.count, metavar="K", help="steps a repeat (default: 1; on CUDA 20)")
    arguments.add_ours_first(parser)
    arguments.add_run(parser, repeats=9, out=record.RESULTS / "train.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
