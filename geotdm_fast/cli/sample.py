"""`geotdm sample`: draw trajectories from a checkpoint."""

import argparse
import datetime
from pathlib import Path

from geotdm_fast.cli.arguments import (
    add_free,
    add_quiet,
    add_sampling_options,
    check_sampling_paths,
    choose_device,
    count,
    new_command,
)
from geotdm_fast.cli.checkpoints import HELP as CHECKPOINT_HELP

DESCRIPTION = """\
Draw trajectories from a trained model: forecasts or interpolations of the given frames, or, from an unconditional
model, new trajectories.

CHECKPOINT is a .safetensors file of `geotdm train` (it carries its configuration), the folder of a training (its
best.safetensors is taken), or the name of a model that comes with the package; or weights of the official code, or
weights alone, with --config; or an official sampling file (.yaml), which names weights, data, seed and output: options
go before it, and --out may be left out.
--out FILE.npz is one file, written when all is drawn. It holds samples [K, N, D, T] (the frames that were drawn),
target and x_given (the same data's other frames), cond_mask, batch (the graph of each node) and all that `geotdm
evaluate` and `geotdm plot` need. Positions are in the unit of the data divided by `scale`.

--given FILE is for forecasts whose future nobody knows yet: the last frames of each trajectory in FILE, as many as the
model is given, are taken; target is empty then, and `geotdm evaluate` has nothing to compare with.

--free draws all frames of a model of Align Your Structures that was trained with frame 0 and without it.

--rollout FRAMES goes on beyond the frames that the model was trained to draw, block by block: the last frames of a
block are the given ones of the next. The model must be given frames at the beginning of its window. target reaches as
far as the data do and is NaN behind: longer data make a longer truth, such as --set data.num_frames=410 (simulated
systems) or --set data.span=410 (files). A trajectory that explodes is NaN from that block on, and a warning names the
block.

--out FOLDER (a name without a suffix) is for requests of any size: shard-000000.npz, ... are written while the next
ones are drawn, each like FILE.npz for some of the graphs and samples, and manifest.json says what was asked for.
Stopped or killed at any moment, the same command goes on with the shards that are missing; another request for the
same folder is refused. Under torchrun the shards are shared out among the processes, one for each GPU. `geotdm
evaluate` and `geotdm plot` read a folder as they read a file.

The same seed gives the same trajectories, whatever the batch size, the number of processes and interruptions: on the
CPU exactly, for the same batch size and threads (torchrun gives each process one), otherwise but for rounding.

--xyz, --dcd and --xtc also write molecules, given and drawn frames, graph by graph and sample by sample, for VMD,
OVITO, ASE, MDTraj or MDAnalysis. Extended XYZ needs the extra `molecules`, the others the extra `md`; they put the
atoms in a .pdb of the same name beside them, long.pdb for long.xtc. As FILE.npz is, earlier files of these names are
replaced, the .pdb among them, unless they are read. Periodic boxes and the times of the data go along; frames that were
drawn have the box of the last given frame. DCD and XTC have boxes whose first vector is along x and whose second is in
the xy plane: others are turned so with their positions, and a box that is not periodic in all directions is left out,
each with a warning. --wrap puts what is written there into its box; FILE.npz keeps atoms where they went."""

