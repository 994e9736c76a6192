"""What an exact resume needs, in one file: weights, averaged weights, Adam's moments, and where the run is."""

import json
import pathlib
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from geotdm_fast.checkpoint import load_tensors, save_tensors
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import TrajectoryDataset
from geotdm_fast.runtime.shown import plain, shown
from geotdm_fast.training.step import TrainingStep

STATE_FILE = "state.safetensors"
FORMAT = "geotdm_fast training state 2"

# Settings that may differ when a run is resumed: they change how long it runs and what it writes, not the steps.
FREE = {
    "train": {
        "exp_name", "output_base_path", "num_epochs", "num_steps", "max_minutes", "eval", "eval_batch_size",
        "eval_every_epoch", "eval_every_step", "eval_graphs", "nll_every_step", "log_every_step",
        "checkpoint_every_steps", "checkpoint_every_minutes", "save_model", "save_every_epoch", "final_test",
        "final_test_ckpt", "K", "cluster", "logger", "cuda_graph", "cuda_graph_sizes",
    },
    # Where the training data lie is free; that they are the same data is checked by their fingerprint.
    "data.train": {"root", "path", "molecule", "cache"},
    # A resume has its weights from the state, and there which of them are frozen.
    "denoise_model": {"pretrain_ckpt"},
}  # fmt: skip


@dataclass
class Progress:
    """Where a run is.

    step: optimiser steps done
    seconds: time spent training so far, over all restarts
    best: the best validation value, None before the first
    validated_step: the step of the last validation; nll_step: of the last by the NLL beside it
    log_records: lines of log.jsonl written
    summed_steps: steps since the last line of the log, whose losses are summed but not yet written
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    validated_step: int = 0
    nll_step: int = 0
    log_records: int = 0
    summed_steps: int = 0


def save_state(
    path: pathlib.Path, progress: Progress, sums: Tensor, step: TrainingStep, config: Mapping, fingerprint: str
) -> None:
    """Write the state, atomically. sums: [2] float64 - loss and gradient norm summed over `summed_steps`."""
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(asdict(progress)),
        "config": json.dumps(config),
        "fingerprint": fingerprint,
    }
    if step.weights.frozen:
        metadata["frozen"] = json.dumps(step.weights.frozen)
    save_tensors(path, step.named_state() | {"sums": sums}, metadata)


def load_state(path: pathlib.Path, step: TrainingStep, config: Mapping, fingerprint: str) -> tuple[Progress, Tensor]:
    """Restore weights, which of them are frozen, average and moments of `step` in place; return progress and sums.

    Raises ValueError for a corrupt or foreign file, for a config that would train differently, and for other data.
    """
    hint = f"start anew (resume=False, `train --no-resume`, `distill --restart`), which discards {path.parent}'s run"
    try:
        tensors, metadata = load_tensors(path)
    except ValueError as error:
        raise ValueError(f"cannot resume from {path}: {error}; {hint}") from error
    try:
        if metadata["format"] != FORMAT:
            raise KeyError("format")
        saved = json.loads(metadata["progress"])
        earlier = json.loads(metadata["config"])
        progress = Progress(**{field.name: saved[field.name] for field in fields(Progress)})
        _check_progress(progress)
        frozen = _names(json.loads(metadata.get("frozen", "[]")))
        if not frozen and config["denoise_model"].get("freeze_spatial"):
            raise KeyError("frozen")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"cannot resume from {path}: not a training state of this version ({plain(error)}); {hint}"
        ) from error
    check_same_training(earlier, config, where=f"cannot resume from {path}", hint=hint)

    def validated(c):
        val = c["data"].get("val")
        # Where its frames are kept changes no value.
        val = val if val is None else {key: value for key, value in val.items() if key != "cache"}
        return (val, c["train"]["eval"], c["train"]["eval_graphs"])

    if validated(earlier) != validated(config):
        progress.best = None
    if metadata.get("fingerprint") != fingerprint:
        raise ValueError(f"cannot resume from {path}: data.train must be the data that the run began with; {hint}")
    own = step.named_state()
    different = sorted(own.keys() ^ (tensors.keys() - {"sums"}))
    expected = own | {"sums": step.sums}
    different += [n for n, value in expected.items() if n in tensors and tensors[n].shape != value.shape]
    if different or "sums" not in tensors:
        came = plain(", ".join(different[:3])) or "no sums"
        raise ValueError(f"cannot resume from {path}: the tensors do not fit the model ({came}); {hint}")
    broken = [name for name in expected if not bool(torch.isfinite(tensors[name]).all())]
    if broken:
        raise ValueError(f"cannot resume from {path}: {broken[0]} must be finite, got NaN or Inf; {hint}")
    try:
        step.weights.freeze(frozen)
    except ValueError as error:
        raise ValueError(f"cannot resume from {path}: {error}; {hint}") from error
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
    step.mark_changed()
    return progress, tensors["sums"]


def _names(came: object) -> list[str]:
    if not (isinstance(came, list) and all(isinstance(name, str) for name in came)):
        raise ValueError(f"frozen must be a list of names, got {shown(came)}")
    return came


def _check_progress(progress: Progress) -> None:
    """ValueError for a progress that no run makes: it would resume elsewhere, or never keep the best weights again."""
    counts = {name: value for name, value in asdict(progress).items() if name not in ("seconds", "best")}
    for name, value in counts.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} must be a whole number of at least 0, got {shown(value)}")
        if name != "log_records" and value > progress.step:
            raise ValueError(f"{name} must be at most the step {shown(progress.step)}, got {shown(value)}")
    for name, value in (("seconds", progress.seconds), ("best", 0.0 if progress.best is None else progress.best)):
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            raise ValueError(f"{name} must be a finite number, got {shown(value)}")


def check_same_training(earlier: Mapping, config: Mapping, *, where: str, hint: str) -> None:
    """Raise ValueError naming the first setting that changes the training and differs from the earlier run's.

    A setting that the earlier run does not know, because there was none, had what is its default now.
    """
    earlier = normalise_config(earlier, where=where)
    pairs = [("data.train", earlier["data"]["train"], config["data"]["train"])]
    pairs += [(name, earlier[name], config[name]) for name in ("denoise_model", "diffusion", "train")]
    for section, before, now in pairs:
        for key in [*before, *(k for k in now if k not in before)]:
            if key not in FREE.get(section, ()) and before.get(key) != now.get(key):
                expected = f"must be {shown(before.get(key))} as when the run began"
                raise ValueError(f"{where}: {section}.{key} {expected}, got {shown(now.get(key))}; {hint}")


def fingerprint(dataset: TrajectoryDataset, *, with_atoms: bool = False) -> str:
    """A short text that differs for other training data: the count, and a checksum of eight trajectories.

    with_atoms: of their features and edges too, for data that have these of a file beside the positions
    """
    count = len(dataset)
    checksum = 0
    for i in sorted({k * (count - 1) // 7 for k in range(8)}):
        item = dataset[i]
        atoms = (item.h, item.edge_index, item.edge_attr) if with_atoms else ()
        for values in (item.x, item.conditions, *atoms):
            if values is not None:
                checksum = zlib.crc32(values.contiguous().numpy().tobytes(), checksum)
    return f"{count} trajectories, crc32 {checksum:08x}"
