"""Where the time of a training and of a sampling step goes on a GPU, kernel by kernel."""

import argparse
import collections
import re
import sys
from collections.abc import Callable, Iterator

import torch

from bench.common import arguments, record
from bench.common.program import over_workloads
from bench.common.timing import interleaved
from bench.common.workloads import Workload
from bench.network.contenders import make_contender
from bench.sampling.sample import tame
from bench.training.trainers import PRECISIONS, OurTrainer, dataset_of
from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
Profile whole steps of ours, replayed CUDA graphs, by torch.profiler: for every kernel how often a step launches it and
how long all its launches take. What the step takes beyond the sum of its kernels is gaps between them."""
EPILOG = """\
  python -m bench.ops.kernel_times --device cuda --graphs 128 --precision bf16
  python -m bench.ops.kernel_times --device cuda --workload nbody --parts sampling"""
PARTS = ("sampling", "training")
SAMPLING_STEPS = 20


def main(argv: list[str] | None = None) -> int:
    """Run: 0, or 2 for a user's error."""
    return over_workloads("bench.ops.kernel_times", _parser().parse_args(argv), measure, report)


def measure(workload: Workload, args: argparse.Namespace) -> Iterator[dict]:
    """A row for every kernel of every part, the longest first."""
    if torch.device(args.device).type != "cuda":
        raise ValueError(f"--device must be cuda, got {args.device}: kernels are timed on a GPU")
    for precision in args.precision:
        for part in args.parts:
            call, steps = {"training": training, "sampling": sampling}[part](workload, precision, args.device)
            times = interleaved({"step": call}, args.repeats, args.device, warm_up=2, progress=not args.quiet)
            seconds = times["step"].median / steps
            for name, (count, took) in kernels(call).items():
                yield {
                    "benchmark": "kernels",
                    "workload": workload.name,
                    "sizes": workload.sizes,
                    "part": part,
                    "precision": precision,
                    "implementation": "ours",
                    "kernel": name,
                    "launches_a_step": count / steps,
                    "us_a_step": took / steps,
                    "step_us": 1e6 * seconds,
                }


def training(workload: Workload, precision: str, device: str) -> tuple[Callable[[], None], int]:
    """A call of some training steps, and how many."""
    trainer, steps = OurTrainer(workload, dataset_of(workload), precision, device), 5

    def call() -> None:
        for _ in range(steps):
            trainer.train()

    return call, steps


def sampling(workload: Workload, precision: str, device: str) -> tuple[Callable[[], object], int]:
    """A call that draws a batch in `SAMPLING_STEPS` steps, and how many."""
    contender = make_contender(workload, "ours", {"bf16": "mixed"}.get(precision, "float32"), device)
    contender.network.set_precision(precision)
    tame(contender)
    inputs = contender.inputs
    model_kwargs = {key: value for key, value in inputs.items() if key not in ("x", "diffusion_t")}
    kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
    diffusion = GeoTDM(contender.network, "linear", 100, *kinds, device, rescale_timesteps=True)
    sampler = Sampler(diffusion, "ddpm", SAMPLING_STEPS)
    return lambda: sampler.draw(tuple(inputs["x"].shape), model_kwargs), SAMPLING_STEPS


def kernels(call: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Of one call: launches and microseconds of every kernel by its short name, the longest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    found = collections.defaultdict(lambda: [0, 0.0])
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            entry = found[short(event.name)]
            entry[0] += 1
            entry[1] += event.time_range.elapsed_us()
    return {name: tuple(entry) for name, entry in sorted(found.items(), key=lambda item: -item[1][1])}


def short(name: str) -> str:
    """`FusedForward<2, 128>` of one of our CUDA kernels; of others the name without its arguments and namespaces."""
    inside = re.search(r"kernel_entry<(.*?)>\s*\(", name)
    name = re.sub(r"\((geotdm::cuda::)?Precision\)|\(int\)", "", inside[1] if inside else name)
    return re.sub(r"void |\w+::|\(anonymous namespace\)::", "", name)[:120]


def report(workload: Workload, rows: list[dict]) -> str:
    """The table of one workload."""
    cells = []
    for part, precision in dict.fromkeys((row["part"], row["precision"]) for row in rows):
        mine = [row for row in rows if (row["part"], row["precision"]) == (part, precision)]
        total = lambda key, mine=mine: sum(row[key] for row in mine)
        about = [part, precision]
        cells.append([*about, "the step", f"{total('launches_a_step'):.0f}", f"{mine[0]['step_us']:.0f}", ""])
        cells.append([*about, "its kernels", "", f"{total('us_a_step'):.0f}", ""])
        for row in mine[:40]:
            share = f"{100 * row['us_a_step'] / total('us_a_step'):.0f} %"
            cells.append(
                [*about, row["kernel"][:72], f"{row['launches_a_step']:.1f}", f"{row['us_a_step']:.1f}", share]
            )
    sizes = ", ".join(f"{key} {value}" for key, value in workload.sizes.items())
    columns = ["part", "precision", "kernel", "launches", "us a step", "share"]
    return f"W-{workload.name}: {sizes}\n\n{text_table(columns, cells)}"


def _parser() -> argparse.ArgumentParser:
    parser = arguments.make_parser("bench.ops.kernel_times", DESCRIPTION, EPILOG)
    arguments.add_workload(parser, several=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: both")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bf16"], help="default: bf16")
    arguments.add_run(parser, repeats=5, out=record.RESULTS / "kernels.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
