"""Every setting of a configuration, in tables: its kind, its default, what it means; and the check of a section."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geotdm_fast.runtime.choices import check_choice, check_keys
from geotdm_fast.runtime.shown import shown

REQUIRED = object()
# What torch and numpy take for a whole number.
_MOST_WHOLE = 2**63 - 1
# Widths and layers beyond these are slips of the keyboard, and allocated or built for hours before that is noticed.
_MOST_LAYERS, _MOST_WIDTH = 1000, 1_000_000
# Diffusion steps, as diffusion/schedules.py has it, which this room does not import.
MOST_STEPS = 100_000


@dataclass(frozen=True)
class Setting:
    """One setting of a section: its kind, what it is when left out, and what it means.

    kind: `int`, `float`, `bool`, `str`, `ranges` (list of [first, last + 1] frame pairs), `name` (string or integer),
        `graph` (what `graphs.GraphSpec.parse` takes) `conditions` (what `conditions.Conditions.parse` takes)
        or `mapping` (any keys and values)
    default: the value when the key is left out, or REQUIRED
    nullable: whether null is allowed; it always is where it is the default
    least, most: the smallest and the largest value allowed, for numbers
    """

    kind: str
    default: Any
    doc: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    nullable: bool = False
    most: float = float("inf")


DENOISE_MODEL = {
    "n_layers": Setting("int", REQUIRED, "pairs of a spatial and a temporal layer", least=1, most=_MOST_LAYERS),
    "node_dim": Setting("int", REQUIRED, "node features F", least=0, most=_MOST_WIDTH),
    "edge_dim": Setting("int", REQUIRED, "edge features A", least=0, most=_MOST_WIDTH),
    "hidden_dim": Setting("int", REQUIRED, "hidden width H", least=1, most=_MOST_WIDTH),
    "time_emb_dim": Setting("int", REQUIRED, "width of the diffusion step's embedding", least=4, most=_MOST_WIDTH),
    "act_fn": Setting("str", "silu", "activation", choices=("silu",)),
    "learn_ref_frame": Setting("bool", REQUIRED, "learn the prior's mean with a second small network"),
    "n_layers_ref": Setting("int", 2, "layers of the prior network", least=0, most=_MOST_LAYERS),
    "num_w": Setting(
        "int", REQUIRED, "frames to predict (the learned prior has one weight each)", least=1, most=_MOST_WIDTH
    ),
    "scale": Setting("float", 1.0, "positions are multiplied by this inside the network"),
    "pre_norm": Setting("bool", False, "distances instead of squared distances, coordinates not normalised"),
    "spatial": Setting("str", "egcl", "layer over the graph of a frame", choices=("egcl",)),
    "temporal": Setting(
        "str", "attention", "layer over time", choices=("attention", "convolution", "linear_attention")
    ),
    "relative_time": Setting("bool", True, "attention knows how far frames are apart"),
    "window": Setting("int", None, "layers over time reach so many frames (null: all; convolution: 2)", least=0),
    "cutoff": Setting("float", None, "edges count less the longer they are, and nothing from this length on", least=0),
    "envelope": Setting("str", "polynomial", "how edges count within the cutoff", choices=("polynomial",)),
    "graph": Setting("graph", None, "edges by distance (null: as data.train.graph says)"),
    "conditions": Setting(
        "conditions",
        None,
        "{name: [low, high]} numbers that the network is told, and their ranges (null: those of data.train.conditions)",
    ),
}

DIFFUSION = {
    "kind": Setting("str", "gaussian", "gaussian: diffusion, as published; flow: flow matching, docs/flow.md",
                    choices=("gaussian", "flow")),
    "beta_schedule_name": Setting("str", "linear", "noise schedule, by name"),
    "num_timesteps": Setting("int", REQUIRED, "diffusion steps S; of a flow the scale of its time", least=1,
                             most=MOST_STEPS),
    "mode": Setting("str", "cond", "forecast or interpolate given frames, or generate", choices=("cond", "uncond")),
    "rescale_timesteps": Setting("bool", None, "tell the network steps on a scale of 1000 (pedestrians: true)"),
    "prior": Setting(
        "str", None, "prior's mean (null: as learn_ref_frame says, else com, of a flow walk); of a flow last_frame, "
        "learned, velocity, which goes on from the last given frame, or walk, a random walk from there",
        choices=("learned", "com", "com_last", "last_frame", "none", "walk", "velocity"),
    ),
    "sigma": Setting("float", None, "flow: noise of the prior, of each step of a walk, in the unit of the stored "
                     "positions (null: 1)", least=0),
    "time_power": Setting("float", None, "flow: training draws times S (1 - (1 - u)^p) of uniform u, with more of them "
                          "near the prior the larger p is (null: 1)", least=0),
    "model_mean_type": Setting(
        "str", None, "what the network predicts (null: epsilon, of a flow start_x); a flow also displacement, velocity",
        choices=("epsilon", "start_x", "previous_x", "displacement", "velocity"),
    ),
    "model_var_type": Setting(
        "str", "fixed_large", "the reverse steps' variance", choices=("fixed_large", "fixed_small")
    ),
    "calls": Setting("int", None, "a student draws in so many calls of the network: of `geotdm distill`, with the "
                     "section distill (null: a model of all steps)", least=1, most=1),
    "call_step": Setting("int", None, "the step that a student's call is one of, counted from 0; of a diffusion alone "
                         "(null: the last)", least=0),
}  # fmt: skip

TRAIN = {
    "exp_name": Setting("name", REQUIRED, "name of the run; the output folder is output_base_path/exp_name"),
    "output_base_path": Setting("str", "outputs", "folder of all runs"),
    "seed": Setting("int", 0, "weights, data order, diffusion steps and noise all follow from it", least=0),
    "start_from": Setting("str", None, "weights to begin with: a checkpoint of the same sizes, the folder of a "
                          "training or a model that comes with the package; null: drawn by the seed"),
    "cond_mask": Setting("ranges", None, "conditional: frame ranges [first, last + 1] that are given"),
    "tot_len": Setting("int", None, "unconditional: the first frames that are generated", least=1),
    "num_epochs": Setting("int", None, "passes over the training data", least=1),
    "epoch": Setting("str", "windows", "what an epoch takes: every window once, or as many windows as data.train.path "
                     "has files (runs), as Align Your Structures counts", choices=("windows", "runs")),
    "num_steps": Setting("int", None, "stop after so many steps (the first of all limits counts)", least=1),
    "max_minutes": Setting("float", None, "stop cleanly, with a checkpoint, after so many minutes", least=0),
    "batch_size": Setting("int", 128, "graphs per step, over all processes", least=1),
    "accumulate": Setting("int", 1, "parts that a process's share of a batch goes through the network in, for less "
                          "memory; their gradients add up", least=1),
    "rotate": Setting("bool", False, "turn every trajectory of a batch by a random rotation; the network is "
                      "equivariant, so this changes rounding alone"),
    "context_noise": Setting("float", 0.0, "noise on the given frames, of a level up to this (unit of the stored "
                             "positions), anew for each graph and step: rollouts drift less", least=0),
    "context_noise_told": Setting("bool", False, "tell the network the level of context_noise, as one more node "
                                  "feature: node_dim is 1 larger then"),
    "block_history": Setting("int", 0, "blocks of history: windows of data.train have so many blocks more, and in some "
                             "steps the model's own forecast of these ends in the given frames; 0: off", least=0),
    "block_history_share": Setting("float", 0.5, "the share of steps in which it does, by chance", least=0, most=1),
    "block_history_level": Setting("float", 1.0, "the forecast begins from the truth, noised by a share of the "
                                   "diffusion steps of U[0, this]; a small one stays near it", least=0, most=1),
    "eval_batch_size": Setting("int", 256, "graphs per validation batch", least=1),
    "optimizer": Setting("str", "adam", "adam, as the official code; muon moves matrices by their orthogonalised "
                         "momentum: fewer steps to the same loss", choices=("adam", "muon")),
    "weight_decay": Setting("float", 0.0, "matrices shrink by lr x weight_decay a step", least=0),
    "lr": Setting("float", 1e-4, "learning rate", least=0),
    "schedule": Setting("str", None, "learning rate over time; none: constant (null: step if lr_decay_every is "
                        "given, else none)", choices=("none", "step", "cosine")),
    "lr_decay_every": Setting("int", None, "schedule step: epochs between two decays", least=1),
    "lr_decay": Setting("float", 0.8, "schedule step: the factor of a decay", least=0),
    "lr_min": Setting("float", 0.0, "schedule cosine: the last learning rate", least=0),
    "warmup_steps": Setting("int", 0, "steps of linear growth of the learning rate from 0", least=0),
    "clip": Setting("float", 1.0, "largest norm of the gradient; 0: no limit", least=0),
    "ema_decay": Setting("float", 0.0, "decay of the averaged weights that are saved for use; 0: off", least=0),
    "precision": Setting("str", "fp32", "what the factors of matrix products are rounded to; weights, sums and "
                         "moments of gradients stay float32", choices=("fp32", "tf32", "bf16")),
    "cuda_graph": Setting("bool", True, "on CUDA, capture the step"),
    "cuda_graph_sizes": Setting("int", 16, "where trajectories have graphs of different size, batches are padded to "
                                "about so many sizes, and so many captured steps are kept; where a coin gives frames "
                                "or none, to half as many sizes with two steps each", least=1),
    "eval": Setting("str", "loss", "validation by the loss with fixed noise, or by the NLL (S times dearer)",
                    choices=("loss", "nll")),
    "eval_every_epoch": Setting("int", 1, "epochs between two validations", least=1),
    "eval_every_step": Setting("int", None, "steps between two validations, instead of eval_every_epoch", least=1),
    "eval_graphs": Setting("int", None, "validate on the first so many trajectories; null: on all", least=1),
    "nll_every_step": Setting("int", None, "steps between two validations by the NLL beside those by the loss, which "
                              "choose the best weights", least=1),
    "log_every_step": Setting("int", 20, "steps between two lines of log.jsonl", least=1),
    "logger": Setting("str", "none", "where the numbers of log.jsonl go as well; tensorboard and wandb are packages of "
                      "their own, and extras of this one", choices=("none", "tensorboard", "wandb")),
    "checkpoint_every_steps": Setting("int", None, "steps between two checkpoints", least=1),
    "checkpoint_every_minutes": Setting("float", 5.0, "minutes between two checkpoints; null: by steps only", least=0,
                                        nullable=True),
    "save_model": Setting("bool", True, "keep epoch_<n>.safetensors every save_every_epoch epochs"),
    "save_every_epoch": Setting("int", None, "epochs between two kept checkpoints; null: none are kept", least=1),
    "final_test": Setting("bool", False, "training looks at no test data; true: it ends with the command that does"),
    "final_test_ckpt": Setting("name", "best", "what `geotdm evaluate FOLDER` scores: best, last or an epoch"),
    "K": Setting("int", 5, "samples per trajectory of `geotdm evaluate`", least=1),
    "cluster": Setting("bool", False, "`geotdm evaluate` also scores the best of 20 k-means representatives"),
}  # fmt: skip

DISTILL = {
    "pairs": Setting("str", REQUIRED, "folder of a teacher's draws, train and val, as `geotdm distill` makes it"),
    "teacher": Setting("mapping", None, "what drew them; training fills it in from the folder"),
}

SAMPLING = {
    "method": Setting("str", REQUIRED, "how the model is best drawn, and is where no other method is asked for: ddpm, "
                      "ddim, dpmpp_2m, dpmpp_2m_sde; of a flow euler, heun, ab2"),
    "steps": Setting("int", None, "in so many calls of the network (null: in diffusion.num_timesteps)", least=1),
    "spacing": Setting("str", "uniform", "which steps: uniform, quadratic, log_snr; of a flow uniform, quadratic, "
                       "early"),
}  # fmt: skip

EVAL = {
    "train_exp_name": Setting("name", REQUIRED, "name of the training run"),
    "model_ckpt": Setting("name", "best", "best, last or an epoch"),
    "eval_exp_name": Setting("name", None, "name of the results (null: train_exp_name + '_eval')"),
    "output_base_path": Setting("str", "outputs", "folder of all runs"),
    "cond_mask": Setting("ranges", None, "frame ranges that are given (null: as in training)"),
    "cond": Setting("bool", None, "conditional sampling (null: as in training)"),
    "seed": Setting("int", 0, "the samples follow from it", least=0),
    "model": Setting("str", "GeoTDM", "the model", choices=("GeoTDM",)),
    "batch_size": Setting("int", 128, "graphs per batch", least=1),
    "sampling_timesteps": Setting("int", None, "diffusion steps (null: as the model is drawn by default)", least=1),
    "K": Setting("int", 1, "samples per trajectory", least=1),
}


def fill(section: Any, table: Mapping[str, Setting], where: str) -> dict:
    """The settings of `table` as `section` gives them, checked, the others at their defaults.

    Raises ValueError naming the key, what was expected and what came; for an unknown key the nearest one.
    """
    section = as_section(section, where)
    check_keys(where, section, table)
    filled = {}
    for key, setting in table.items():
        if key in section:
            filled[key] = _checked(section[key], setting, f"{where}.{key}")
        elif setting.default is REQUIRED:
            raise ValueError(f"{where}: required key '{key}' ({setting.doc}) is missing")
        else:
            filled[key] = setting.default
    return filled


def _checked(value: Any, setting: Setting, where: str) -> Any:
    if value is None:
        if setting.default is not None and not setting.nullable:
            raise ValueError(f"{where} must be {_expected(setting)}, got nothing")
        return None
    value = _converted(value, setting, where)
    if setting.choices:
        check_choice(where, value, setting.choices)
    if setting.least is not None and not value >= setting.least:
        raise ValueError(f"{where} must be at least {setting.least:g}, got {value:g}")
    most = min(setting.most, _MOST_WHOLE) if setting.kind == "int" else setting.most
    if setting.kind in ("int", "float") and value > most:
        raise ValueError(f"{where} must be at most {most}, got {shown(value)}")
    return value


def converted(section: Mapping, table: Mapping[str, Setting], where: str) -> dict:
    """`section` with every value of the kind that `table` says; unlike `fill` it adds nothing and sets no bounds.

    Raises ValueError naming the key, what was expected and what came.
    """

    def unset(key: str, value: object) -> bool:
        return key not in table or (value is None and table[key].default is None)

    return {k: v if unset(k, v) else _converted(v, table[k], f"{where}.{k}") for k, v in section.items()}


def _converted(value: Any, setting: Setting, where: str) -> Any:
    kind = setting.kind
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "float") and not isinstance(value, bool):
        number = value
        if isinstance(value, str):
            # YAML 1.1 reads 1e-4 (no point) as text.
            with contextlib.suppress(ValueError):
                number = float(value)
        if isinstance(number, (int, float)) and abs(number) < float("inf"):
            if kind == "float":
                return float(number)
            if isinstance(number, int) or number.is_integer():
                return int(number)
    if kind in ("str", "name") and isinstance(value, str) and value:
        return value
    if kind == "name" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "graph" and isinstance(value, (str, Mapping)):
        return value if isinstance(value, str) else dict(value)
    if kind == "mapping" and isinstance(value, Mapping):
        return dict(value)
    if kind == "conditions" and isinstance(value, Mapping):
        from geotdm_fast.conditions import Conditions  # which imports torch

        told = Conditions.parse(value, where)
        return None if told is None else told.as_config()
    if kind == "ranges" and _are_ranges(value):
        return [list(pair) for pair in value]
    raise ValueError(f"{where} must be {_expected(setting)}, got {describe(value)}")


def _are_ranges(value: Any) -> bool:
    whole = lambda i: isinstance(i, int) and not isinstance(i, bool)
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(whole, pair)) for pair in value)
        and all(0 <= first < last for first, last in value)
    )


def as_section(value: Any, where: str) -> Mapping:
    """`value` if it is a mapping, else ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a section of keys and values, got {describe(value)}")
    return value


