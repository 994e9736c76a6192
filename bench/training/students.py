"""Students that draw in one call: from pairs, as `geotdm distill` makes them, beside consistency distillation."""

import argparse
import copy
import json
import pathlib
import sys
import time
from collections.abc import Mapping

import torch

from bench.common import arguments, record
from bench.sampling.steps import variety
from bench.training.consistency import Consistency
from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.cli.data_options import add_data_files, check_data_files
from geotdm_fast.cli.requests import open_data
from geotdm_fast.cli.training_data import replace_data
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.distill import make_student, pairs_sampler, student_config
from geotdm_fast.model import Model
from geotdm_fast.runtime.bars import progress_bar
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.runtime.sampled_digest import sampled_sha256
from geotdm_fast.samples.record import make_samples
from geotdm_fast.sampling import sample
from geotdm_fast.scores.evaluation import evaluate
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.schedule import learning_rate
from geotdm_fast.training.step import TrainingStep
from geotdm_fast.training.streamed_data import data_for_training

DESCRIPTION = """\
Train a student of a shipped or other teacher by pairs or by consistency, and score it beside its teacher's 5 calls:
ADE, FDE, both of the best sample, the mean distance between two samples of a trajectory (variety), and the mean squared
distance to what the teacher draws of the same noise.

--folder receives the student and cost.json: the settings of its training, and the seconds of the processor that it
took. Where they are there, the student is scored alone, and options that ask for another training are an error. A line
is added to --out."""
EPILOG = """\
  python -m bench.training.students --folder students/pairs --by pairs --num-steps 1500 --threads 1
  python -m bench.training.students --folder students/consistency --by consistency --num-steps 1650 --threads 1
  python -m bench.training.students --checkpoint pedestrian_zara1_small --data pedestrian --folder students/zara1 \\
      --by consistency --num-steps 1400 --batch-size 32 --threads 1"""
COST = "cost.json"
# Options that say which data the teacher's are replaced with.
DATA = ("data", "topology")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, TypeError, OSError) as error:
        return record.fail("bench.training.students", error)


def run(args: argparse.Namespace) -> int:
    """Train the student if it is not there, score it and its teacher, add the line and print it."""
    arguments.set_up(args)
    check_data_files(args)
    path = checkpoint_file(args.checkpoint)
    teacher = Model.load(path, device=args.device)
    training, cost = _training(args, path), args.folder / COST
    if cost.is_file():
        cpu_seconds = _cpu_seconds(cost, training)
    else:
        began = time.process_time()
        train = _from_pairs if args.by == "pairs" else _by_consistency
        train(args, teacher, str(path))
        cpu_seconds = time.process_time() - began
        cost.write_text(json.dumps({"training": training, "cpu_seconds": cpu_seconds}))
        teacher = Model.load(path, device=args.device)
    row = {"benchmark": "students"} | {name: value for name, value in training.items() if name not in DATA}
    row |= {"checkpoint": teacher.name, "cpu_seconds": cpu_seconds}
    row |= _scores(args, teacher) | record.context(args.device)
    record.append(args.out, [row])
    print(record.describe(row), _shown(row), sep="\n\n")
    return 0


def _training(args: argparse.Namespace, teacher: pathlib.Path) -> dict:
    """The training that the options ask for: their values by their names, for --checkpoint the file and a digest."""
    names = ["by", "seed", "num_steps", "batch_size", "teacher_steps", *DATA]
    names += ["pairs", "pair_graphs"] if args.by == "pairs" else []
    checkpoint = f"{teacher.name}, SHA-256 {sampled_sha256(teacher)[:8]}"
    return {"checkpoint": checkpoint} | {name: getattr(args, name) for name in names}


def _cpu_seconds(cost: pathlib.Path, asked: Mapping) -> float:
    """What the training in the folder of `cost` took; ValueError where it is not the training that is `asked` for."""
    found = json.loads(cost.read_text())
    had = found.get("training")
    if had is None:
        raise ValueError(f"students: {cost} must say which training it is of (training), got {', '.join(found)} alone")
    # Where --by differs, the one has options that the other lacks.
    differing = [name for name in asked if name in had and had[name] != asked[name]]
    if differing:
        told = (f"--{name.replace('_', '-')} must be {had[name]}, got {asked[name]}" for name in differing)
        raise ValueError(f"students: {cost.parent} has a student of another training: {'; '.join(told)}")
    return found["cpu_seconds"]


def _config(args: argparse.Namespace, teacher: Model, source: str) -> dict:
    config = student_config(teacher, source, args.folder)
    if args.data is not None:
        replace_data(config, args, source)
    config["train"] |= {"num_steps": args.num_steps, "batch_size": args.batch_size, "seed": args.seed}
    return config


def _from_pairs(args: argparse.Namespace, teacher: Model, source: str) -> None:
    """`geotdm distill`, in one process."""
    make_student(
        teacher, _config(args, teacher, source), args.folder, ours=Processes(0, 1, torch.device(args.device)),
        num_pairs=args.pairs, num_graphs=args.pair_graphs, seed=args.seed, steps=args.teacher_steps,
        progress=not args.quiet,
    )  # fmt: skip


