"""`geotdm simulate`: N-body systems, or molecular dynamics, into an `.npz`."""

import argparse

from geotdm_fast.cli import simulate_md
from geotdm_fast.cli.arguments import add_quiet, count, new_command, seed

NBODY = ("charged", "springs", "gravity")

DESCRIPTION = f"""\
Simulate one of the three N-body systems of the paper and write the trajectories to an .npz.

  charged   5 particles, charges +1 or -1, Coulomb forces        frames at t = 0.1, 0.2, ...
  springs   5 particles, each pair joined with probability 1/2   frames at t = 0.1, 0.2, ...
  gravity   10 unit masses, softened gravity                     frames at t = 0.0, 0.1, ...

Integration in float64 with steps of 0.001; one frame is kept every 100 steps (0.1 time units). All numbers are without
units. System i of a split depends on the kind, the split, the seed and i alone, and is the same that a configuration
with `kind: nbody` and that seed trains or tests on.

The file holds x, v [B, T, N, 3] (positions, velocities), t [T], h [B, N, 1], edge_index [2, E], edge_attr [B, E, 1]
(what the model reads: charges and their products, springs, masses), and charges [B, N] or springs [B, N, N]. Read it
again in a configuration with {{kind: npz, path: FILE.npz}}.

{simulate_md.DESCRIPTION}"""

EXAMPLES = f"""\
  geotdm simulate charged --num-systems 100 --out charged.npz
  geotdm simulate gravity --split train --num-systems 3000 --seed 1 --out gravity_train.npz
  geotdm simulate springs --num-systems 10 --num-frames 49 --out springs.npz
{simulate_md.EXAMPLES}"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    about = "simulate N-body systems or molecular dynamics into an .npz"
    parser = new_command(subparsers, "simulate", about, DESCRIPTION, EXAMPLES)
    parser.add_argument("kind", metavar="KIND", help=f"charged, springs, gravity, {', '.join(simulate_md.KINDS)}")
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="file to write")
    parser.add_argument(
        "--num-frames", "--frames", type=count, metavar="T", help="frames of each (default: 30; md:... 1000)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the random streams (default: 0)")
    add_quiet(parser)
    group = parser.add_argument_group("N-body systems (KIND charged, springs, gravity)")
    group.add_argument("--num-systems", type=count, metavar="B", help="how many (default: 100)")
    group.add_argument("--split", choices=("train", "val", "test"), help="the random stream (default: test)")
    simulate_md.add_options(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Simulate and write the file."""
    from geotdm_fast.cli.requests import check_suffix
    from geotdm_fast.runtime.choices import check_choice

    check_suffix("--out", args.out, (".npz",))
    if args.kind in simulate_md.KINDS:
        return simulate_md.run(args)
    check_choice("KIND", args.kind, (*NBODY, *simulate_md.KINDS))
    simulate_md.check_not_given(args)
    return _run_nbody(args)


def _run_nbody(args: argparse.Namespace) -> int:
    import numpy as np

    from geotdm_fast.data.nbody import draw_systems, system_features
    from geotdm_fast.data.simulate import simulate, step_count
    from geotdm_fast.runtime.files import write_npz

    num_systems = 100 if args.num_systems is None else args.num_systems
    num_frames = 30 if args.num_frames is None else args.num_frames
    state = draw_systems(args.kind, args.split or "test", num_systems, args.seed)
    x, v = simulate(
        args.kind,
        state.x0,
        state.v0,
        charges=state.charges,
        springs=state.springs,
        num_steps=step_count(args.kind, num_frames, 100),
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
