"""Options that several commands share, and what they check."""

import argparse
import os

from geotdm_fast.cli.checkpoints import checkpoint_file
from geotdm_fast.cli.data_options import add_data_files, check_data_files, take_old_spellings
from geotdm_fast.runtime.shown import shown


def new_command(subparsers, name: str, help: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand whose description and examples keep their line breaks."""
    return subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def count(text: str) -> int:
    """A whole number of at least one and at most a thousand million."""
    return _whole(text, 1, 10**9)


def threads(text: str) -> int:
    """A number of threads: OpenMP ends the process where there is no memory for so many."""
    return _whole(text, 1, 1024)


def seed(text: str) -> int:
    """A whole number of at least zero."""
    return _whole(text, 0)


def _whole(text: str, least: int, most: int | None = None) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    if most is not None and value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most}, got {shown(value)}")
    return value


def add_sampling_options(parser: argparse.ArgumentParser, num_samples: int) -> None:
    """The options of everything that draws from a checkpoint."""
    data = parser.add_argument_group("data (default: the test section of the checkpoint's configuration)")
    add_data_files(data, "read this file (or these, joined) or folder instead; its suffix says the kind")
    data.add_argument("--data-config", metavar="FILE.yaml", help="another configuration to take the data section from")
    data.add_argument("--split", choices=("train", "val", "test"), help="which section (default: test)")
    data.add_argument(
        "--set",
        metavar="data.KEY=VALUE",
        action="append",
        default=[],
        help="replace one key of the data section, e.g. data.stride=5; may be repeated; data.kind=... starts from an "
        "empty section; `geotdm train --keys` lists them; conditions.NAME=NUMBER is what the model is told, and "
        "the lag at which windows are cut",
    )
    data.add_argument("--num-graphs", type=count, metavar="N", help="so many graphs, evenly spaced (default: all)")
    how = parser.add_argument_group("sampling")
    how.add_argument(
        "--num-samples", type=count, default=num_samples, metavar="K", help=f"per graph (default: {num_samples})"
    )
    how.add_argument(
        "--method",
        metavar="NAME",
        help="ddpm (as the model was made), ddim, dpmpp_2m, dpmpp_2m_sde; of a flow euler, heun, ab2; ays_ddim (that "
        "of Align Your Structures, which ends at step 0); default: the one that the model recommends, else ddpm, of a "
        "flow euler",
    )
    how.add_argument(
        "--steps",
        type=count,
        metavar="S",
        help="calls of the network (default: with the recommended method the recommended number, else all steps)",
    )
    how.add_argument(
        "--spacing",
        metavar="NAME",
        help="which steps: uniform, quadratic, log_snr; of a flow uniform, quadratic, early (default: with the "
        "recommended method the recommended one, else uniform)",
    )
    how.add_argument("--eta", type=float, default=0.0, help="noise of ddim and ays_ddim, 0 to 1 (default: 0, none)")
    how.add_argument("--seed", type=seed, default=0, help="the same seed gives the same samples (default: 0)")
    how.add_argument(
        "--batch-size",
        type=count,
        metavar="N",
        help="trajectories per network call (default: by their size; on CUDA, as many as fit, which is measured); "
        "halved where memory runs out; the samples stay the same but for rounding",
    )
    how.add_argument(
        "--context-level",
        type=float,
        metavar="LEVEL",
        help="how noisy a model of train.context_noise_told is told that its given frames are (default: 0)",
    )
    how.add_argument(
        "--extrapolate",
        action="store_true",
        help="let conditions be outside of the range that the model was trained on",
    )
    how.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    how.add_argument(
        "--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="of matrix products (default: fp32)"
    )
    how.add_argument(
        "--config", metavar="FILE.yaml", help="for official .pt checkpoints: the configuration they were trained with"
    )


def check_sampling_paths(args: argparse.Namespace) -> None:
    """Find the checkpoint and the files that the options name, before anything heavy is imported.

    Raises FileNotFoundError or ValueError naming the first that is not there.
    """
    args.checkpoint = checkpoint_file(args.checkpoint)
    take_old_spellings(args)
    check_data_files(args)
    for option, path in (("--config", args.config), ("--data-config", args.data_config)):
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"{option} {path}: no such file")


def add_free(parser: argparse.ArgumentParser) -> None:
    """`--free`: a model that was trained with frame 0 and without it is given nothing."""
    parser.add_argument(
        "--free",
        action="store_true",
        help="give nothing, where the model was trained so in half of its steps (conditioning unconditional_forward)",
    )


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """`--quiet`: no progress bars."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def choose_device(name: str | None):
    """The torch device called `name`, or CUDA if there is one, else the CPU. ValueError for one that is not there."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got '{name}'") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device: {name} is not there, this torch sees {torch.cuda.device_count()} GPUs")
    return device
