"""The learning rate of a step."""

import math
from collections.abc import Mapping
from typing import cast


def learning_rate(train: Mapping, step: int, steps_per_epoch: int, total_steps: int | None) -> float:
    """The learning rate of step `step` (from 0).

    none: lr.  step: lr * lr_decay^(e // lr_decay_every) in epoch e = 1, 2, ... (the official pedestrian trainer).
    cosine: from lr at step 0 to lr_min at `total_steps`. All grow linearly from 0 over `warmup_steps`.
    """
    lr = train["lr"]
    if train["schedule"] == "step":
        epoch = step // steps_per_epoch + 1
        lr *= train["lr_decay"] ** (epoch // train["lr_decay_every"])
    elif train["schedule"] == "cosine":
        done = min(step / cast(int, total_steps), 1.0)
        lr = train["lr_min"] + (lr - train["lr_min"]) * 0.5 * (1 + math.cos(math.pi * done))
    if step < train["warmup_steps"]:
        lr *= (step + 1) / train["warmup_steps"]
    return lr


def total_steps(train: Mapping, steps_per_epoch: int) -> int | None:
    """The first of train.num_steps and train.num_epochs in steps; None if only max_minutes ends the run."""
    limits = [train["num_steps"], train["num_epochs"] and train["num_epochs"] * steps_per_epoch]
    return min((limit for limit in limits if limit is not None), default=None)
