"""A student that draws in one call: a teacher's draws as pairs of noise and trajectory, and a training on them."""

import copy
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.data.trajectory import collate, evenly_spaced
from geotdm_fast.diffusion import Flow
from geotdm_fast.diffusion.one_call import one_call_losses
from geotdm_fast.families import build_diffusion, is_ays
from geotdm_fast.model import Model
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.sampling import sample_to_folder
from geotdm_fast.training.pairs import open_pairs

# How the teacher draws, unless it is told otherwise: the calls that forecasts are measured with.
TEACHER_CALLS = 5
# Trajectories of data.val that a student is validated on.
VALIDATED = 256
# Pairs by which the student's step is chosen, and among how many steps.
LOOKED_AT, GRID = 128, 20
# What a student's training has of its own; all else is its teacher's.
TRAINING: dict[str, Any] = {
    "num_epochs": None, "num_steps": 1500, "max_minutes": None, "batch_size": 16, "optimizer": "muon", "lr": 3e-4,
    "schedule": "cosine", "lr_decay_every": None, "lr_min": 1e-5, "warmup_steps": 100, "ema_decay": 0.995,
    "rotate": False, "context_noise": 0.0, "block_history": 0, "eval": "loss", "nll_every_step": None,
    "eval_every_step": 250, "save_every_epoch": None, "final_test": False,
}  # fmt: skip


def student_config(teacher: Model, source: PathLike, folder: PathLike) -> dict:
    """The configuration, not yet normalised, of a training of a student of `teacher`.

    source: the teacher's checkpoint, which the student begins with; folder: of the run, where the pairs go
    Network, task and data are the teacher's, windows of history but for those of the model; `TRAINING` has the rest.
    Raises ValueError for a teacher that can have no student, naming why.
    """
    check_teacher(teacher)
    config = copy.deepcopy(
        {name: dict(teacher.config[name]) for name in ("data", "denoise_model", "diffusion", "train")}
    )
    blocks = config["train"].get("block_history", 0)
    for section in config["data"].values():
        for key in ("span", "num_frames"):
            if blocks and type(section.get(key)) is int and section[key] > teacher.num_frames:
                section[key] = teacher.task.without_history(section[key], blocks)
    config["diffusion"]["calls"] = 1
    config["train"] |= {**TRAINING, "exp_name": f"{config['train'].get('exp_name', 'model')}_student"}
    config["train"]["start_from"] = str(source)
    config["distill"] = {"pairs": (pathlib.Path(folder) / "pairs").as_posix()}
    return config


def check_teacher(teacher: Model) -> None:
    """ValueError for a model that can have no student."""
    if is_ays(teacher.config):
        raise ValueError(
            f"distill: the teacher must be a GeoTDM or a flow, got {teacher.name}, a model of Align Your Structures"
        )
    if teacher.diffusion.calls is not None:
        raise ValueError(f"distill: the teacher must be a model of all steps, got {teacher.name}, a student itself")
    if teacher.task.tells_noise:
        raise ValueError(
            f"distill: the teacher must not be told of noise on its given frames (train.context_noise_told), got "
            f"{teacher.name}, which is"
        )
    if "train" not in teacher.config["data"]:
        raise ValueError(f"distill: the configuration of {teacher.name} must have a section data.train, got none")


