"""What the programs over workloads have in common."""

import argparse
from collections.abc import Callable, Iterable

from bench.common import arguments, record
from bench.common.workloads import Workload


def over_workloads(
    name: str,
    args: argparse.Namespace,
    measure: Callable[[Workload, argparse.Namespace], Iterable[dict]],
    report: Callable[[Workload, list[dict]], str],
) -> int:
    """Measure each workload of `args`, add every line to a file as it is known, print the reports.

    name: of the program, for errors
    measure: a workload's rows; report: the text of rows, to which what is known of the machine has been added
    Returns 0, or 2 for a user's error or a wrong result.
    """
    try:
        arguments.set_up(args)
        context = record.context(args.device)
        texts = []
        for chosen in args.workload:
            workload = arguments.workload_of(args, chosen)
            rows = []
            for row in measure(workload, args):
                rows.append(row | context)
                record.append(args.out, rows[-1:])
            texts.append(report(workload, rows))
        print(record.describe(context), *texts, f"lines added to {args.out}", sep="\n\n")
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail(name, error)


def in_turn(names: Iterable[str], ours_first: bool) -> list[list[str]]:
    """Who is timed together: all at once; with `ours_first`, ours before the rest is even made, then all."""
    names = list(names)
    return [["ours"], names] if ours_first and "ours" in names and len(names) > 1 else [names]
