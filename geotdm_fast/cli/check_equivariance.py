"""`geotdm check-equivariance`: whether a model keeps its symmetry, in every precision."""

import argparse

from geotdm_fast.cli.arguments import add_free, add_quiet, choose_device, count, new_command
from geotdm_fast.cli.checkpoints import HELP as CHECKPOINT_HELP
from geotdm_fast.cli.checkpoints import checkpoint_file

DESCRIPTION = """\
Measure how far a model is from equivariance: random data of three kinds (N-body, molecules, pedestrians; with as many
features as the model reads) are turned, mirrored, shifted, and their nodes and graphs renumbered, the noise with them.
Compared are the network's output, the loss and a whole sampling chain, in float64, fp32, tf32 and bf16.
A model of Align Your Structures gets molecules alone: random atoms with bonds and pairs up to three bonds apart.

The table shows for each the largest relative deviation and its bound: 16 roundoffs of the precision (2^-53, 2^-24,
2^-11, 2^-8) times the condition of what is computed, which is measured, and times how much larger a shift makes the
positions. The exit status is 1 when a bound is exceeded.
A conditional model with the prior `none` is tied to the origin: translations are left out. They are left out, but for
the network, of a model of Align Your Structures with given frames, which are centred beside noise of zero mean.
The frames of a structure model (basic_es), which knows each for itself, are shifted in time, too. All other models know
how far frames are apart.
On the CPU tf32 and bf16 run the reference, which rounds the inputs of matrix products."""

EXAMPLES = """\
  geotdm check-equivariance outputs/nbody_charged_small
  geotdm check-equivariance md_ethanol_small                       a model that comes with the package
  geotdm check-equivariance ays_ethanol_small --steps 10           of Align Your Structures
  geotdm check-equivariance best.safetensors --steps 10 --precision fp32 --precision bf16
  geotdm check-equivariance best.safetensors --device cuda --json deviations.json"""


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm check-equivariance`."""
    parser = new_command(
        subparsers, "check-equivariance", "measure a model's symmetry in every precision", DESCRIPTION, EXAMPLES
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument("--config", metavar="FILE.yaml", help="for official .pt checkpoints: their configuration")
    parser.add_argument(
        "--precision",
        action="append",
        metavar="NAME",
        help="float64, fp32, tf32 or bf16; may be repeated (default: all)",
    )
    parser.add_argument(
        "--kind",
        action="append",
        metavar="NAME",
        help="nbody, molecule or pedestrian; may be repeated (default: all that the model takes)",
    )
    add_free(parser)
    parser.add_argument("--num-graphs", type=count, default=3, metavar="N", help="graphs in a batch (default: 3)")
    parser.add_argument(
        "--steps",
        type=count,
        metavar="S",
        help="steps of the chain (default: the model's own; a tenth finds the same faults sooner)",
    )
    parser.add_argument("--json", metavar="FILE.json", help="also write every deviation")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda if there is one)")
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when every bound holds, 1 when one does not."""
    from geotdm_fast.cli.requests import check_suffix, open_asked, option_names

    if args.json is not None:
        check_suffix("--json", args.json, (".json",))
    checkpoint_file(args.checkpoint)  # one that is not there is told before torch is imported

    from geotdm_fast.diffusion import Sampler
    from geotdm_fast.nn.plain import bare
    from geotdm_fast.runtime.files import write_json
    from geotdm_fast.scores.equivariance import ROUNDOFF, check_equivariance
    from geotdm_fast.scores.random_batches import kinds_of

    model = open_asked(args, choose_device(args.device))
    Sampler(model.diffusion, num_steps=args.steps, names=option_names())  # a wrong option is told by its name
    precisions = tuple(args.precision or ROUNDOFF)
    kinds = tuple(args.kind or kinds_of(bare(model.network)))
    measured = check_equivariance(
        model.diffusion,
        model.task,
        precisions=precisions,
        kinds=kinds,
        num_graphs=args.num_graphs,
        num_steps=args.steps,
        num_frames=model.num_frames if model.num_frames > 1 else None,  # one frame alone has no place to change
        progress=not args.quiet,
    )
    found = list(measured)
    if args.json is not None:
        write_json(args.json, [deviation._asdict() | {"holds": deviation.holds} for deviation in found])
    print(_table(found))
    broken = [deviation for deviation in found if not deviation.holds]
    if broken:
        print(f"\nNOT equivariant: {len(broken)} of {len(found)} deviations exceed their bounds")
        return 1
    print(f"\nequivariant: all {len(found)} deviations are within their bounds")
    return 0


def _table(found: list) -> str:
    from geotdm_fast.scores.equivariance import largest
    from geotdm_fast.scores.tables import text_table

    rows = [
        [d.precision, d.quantity, d.motion, d.kind, f"{d.value:.1e}", f"{d.bound:.1e}", "" if d.holds else "EXCEEDED"]
        for d in largest(found)
    ]
    return text_table(["precision", "quantity", "motion", "largest on", "deviation", "bound", ""], rows)
