"""The options of `geotdm evaluate --scores md`."""

import argparse
from pathlib import Path

from geotdm_fast.cli.arguments import count


def add_md_options(parser: argparse.ArgumentParser) -> None:
    """Options of the scores of molecules; None: the default of `MDSettings`."""
    group = parser.add_argument_group("scores of molecules (--scores md)")
    group.add_argument(
        "--md",
        metavar="NAME,...",
        help="which of them: bonds, angles, torsions, rdf (radial distribution functions), contacts, rg (radius of "
        "gyration), rmsd, rmsf, msd (mean squared displacement), validity, decorrelation, tica, msm (Markov states), "
        "energy (default: all that the samples allow)",
    )
    group.add_argument(
        "--bonds",
        choices=("distance", "edges"),
        help="where bonds come from: by covalent radii in the first true frame (default), or the samples' edges",
    )
    group.add_argument(
        "--cell",
        type=float,
        nargs="+",
        metavar="A",
        help="the periodic box in the samples' unit: three lengths, or three vectors of three numbers",
    )
    group.add_argument(
        "--lag", type=count, metavar="FRAMES", help="lag of tica and msm (default: a tenth of the drawn frames)"
    )
    group.add_argument("--states", type=count, metavar="K", help="k-means states of msm (default: 20)")
    group.add_argument(
        "--r-max", type=float, metavar="R", help="where radial distribution functions end (default: 10 angstrom)"
    )
    group.add_argument(
        "--resamples", type=count, metavar="N", help="random halvings, and bootstrap samples (default: 200)"
    )
    group.add_argument(
        "--calculator",
        metavar="emt|lj|tblite|MODULE:FUNCTION",
        help="whose energies and forces are compared; FUNCTION of a module that Python can import returns an ASE "
        "calculator (code that runs because it is named here)",
    )
    group.add_argument(
        "--energy-frames", type=count, metavar="N", help="true and drawn frames that a calculator gets (default: 200)"
    )
    group.add_argument("--pictures", metavar="FOLDER", help="also draw what there is a picture of, as .png")


def check_md_options(args: argparse.Namespace) -> None:
    """ValueError for an option of `md` without this score, and a value that no samples allow; before any work."""
    named = [name for name in args.scores.split(",") if name.strip() == "md"]
    options = ("md", "bonds", "cell", "lag", "states", "r_max", "resamples", "calculator", "energy_frames", "pictures")
    if not named:
        given = [name for name in options if getattr(args, name) is not None]
        if given:
            raise ValueError(f"--{given[0].replace('_', '-')} is of the scores of molecules: --scores md asks for them")
        return
    if args.cell is not None and len(args.cell) not in (3, 9):
        raise ValueError(f"--cell must be three lengths or nine numbers, got {len(args.cell)} numbers")
    if args.pictures is not None and Path(args.pictures).is_file():
        raise ValueError(f"--pictures must be a folder, got the file {args.pictures}")
    _settings(args)


def score_by_options(samples, args: argparse.Namespace):
    """`score_molecules` by the options."""
    import numpy as np

    from geotdm_fast.scores.md import score_molecules

    cell = None
    if args.cell is not None:
        cell = np.diag(args.cell) if len(args.cell) == 3 else np.array(args.cell).reshape(3, 3)
    return score_molecules(samples, _settings(args), cell=cell)


def draw_pictures(molecules, folder: str) -> None:
    """Every picture of every molecule into a folder, named by the score; with a number where there are several."""
    from geotdm_fast.plots.molecule_scores import draw

    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, molecule in enumerate(molecules):
        ending = f"_{number}" if len(molecules) > 1 else ""
        for name, content in molecule.pictures.items():
            path = Path(folder) / f"{name}{ending}.png"
            draw(name, content, path, molecule.formula)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def _settings(args: argparse.Namespace):
    from geotdm_fast.scores.md.settings import MDSettings, parse_md_scores

    names = ("bonds", "lag", "states", "r_max", "resamples", "calculator", "energy_frames", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return MDSettings(**given, scores=None if args.md is None else parse_md_scores(args.md))
