"""What each experiment trains, draws and scores: the paper's settings, and small ones for a CPU."""

import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from geotdm_fast.config.files import RECOMMENDED, normalise_config, override
from geotdm_fast.data.md17 import molecule_path
from geotdm_fast.data.nbody import official_files
from geotdm_fast.data.pedestrian import PHASES, SCENES, has_validation, is_papers_test_set
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.step_subsets import SPACINGS
from geotdm_fast.paper.simulations import (
    SIMULATIONS,
    STRUCTURE,
    is_simulation,
    simulation_config,
    simulation_sections,
)
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.scores.published import CONDITIONAL, INTERPOLATION, UNCONDITIONAL

SYSTEMS = ("charged", "springs", "gravity")
TASKS = (CONDITIONAL, UNCONDITIONAL, INTERPOLATION)
PRESETS = ("paper", "small")
MOLECULE = "md:"
MD17_MOLECULES = (
    "aspirin", "benzene", "ethanol", "malonaldehyde", "naphthalene", "salicylic", "toluene", "uracil",
)  # fmt: skip

_NUM_SYSTEMS = {"train": 3000, "val": 256, "test": 2000}
# The official generator's names of splits, and the rest of its suffixes.
_OFFICIAL_SPLIT = {"train": "train", "val": "valid", "test": "test"}
_OFFICIAL_SYSTEM = {
    "charged": "charged5_initvel1",
    "springs": "springs5_initvel1",
    "gravity": "gravity10_initvel1",
}
# Steps of 16 graphs (pedestrians: 64) that fit into 20 minutes on two cores with AVX2 alone.
_SMALL_STEPS = {
    "charged": 13000, "springs": 13000, "gravity": 4800, "md:ethanol": 6200, "md:malonaldehyde": 6200,
    **dict.fromkeys(SCENES, 5000),
}  # fmt: skip
# Forecasts of bodies, which train on every window of a system: up to half an hour on two cores with AVX-512.
_SMALL_STEPS_OF_WINDOWS = {"charged": 40000, "springs": 8000, "gravity": 18000}
_SMALL_STEPS_ELSE = 2900
# What the official code multiplies the scene's metres by before it scores ("the same as EqMotion").
_TEST_SCALE = {"eth": 1.4}


@dataclass(frozen=True)
class Request:
    """What is to be reproduced.

    experiment: charged, springs, gravity, md:<molecule>, eth, hotel, univ, zara1, zara2, or one of `SIMULATIONS`
    task: conditional, unconditional or interpolation (pedestrians and `SIMULATIONS`: conditional alone)
    preset: `paper`, or `small` for two cores and half an hour (`SIMULATIONS`, which are not the paper's: small alone)
    data: folder of the official N-body files (None: simulated), of the recordings, or folder or file of the molecule;
        file of a simulation
    every: keep every so-manieth frame of a molecule; None: 10 for MD17's own files (md17_*.npz), else 1
    label: what the data are, for the tables; None: by the experiment and the files' names
    overrides: `section.key=value` texts, as for `geotdm train --set`
    num_graphs, num_samples, method, steps, spacing: of the samples; None: as the preset says
    seed: of training and samples
    """

    experiment: str
    task: str = CONDITIONAL
    preset: str = "paper"
    data: str | None = None
    every: int | None = None
    label: str | None = None
    overrides: tuple[str, ...] = ()
    num_graphs: int | None = None
    num_samples: int | None = None
    method: str | None = None
    steps: int | None = None
    spacing: str | None = None
    seed: int = 1

    @property
    def changes(self) -> tuple[str, ...]:
        """What is asked for beside the preset, as one types it: `section.key=value`, `--option value`."""
        options = ("every", "num_graphs", "num_samples", "method", "steps", "spacing")
        asked = {name: getattr(self, name) for name in options}
        if self.seed != type(self).seed:
            asked["seed"] = self.seed
        typed = (f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if value is not None)
        return (*self.overrides, *typed)


