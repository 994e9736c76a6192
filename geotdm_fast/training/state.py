"""What an exact resume needs, in one file: weights, averaged weights, Adam's moments, and where the run is."""

import json
import pathlib
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor, nn

from geotdm_fast.checkpoint import load_tensors, save_tensors
from geotdm_fast.config import normalise_config
from geotdm_fast.data import TrajectoryDataset

STATE_FILE = "state.safetensors"
FORMAT = "geotdm_fast training state 1"

# Settings that may differ when a run is resumed: they change how long it runs and what it writes, not the steps.
FREE = {
    "train": {
        "exp_name", "output_base_path", "num_epochs", "num_steps", "max_minutes", "eval", "eval_batch_size",
        "eval_every_epoch", "log_every_step", "checkpoint_every_steps", "checkpoint_every_minutes", "save_model",
        "save_every_epoch", "final_test", "final_test_ckpt", "K", "cluster",
    },
    # Where the training data lie is free; that they are the same data is checked by their fingerprint.
    "data.train": {"root", "path"},
}  # fmt: skip


@dataclass
class Progress:
    """Where a run is.

    step: optimiser steps done
    seconds: time spent training so far, over all restarts
    best: the best validation value, None before the first
    validated_step: the step of the last validation
    log_records: lines of log.jsonl written
    summed_steps: steps since the last line of the log, whose losses are summed but not yet written
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    validated_step: int = 0
    log_records: int = 0
    summed_steps: int = 0


def save_state(
    path: pathlib.Path,
    progress: Progress,
    sums: Tensor,
    network: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    config: Mapping,
    fingerprint: str,
) -> None:
    """Write the state, atomically. sums: [2] float64 - loss and gradient norm summed over `summed_steps`."""
    tensors = {f"weights.{name}": value for name, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    tensors["sums"] = sums
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(asdict(progress)),
        "config": json.dumps(config),
        "fingerprint": fingerprint,
    }
    save_tensors(path, tensors, metadata)


def load_state(
    path: pathlib.Path,
    network: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    config: Mapping,
    fingerprint: str,
) -> tuple[Progress, Tensor]:
    """Restore network, average and optimizer in place; return the progress and the sums.

    Raises ValueError for a corrupt or foreign file, for a config that would train differently, and for other data.
    """
    hint = f"start anew with resume=False (--no-resume), which discards {path.parent}'s run"
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
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"cannot resume from {path}: not a training state of this version ({error}); {hint}"
        ) from error
    check_same_training(earlier, config, where=f"cannot resume from {path}", hint=hint)
    if earlier["data"].get("val") != config["data"].get("val") or earlier["train"]["eval"] != config["train"]["eval"]:
        progress.best = None
    if metadata.get("fingerprint") != fingerprint:
        raise ValueError(f"cannot resume from {path}: data.train must be the data that the run began with; {hint}")
    part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(part("weights."))
        if average is not None:
            average.load_state_dict(part("average."))
        _load_optimizer(optimizer, network, part("adam."))
        return progress, tensors["sums"]
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"cannot resume from {path}: the tensors do not fit the model ({error}); {hint}") from error


def _load_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    keys = sorted({name.split(".", 1)[0] for name in tensors})
    state = {}
    trained = (name for name, parameter in network.named_parameters() if parameter.requires_grad)
    for i, name in enumerate(trained):
        mine = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
        if mine:
            state[i] = mine
    # torch moves the moments to the parameters' devices, and keeps `step` where the optimizer wants it.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


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
                expected = f"must be {before.get(key)!r} as when the run began"
                raise ValueError(f"{where}: {section}.{key} {expected}, got {now.get(key)!r}; {hint}")


def fingerprint(dataset: TrajectoryDataset) -> str:
    """A short text that differs for other training data: the count, and a checksum of eight trajectories."""
    count = len(dataset)
    checksum = 0
    for i in sorted({k * (count - 1) // 7 for k in range(8)}):
        checksum = zlib.crc32(dataset[i].x.contiguous().numpy().tobytes(), checksum)
    return f"{count} trajectories, crc32 {checksum:08x}"
