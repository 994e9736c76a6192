"""From the options of `sample` and `evaluate` to a model, its data and samples."""

import argparse
from pathlib import Path
from typing import NamedTuple

from geotdm_fast.cli.checkpoints import checkpoint_file
from geotdm_fast.cli.data_options import sampled_section
from geotdm_fast.runtime.shown import listed


class Request(NamedTuple):
    """What the options ask for: a `Sampler`, all graphs as one batch, the data set they are from, and the `Task`."""

    sampler: object
    batch: object
    dataset: object
    task: object


class Draw(NamedTuple):
    """samples: `Samples`; diffusion, batch, task: what they were drawn with."""

    samples: object
    diffusion: object
    batch: object
    task: object


def open_request(args: argparse.Namespace, device, molecules: str | None = None, progress: bool = True) -> Request:
    """Open the checkpoint and the data.

    molecules: the option that needs them; other data are refused before any work is done
    """
    from geotdm_fast.data import collate
    from geotdm_fast.diffusion import Sampler
    from geotdm_fast.task import Task

    diffusion, config = open_model(args.checkpoint, args.config, device, args.precision)
    task = Task.of_config(config)
    if getattr(args, "eval", None) is not None:
        from geotdm_fast.cli.sampling_file import agreed

        task = agreed(args.eval, diffusion, task, args.steps)
    sampler = Sampler(diffusion, args.method, args.steps, args.spacing, args.eta)
    dataset = _open_sampled_data(config, args, progress)
    if molecules and dataset.atomic_numbers is None:
        raise ValueError(f"{molecules}: the data must be molecules, got '{dataset.name}'")
    return Request(sampler, collate([dataset[i] for i in range(len(dataset))]), dataset, task)


def _open_sampled_data(config: dict, args: argparse.Namespace, progress: bool):
    """The data that the options name, or the frames of --given alone."""
    from geotdm_fast.cli.trained_on import warn_of_other_molecules

    section, where = sampled_section(config, args)
    if getattr(args, "given", None) is None:
        dataset = open_data(section, where, args.num_graphs, progress=progress)
    else:
        from geotdm_fast.data import given_frames_dataset

        dataset = given_frames_dataset(section, _given_frames(config), where, progress).spread(args.num_graphs)
    warn_of_other_molecules(config["data"].get("train", {}), section, dataset)
    return dataset


def _given_frames(config: dict) -> list[bool]:
    """[T] - which frames of the model's window are given. ValueError for a model that is given none."""
    from geotdm_fast.task import Task

    task = Task.of_config(config)
    if not task.is_conditional:
        raise ValueError("--given needs a conditional model, got an unconditional one, which is given nothing")
    section, network = config["data"].get("train", {}), config["denoise_model"]
    # Without a learned prior num_w may be anything.
    drawn = len(task.given_frames) + network["num_w"]
    length = drawn if network["learn_ref_frame"] else section.get("span") or section.get("num_frames") or drawn
    return [t in task.given_frames for t in range(length)]


def draw(args: argparse.Namespace, molecules: str | None = None) -> Draw:
    """Open the checkpoint and the data, and sample into memory as the options say; molecules: as in `open_request`."""
    from geotdm_fast.cli.arguments import choose_device
    from geotdm_fast.samples.record import make_samples
    from geotdm_fast.sampling import sample

    sampler, batch, dataset, task = open_request(args, choose_device(args.device), molecules, progress=not args.quiet)
    drawn = sample(
        sampler,
        batch,
        task,
        num_samples=args.num_samples,
        seed=args.seed,
        batch_size=args.batch_size,
        progress=not args.quiet,
    )
    samples = make_samples(
        drawn,
        batch,
        dataset,
        task,
        seed=args.seed,
        checkpoint=Path(args.checkpoint).name,
    )
    return Draw(samples, sampler.diffusion, batch, task)


def open_model(checkpoint: str, config_file: str | None, device, precision: str = "fp32"):
    """The diffusion of a checkpoint (`checkpoint_file`; an official .pt with its configuration) and its config."""
    from geotdm_fast.checkpoint import build_diffusion, load_checkpoint
    from geotdm_fast.config.files import load_config

    checkpoint = checkpoint_file(checkpoint)
    official = None if config_file is None else load_config(config_file)
    network, config = load_checkpoint(checkpoint, device, official)
    for section in ("train", "diffusion"):
        if section not in config:
            raise ValueError(f"{checkpoint}: the config inside must have a section '{section}', got {listed(config)}")
    config = {"data": {}} | config
    network.set_precision(precision)
    return build_diffusion(network, config, device), config


def open_data(section: dict, where: str, num_graphs: int | None, progress: bool = True):
    """The data set of a section, or `num_graphs` of its trajectories, evenly spaced."""
    from geotdm_fast.data import open_dataset

    return open_dataset(section, where, progress=progress).spread(num_graphs)


def check_suffix(option: str, path: str, suffixes: tuple[str, ...]) -> str:
    """The suffix of `path`, lower case; ValueError if it is none of `suffixes`: better now than after an hour."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"{option} must end in {', '.join(suffixes)}; got '{path}'")
    return suffix