class Draw(NamedTuple):
    """One set of samples.

    protocol: its name in the scores
    chosen_on_test: whether its checkpoint is chosen by scores on the test set (the official pedestrian protocol)
    num_samples: K for each graph; kmeans: how many representatives are scored too, or None
    """

    protocol: str
    chosen_on_test: bool
    num_samples: int
    kmeans: int | None


class Recipe(NamedTuple):
    """config: of the training, in normal form; draws: the sets of samples; scores: as for `evaluation.evaluate`;
    num_graphs: test graphs drawn for, evenly spaced, None for all; method, steps, spacing: of the `Sampler`;
    data: their name; structure: configuration of the structure model that is trained before, None where there is none.
    """

    config: dict
    draws: tuple[Draw, ...]
    scores: tuple[str, ...]
    num_graphs: int | None
    method: str
    steps: int | None
    spacing: str
    data: str
    structure: dict | None


def recipe(request: Request) -> Recipe:
    """Everything that `request` asks for, checked.

    Raises ValueError for what does not exist or does not fit, FileNotFoundError for data that are not there.
    """
    _check(request)
    small, two_stages = request.preset == "small", False
    if is_simulation(request.experiment):
        raw = simulation_config(request.experiment, request.seed)
        two_stages = STRUCTURE in raw
    else:
        raw = _network_and_training(request, small)
    sections, label = _data(request)
    raw["data"] = sections
    # What changes the data changes them in both stages, and structure.data.* in the first alone.
    of_first_stage = [text for text in request.overrides if text.strip().startswith(f"{STRUCTURE}.")]
    _check_no_recommendation(request.overrides)
    for text in request.overrides:
        if text not in of_first_stage:
            override(raw, text)
    if two_stages:
        raw[STRUCTURE]["data"] = _single_frames(raw["data"])
    for text in of_first_stage:
        override(raw, text)
    _without_unused_prior(raw, request.overrides)
    where = f"reproduce {request.experiment}"
    structure = normalise_config(raw.pop(STRUCTURE), where=f"{where}: {STRUCTURE}") if two_stages else None
    config = normalise_config(raw, where=where)
    diffusion = config["diffusion"]
    method, steps, spacing = _sampling(request, diffusion.get("kind", "gaussian"))
    steps = _checked_steps(request.steps or steps, request.steps is not None, diffusion["num_timesteps"])
    if small and diffusion.get("calls") is None:
        config[RECOMMENDED] = {"method": method, "steps": steps, "spacing": spacing}  # what it is scored by
    return Recipe(
        config=config,
        draws=_draws(request),
        scores=("marginal", "classification", "prediction") if request.task == UNCONDITIONAL else ("ade",),
        num_graphs=request.num_graphs or (_small_num_graphs(request) if small else None),
        method=method,
        steps=steps,
        spacing=spacing,
        data=request.label or label,
        structure=structure,
    )


def _check_no_recommendation(overrides: Iterable[str]) -> None:
    """Raise ValueError for a key of the section `sampling`: a checkpoint recommends what it is scored by."""
    for text in overrides:
        if text.strip().startswith(f"{RECOMMENDED}."):
            raise ValueError(
                f"reproduce: how samples are drawn must be asked for by --method, --steps and --spacing, got '{text}'"
            )


def _single_frames(sections: dict) -> dict:
    """The same data one frame a window; a split that is left out by null stays so."""
    return {split: None if section is None else section | {"span": 1} for split, section in sections.items()}


def is_pedestrian(experiment: str) -> bool:
    """Whether the experiment is a scene of ETH/UCY."""
    return experiment in SCENES


def is_molecule(experiment: str) -> bool:
    """Whether the experiment is a molecule, md:<name>."""
    return experiment.startswith(MOLECULE)


