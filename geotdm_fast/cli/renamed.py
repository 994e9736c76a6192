"""Old spellings of options, which work for a release and say so."""

import argparse
import warnings


class Renamed(argparse.Action):
    """An option under its old name: it does what the new one does, and is not in the help.

    Use: `parser.add_argument("--output", action=Renamed, dest="out", new="--out")`.
    """

    def __init__(self, option_strings, dest, new: str, **options):
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **options)
        self.new = new

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values)
        # Told when the command runs, in its form of a warning.
        namespace.renamed = [*getattr(namespace, "renamed", ()), (option_string, self.new)]


def warn_renamed(old: str, new: str) -> None:
    """Tell that an old spelling was used."""
    warnings.warn(f"{old} is now {new}; the old spelling will go with the next release", FutureWarning, stacklevel=3)


def warn_of_renamed(args: argparse.Namespace) -> None:
    """Tell of every option that was given by its old name."""
    for old, new in getattr(args, "renamed", ()):
        warn_renamed(old, new)