def _by_consistency(args: argparse.Namespace, teacher: Model, source: str) -> None:
    """The steps of `geotdm train` by the loss `Consistency`; best.safetensors has the averaged weights."""
    config = normalise_config(_config(args, teacher, source))
    train, device = config["train"], torch.device(args.device)
    dataset = open_datasets({"data.train": config["data"]["train"]}, progress=not args.quiet)["data.train"]
    data = data_for_training(dataset, device)
    teacher.set_precision(train["precision"]).network.requires_grad_(False)
    network = copy.deepcopy(teacher.network).requires_grad_(True).train()
    average, weights = copy.deepcopy(network), FlatWeights(network)
    averaged = WeightAverage(average, weights, train["ema_decay"])
    loss = Consistency(teacher.diffusion, network, average, args.teacher_steps)
    source_of_batches = BatchSource(
        data, seed=train["seed"], batch_size=train["batch_size"], num_timesteps=config["diffusion"]["num_timesteps"],
        num_noisy=teacher.task.num_noisy(dataset[0].num_frames),
    )  # fmt: skip
    objective = Objective(loss, teacher.task, data.boxes)
    step = TrainingStep(train, objective, weights, averaged, source_of_batches, Processes(0, 1, device))
    for number in progress_bar(range(args.num_steps), desc="train", unit="step", disable=args.quiet):
        rate = learning_rate(train, number, source_of_batches.per_epoch, args.num_steps)
        step(source_of_batches.training(number), rate, number + 1)
    if not bool(torch.isfinite(step.sums).all()):
        raise ValueError(f"students: loss and gradient must be finite, got {step.sums.tolist()} (sums)")
    step.mark_changed()
    args.folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(args.folder / "best.safetensors", average, config)


def _scores(args: argparse.Namespace, teacher: Model) -> dict:
    """{`student`: scores, `teacher`: those of 5 calls, `squared_distance`: between their draws of equal noise}."""
    config = {"data": copy.deepcopy(dict(teacher.config["data"]))}
    if args.data is not None:
        replace_data(config, args, args.checkpoint)
    dataset = open_data(config["data"]["test"], "data.test", args.num_graphs, progress=not args.quiet)
    batch = collate(dataset)
    student = Model.load(args.folder, device=args.device)
    drawn, found = {}, {}
    for name, model in (("teacher", teacher.set_precision("fp32")), ("student", student)):
        sampler = model.sampler() if name == "student" else pairs_sampler(model)
        x = sample(sampler, batch, model.task, num_samples=args.num_samples, seed=0, progress=False)
        samples = make_samples(x, batch, dataset, model.task, seed=0, checkpoint=model.name)
        drawn[name] = x[:, batch.scored]
        found[name] = dict(evaluate(samples, ["ade"], progress=False)["forecast"])
        found[name]["variety"] = variety(drawn[name].numpy() * dataset.scale)
    distance = (drawn["student"] - drawn["teacher"]).double().square().mean()
    about = {"data": dataset.name, "unit": dataset.unit, "num_graphs": batch.num_graphs}
    return found | about | {"num_samples": args.num_samples, "squared_distance": float(distance)}


def _shown(row: Mapping) -> str:
    """The scores of student and teacher, a line each."""
    lines = [f"{row['checkpoint']}, {row['data']}: by {row['by']}, seed {row['seed']}, {row['cpu_seconds']:.0f} CPU s"]
    for name in ("teacher", "student"):
        lines.append(name + "".join(f"  {key} {value:.4f}" for key, value in row[name].items()))
    return "\n".join([*lines, f"squared distance {row['squared_distance']:.5f}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.training.students",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = arguments.count
    parser.add_argument("--checkpoint", default="nbody_charged_small", help="the teacher (default: %(default)s)")
    add_data_files(parser, "read all data from this file or folder instead")
    parser.add_argument("--folder", type=pathlib.Path, required=True, help="of the student")
    parser.add_argument("--by", choices=("pairs", "consistency"), required=True, help="what the student learns from")
    parser.add_argument("--num-steps", type=count, default=1500, metavar="N", help="of training (default: 1500)")
    parser.add_argument("--batch-size", type=count, default=16, metavar="B", help="trajectories (default: 16)")
    parser.add_argument("--teacher-steps", type=count, default=5, metavar="S", help="calls of a draw, or of the chain")
    parser.add_argument("--pairs", type=count, default=12_000, metavar="N", help="draws (default: 12000)")
    parser.add_argument("--pair-graphs", type=count, metavar="N", help="of so many trajectories (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of draws, order, steps and noise (default: 1)")
    parser.add_argument("--num-graphs", type=count, default=200, metavar="N", help="scored (default: 200)")
    parser.add_argument("--num-samples", type=count, default=5, metavar="K", help="of each (default: 5)")
    parser.add_argument("--threads", type=count, metavar="N", help="default: torch's own choice, every core")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "students.jsonl", metavar="FILE")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
