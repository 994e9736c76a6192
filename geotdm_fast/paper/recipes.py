"""What each experiment trains, draws and scores: the paper's settings, and small ones for a CPU."""

from collections.abc import Iterable
from typing import NamedTuple

from geotdm_fast.config.files import RECOMMENDED, normalise_config, override
from geotdm_fast.data.pedestrian import SCENES
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.step_subsets import SPACINGS
from geotdm_fast.paper.data import data_of
from geotdm_fast.paper.request import Request, check_request, is_molecule, is_pedestrian, trains_on_windows
from geotdm_fast.paper.simulations import SIMULATIONS, STRUCTURE, is_simulation, simulation_config
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.scores.published import INTERPOLATION, UNCONDITIONAL

# Steps of 16 graphs (pedestrians: 64) that fit into 20 minutes on two cores with AVX2 alone.
_SMALL_STEPS = {
    "charged": 13000, "springs": 13000, "gravity": 4800, "md:ethanol": 6200, "md:malonaldehyde": 6200,
    **dict.fromkeys(SCENES, 5000),
}  # fmt: skip
# Forecasts of bodies, which train on every window of a system: up to half an hour on two cores with AVX-512.
_SMALL_STEPS_OF_WINDOWS = {"charged": 40000, "springs": 8000, "gravity": 18000}
_SMALL_STEPS_ELSE = 2900


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
    check_request(request)
    small, two_stages = request.preset == "small", False
    if is_simulation(request.experiment):
        raw = simulation_config(request.experiment, request.seed)
        two_stages = STRUCTURE in raw
    else:
        raw = _network_and_training(request, small)
    sections, label = data_of(request)
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
    windows = trains_on_windows(request)
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
