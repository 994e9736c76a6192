"""`geotdm drift`: scores of a rollout, block by block."""

import argparse
from pathlib import Path

from geotdm_fast.cli.arguments import (
    add_quiet,
    add_sampling_options,
    check_sampling_paths,
    choose_device,
    count,
    new_command,
)
from geotdm_fast.cli.scored import add_scored, is_samples
from geotdm_fast.runtime.shown import plain, shown

DESCRIPTION = """\
Roll a model out (as `geotdm sample --rollout` does), or read the samples of such a rollout, and score every block:
how far it is from the truth while there is one, how fast its nodes move, how its bonds stretch, and the share of frames
that are valid: finite, and with every bond within 25 % of its mean length in the given frames; of what is no molecule,
without a step of more than 3 times the largest one of the given frames. The data's own figures stand beside.

Simulated systems are simulated as long as the rollout goes. Of files the truth reaches as far as the windows do: --set
data.span=410 makes windows of 410 frames.

A FILE.npz of samples does not say how long a block was: --block-frames does (default: 20); a folder of shards does."""

EXAMPLES = """\
  geotdm drift nbody_charged_small --blocks 20 --num-graphs 20 --out drift.png
  geotdm drift outputs/my_molecule --blocks 20 --set data.span=410 --json drift.json
  geotdm drift long/ --out drift.png                              samples of `geotdm sample --rollout`
  geotdm drift long.npz --block-frames 20
  geotdm drift outputs/noise --label noise --beside without=without.json --out both.png"""

BLOCKS = 20
BLOCK_FRAMES = 20


def add_parser(subparsers) -> argparse.ArgumentParser:
    """The parser of `geotdm drift`."""
    parser = new_command(subparsers, "drift", "score a rollout block by block", DESCRIPTION, EXAMPLES)
    add_scored(parser)
    parser.add_argument("--blocks", type=count, metavar="K", help=f"blocks to draw (default: {BLOCKS})")
    parser.add_argument(
        "--block-frames", type=count, metavar="N", help="of samples in a file: frames that a block drew"
    )
    parser.add_argument(
        "--overlap", type=count, metavar="N", help="frames that a block shares with the next one, see `geotdm sample`"
    )
    parser.add_argument("--bound", type=float, metavar="FACTOR", help="when a trajectory explodes, see `geotdm sample`")
    parser.add_argument("--json", metavar="FILE.json", help="also write the scores as JSON")
    parser.add_argument("--out", metavar="FILE", help="also draw them: .png, .pdf or .svg")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="LABEL=FILE.json",
        help="draw the scores of another rollout of these data too, as --json wrote them; may be repeated",
    )
    parser.add_argument("--label", default="rollout", help="what the picture calls this one (default: rollout)")
    add_sampling_options(parser, num_samples=1)
    add_quiet(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Roll out or read, score, print the table; write JSON and picture."""
    from geotdm_fast.cli.requests import check_suffix
    from geotdm_fast.runtime.files import write_json

    for option, path, suffixes in (("--json", args.json, (".json",)), ("--out", args.out, (".png", ".pdf", ".svg"))):
        if path is not None:
            check_suffix(option, path, suffixes)
    from_file = is_samples(Path(args.checkpoint))
    _check_options(args, from_file)
    beside: dict[str, dict] = {}
    if args.beside and args.out is None:
        raise ValueError("--beside draws beside this rollout, so --out must name the picture, got none")
    for text in args.beside:
        label, _, path = text.partition("=")
        if not label or not path:
            raise ValueError(f"--beside must be LABEL=FILE.json, got {plain(text)}")
        if label == args.label or label in beside:
            raise ValueError(f"--beside: the label {shown(label)} must be used once")
        beside[label] = _scores_in(Path(path))
    if not from_file:
        check_sampling_paths(args)

    from geotdm_fast.scores.drift import drift, report

    samples, block_frames = _from_file(args) if from_file else _from_checkpoint(args)
    result = drift(samples, block_frames)
    print(report(result))
    if args.json is not None:
        write_json(args.json, result)
        print(f"\n{args.json}: the same as JSON")
    if args.out is not None:
        from geotdm_fast.plots.drift import plot_drift

        plot_drift(result, args.out, label=args.label, beside=beside)
        print(f"{args.out}: {Path(args.out).stat().st_size / 1e3:.0f} kB")
    return 0


def _scores_in(path: Path) -> dict:
    """What --json wrote. Raises OSError where it cannot be read, ValueError for anything else."""
    from geotdm_fast.runtime.parsing import parse_json

    expected = f"--beside: {path} must hold scores that `geotdm drift --json` wrote"
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{expected}, got no JSON ({plain(error)})") from error
    blocks = found.get("blocks") if isinstance(found, dict) else None
    if not isinstance(blocks, list) or not blocks:
        raise ValueError(f"{expected}, got no blocks")
    is_number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    for block in blocks:
        for name in ("block", "ade", "speed", "bond_error", "valid"):
            value = block.get(name, "nothing") if isinstance(block, dict) else block
            if not (is_number(value) or (value is None and name != "block")):
                raise ValueError(f"{expected}, got {shown(value)} for {name}")
    return found


def _check_options(args: argparse.Namespace, from_file: bool) -> None:
    of_checkpoint = {"--blocks": args.blocks, "--overlap": args.overlap, "--bound": args.bound}
    wrong = of_checkpoint if from_file else {"--block-frames": args.block_frames}
    for option, value in wrong.items():
        if value is not None:
            what = "a checkpoint, got samples" if from_file else "samples in a file, got a checkpoint"
            raise ValueError(f"{option} is for {what}: {args.checkpoint}")


def _from_file(args: argparse.Namespace):
    from geotdm_fast.samples.manifest import read_manifest
    from geotdm_fast.samples.npz import read_samples

    block_frames = args.block_frames
    if Path(args.checkpoint).is_dir() and block_frames is None:
        request = read_manifest(Path(args.checkpoint)).request
        rollout = request.get("rollout")
        if not isinstance(rollout, dict) or not all(type(rollout.get(k)) is int for k in ("window", "overlap")):
            raise ValueError(f"{args.checkpoint} must hold a rollout (`geotdm sample --rollout`), got other samples")
        block_frames = rollout["window"] - rollout["overlap"]
    return read_samples(args.checkpoint), block_frames or BLOCK_FRAMES


def _from_checkpoint(args: argparse.Namespace):
    from geotdm_fast.cli.requests import draw_rollout, open_model, open_request

    device = choose_device(args.device)
    model = open_model(args.checkpoint, args.config, device, args.precision)
    step = model.rollout_plan(1, args.overlap).step
    first = model.num_frames - len(model.task.given_frames)
    args.rollout = first + ((args.blocks or BLOCKS) - 1) * step
    is_simulated = model.data.get("kind") == "nbody" and args.data is None and args.data_config is None
    if is_simulated and not any(text.startswith(("data.num_frames=", "data.kind=")) for text in args.set):
        args.set = [*args.set, f"data.num_frames={len(model.task.given_frames) + args.rollout}"]
    request = open_request(args, device, progress=not args.quiet)
    return draw_rollout(args, request), step