EXAMPLES = """\
  geotdm sample outputs/nbody_charged_small --num-samples 5 --out samples.npz
  geotdm sample nbody_charged_small --num-graphs 100 --out samples.npz        a model that comes with the package
  geotdm sample best.safetensors --num-graphs 100 --seed 1 --device cpu --out samples.npz
  geotdm sample best.safetensors --method dpmpp_2m --steps 20 --spacing log_snr --out samples.npz
  geotdm sample best.safetensors --num-samples 1000 --out samples/            the same command goes on after a kill
  torchrun --nproc-per-node 4 -m geotdm_fast sample best.safetensors --num-samples 1000 --out samples/
  geotdm sample ethanol.safetensors --data my_ethanol.npz --out samples.npz --xyz samples.xyz
  geotdm sample protein.safetensors --data run.xtc --topology run.pdb --set data.stride=10 --out samples.npz
  geotdm sample ethanol.safetensors --num-samples 1000 --out samples/ --dcd samples.dcd
  geotdm sample nbody_charged_small --rollout 400 --set data.num_frames=410 --num-graphs 20 --out long.npz
  geotdm sample outputs/my_molecule --rollout 5000 --given last_frames.npz --out long/ --xtc long.xtc
  geotdm sample outputs/my_molecule --given last_frames.npz --num-samples 20 --out future.npz
  geotdm sample outputs/ays_interpolator_small --method ays_ddim --steps 50 --out samples.npz          docs/ays.md
  geotdm sample outputs/nbody_lags --set conditions.lag=0.2 --out samples.npz  docs/conditions.md
  geotdm sample ckpt_best.pt --config nbody_train_cond.yaml --out samples.npz
  geotdm sample md17_sampling.yaml                                            into <output_base_path>/<...>_eval/

then:
  geotdm evaluate samples.npz
  geotdm plot samples/ --out forecast.png"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "sample", "draw trajectories from a checkpoint", DESCRIPTION, EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"{CHECKPOINT_HELP}; or a sampling file, .yaml")
    parser.add_argument("--out", metavar="FILE.npz|FOLDER", help="file or folder to write")
    parser.add_argument(
        "--given",
        metavar="FILE",
        help="forecast where the future is unknown: the last frames of each trajectory in FILE are the given ones",
    )
    add_free(parser)
    rollout = parser.add_argument_group("a rollout")
    rollout.add_argument(
        "--rollout", type=count, metavar="FRAMES", help="draw so many frames behind the given ones, block by block"
    )
    rollout.add_argument(
        "--overlap",
        type=count,
        metavar="N",
        help="frames that a block shares with the next one; those behind the given ones are drawn anew (default: as "
        "many as the model is given)",
    )
    rollout.add_argument(
        "--bound",
        type=float,
        metavar="FACTOR",
        help="a trajectory has exploded where a node moves farther within a block than FACTOR times the largest "
        "displacement of the given frames (default: 1000; inf: where positions are not finite)",
    )
    parser.add_argument("--xyz", metavar="FILE.xyz", help="also write molecules as extended XYZ")
    parser.add_argument("--dcd", metavar="FILE.dcd", help="also write molecules as DCD, and FILE.pdb")
    parser.add_argument("--xtc", metavar="FILE.xtc", help="also write molecules as XTC, and FILE.pdb")
    parser.add_argument(
        "--wrap",
        choices=["atoms", "molecules", "no"],
        default="no",
        help="in --xyz, --dcd and --xtc: put every atom, or every whole molecule by its centre, into the periodic box",
    )
    folder = parser.add_argument_group("a folder of shards")
    folder.add_argument(
        "--shard-size",
        type=count,
        metavar="N",
        help="trajectories per shard, which no batch goes beyond (default: by the graphs' size: a minute's work or so)",
    )
    folder.add_argument("--restart", action="store_true", help="discard the samples in the folder and start anew")
    add_sampling_options(parser, num_samples=1)
    add_quiet(parser)
    parser.set_defaults(run=run, num_samples=None, seed=None, eval=None)  # a sampling file may have them
    return parser


def run(args: argparse.Namespace) -> int:
    """Sample and write the files."""
    from geotdm_fast.cli.sampling_file import SUFFIXES, take_sampling_file

    if args.checkpoint.endswith(SUFFIXES):
        take_sampling_file(args)
    if args.out is None:
        raise ValueError("--out must be given: FILE.npz, or a folder")
    args.num_samples, args.seed = args.num_samples or 1, args.seed or 0
    into_folder = is_folder(args.out)
    exports = _exports(args)
    _take_given(args)
    for option, value in (("--overlap", args.overlap), ("--bound", args.bound)):
        if value is not None and args.rollout is None:
            raise ValueError(f"{option} is of a rollout: give --rollout FRAMES with it")
    check_sampling_paths(args)
    if not into_folder and (args.shard_size or args.restart):
        option = "--shard-size" if args.shard_size else "--restart"
        raise ValueError(f"{option} is for a folder of shards: --out must be a folder then, got '{args.out}'")

    from geotdm_fast.runtime.processes import processes

    # Nothing is exchanged but who is done, and the slowest shard may take long.
    with processes(choose_device(args.device), hosts_only=True, patience=datetime.timedelta(days=7)) as ours:
        if into_folder:
            return _run_folder(args, exports, ours)
        if not ours.alone:
            raise ValueError(
                f"--out must be a folder for the {ours.world_size} processes of torchrun to share, got '{args.out}'"
            )
        return _run_file(args, exports)


def _take_given(args: argparse.Namespace) -> None:
    """`--given FILE` is `--data FILE` of which the last frames alone are read."""
    if args.given is None:
        return
    for option, value in (("--data", args.data), ("--split", args.split)):
        if value is not None:
            raise ValueError(f"--given takes the last frames of {args.given}, {option} does not go with it")
    args.data = [args.given]


def is_folder(out: str) -> bool:
    """Whether `--out` names a folder of shards; ValueError where it is no file of samples either."""
    if Path(out).suffix == "" or out.endswith("/") or Path(out).is_dir():
        return True
    if Path(out).suffix.lower() != ".npz":
        raise ValueError(f"--out must end in .npz, or be a folder (no suffix, or a / at the end); got '{out}'")
    return False


def _exports(args: argparse.Namespace) -> dict[str, str]:
    """Option to file of the formats that were asked for; what cannot be written is told now, not after an hour."""
    from geotdm_fast.cli.requests import check_suffix

    suffixes = {"--xyz": (".xyz", ".extxyz"), "--dcd": (".dcd",), "--xtc": (".xtc",)}
    exports = {"--xyz": args.xyz, "--dcd": args.dcd, "--xtc": args.xtc}
    exports = {option: path for option, path in exports.items() if path is not None}
    for option, path in exports.items():
        check_suffix(option, path, suffixes[option])
    if args.wrap != "no" and not exports:
        raise ValueError(f"--wrap {args.wrap} is for --xyz, --dcd or --xtc, got none of them")
    if exports:
        from geotdm_fast.samples.molecule_exports import check_export

        for path in exports.values():
            check_export(path)
    return exports


def _run_file(args: argparse.Namespace, exports: dict[str, str]) -> int:
    from geotdm_fast.cli.requests import draw, draw_rollout, open_request
    from geotdm_fast.samples.npz import write_samples

    request = open_request(args, choose_device(args.device), next(iter(exports), None), progress=not args.quiet)
    samples = (draw if args.rollout is None else draw_rollout)(args, request)
    write_samples(args.out, samples)
    num_drawn = samples.samples.shape[-1]
    print(f"{args.out}: {samples.num_samples} samples of {samples.num_graphs} graphs, {num_drawn} frames each")
    _export(exports, samples, args)
    return 0


def _run_folder(args: argparse.Namespace, exports: dict[str, str], ours) -> int:
    from geotdm_fast.cli.requests import method_options, open_request, rollout_plan
    from geotdm_fast.data import collate
    from geotdm_fast.sampling import sample_to_folder

    show = not args.quiet and ours.writes
    model, dataset = open_request(args, ours.device, next(iter(exports), None), progress=show)
    plan = None if args.rollout is None else rollout_plan(args, model)
    about = {"extrapolate": args.extrapolate}
    dataset = model.dataset(dataset, "sample", **about) if plan is None else model.rollout_dataset(dataset, **about)
    outcome = sample_to_folder(
        args.out,
        model.sampler(**method_options(args)),
        collate(dataset),
        dataset,
        model.task,
        num_samples=args.num_samples,
        seed=args.seed,
        checkpoint=model.name,
        rollout=plan,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
        restart=args.restart,
        ours=ours,
        progress=show,
    )
    if ours.writes:
        earlier = outcome.shards - outcome.drawn
        there = f", {earlier} of which were there" if earlier else ""
        what = f"{args.num_samples} samples of {len(dataset)} graphs"
        print(f"{args.out}: {what} in {outcome.shards} shards{there}")
        _export(exports, args.out, args)
    return 0


def _export(exports: dict[str, str], source, args: argparse.Namespace) -> None:
    for option, path in exports.items():
        from geotdm_fast.samples.molecule_exports import export_molecules

        frames = export_molecules(path, source, progress=not args.quiet, wrap=args.wrap)
        atoms = "" if option == "--xyz" else f", their atoms in {Path(path).with_suffix('.pdb')}"
        print(f"{path}: {frames} structures{atoms}")
