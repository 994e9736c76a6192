"""Make the files of a shipped model from a run: weights with their configuration inside, the same as YAML, and the log.

python tools/ship_checkpoint.py outputs/reproduce/charged_conditional_small nbody_charged_small
python tools/ship_checkpoint.py outputs/my_run my_model --method dpmpp_2m --steps 5
"""

import argparse
import pathlib
import shutil
import sys

from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.config.files import RECOMMENDED, portable_config, write_yaml
from geotdm_fast.config.sampling_rules import recommended_sampling
from geotdm_fast.families import load_checkpoint
from geotdm_fast.runtime.files import atomic_path

CHECKPOINTS = pathlib.Path(__file__).resolve().parent.parent / "geotdm_fast" / "checkpoints"
MAX_BYTES = 4_000_000


def main(argv: list[str] | None = None) -> int:
    """Write the three files; 0, or 2 for a user's error."""
    parser = argparse.ArgumentParser(
        prog="tools/ship_checkpoint.py",
        description="Make the files of a shipped model from a run of `geotdm reproduce` or `geotdm train`: "
        "NAME.safetensors, NAME.yaml and NAME.jsonl. Folders of data files and time limits are taken out of the "
        "configuration.",
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="folder of the run")
    parser.add_argument("name", metavar="NAME", help="what the model will be called, e.g. md_ethanol_small")
    parser.add_argument("--weights", default="best", metavar="NAME", help="best (default), last or epoch_<n>")
    parser.add_argument("--out", type=pathlib.Path, default=CHECKPOINTS, metavar="DIR", help=f"default: {CHECKPOINTS}")
    parser.add_argument(
        "--method", metavar="NAME", help="how the model is best drawn (default: as the run's section sampling says)"
    )
    parser.add_argument("--steps", type=int, metavar="S", help="of --method: calls of the network (default: all)")
    parser.add_argument("--spacing", metavar="NAME", help="of --method: which steps (default: uniform)")
    args = parser.parse_args(argv)
    try:
        for path in ship(args.run, args.name, args.weights, args.out, args.method, args.steps, args.spacing):
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def ship(
    run: pathlib.Path,
    name: str,
    weights: str,
    out: pathlib.Path,
    method: str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
) -> list[pathlib.Path]:
    """The paths of the three files.

    method, steps, spacing: what the model recommends to draw by, in place of the run's section `sampling`
    Raises FileNotFoundError for a folder without a run, ValueError for a large one, and for a method, steps or a
    spacing that are not the model's.
    """
    training = run / "train" if (run / "train").is_dir() else run
    source, log = training / f"{weights}.safetensors", training / "log.jsonl"
    if not log.is_file():
        raise FileNotFoundError(f"{log}: no such file")
    network, config = load_checkpoint(source)
    config = portable_config(config)
    config["train"]["exp_name"] = name
    for option, value in (("--steps", steps), ("--spacing", spacing)):
        if method is None and value is not None:
            raise ValueError(f"{option} must go with --method, got {value} alone")
    if method is not None:
        section = {"method": method, "steps": steps, "spacing": spacing or "uniform"}
        config[RECOMMENDED] = recommended_sampling({**config, RECOMMENDED: section}, name)
    size = sum(4 * value.numel() for value in network.state_dict().values())
    if size > MAX_BYTES:
        raise ValueError(f"{source} must be under {MAX_BYTES / 1e6:g} MB to be shipped, got {size / 1e6:.1f} MB")
    files = [out / f"{name}.{suffix}" for suffix in ("safetensors", "yaml", "jsonl")]
    save_checkpoint(files[0], network, config)
    write_yaml(files[1], config)
    with atomic_path(files[2]) as aside:
        shutil.copyfile(log, aside)
    return files


if __name__ == "__main__":
    sys.exit(main())