def _check(request: Request) -> None:
    known = (*SYSTEMS, *SCENES, *SIMULATIONS)
    if request.experiment in MD17_MOLECULES:
        raise ValueError(f"reproduce: experiment must be md:{request.experiment} for the molecule of that name")
    if not is_molecule(request.experiment):
        check_choice("reproduce: experiment (or md:<molecule>)", request.experiment, known)
    elif request.experiment == MOLECULE:
        raise ValueError("reproduce: md: must name a molecule, as in md:ethanol")
    check_choice("reproduce: task", request.task, TASKS)
    check_choice("reproduce: preset", request.preset, PRESETS)
    if is_pedestrian(request.experiment) and request.task != CONDITIONAL:
        raise ValueError(f"reproduce: pedestrians have the task conditional alone, got '{request.task}'")
    if is_simulation(request.experiment) and (request.task, request.preset) != (CONDITIONAL, "small"):
        raise ValueError(
            f"reproduce: {request.experiment} has the task conditional and the preset small alone (--preset small), "
            f"got '{request.task}' and '{request.preset}'"
        )
    if request.every is not None and not is_molecule(request.experiment):
        raise ValueError("reproduce: every is of molecules alone")


def _network_and_training(request: Request, small: bool) -> dict:
    """The sections denoise_model, diffusion and train."""
    experiment, conditional = request.experiment, request.task != UNCONDITIONAL
    node_dim, edge_dim = (30, 4) if is_molecule(experiment) else (1, 1)
    num_w = 20
    if is_pedestrian(experiment):
        node_dim, edge_dim, num_w = 2, 0, 12
    narrow = small or is_pedestrian(experiment)
    network = {
        "n_layers": 4 if narrow else 6,
        "node_dim": node_dim,
        "edge_dim": edge_dim,
        "hidden_dim": 64 if narrow else 128,
        "time_emb_dim": 32,
        "learn_ref_frame": conditional,
        "n_layers_ref": 2,
        "num_w": num_w,
        "pre_norm": is_pedestrian(experiment),
    }
    diffusion = {
        "beta_schedule_name": "linear",
        "num_timesteps": 100 if narrow else 1000,
        "mode": "cond" if conditional else "uncond",
    }
    train = {"exp_name": experiment.replace(":", "_"), "seed": request.seed, "clip": 1.0, "log_every_step": 20}
    train |= _frames(request)
    train |= _small_training(request) if small else _paper_training(request)
    if small and conditional:
        # In a short training x_0 is learnt far faster than the noise; but without given frames the noise serves better.
        diffusion["model_mean_type"] = "start_x"
    return {"denoise_model": network, "diffusion": diffusion, "train": train}


def _frames(request: Request) -> dict:
    if request.task == UNCONDITIONAL:
        return {"tot_len": 20}
    if request.task == INTERPOLATION:
        return {"cond_mask": [[0, 5], [25, 30]]}
    return {"cond_mask": [[0, 8 if is_pedestrian(request.experiment) else 10]]}


def _paper_training(request: Request) -> dict:
    """Adam at a constant rate; pedestrians: times 0.8 every 10 epochs."""
    if is_pedestrian(request.experiment):
        return {
            "num_epochs": 100, "batch_size": 100, "eval_batch_size": 1024, "lr": 5e-4, "schedule": "step",
            "lr_decay_every": 10, "lr_decay": 0.8, "eval_every_epoch": 2, "save_every_epoch": 10,
        }  # fmt: skip
    epochs = 4000
    if is_molecule(request.experiment):
        epochs = 8000 if request.task == UNCONDITIONAL else 5000
    return {
        "num_epochs": epochs, "batch_size": 128, "eval_batch_size": 256, "lr": 1e-4, "eval_every_epoch": 100,
    }  # fmt: skip


def _small_training(request: Request) -> dict:
    """Many small steps: a rate that falls along a cosine, averaged weights, products in bfloat16.

    The figures behind optimiser and rate are in bench/NOTES.md. Muon has Adam's loss in a third of the steps. But one
    window of each system of few bodies is learnt by heart (charged: as low a loss in training, a higher one in
    validation), so there Adam stays, at a small rate. Of all windows Muon learns more.
    """
    windows = _trains_on_windows(request)
    by_heart = request.experiment in ("charged", "springs") and request.task != UNCONDITIONAL and not windows
    rate = 1e-3 if by_heart else 5e-3 if request.experiment == "gravity" else 3e-3
    pedestrian = is_pedestrian(request.experiment)
    steps = _SMALL_STEPS_OF_WINDOWS if windows else _SMALL_STEPS
    return {
        "precision": "bf16", "optimizer": "adam" if by_heart else "muon", "lr": rate, "schedule": "cosine",
        "lr_min": 1e-5, "warmup_steps": 200, "ema_decay": 0.999,
        "num_steps": steps.get(request.experiment, _SMALL_STEPS_ELSE), "batch_size": 64 if pedestrian else 16,
        "eval_batch_size": 128, "eval_every_epoch": 2 if pedestrian else 3,
        "eval_every_step": 2000 if windows else None, "save_every_epoch": 3 if pedestrian else None,
        "checkpoint_every_minutes": 2.0,
    }  # fmt: skip


