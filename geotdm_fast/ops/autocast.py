"""Switches `torch.autocast` off around compiled ops, which choose their own precision."""

import contextlib

import torch


def no_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """A context in which products keep the dtype of their factors, even within `torch.autocast`.

    device_type: `cpu` or `cuda`. Outside of autocast this is an empty context, since entering autocast takes time.
    """
    enabled = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else _NOTHING


_NOTHING = contextlib.nullcontext()
