"""From the options of `sample` and `evaluate` to a model and its data."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geotdm_fast.cli.checkpoints import checkpoint_file
from geotdm_fast.cli.data_options import sampled_section

if TYPE_CHECKING:
    from geotdm_fast.data.trajectory import TrajectoryDataset
    from geotdm_fast.model import Model


class Request(NamedTuple):
    """What the options ask for: a `Model`, and the `TrajectoryDataset` that it is asked about."""

    model: "Model"
    dataset: "TrajectoryDataset"


def open_request(args: argparse.Namespace, device, molecules: str | None = None, progress: bool = True) -> Request:
    """Open the checkpoint and the data.

    molecules: the option that needs them; other data are refused before any work is done
    """
    model = open_asked(args, device, args.precision)
    if getattr(args, "eval", None) is not None:
        from geotdm_fast.cli.sampling_file import agreed
        from geotdm_fast.config.files import RECOMMENDED

        model.task = agreed(args.eval, model.diffusion, model.task, args.steps)
        if args.eval["sampling_timesteps"] is not None:
            # The file asks for the model's own chain, which goes before what the model recommends.
            model.config = {name: section for name, section in model.config.items() if name != RECOMMENDED}
    level = getattr(args, "context_level", None)
    if level is not None:
        if not model.task.tells_noise:
            raise ValueError("--context-level is for a model of train.context_noise_told, which this is not")
        model.task = dataclasses.replace(model.task, told_level=level)
    model.sampler(**method_options(args), names=option_names())  # a wrong option is told before data are read
    if getattr(args, "rollout", None) is not None:
        rollout_plan(args, model)
    dataset = _open_sampled_data(model, args, progress)
    if molecules and dataset.atomic_numbers is None:
        raise ValueError(f"{molecules}: the data must be molecules, got '{dataset.name}'")
    if getattr(args, "wrap", "no") != "no" and dataset[0].cell is None:
        raise ValueError(f"--wrap {args.wrap}: the data must have a periodic box, got '{dataset.name}' without one")
    return Request(model, dataset)


def method_options(args: argparse.Namespace) -> dict:
    """The arguments of `Sampler` that the options name."""
    return {"method": args.method, "steps": args.steps, "spacing": args.spacing, "eta": args.eta}


def option_names(steps: str = "--steps"):
    """What the messages of errors call the options of a draw on the command line."""
    from geotdm_fast.diffusion.sampler_options import OptionNames

    return OptionNames("--method", steps, "--spacing", "--eta")


def draw(args: argparse.Namespace, request: Request):
    """The `Samples` that are asked for, in memory."""
    options = {"seed": args.seed, "batch_size": args.batch_size, "progress": not args.quiet}
    options["extrapolate"] = args.extrapolate
    return request.model.sample(request.dataset, args.num_samples, **method_options(args), **options)


def draw_rollout(args: argparse.Namespace, request: Request):
    """The `Samples` of `--rollout`, in memory."""
    about: dict[str, Any] = {"seed": args.seed, "batch_size": args.batch_size, "progress": not args.quiet}
    about |= {"overlap": args.overlap, "extrapolate": args.extrapolate, **_bound(args), **method_options(args)}
    return request.model.rollout(request.dataset, args.rollout, args.num_samples, **about)


def rollout_plan(args: argparse.Namespace, model: "Model"):
    """The blocks of `--rollout`. ValueError for a model that cannot go on, and for numbers out of range."""
    return model.rollout_plan(args.rollout, args.overlap, **_bound(args))


def _bound(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.bound is None else {"bound": args.bound}


def open_model(checkpoint: str, config_file: str | None, device, precision: str = "fp32"):
    """The `Model` of a checkpoint (`checkpoint_file`; an official .pt with its configuration)."""
    from geotdm_fast.model import Model

    return Model.load(checkpoint_file(checkpoint), config=config_file, device=device, precision=precision)


def open_asked(args: argparse.Namespace, device, precision: str = "fp32"):
    """`open_model` of the options, given nothing with --free."""
    model = open_model(args.checkpoint, args.config, device, precision)
    if not getattr(args, "free", False):
        return model
    if not hasattr(model, "free"):
        raise ValueError("--free is for a model of Align Your Structures that was trained with nothing given, too")
    return model.free()


def _open_sampled_data(model, args: argparse.Namespace, progress: bool):
    """The data that the options name, or the frames of --given alone."""
    from geotdm_fast.cli.outputs import check_outputs, files_of_section
    from geotdm_fast.cli.trained_on import check_bond_orders, warn_of_other_molecules

    section, where = sampled_section(model.config, args)
    named = [("the checkpoint", args.checkpoint), ("--config", args.config), ("--data-config", args.data_config)]
    check_outputs(args, [*named, *files_of_section(where, section)])
    check_bond_orders(model.data, section, where)
    if getattr(args, "given", None) is None:
        dataset = open_data(section, where, args.num_graphs, progress=progress)
    else:
        from geotdm_fast.data import given_frames_dataset

        if not model.task.is_conditional:
            raise ValueError("--given needs a conditional model, got an unconditional one, which is given nothing")
        given = [t in model.task.given_frames for t in range(model.num_frames)]
        dataset = given_frames_dataset(section, given, where, progress).spread(args.num_graphs)
    warn_of_other_molecules(model.data, section, dataset)
    return dataset


def open_data(section: dict, where: str, num_graphs: int | None, progress: bool = True):
    """The data set of a section, or `num_graphs` of its trajectories, evenly spaced."""
    from geotdm_fast.data import open_dataset
    from geotdm_fast.data.section_keys import infer_kind

    if num_graphs is not None and section.get("kind", infer_kind(section)) == "nbody":
        section = {"spread": num_graphs, **section}  # what is not asked for is not simulated
    return open_dataset(section, where, progress=progress).spread(num_graphs)


def check_suffix(option: str, path: str, suffixes: tuple[str, ...]) -> str:
    """The suffix of `path`, lower case; ValueError if it is none of `suffixes`: better now than after an hour."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"{option} must end in {', '.join(suffixes)}; got '{path}'")
    return suffix
