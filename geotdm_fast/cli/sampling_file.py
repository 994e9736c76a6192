"""The official sampling files as requests: `geotdm sample nbody_sampling.yaml`."""

import argparse
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path

from geotdm_fast.cli.run_folder import training_file_in, weights_in
from geotdm_fast.runtime.shown import shown

SUFFIXES = (".yaml", ".yml")


def take_sampling_file(args: argparse.Namespace) -> None:
    """Take from the file `args.checkpoint` what the options leave open: weights, configuration, data, seed, output, ...

    The weights are eval.model_ckpt of the training in eval.output_base_path/eval.train_exp_name, ours or the official
    code's. `args.eval` becomes the settings, for `agreed`. Raises FileNotFoundError, ValueError naming file and key.
    """
    from geotdm_fast.config.files import load_sampling_config

    path = args.checkpoint
    settings = load_sampling_config(path)["eval"]
    folder = Path(settings["output_base_path"]) / str(settings["train_exp_name"])
    weights = weights_in(folder, settings["model_ckpt"], f"{path}: eval.model_ckpt")
    if args.config is None and weights.suffix == ".pt":
        args.config = str(training_file_in(folder))
    args.checkpoint = str(weights)
    if args.data is None and args.data_config is None:
        args.data_config = path
    args.seed = settings["seed"] if args.seed is None else args.seed
    args.num_samples = args.num_samples or settings["K"]
    args.batch_size = args.batch_size or settings["batch_size"]
    if args.out is None:
        name = settings["eval_exp_name"] or f"{settings['train_exp_name']}_eval"
        args.out = str(Path(settings["output_base_path"]) / str(name) / "samples.npz")
    args.eval = settings | {"file": path}


def agreed(settings: Mapping, diffusion, task, steps: int | None):
    """The training's `Task` as the sampling file has it: with its cond_mask, if it has one.

    steps: of --steps, if it was given
    Warns of sampling_timesteps that are not the model's. Raises ValueError for a `cond` that is not, and for a
    cond_mask that gives a model of Align Your Structures other frames than it learned to be given.
    """
    from geotdm_fast.ays.as_geotdm import AysDiffusion

    file, mode = settings["file"], diffusion.task_mode
    if settings["cond"] is not None and settings["cond"] != (mode == "cond"):
        expected = "true" if mode == "cond" else "false"
        raise ValueError(
            f"{file}: eval.cond must be {expected} (or left out) for a model of mode '{mode}', got "
            f"{str(settings['cond']).lower()}"
        )
    asked, calls = settings["sampling_timesteps"], diffusion.calls
    own = diffusion.num_timesteps if calls is None else calls
    if asked is not None and asked != own and steps is None:
        happens = (
            f"was trained with {own} steps, and is sampled with these; --steps takes fewer of them"
            if calls is None
            else "is a student, and is sampled in one call of its network"
        )
        warnings.warn(f"{file}: eval.sampling_timesteps is {asked}, but the model {happens}", stacklevel=2)
    if settings["cond_mask"] is None:
        return task
    if mode != "cond":
        raise ValueError(f"{file}: eval.cond_mask does not go with a model of mode '{mode}'")
    asked = dataclasses.replace(task, given=settings["cond_mask"])
    if isinstance(diffusion, AysDiffusion) and asked.given_frames != task.given_frames:
        raise ValueError(
            f"{file}: eval.cond_mask must be {[list(r) for r in task.given]} (or left out), the frames that "
            f"denoise_model.conditioning of the model gives, got {shown(settings['cond_mask'])}"
        )
    return asked
