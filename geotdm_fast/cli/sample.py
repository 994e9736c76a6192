"""`geotdm sample`: draw trajectories from a checkpoint."""

import argparse

from geotdm_fast.cli.arguments import add_quiet, add_sampling_options, new_command

DESCRIPTION = """\
Draw trajectories from a trained model: forecasts or interpolations of the given frames, or, from an unconditional
model, new trajectories.

CHECKPOINT is a .safetensors file of `geotdm train` (it carries its configuration), or an official .pt with --config.
The .npz holds samples [K, N, D, T] (the frames that were drawn), target and x_given (the same data's other frames),
cond_mask, batch (the graph of each node) and all that `geotdm evaluate` and `geotdm plot` need. Positions are in the
unit of the data divided by `scale`. --xyz writes molecules as extended XYZ (angstrom), given and drawn frames, for
VMD, OVITO or ASE; it needs the extra `molecules`."""

EXAMPLES = """\
  geotdm sample best.safetensors --num-samples 5 --out samples.npz
  geotdm sample best.safetensors --num-graphs 100 --seed 1 --device cpu --out samples.npz
  geotdm sample best.safetensors --method dpmpp_2m --steps 20 --spacing log_snr --out samples.npz
  geotdm sample ethanol.safetensors --set path=my_ethanol.npz --out samples.npz --xyz samples.xyz
  geotdm sample ckpt_best.pt --config nbody_train_cond.yaml --out samples.npz

then:
  geotdm evaluate samples.npz
  geotdm plot samples.npz --out forecast.png"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "sample", "draw trajectories from a checkpoint", DESCRIPTION, EXAMPLES)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file of weights, .safetensors or .pt")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="file to write")
    parser.add_argument("--xyz", metavar="FILE.xyz", help="also write molecules as extended XYZ")
    add_sampling_options(parser, num_samples=1)
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Sample and write the files."""
    from geotdm_fast.cli.drawing import check_suffix, draw
    from geotdm_fast.trajectory_files import check_xyz, write_samples, write_xyz

    check_suffix("--out", args.out, (".npz",))
    if args.xyz is not None:
        check_suffix("--xyz", args.xyz, (".xyz", ".extxyz"))
        check_xyz()
    samples = draw(args, molecules=args.xyz is not None).samples
    write_samples(args.out, samples)
    num_drawn = samples.samples.shape[-1]
    print(f"{args.out}: {samples.num_samples} samples of {samples.num_graphs} graphs, {num_drawn} frames each")
    if args.xyz is not None:
        write_xyz(args.xyz, samples, progress=not args.quiet)
        print(f"{args.xyz}: {samples.num_samples * samples.num_graphs * len(samples.cond_mask)} structures")
    return 0