def _trains_on_windows(request: Request) -> bool:
    """Whether the training has all windows of a system, not the first alone."""
    return request.experiment in SYSTEMS and request.preset == "small" and request.task == CONDITIONAL


def _sampling(request: Request, kind: str) -> tuple[str, int | None, str]:
    """Method, steps and spacing, the preset's if none are asked for. ValueError for those that are not of the kind."""
    methods, spacings = (FLOW_SOLVERS, FLOW_SPACINGS) if kind == "flow" else (METHODS, SPACINGS)
    if request.spacing is not None:
        check_choice("reproduce: spacing", request.spacing, spacings)
    if request.method is not None:
        check_choice("reproduce: method", request.method, methods)
        return request.method, None, request.spacing or "uniform"
    if kind == "flow":
        method, steps, spacing = _flow_sampling(request)
        return method, steps, request.spacing or spacing
    return *_gaussian_sampling(request), request.spacing or "uniform"


def _flow_sampling(request: Request) -> tuple[str, int | None, str]:
    """Few calls, as flows are made for, most of them near the prior (docs/flow.md)."""
    return ("euler", 100, "uniform") if request.task == UNCONDITIONAL else ("euler", 5, "early")


def _gaussian_sampling(request: Request) -> tuple[str, int | None]:
    """The paper's ancestral sampling, or for small models a solver of second order.

    Forecasts by DPM-Solver++: five steps cost a twentieth and forecast better (docs/steps.md), by the best of 20
    samples, too: 800 windows of zara1 gave .245 by 5 steps, .252 by 8; 200 windows .27 to .28 by 20 and .32 by 100
    ancestral ones. Gravity, 200 validation systems, mean and best of 5: .339 and .304 by 5 steps, .297 and .280 by 2,
    .288 and .284 by 1. Without given frames by the solver of the SDE in 100 steps, on validation data: ancestral steps
    of the large variance leave noise of .03 angstrom on an ethanol's bonds, and charged particles had classification
    .44 by them, .59 by the solver.
    """
    if is_simulation(request.experiment):
        return "dpmpp_2m", SIMULATIONS[request.experiment].steps
    if request.preset == "paper":
        return "ddpm", None
    if request.task == UNCONDITIONAL:
        return "dpmpp_2m_sde", 100
    return "dpmpp_2m", 2 if request.experiment == "gravity" else 5


def _checked_steps(steps: int | None, asked_for: bool, num_timesteps: int) -> int | None:
    """A preset's steps are at most the model's; more that were asked for are an error before anything is trained."""
    if steps is None or steps <= num_timesteps:
        return steps
    if asked_for:
        raise ValueError(f"reproduce: steps must be in 1..{num_timesteps}, the model's steps, got {steps}")
    return num_timesteps


def _small_num_graphs(request: Request) -> int | None:
    # The best of 20 differs by .015 from seed to seed on 200 windows.
    if is_pedestrian(request.experiment):
        return 1000
    if is_simulation(request.experiment):
        return SIMULATIONS[request.experiment].num_graphs
    if request.task == UNCONDITIONAL:
        # The published score is of all systems, and the marginal score falls with their number.
        return None if request.experiment == "charged" else 500
    # Close encounters weigh much: 200 systems came out .013 (4 %) worse than all 2000.
    return None if request.experiment == "gravity" else 200


