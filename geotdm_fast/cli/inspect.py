"""`geotdm inspect`: what is in a file of data, and what would train on it."""

import argparse

from geotdm_fast.cli.arguments import new_command

DESCRIPTION = """\
Say what is in a file of data: frames, atoms, elements and where they come from, unit, times, box, steps and jumps,
bonds, and what reading it warns of; then the parts of a configuration that would train on it.

FILE is an .npz of your own or of `geotdm sample` (also a folder of it), a trajectory of molecules in a format of ASE,
MDTraj or MDAnalysis, or a recording of pedestrians (.txt, .csv, .tsv). Its suffix says which. Of a folder of `--cache`
it says of which files, how large and whether whole each cache is. An .sdf holds conformers, and so does any other file
with --set data.kind=conformers; --set "data.features=[degree, hydrogens]" says what a model of Align Your Structures
would train on (docs/ays.md)."""

EXAMPLES = """\
  geotdm inspect my_molecule.npz
  geotdm inspect run.xtc --topology run.pdb
  geotdm inspect run.xtc --topology run.pdb --set "data.selection=protein and not element H"
  geotdm inspect dump.lammpstrj --set data.elements='{1: O, 2: H}'
  geotdm inspect conformers.sdf
  geotdm inspect samples/
  geotdm inspect frames/                   (the DIR of geotdm train --cache DIR)"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm inspect`."""
    parser = new_command(subparsers, "inspect", "say what is in a file of data", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="data, or samples")
    parser.add_argument("--topology", metavar="FILE", help="the file that names the atoms of FILE (.pdb, .gro, ...)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="data.KEY=VALUE",
        help="a key of the data section, e.g. data.unit=nm; may be repeated; `geotdm train --keys` lists them",
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print what is there; 2 when it cannot be opened, after what is known all the same."""
    import os

    from geotdm_fast.cli.data_options import data_values

    for path in (args.file, args.topology):
        if path is not None and not os.path.exists(path):
            raise FileNotFoundError(f"{path}: no such file")
    keys = data_values(args.set)

    from geotdm_fast.inspection import inspect_file

    try:
        found = inspect_file(args.file, args.topology, keys)
    except ValueError as error:
        found = getattr(error, "findings", None)
        if found is not None:
            print(args.file, found.as_text(), sep="\n")
        raise
    print(args.file, found.as_text(), sep="\n")
    return 0
