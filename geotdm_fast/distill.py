"""A student that draws in one call: a teacher's draws as pairs of noise and trajectory, and a training on them."""

import copy
import datetime
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch

from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.config.files import normalise_config, read_yaml
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.data.trajectory import collate, evenly_spaced
from geotdm_fast.diffusion import Flow, Sampler
from geotdm_fast.diffusion.one_call import one_call_losses
from geotdm_fast.diffusion.sampler_options import OptionNames
from geotdm_fast.families import build_diffusion, is_ays
from geotdm_fast.model import Model
from geotdm_fast.nn.egtn import EGTN
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.bars import say
from geotdm_fast.runtime.choices import require_sections
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.processes import Processes, processes
from geotdm_fast.runtime.shown import shown
from geotdm_fast.sampling import sample_to_folder
from geotdm_fast.sampling.batches import check_counts
from geotdm_fast.task import without_history
from geotdm_fast.training import train as run_training
from geotdm_fast.training.pairs import adds_noise, open_pairs

# How the teacher draws, unless it is told otherwise: the calls that forecasts are measured with.
TEACHER_CALLS = 5
# Trajectories of data.val that a student is validated on.
VALIDATED = 256
# Pairs by which the student's step is chosen, and among how many steps.
LOOKED_AT, GRID = 128, 20
# What errors call the arguments that say how the teacher draws.
NAMES = OptionNames.of("distill")
# The slowest of several processes may draw for long.
PATIENCE = datetime.timedelta(days=7)
# What a student's configuration has of its teacher's.
SECTIONS = ("data", "denoise_model", "diffusion", "train")
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
    Network, task and data are the teacher's. Windows of data.train and data.val with history (`train.block_history`)
    are cut to those of the model. `data.train.ratio` is left out with a warning: pairs are drawn of all trajectories
    alike. `TRAINING` has the rest.
    Raises ValueError for a teacher that can have no student, naming why, and for the folder that `source` is in.
    """
    check_teacher(teacher)
    if pathlib.Path(source).resolve().parent == pathlib.Path(folder).resolve():
        raise ValueError(
            f"distill: folder (--out) must be another folder than that of the teacher {source}, got {folder}"
        )
    config = copy.deepcopy({name: dict(teacher.config[name]) for name in SECTIONS})
    for split in config["data"].keys() & {"train", "val"}:
        config["data"][split] = without_history(config["data"][split], teacher.config)
    has_ratio = config["data"]["train"].pop("ratio", None) is not None
    if has_ratio and os.environ.get("RANK", "0") == "0":  # of the processes of torchrun one alone says it
        warnings.warn(
            "distill: data.train.ratio of the teacher is left out: the student learns from all trajectories alike",
            stacklevel=2,
        )
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
    graph = cast(EGTN, bare(teacher.network)).graph_spec
    if not teacher.task.is_conditional and graph is not None and graph.of == "given":
        raise ValueError(
            "distill: the teacher must be given frames where its edges are by distance in these (denoise_model.graph "
            f"with of: given), got {teacher.name}, which is given none: its edges change from call to call"
        )
    require_sections(f"distill: the configuration of {teacher.name}", teacher.config, *SECTIONS)
    if "train" not in teacher.config["data"]:
        raise ValueError(f"distill: the configuration of {teacher.name} must have a section data.train, got none")


def pairs_sampler(
    teacher: Model,
    method: str | None = None,
    steps: int | None = None,
    spacing: str = "uniform",
    names: OptionNames = NAMES,
) -> Sampler:
    """What draws the pairs; method, steps and spacing as for `draw_pairs`.

    names: what the messages of errors call the options. Raises as `Sampler`, and ValueError for one that adds noise.
    """
    method = teacher.diffusion.fast_method if method is None else method
    steps = min(TEACHER_CALLS, teacher.diffusion.num_timesteps) if steps is None else steps
    sampler = teacher.sampler(method, steps, spacing, names=names)
    if sampler.plan.is_random:
        raise ValueError(adds_noise(names.method, sampler.method))
    return sampler


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
    num_graphs: at most so many trajectories of data.train, evenly spaced; None: all
    seed: of the noise of training pairs, seed + 1 of those of validation; noise and draws are those of `sample`
    method, steps, spacing: of the teacher, by default its method for few calls in 5 (or all, of a model of less). Noise
        must not be added on the way: then a draw does not follow from the noise that it began with
    ours, batch_size, restart, progress: as for `sample_to_folder`, which writes `train` and `val`: what is there is not
        drawn again
    Raises ValueError for a count below 1, a seed above 2^64 - 2 and a method that adds noise; as `sample_to_folder`.
    """
    check_counts("distill", num_pairs=num_pairs, num_graphs=num_graphs, seed=seed)
    config = normalise_config(config)
    if not seed + 1 < 2**64:
        raise ValueError(
            f"distill: seed must be at most 2^64 - 2, since the pairs of validation have seed + 1, got {shown(seed)}"
        )
    sampler = pairs_sampler(teacher, method, steps, spacing)
    sections = {f"data.{name}": config["data"][name] for name in ("train", "val") if name in config["data"]}
    for where, dataset in open_datasets(sections, progress=progress).items():
        split = where.removeprefix("data.")
        wanted = num_pairs if split == "train" else min(VALIDATED, len(dataset))
        # One choice of evenly spaced trajectories, so that their number alone says which they are.
        most = wanted if num_graphs is None or split == "val" else min(wanted, num_graphs)
        chosen = teacher.dataset(dataset.spread(most), "distill")
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
    counts, of `GRID` steps; the network gets at most train.batch_size pairs at once. Deterministic.
    """
    if isinstance(teacher.diffusion, Flow):
        return None
    config = normalise_config(config)
    dataset = open_datasets({"data.train": config["data"]["train"]}, progress=False)["data.train"]
    pairs = open_pairs(pathlib.Path(config["distill"]["pairs"]) / "train", dataset, teacher.task)
    total, section = teacher.diffusion.num_timesteps, config["diffusion"]
    steps = sorted({total - 1 - i * total // GRID for i in range(GRID)})
    students = [
        build_diffusion(teacher.network, {"diffusion": section | {"call_step": step}}, teacher.device) for step in steps
    ]
    summed = [0.0] * len(steps)
    looked_at = torch.tensor(evenly_spaced(len(pairs.dataset), LOOKED_AT))
    with evaluating(teacher.network), torch.no_grad():
        for numbers in looked_at.split(config["train"]["batch_size"]):
            batch = collate([pairs.dataset[i] for i in numbers.tolist()])
            x_start, model_kwargs = teacher.task.split(batch.to(teacher.device, teacher.diffusion.dtype))
            model_kwargs = teacher.diffusion.with_graph(model_kwargs)
            noise = pairs.noise(numbers, batch.batch, *x_start.shape[1:]).to(x_start)
            for i, student in enumerate(students):
                loss = one_call_losses(student, x_start, model_kwargs, noise)["loss"]
                summed[i] += float(loss[batch.scored].sum(dtype=torch.float64))
    return steps[summed.index(min(summed))]


def make_student(
    teacher: Model,
    config: Mapping,
    folder: PathLike,
    *,
    ours: Processes,
    num_pairs: int,
    restart: bool = False,
    progress: bool = True,
    **draws: Any,
) -> pathlib.Path:
    """Draw the pairs, choose the step of the call where the configuration leaves it open, train; the student's file.

    config: what `student_config` made for `folder`, perhaps changed. A folder whose config.yaml is of a student has the
        step already
    restart: discard pairs and training of the folder; draws: further options of `draw_pairs`
    Returns best.safetensors of the folder, last.safetensors where the training ended before a validation.
    Raises as `draw_pairs` and `training.train` do.
    """
    config = normalise_config(config, where="distill")
    folder = pathlib.Path(folder)
    draw_pairs(teacher, config, num_pairs=num_pairs, restart=restart, ours=ours, progress=progress, **draws)
    if config["diffusion"]["call_step"] is None:
        earlier = None if restart else ours.from_first(lambda: _earlier_step(folder))
        step = earlier if earlier is not None else ours.from_first(lambda: nearest_step(teacher, config))
        config["diffusion"]["call_step"] = step
        if ours.writes and step is not None and earlier is None:
            say(f"diffusion.call_step {step}: at this step one call of {teacher.name} is nearest to its draws")
    last = run_training(config, output_dir=folder, device=ours.device, resume=not restart, progress=progress)
    best = last.with_name("best.safetensors")
    return best if best.is_file() else last


def _earlier_step(folder: pathlib.Path) -> int | None:
    """diffusion.call_step of the student that is trained in the folder; None where there is none."""
    path = folder / "config.yaml"
    earlier = read_yaml(path) if path.is_file() else {}
    return earlier.get("diffusion", {}).get("call_step") if earlier.get("distill") else None


def distill(
    source: PathLike,
    folder: PathLike,
    *,
    num_pairs: int,
    num_graphs: int | None = None,
    seed: int = 1,
    method: str | None = None,
    steps: int | None = None,
    spacing: str = "uniform",
    restart: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    **train: Any,
) -> pathlib.Path:
    """Make a student of the teacher `source` in `folder`, and return its file: `geotdm distill` as a function.

        student = geotdm_fast.load(distill("nbody_charged_small", "student", num_pairs=10000))

    source: what `Model.load` takes
    num_pairs, num_graphs, seed, method, steps, spacing: of the teacher's draws, see `draw_pairs`
    restart: discard the pairs and the training in the folder; else what is there is gone on with
    device: default cuda if there is one; under torchrun every process takes its own, and draws and trains its share
    train: keys of the section `train` in place of `TRAINING`'s and the teacher's, such as num_steps=2000
    Returns best.safetensors, which its validation chose; last.safetensors where there was no validation.
    Raises as `student_config`, `draw_pairs` and `training.train` do.
    """
    with processes(device, patience=PATIENCE) as ours:
        path = checkpoint_file(str(source))
        teacher = Model.load(path, device=ours.device)
        config = student_config(teacher, path, folder)
        config["train"] |= train
        return make_student(
            teacher, config, folder, ours=ours, num_pairs=num_pairs, num_graphs=num_graphs, seed=seed, method=method,
            steps=steps, spacing=spacing, restart=restart, progress=progress and ours.writes,
        )  # fmt: skip
