"""`geotdm doctor`: what is installed, what the machine can do, what runs, and whether it computes what it should."""

import argparse

from geotdm_fast.cli.arguments import choose_device, new_command

DESCRIPTION = """\
Show versions, devices, the CPU's vector instructions, threads, which optional extras are installed, and for every
operation which implementation runs and why not a faster one. Paste it into a report of a problem.

--verify also runs both operations of the network, egcl and temporal_attention, on this machine: forward and gradients,
in every precision that it has, against the reference in float64. The table shows for each the output or layer that errs
most beside what it may: twice the error of plain PyTorch in the same precision (three times for fp32 on a GPU), and one
roundoff. The exit status is 1 where an error is larger. It takes some seconds."""

EXAMPLES = """\
  geotdm doctor
  geotdm doctor --verify
  geotdm doctor --verify --device cpu         where a GPU would be taken"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm doctor`."""
    parser = new_command(subparsers, "doctor", "show versions, devices and kernels", DESCRIPTION, EXAMPLES)
    parser.add_argument("--verify", action="store_true", help="compare both operations with float64 on this machine")
    parser.add_argument("--device", help="with --verify: cpu, cuda, ... (default: cuda if there is one)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the report, and with --verify the table; 1 where an operation is off, else 0."""
    from geotdm_fast.doctor import report

    if args.device is not None and not args.verify:
        raise ValueError("--device must come with --verify")
    device = choose_device(args.device) if args.verify else None
    print(report())
    return 0 if device is None else _verify(device)


def _verify(device) -> int:
    from geotdm_fast.scores.tables import text_table
    from geotdm_fast.scores.verification import verify_ops

    found = list(verify_ops(device))
    header = ["operation", "precision", "direction", "runs", "largest in", "error", "allowed", ""]
    rows = [[*v[:5], f"{v.error:.1e}", f"{v.allowed:.1e}", "ok" if v.holds else "OFF"] for v in found]
    print(f"\nerrors against float64 on {device}\n{text_table(header, rows)}")
    off = sum(not v.holds for v in found)
    if off:
        print(f"\nNOT right: {off} of {len(found)} errors are larger than allowed")
        return 1
    print(f"\nright: all {len(found)} errors are within what is allowed")
    return 0
