"""What runs around the compiled ops keeps the dtype that it is given."""

import contextlib

import torch


def no_autocast(device_type: str) -> contextlib.AbstractContextManager:
    """A block whose products are float32, also within `torch.autocast`; entering the latter costs, so only there."""
    enabled = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else contextlib.nullcontext()
