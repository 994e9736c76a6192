"""How rollouts drift after trainings with and without noise and history: `python -m bench.sampling.rollout`."""

import argparse
import json
import pathlib
import sys
import time
import warnings

import torch

from bench.common import arguments, record
from bench.sampling.rollout_scores import scores, table
from bench.sampling.rollout_systems import ARMS, System, config_of, systems, widened
from geotdm_fast import load
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.data import open_dataset
from geotdm_fast.plots.drift import plot_drift
from geotdm_fast.runtime.files import write_json
from geotdm_fast.training import train

DESCRIPTION = """\
Train each system on for equal further steps in every arm, from the model that comes with the package, or of alanine
dipeptide from the one that is named; roll 20 test trajectories out over 20 blocks by dpmpp_2m in 5 calls (alanine
dipeptide: by dpmpp_2m_sde in 50); print scores of the blocks and draw them. What is trained is kept in --out and not
trained again.

Systems: charged, which is simulated; the others where their files are given. Arms:
"""
EPILOG = """\
  python -m bench.sampling.rollout --systems charged
  python -m bench.sampling.rollout --ethanol ethanol.npz --pedestrians recordings/
  geotdm reproduce geotdm:alanine_dipeptide --data alanine_dipeptide.npz --preset small --out ala/
  python -m bench.sampling.rollout --systems alanine --alanine alanine_dipeptide.npz --alanine-start ala/train
  python -m bench.sampling.rollout --systems charged --arms noise --do score report"""
PROGRAM = "bench.sampling.rollout"
# Trajectories that are rolled out.
GRAPHS = 20


def main(argv: list[str] | None = None) -> int:
    """Train, roll out and score, report: 0, or 2 for a user's error."""
    args = _parser().parse_args(argv)
    try:
        if args.threads is not None:
            torch.set_num_threads(args.threads)
        if (args.alanine is None) != (args.alanine_start is None):
            raise ValueError("--alanine and --alanine-start must be given together")
        named = ("ethanol", "alanine", "alanine_start", "pedestrians")
        files = {name: path for name in named if (path := getattr(args, name))}
        found = systems(files)
        missing = [name for name in args.systems or [] if name not in found]
        if missing:
            raise ValueError(f"--systems {missing[0]} needs its data: --{missing[0]}")
        chosen = {name: found[name] for name in args.systems or found}
        for name, system in chosen.items():
            for arm in args.arms:
                if arm in ("history", "near") and system.longer is None:
                    continue
                if "train" in args.do:
                    train_arm(system, arm, args.out / name)
                if "score" in args.do:
                    score_arm(system, arm, args.out / name, args.blocks)
        if "report" in args.do:
            report(args.out, chosen)
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail(PROGRAM, error)


def train_arm(system: System, arm: str, folder: pathlib.Path) -> None:
    """Train an arm, or go on with it."""
    weights = checkpoint_file(system.start)
    if arm == "told":
        weights = widened(weights, folder / "start_told.safetensors")
    began = time.monotonic()
    train(config_of(system, arm, weights), output_dir=folder / arm, device="cpu")
    print(f"{folder.name}, {arm}: {(time.monotonic() - began) / 60:.1f} minutes")


def score_arm(system: System, arm: str, folder: pathlib.Path, num_blocks: int) -> None:
    """Roll the test data out from the last weights of an arm, and write its scores to <arm>.json."""
    model = load(folder / arm / "last.safetensors", device="cpu")
    dataset = open_dataset(dict(system.test), progress=False)
    dataset = dataset.subset(range(0, len(dataset), max(1, len(dataset) // GRAPHS))[:GRAPHS])
    step = model.rollout_plan(1).step
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what explodes, which the table says
        samples = model.rollout(dataset, num_blocks * step, method=system.method, steps=system.calls, seed=0)
    write_json(folder / f"{arm}.json", scores(samples, step))
    print(f"{folder.name}, {arm}: rolled out in {time.process_time() - began:.0f} CPU s")


def report(out: pathlib.Path, chosen: dict[str, System]) -> None:
    """Print the tables of what was scored, and draw a picture for each system."""
    results = {}
    for name in chosen:
        found = {arm: out / name / f"{arm}.json" for arm in ARMS}
        results[name] = {arm: json.loads(path.read_text()) for arm, path in found.items() if path.is_file()}
    results = {name: arms for name, arms in results.items() if arms}
    print(table(results))
    for name, arms in results.items():
        (first, result), *others = arms.items()
        plot_drift(result, out / f"rollout_{name}.png", label=first, beside=dict(others), title=f"Rollout: {name}")


def _parser() -> argparse.ArgumentParser:
    names = ["charged", "ethanol", "alanine", "pedestrians"]
    listed = "\n".join(f"  {name:8} {about}" for name, about in ARMS.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=DESCRIPTION + listed,
        epilog=f"examples:\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--systems", nargs="+", choices=names, help="default: all whose data are given")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    work = ["train", "score", "report"]
    parser.add_argument("--do", nargs="+", choices=work, default=work, help="default: all")
    parser.add_argument("--ethanol", type=pathlib.Path, metavar="FILE.npz", help="R [frames, 9, 3] in angstrom, z")
    parser.add_argument("--alanine", type=pathlib.Path, metavar="FILE.npz", help="alanine dipeptide: R, z")
    start = "the model that its arms begin with, one frame of 32 given"
    parser.add_argument("--alanine-start", type=pathlib.Path, metavar="CHECKPOINT", help=start)
    parser.add_argument("--pedestrians", type=pathlib.Path, metavar="DIR", help="recordings of ETH and UCY")
    parser.add_argument("--blocks", type=arguments.count, default=20, metavar="N", help="default: 20")
    parser.add_argument("--threads", type=arguments.count, metavar="N", help="default: torch's own choice, every core")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("outputs/rollout"), metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