def _draws(request: Request) -> tuple[Draw, ...]:
    if is_pedestrian(request.experiment):
        clean = Draw("clean", False, request.num_samples or 20, None)
        # The official code draws 60 for each person and keeps 20 k-means representatives of where they end.
        num_samples = 3 * clean.num_samples
        return clean, Draw("official", True, num_samples, clean.num_samples)
    default = 1 if request.task == UNCONDITIONAL else 5
    if is_simulation(request.experiment):
        default = SIMULATIONS[request.experiment].num_samples
    return (Draw("official", False, request.num_samples or default, None),)


def _without_unused_prior(raw: dict, overrides: Iterable[str]) -> None:
    """Leave the learned prior's network out where another prior is asked for, unless it is asked for by name."""
    prior = raw["diffusion"].get("prior")
    named = any(text.replace(" ", "").startswith("denoise_model.learn_ref_frame=") for text in overrides)
    if prior not in (None, "learned") and not named:
        raw["denoise_model"]["learn_ref_frame"] = False


# --- data ---------------------------------------------------------------------------------------------------------


def _data(request: Request) -> tuple[dict, str]:
    """The data sections of all splits, and what the data are."""
    project = {"project": True} if request.task == UNCONDITIONAL else {}
    num_frames = 20 if request.task == UNCONDITIONAL else 30
    if is_pedestrian(request.experiment):
        return _pedestrian_data(request)
    if is_simulation(request.experiment):
        return _simulation_data(request)
    if is_molecule(request.experiment):
        return _molecule_data(request, {"span": num_frames, **project})
    return _nbody_data(request, {"num_frames": num_frames, **project})


def _nbody_data(request: Request, about: dict) -> tuple[dict, str]:
    sections = {}
    for split, num_systems in _NUM_SYSTEMS.items():
        section = {"kind": "nbody", "system": request.experiment, "split": split, "num_systems": num_systems, **about}
        if request.data is not None:
            suffix = f"{_OFFICIAL_SPLIT[split]}_{_OFFICIAL_SYSTEM[request.experiment]}"
            if not official_files(request.data, suffix, request.experiment):
                raise FileNotFoundError(
                    f"reproduce: {request.data} must hold loc_{suffix}.npy; without data the systems are simulated"
                )
            section |= {"root": request.data, "suffix": suffix}
        sections[split] = section
    if _trains_on_windows(request):
        sections["train"]["stride"] = 1
    return sections, "simulated" if request.data is None else "files of the official generator"


def _molecule_data(request: Request, about: dict) -> tuple[dict, str]:
    molecule = request.experiment.removeprefix(MOLECULE)
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: a folder with md17_{molecule}.npz, or an .npz")
    path = pathlib.Path(request.data)
    if path.suffix != ".npz":
        path = molecule_path(path, molecule)
    is_md17 = path.name.startswith("md17_")
    every = request.every or (10 if is_md17 else 1)
    section = {"kind": "md17", "path": path.as_posix(), "down_sample_every": every, **about}
    # As the official code does, 256 windows tell which weights are the best.
    sections = {split: section | {"split": split} for split in ("train", "val", "test")}
    sections["val"] |= {"num_windows": 256}
    return sections, f"{path.name}, by its name MD17" if is_md17 else f"{path.name}, not MD17"


def _simulation_data(request: Request) -> tuple[dict, str]:
    known = SIMULATIONS[request.experiment]
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: an .npz: {known.made_by}")
    path = pathlib.Path(request.data)
    return simulation_sections(request.experiment, path.as_posix()), f"{path.name}: {known.about}"


def _pedestrian_data(request: Request) -> tuple[dict, str]:
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: the folder of the recordings (train, all_data)")
    root = pathlib.Path(request.data)
    scene = {"kind": "pedestrian", "root": root.as_posix(), "dataset": request.experiment, "traj_scale": 1.0}
    sections = {split: scene | {"phase": phase} for phase, split in PHASES.items()}
    sections["test"]["traj_scale"] = _TEST_SCALE.get(request.experiment, 1.0)
    # The best weights are chosen on other scenes, so the test scene stays unseen; on training windows if need be.
    if not has_validation(root, request.experiment):
        del sections["val"]
    known = is_papers_test_set(root, request.experiment)
    return sections, "ETH/UCY recordings" if known else f"recordings in {root.name}, not those of ETH/UCY"