def _expected(setting: Setting) -> str:
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
        "name": "a name or a number",
        "graph": "bonds, complete, {radius: ...} or {knn: ...}",
        "conditions": "{name: [low, high]}",
        "mapping": "a section of keys and values",
        "ranges": "a list of frame ranges [[first, last + 1], ...]",
    }
    return f"one of {', '.join(setting.choices)}" if setting.choices else words[setting.kind]


def describe(value: Any) -> str:
    """A value of a configuration in an error message."""
    return "nothing" if value is None else f"{type(value).__name__} {shown(value)}"


def manual() -> str:
    """All settings as text, for `geotdm train --keys`."""
    tables = {"denoise_model": DENOISE_MODEL, "diffusion": DIFFUSION, "train": TRAIN}
    return tables_as_text(tables | {"sampling": SAMPLING, "distill": DISTILL})


def tables_as_text(tables: Mapping[str, Mapping[str, Setting]]) -> str:
    """The settings of sections, one a line."""
    lines = []
    for section, table in tables.items():
        lines.append(f"{section}:")
        for key, setting in table.items():
            default = "required" if setting.default is REQUIRED else f"default {_as_written(setting.default)}"
            lines.append(f"  {key:<25} {setting.doc} ({_expected(setting)}; {default})")
        lines.append("")
    return "\n".join(lines)


def _as_written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
