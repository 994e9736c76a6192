"""`geotdm doctor`: what is installed, what the machine can do, what runs."""

import argparse

from geotdm_fast.cli.arguments import new_command

DESCRIPTION = """\
Show versions, devices, the CPU's vector instructions, threads, which optional extras are installed, and for every
operation which implementation runs and why not a faster one. Paste it into a report of a problem."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = new_command(subparsers, "doctor", "show versions, devices and kernels", DESCRIPTION, "  geotdm doctor")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    from geotdm_fast.doctor import report

    print(report())
    return 0
