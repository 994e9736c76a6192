"""`geotdm reproduce`: one of the paper's experiments, from data to a row beside the paper's."""

import argparse
import pathlib

from geotdm_fast.cli.arguments import add_quiet, count, new_command, seed, threads

RESULTS = "bench/results/reproduce.jsonl"
MORE_TO_DO = 3

DESCRIPTION = """\
Reproduce one of the paper's experiments: data, training, samples, scores, pictures, and a row beside the paper's.

EXPERIMENT is charged, springs, gravity (simulated, or the official files under --data), md:<molecule> (--data: a folder
with md17_<molecule>.npz or <molecule>.npz, or the file), or eth, hotel, univ, zara1, zara2 (--data: the folder of the
recordings, with train, val and all_data). Not of the paper, with --preset small alone: argon, water, alanine,
adenylate_kinase_ca, adenylate_kinase_heavy (--data: an .npz; without it the message says how to make one), scored by
radial distribution functions, mean squared displacement, bond lengths and RMSF too; and, of one given frame,
ays:<molecule> and geotdm:<molecule> (ethanol, malonaldehyde, aspirin, salicylic, alanine_dipeptide; --data: an .npz):
Align Your Structures and GeoTDM trained equally long. `--set structure.SECTION.KEY=VALUE` changes the former's first
stage.

It runs in pieces. With --budget it stops after so many minutes with exit status 3, and the same command goes on from
there; so it does after a kill. The folder --out holds
  train/                   the training, as `geotdm train` leaves it
  samples_<protocol>.npz   for `geotdm evaluate` and `geotdm plot`
  trajectories.png         and bonds.png for molecules
  pieces/, shards/         what is done; pieces/row.json is the row
and the row (settings, scores, the paper's rows, time, hardware, commit) is appended to --results, once.

Presets: paper - the settings of the paper, for a GPU; small - 4 layers of 64, trained for twenty or thirty minutes on
two idle cores (forecasts of bodies on all windows of a system: data.train.stride=1), forecasts drawn by dpmpp_2m in few
steps, trajectories from nothing by dpmpp_2m_sde in 100, which the checkpoints then recommend (section sampling).
Pedestrians are scored twice: `official` (60 draws, 20 k-means representatives, the checkpoint chosen on the test set,
as the official code does) and `clean` (best of 20, the checkpoint chosen without the test set).

Flow matching by --set diffusion.kind=flow, with diffusion.prior (walk, velocity, last_frame, learned), diffusion.sigma
and diffusion.time_power; drawn by euler in 5 calls spaced early.

Ablations by --set: diffusion.prior (learned, com, com_last, last_frame, none), denoise_model.temporal (attention,
convolution, linear_attention), denoise_model.relative_time, denoise_model.window, diffusion.num_timesteps,
diffusion.beta_schedule_name; and every other key of `geotdm train --keys`."""

EXAMPLES = """\
  geotdm reproduce charged --preset small
  geotdm reproduce charged --preset small --budget 9 --quiet       again and again, until the exit status is not 3
  geotdm reproduce springs --task unconditional
  geotdm reproduce charged --preset small --set diffusion.prior=last_frame
  geotdm reproduce charged --preset small --set denoise_model.temporal=convolution --set train.num_steps=2000
  geotdm reproduce md:ethanol --data data/md17 --preset small --task interpolation
  geotdm reproduce ays:ethanol --data ethanol.npz --preset small
  geotdm reproduce zara1 --data data/eth_ucy --preset small --method dpmpp_2m --steps 20
  geotdm reproduce argon --data argon.npz --preset small
  geotdm reproduce --table                                         all rows as Markdown"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm reproduce`."""
    parser = new_command(subparsers, "reproduce", "run one of the paper's experiments", DESCRIPTION, EXAMPLES)
    parser.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help="see above")
    parser.add_argument(
        "--task", default="conditional", metavar="TASK", help="conditional (default), unconditional or interpolation"
    )
    parser.add_argument("--preset", default="paper", metavar="PRESET", help="paper (default) or small")
    parser.add_argument("--data", metavar="PATH", help="folder or file of the data; N-body: simulated without it")
    parser.add_argument(
        "--every", type=count, metavar="N", help="molecules: every N-th frame (default: 10 for md17_*.npz, else 1)"
    )
    parser.add_argument("--label", metavar="TEXT", help="what the data are, for the table")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="replace one value of the configuration; may be repeated",
    )
    how = parser.add_argument_group("samples (default: the preset's)")
    how.add_argument("--num-graphs", type=count, metavar="N", help="test graphs, evenly spaced")
    how.add_argument("--num-samples", type=count, metavar="K", help="samples of each (official pedestrians: 3 K)")
    how.add_argument("--method", metavar="NAME", help="ddpm, ddim, dpmpp_2m, dpmpp_2m_sde; of a flow euler, heun, ab2")
    how.add_argument(
        "--steps",
        type=count,
        metavar="S",
        help="calls of the network (default: the preset's; with --method, the model's own)",
    )
    how.add_argument("--spacing", metavar="NAME", help="which steps: the names of `geotdm sample`")
    parser.add_argument("--seed", type=seed, default=1, help="of training and samples (default: 1)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="stop after so many minutes; call again")
    parser.add_argument("--out", metavar="DIR", help="folder (default: outputs/reproduce/<experiment>_<task>_<preset>)")
    parser.add_argument("--results", default=RESULTS, metavar="FILE", help=f"rows, JSON lines (default: {RESULTS})")
    parser.add_argument("--table", action="store_true", help="print the rows of --results as Markdown and stop")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """0 when the row is done (or the table printed), 3 when there is more to do."""
    if args.table:
        from geotdm_fast.paper.results import read_results, results_table

        print(results_table(read_results(args.results)), end="")
        return 0
    if args.experiment is None:
        raise ValueError("EXPERIMENT must be given (charged, springs, gravity, md:<molecule>, eth, ...), or --table")
    if args.budget is not None and args.budget <= 0:
        raise ValueError(f"--budget must be positive, got {args.budget:g}")
    if args.data is not None and not pathlib.Path(args.data).exists():
        raise FileNotFoundError(f"--data {args.data}: no such file or folder")
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    import torch

    from geotdm_fast.cli.arguments import choose_device
    from geotdm_fast.paper import Request, reproduce
    from geotdm_fast.paper.pipeline import default_folder
    from geotdm_fast.paper.progress import OutOfTime
    from geotdm_fast.paper.results import results_table

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    request = Request(
        experiment=args.experiment,
        task=args.task,
        preset=args.preset,
        data=args.data,
        every=args.every,
        label=args.label,
        overrides=tuple(args.overrides),
        num_graphs=args.num_graphs,
        num_samples=args.num_samples,
        method=args.method,
        steps=args.steps,
        spacing=args.spacing,
        seed=args.seed,
    )
    folder = pathlib.Path(args.out or default_folder(request))
    try:
        row = reproduce(
            request,
            out=folder,
            results=args.results,
            budget=args.budget,
            device=choose_device(args.device),
            progress=not args.quiet,
        )
    except OutOfTime as stopped:
        print(f"{folder}: time is up (--budget, or train.max_minutes): {stopped}; the same command goes on from there")
        return MORE_TO_DO
    print(results_table([row]).partition("\n## ")[2])
    print(f"{folder}: pictures, samples, weights; {args.results}: the row")
    return 0
