"""`geotdm plot`: pictures of samples and of training."""

import argparse

from geotdm_fast.cli.arguments import add_quiet, count, new_command

DESCRIPTION = """\
Draw a file or folder of samples, or the log of a training run. The suffix of --out says what comes out:

  .png .pdf .svg   a still picture: forecasts, bond lengths (--kind bonds), or, of a log.jsonl, the loss curve
  .gif             an animation: given frames, then truth and samples
  .html            a page that needs nothing else: play, step, turn, zoom; truth beside samples; ? in it lists its keys

Positions are in the unit of the data. In still pictures three dimensions are drawn in the plane in which each system's
true trajectory varies most. Systems are taken at equal spacing from the file."""

EXAMPLES = """\
  geotdm plot samples.npz --out forecast.png
  geotdm plot samples.npz --out forecast.gif --num-systems 4
  geotdm plot samples.npz --out forecast.html
  geotdm plot samples.npz --topology protein.pdb --out protein.html
  geotdm plot samples/ --kind bonds --out bonds.png
  geotdm plot outputs/nbody_charged_small/log.jsonl --out loss.png"""

STILL = (".png", ".pdf", ".svg")
NUM_SYSTEMS = {".gif": 3, ".html": 12}


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "plot", "draw samples or a training log", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="SAMPLES|log.jsonl", help="what to draw")
    parser.add_argument("--out", required=True, metavar="FILE", help="picture to write: .png .pdf .svg .gif .html")
    parser.add_argument(
        "--kind", choices=("trajectories", "bonds"), default="trajectories", help="of samples (default: trajectories)"
    )
    parser.add_argument("--num-systems", type=count, metavar="N", help="systems drawn (default: 6; .gif 3; .html 12)")
    parser.add_argument("--title", help="title of the picture")
    parser.add_argument(
        "--topology",
        metavar="FILE",
        help="of an .html: names of atoms, residues, chains and bonds (.pdb, .sdf, .npz, or what MDTraj or MDAnalysis "
        "reads)",
    )
    parser.add_argument(
        "--selection",
        metavar="TEXT",
        help="the atoms of --topology that the samples are of, in MDTraj's language or MDAnalysis'",
    )
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw the picture."""
    from pathlib import Path

    from geotdm_fast.cli.requests import check_suffix

    suffix = check_suffix("--out", args.out, (*STILL, ".gif", ".html"))
    is_folder = Path(args.file).is_dir()
    source = ".npz" if is_folder else check_suffix("the file to draw", args.file, (".npz", ".jsonl"))
    if not is_folder and not Path(args.file).is_file():
        raise FileNotFoundError(f"{args.file}: no such file")
    if suffix not in STILL and (source == ".jsonl" or args.kind == "bonds"):
        raise ValueError(f"--out must end in {', '.join(STILL)} for a {'log' if source == '.jsonl' else 'histogram'}")
    if (args.topology is not None or args.selection is not None) and suffix != ".html":
        raise ValueError(f"--topology and --selection are for a page, --out must end in .html; got {args.out}")
    if source == ".jsonl":
        from geotdm_fast.plots.loss import plot_loss

        plot_loss(args.file, args.out, title=args.title)
    else:
        _draw_samples(args, suffix)
    print(f"{args.out}: {Path(args.out).stat().st_size / 1e3:.0f} kB")
    return 0


def _draw_samples(args: argparse.Namespace, suffix: str) -> None:
    import warnings

    import numpy as np

    from geotdm_fast.samples.npz import read_samples

    samples = read_samples(args.file)
    broken = sum(not np.isfinite(one).all() for one in samples.samples)
    if broken:
        count = f"{broken} of {samples.num_samples} samples"
        warnings.warn(f"{args.file}: {count} hold positions that are not finite, which are not drawn", stacklevel=2)
    num_systems = args.num_systems or NUM_SYSTEMS.get(suffix, 6)
    if args.kind == "bonds":
        from geotdm_fast.plots.bonds import plot_bond_lengths

        plot_bond_lengths(samples, args.out, title=args.title)
    elif suffix == ".gif":
        from geotdm_fast.plots.animation import animate

        animate(samples, args.out, num_systems=num_systems, title=args.title, progress=not args.quiet)
    elif suffix == ".html":
        from geotdm_fast.plots.page import write_page

        options = {"title": args.title, "topology": args.topology, "selection": args.selection}
        write_page(samples, args.out, num_systems=num_systems, **options)
    else:
        from geotdm_fast.plots.forecast import plot_forecast

        plot_forecast(samples, args.out, num_systems=num_systems, title=args.title)
