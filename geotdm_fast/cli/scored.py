"""What a command scores: a checkpoint, from which samples are drawn first, or samples."""

import argparse
from pathlib import Path


def add_scored(parser: argparse.ArgumentParser) -> None:
    """The argument `checkpoint`, shown as CHECKPOINT|SAMPLES."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT|SAMPLES",
        help="weights or the folder of a training (as for `geotdm sample`), or a file or folder of samples",
    )


def is_samples(source: Path) -> bool:
    """Whether samples are to be scored, not weights. FileNotFoundError for a file of samples that is not there."""
    if source.is_dir():
        return not (source / "best.safetensors").is_file()
    if source.suffix.lower() == ".npz" and not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    return source.suffix.lower() == ".npz"
