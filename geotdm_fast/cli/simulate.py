"""`geotdm simulate`: N-body trajectories into an `.npz`."""

import argparse

from geotdm_fast.cli.arguments import add_quiet, count, new_command, seed

DESCRIPTION = """\
Simulate one of the three N-body systems of the paper and write the trajectories to an .npz.

  charged   5 particles, charges +1 or -1, Coulomb forces        frames at t = 0.1, 0.2, ...
  springs   5 particles, each pair joined with probability 1/2   frames at t = 0.1, 0.2, ...
  gravity   10 unit masses, softened gravity                     frames at t = 0.0, 0.1, ...

Integration in float64 with steps of 0.001; one frame is kept every 100 steps (0.1 time units). All numbers are without
units. System i of a split depends on the kind, the split, the seed and i alone, and is the same that a configuration
with `kind: nbody` and that seed trains or tests on.

The file holds x, v [B, T, N, 3] (positions, velocities), t [T], h [B, N, 1], edge_index [2, E], edge_attr [B, E, 1]
(what the model reads: charges and their products, springs, masses), and charges [B, N] or springs [B, N, N]. Read it
again in a configuration with {kind: npz, path: FILE.npz}."""

EXAMPLES = """\
  geotdm simulate charged --num-systems 100 --out charged.npz
  geotdm simulate gravity --split train --num-systems 3000 --seed 1 --out gravity_train.npz
  geotdm simulate springs --num-systems 10 --num-frames 49 --out springs.npz"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "simulate", "simulate N-body systems into an .npz", DESCRIPTION, EXAMPLES)
    parser.add_argument("kind", metavar="KIND", help="charged, springs or gravity")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="file to write")
    parser.add_argument("--num-systems", type=count, default=100, metavar="B", help="how many (default: 100)")
    parser.add_argument(
        "--num-frames", type=count, default=30, metavar="T", help="frames, 0.1 time units apart (default: 30)"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="the random stream (default: test)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the random streams (default: 0)")
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Simulate and write the file."""
    import numpy as np

    from geotdm_fast.cli.requests import check_suffix

    check_suffix("--out", args.out, (".npz",))

    from geotdm_fast.data.nbody import draw_systems, system_features
    from geotdm_fast.data.simulate import SYSTEMS, simulate, step_count
    from geotdm_fast.runtime.choices import check_choice
    from geotdm_fast.runtime.files import write_npz

    check_choice("KIND", args.kind, SYSTEMS)
    state = draw_systems(args.kind, args.split, args.num_systems, args.seed)
    x, v = simulate(
        args.kind,
        state.x0,
        state.v0,
        charges=state.charges,
        springs=state.springs,
        num_steps=step_count(args.kind, args.num_frames, 100),
        save_every=100,
        progress=not args.quiet,
    )
    h, edge_index, edge_attr = system_features(args.kind, state)
    arrays = {"charges": state.charges, "springs": state.springs}
    first = 0 if args.kind == "gravity" else 1
    write_npz(
        args.out,
        x=x,
        v=v,
        t=0.1 * np.arange(first, first + x.shape[1]),
        h=h.numpy(),
        edge_index=edge_index.numpy(),
        edge_attr=edge_attr.numpy(),
        **{name: value for name, value in arrays.items() if value is not None},
    )
    print(f"{args.out}: {len(x)} {args.kind} systems of {x.shape[2]} particles, {x.shape[1]} frames")
    return 0
