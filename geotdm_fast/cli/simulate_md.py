"""`geotdm simulate md:SYSTEM`: its options, and its run."""

import argparse
import sys

from geotdm_fast.cli.arguments import count, threads

PREFIX = "md:"
KINDS = ("md:argon", "md:water", "md:alanine-explicit", "md:alanine-vacuum")
_FIELDS = {
    "every": "--every",
    "timestep": "--timestep",
    "temperature": "--temperature",
    "ensemble": "--ensemble",
    "friction": "--friction",
    "equilibrate": "--equilibrate",
    "cutoff": "--cutoff",
    "flexible": "--flexible",
    "engine": "--engine",
    "threads": "--threads",
}
_PARTICLES = {"--num-atoms": "md:argon", "--num-molecules": "md:water"}

DESCRIPTION = """\
Or simulate molecular dynamics. OpenMM does it on the CPU (the extra `simulate-md`); argon, where OpenMM is not
installed or with --engine own, the package's own integrator:

  md:argon              108 atoms of liquid argon, Lennard-Jones, 94.4 K, 1.374 g/cm3      a frame every 0.1 ps
  md:water              64 molecules of TIP3P water, rigid, 300 K, 0.997 g/cm3             a frame every 0.05 ps
  md:alanine-explicit   alanine dipeptide (ff96) in 749 molecules of TIP3P water, 300 K    a frame every 1 ps
  md:alanine-vacuum     alanine dipeptide (ff96), 22 atoms, 300 K                          a frame every 1 ps

The file holds R [frames, N, 3] (angstrom), z [N], time [frames] (ps), bonds [B, 2], cell [3, 3] (npt: [frames, 3, 3])
and pbc [3], potential_energy [frames] (kJ/mol), temperature [frames] (K). Positions are unwrapped: molecules are whole
and atoms leave the box. The mean velocity is 0.

Stopped or killed, the same command goes on, from FILE.npz.parts, and ends with the same file. On one machine, with one
thread and the same versions, equal seeds give equal files; on another processor, or with more threads, trajectories
part after some ps and agree in averages alone."""

EXAMPLES = """\
  geotdm simulate md:argon --num-frames 2000 --out argon.npz
  geotdm simulate md:water --num-molecules 128 --ensemble npt --num-frames 1000 --every 0.05 --out water.npz
  geotdm simulate md:alanine-vacuum --num-frames 5000 --seed 1 --out alanine.npz"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of molecular dynamics alone; none has a default here, so that one that is given is known."""
    group = parser.add_argument_group("molecular dynamics (KIND md:...)")
    group.add_argument("--every", type=float, metavar="PS", help="time between frames, a multiple of --timestep")
    group.add_argument(
        "--timestep", type=float, metavar="PS", help="default: argon 0.005, others 0.002, with --flexible 0.0005"
    )
    group.add_argument("--temperature", type=float, metavar="K", help="default: argon 94.4, others 300")
    group.add_argument("--num-atoms", type=count, metavar="N", help="atoms of argon (default: 108)")
    group.add_argument("--num-molecules", type=count, metavar="N", help="molecules of water (default: 64)")
    group.add_argument(
        "--ensemble",
        metavar="NAME",
        help="nvt: Langevin's equation (default); npt: a barostat at 1 bar too, a cell for each frame; nve: Newton's",
    )
    group.add_argument(
        "--friction",
        type=float,
        metavar="1/PS",
        help="of nvt and npt; the smaller, the nearer to Newton's equations (default: argon and water 0.1, others 1)",
    )
    group.add_argument(
        "--equilibrate",
        type=float,
        metavar="PS",
        help="time before the first frame; argon melts in its first quarter (default: 20)",
    )
    group.add_argument(
        "--cutoff",
        type=float,
        metavar="A",
        help="of forces in a box, at most 0.49 of its width, npt: 0.42 (default: argon 8.5, others 9, or that)",
    )
    group.add_argument("--flexible", action="store_true", default=None, help="bonds of hydrogen are not fixed")
    group.add_argument("--engine", metavar="NAME", help="openmm, or own (argon in nvt and nve; default: see above)")
    group.add_argument("--threads", type=threads, metavar="N", help="of OpenMM (default: 1)")
    group.add_argument(
        "--restart", action="store_true", default=None, help="discard the file, or what is begun; without it, go on"
    )


def check_not_given(args: argparse.Namespace) -> None:
    """ValueError for an option of molecular dynamics beside another kind."""
    options = [*_FIELDS.values(), *_PARTICLES, "--restart"]
    given = [option for option in options if getattr(args, option[2:].replace("-", "_")) is not None]
    if given:
        raise ValueError(f"{given[0]} is of molecular dynamics ({', '.join(KINDS)}), got KIND {args.kind}")


def run(args: argparse.Namespace) -> int:
    """Simulate and write the file."""
    for option, value in (("--num-systems", args.num_systems), ("--split", args.split)):
        if value is not None:
            raise ValueError(f"{option} is of charged, springs and gravity, got KIND {args.kind}; a file has one run")
    from geotdm_fast.simulation import MDSettings, simulate_md

    given = {name: getattr(args, name) for name in _FIELDS if getattr(args, name) is not None}
    if args.num_frames is not None:
        given["num_frames"] = args.num_frames
    settings = MDSettings(args.kind.removeprefix(PREFIX), seed=args.seed, num_particles=_num_particles(args), **given)
    done = simulate_md(args.out, settings, restart=bool(args.restart), progress=not args.quiet)
    if not done.new:
        print(f"{args.out} is whole: nothing to do (--restart simulates it again)", file=sys.stderr)
    made = done.run
    about = f"{made.ensemble}, {made.temperature:g} K, by {made.engine}"
    print(f"{args.out}: {made.num_frames} frames of {done.num_atoms} atoms, {made.every:g} ps apart ({about})")
    return 0


def _num_particles(args: argparse.Namespace) -> int | None:
    """--num-atoms or --num-molecules, whichever counts what the system consists of."""
    for option, kind in _PARTICLES.items():
        value = getattr(args, option[2:].replace("-", "_"))
        if value is None:
            continue
        if args.kind != kind:
            raise ValueError(f"{option} is of {kind}, got KIND {args.kind}")
        return value
    return None