def draw_pairs(
    teacher: Model,
    config: Mapping,
    *,
    num_pairs: int,
    num_graphs: int | None = None,
    seed: int = 1,
    method: str | None = None,
    steps: int | None = None,
    spacing: str = "uniform",
    batch_size: int | None = None,
    restart: bool = False,
    ours: Processes | None = None,
    progress: bool = True,
) -> None:
    """Have the teacher draw what a student learns from, into the folder `distill.pairs` of the student's `config`.

    num_pairs: draws of data.train: its trajectories, of more than num_pairs so many, evenly spaced, each drawn so often
        that there are at least num_pairs. Of data.val, if the configuration has it, one draw of at most `VALIDATED`
    num_graphs: of so many trajectories of data.train, evenly spaced; None: of all
    seed: of the noise of training pairs, seed + 1 of those of validation; noise and draws are those of `sample`
    method, steps, spacing: of the teacher, by default its method for few calls in 5 (or all, of a model of less). Noise
        must not be added on the way: then a draw does not follow from the noise that it began with
    ours, batch_size, restart, progress: as for `sample_to_folder`, which writes `train` and `val`: what is there is not
        drawn again
    Raises ValueError for a method that adds noise, and as `sample_to_folder` does.
    """
    config = normalise_config(config)
    steps = min(TEACHER_CALLS, teacher.diffusion.num_timesteps) if steps is None else steps
    sampler = teacher.sampler(method or teacher.diffusion.fast_method, steps, spacing)
    if sampler.plan.is_random:
        raise ValueError(
            "distill: the teacher's method must add no noise on the way, so that a draw follows from the noise that it "
            f"begins with, got {sampler.method}"
        )
    sections = {f"data.{name}": config["data"][name] for name in ("train", "val") if name in config["data"]}
    for where, dataset in open_datasets(sections, progress=progress).items():
        split = where.removeprefix("data.")
        wanted = num_pairs if split == "train" else min(VALIDATED, len(dataset))
        dataset = dataset.spread(num_graphs) if split == "train" else dataset
        chosen = teacher.dataset(dataset.spread(wanted), "distill")
        sample_to_folder(
            pathlib.Path(config["distill"]["pairs"]) / split,
            sampler,
            collate(chosen),
            chosen,
            teacher.task,
            num_samples=-(-wanted // len(chosen)),
            seed=seed + (split == "val"),
            checkpoint=teacher.name,
            batch_size=batch_size,
            restart=restart,
            ours=ours,
            progress=progress,
        )


def nearest_step(teacher: Model, config: Mapping) -> int | None:
    """The step at which one call of the teacher is nearest to what it draws in several; None of a flow: the prior.

    config: of the student, whose pairs are there. The mean squared distance of the scored nodes over `LOOKED_AT` pairs
    counts, of `GRID` steps. Deterministic.
    """
    if isinstance(teacher.diffusion, Flow):
        return None
    config = normalise_config(config)
    dataset = open_datasets({"data.train": config["data"]["train"]}, progress=False)["data.train"]
    pairs = open_pairs(pathlib.Path(config["distill"]["pairs"]) / "train", dataset, teacher.task)
    numbers = torch.tensor(evenly_spaced(len(pairs.dataset), LOOKED_AT))
    batch = collate([pairs.dataset[i] for i in numbers.tolist()])
    x_start, model_kwargs = teacher.task.split(batch.to(teacher.device, teacher.diffusion.dtype))
    model_kwargs = teacher.diffusion.with_graph(model_kwargs)
    noise = pairs.noise(numbers, batch.batch, *x_start.shape[1:]).to(x_start)
    total = teacher.diffusion.num_timesteps
    steps = sorted({total - 1 - i * total // GRID for i in range(GRID)})
    section = config["diffusion"]
    losses = []
    with evaluating(teacher.network), torch.no_grad():
        for step in steps:
            student = build_diffusion(teacher.network, {"diffusion": section | {"call_step": step}}, teacher.device)
            loss = one_call_losses(student, x_start, model_kwargs, noise)["loss"]
            losses.append(float(loss[batch.scored].mean()))
    return steps[losses.index(min(losses))]


def distill(
    source: PathLike,
    folder: PathLike,
    *,
    num_pairs: int,
    device: torch.device | str | None = None,
    progress: bool = True,
    **train: Any,
) -> pathlib.Path:
    """Make a student of the teacher `source` in `folder`, and return its checkpoint.

        student = geotdm_fast.load(distill("nbody_charged_small", "student", num_pairs=10000))

    source: what `Model.load` takes; num_pairs: as for `draw_pairs`
    train: keys of the section `train` in place of `TRAINING`'s and the teacher's, such as num_steps=2000
    What is in the folder is gone on with. Raises as `student_config`, `draw_pairs` and `training.train` do.
    """
    from geotdm_fast.checkpoint_paths import checkpoint_file
    from geotdm_fast.training import train as run

    teacher = Model.load(source, device=device)
    config = student_config(teacher, checkpoint_file(str(source)), folder)
    config["train"] |= train
    draw_pairs(teacher, config, num_pairs=num_pairs, progress=progress)
    config["diffusion"]["call_step"] = nearest_step(teacher, config)
    return run(config, output_dir=folder, device=device, progress=progress)
