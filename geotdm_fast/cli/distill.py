"""`geotdm distill`: a student that draws in one call of the network, of a model that needs several."""

import argparse
import os
from pathlib import Path

from geotdm_fast.cli.arguments import add_quiet, choose_device, count, new_command, seed, threads
from geotdm_fast.cli.checkpoints import HELP as CHECKPOINT_HELP
from geotdm_fast.cli.checkpoints import checkpoint_file
from geotdm_fast.cli.data_options import add_data_files, check_data_files
from geotdm_fast.cli.training_data import put_cache, replace_data

DESCRIPTION = """\
Make a student of a trained model: a model of the same network that draws in one call what its teacher draws in
several.

A sampler that adds no noise on the way makes the same trajectory of the same noise. So the teacher first draws pairs of
noise and trajectory for the training data, and the student then learns to make the trajectory of the noise at once. It
begins with the teacher's weights.

CHECKPOINT is the teacher: a GeoTDM or a flow, conditional or not, with whatever frames given. The folder --out receives
  pairs/train, pairs/val   the teacher's draws, shard by shard, as `geotdm sample` writes them; the noise is not stored,
                           since it follows from seed, graph and sample
  best.safetensors, ...    what `geotdm train` writes: the student, the newest weights, the training's state, the log
Stopped or killed at any moment, the same command goes on: with the shards that are missing, then with the training.
Under torchrun the shards and the batches are shared out among the processes.

The student is a checkpoint like any other: `geotdm sample`, `evaluate`, `plot` and Model.load take it, and draw in one
call without being told. It is as equivariant as its teacher, and the same seed gives the same trajectories. What it
cannot do is draw in more calls, noise a trajectory a little and draw it anew (refine, optimize), or bound a likelihood.

How to choose: --teacher-steps 5 (the default) is what forecasts are measured with. The student must not know its
pairs by heart: where val_loss in log.jsonl rises while loss falls, --pairs are too few. A pair costs the teacher's
calls once, a training step about three calls for each pair in it, so drawing is the smaller part.
docs/distill.md has what was measured."""

EXAMPLES = """\
  geotdm distill nbody_charged_small --pairs 32000 --set train.num_steps=4000 --out outputs/charged_student
  geotdm distill outputs/my_molecule --calls 1 --pairs 20000 --data my_molecule.npz --out outputs/my_student
  geotdm distill outputs/my_molecule --pairs 20000 --teacher-steps 10 --method ddim --out outputs/my_student
  geotdm distill nbody_charged_small --pairs 40000 --set train.num_steps=6000 --set train.lr=1e-4 --out outputs/longer

then:
  geotdm sample outputs/charged_student --num-samples 5 --out samples.npz
  geotdm evaluate samples.npz"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm distill`."""
    parser = new_command(subparsers, "distill", "make a student that draws in one call", DESCRIPTION, EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"the teacher: {CHECKPOINT_HELP}")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the pairs and of the student")
    parser.add_argument("--calls", type=count, default=1, metavar="1", help="calls of the student: 1 (default)")
    parser.add_argument("--config", metavar="FILE.yaml", help="for official .pt checkpoints: their configuration")
    add_data_files(
        parser, "read all data from this file (or these, joined) or folder instead; the suffix says the kind"
    )
    pairs = parser.add_argument_group("pairs")
    pairs.add_argument(
        "--pairs",
        type=count,
        default=10_000,
        metavar="N",
        help="the teacher's draws for data.train: every trajectory is drawn equally often, so that there are at least "
        "so many; if N is less than their number, N of them, evenly spaced (default: 10000)",
    )
    pairs.add_argument(
        "--num-graphs",
        type=count,
        metavar="N",
        help="draw for N of the trajectories alone, evenly spaced, each more often (default: all)",
    )
    pairs.add_argument(
        "--method", metavar="NAME", help="of the teacher: dpmpp_2m (default), ddim; of a flow euler, ..."
    )
    pairs.add_argument("--teacher-steps", type=count, metavar="S", help="calls of the teacher for a draw (default: 5)")
    pairs.add_argument(
        "--spacing",
        default="uniform",
        metavar="NAME",
        help="which steps: the names of `geotdm sample` (default: uniform, whatever the teacher recommends)",
    )
    pairs.add_argument("--seed", type=seed, default=1, help="of the teacher's noise (default: 1)")
    pairs.add_argument("--batch-size", type=count, metavar="N", help="draws at once (default: as for `geotdm sample`)")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="replace one value of the student's configuration; may be repeated (`geotdm train --keys`)",
    )
    training.add_argument("--max-minutes", type=float, metavar="M", help="stop with a checkpoint after M minutes")
    parser.add_argument("--restart", action="store_true", help="discard the pairs and the training in the folder")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw the pairs and train; 0 when the student is done or its time was up."""
    if args.calls != 1:
        raise ValueError(f"--calls must be 1: students of more calls are not made, got {args.calls}")
    path = checkpoint_file(args.checkpoint)
    check_data_files(args)
    if args.config is not None and not Path(args.config).is_file():
        raise FileNotFoundError(f"--config {args.config}: no such file")

    import torch

    from geotdm_fast.cli.requests import option_names
    from geotdm_fast.config.files import override
    from geotdm_fast.distill import PATIENCE, make_student, pairs_sampler, student_config
    from geotdm_fast.model import Model
    from geotdm_fast.runtime.processes import processes

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with processes(choose_device(args.device), patience=PATIENCE) as ours:
        teacher = Model.load(path, config=args.config, device=ours.device)
        raw = student_config(teacher, path, args.out)
        # A wrong option is told by its name, before data are read.
        pairs_sampler(teacher, args.method, args.teacher_steps, args.spacing, option_names("--teacher-steps"))
        if args.data is not None:
            replace_data(raw, args, str(path))
        for text in args.overrides:
            override(raw, text)
        if args.cache is not None:
            put_cache(raw, args, str(path))
        if args.max_minutes is not None:
            override(raw, f"train.max_minutes={args.max_minutes}")
        student = make_student(
            teacher, raw, args.out, ours=ours, num_pairs=args.pairs, num_graphs=args.num_graphs, seed=args.seed,
            method=args.method, steps=args.teacher_steps, spacing=args.spacing, batch_size=args.batch_size,
            restart=args.restart, progress=not args.quiet and ours.writes,
        )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        last = student.with_name("last.safetensors")
        chosen = f"{student}, by its validation; newest weights: " if student != last else ""
        print(f"the student: {chosen}{last}")
    return 0
