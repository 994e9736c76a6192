"""SHA-256 of named tensors."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_sha256(tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> str:
    """SHA-256 of names, shapes, dtypes and bytes, in the order of the names; and of `texts` with their names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for name, text in sorted((texts or {}).items()):
        sha.update(f"{name} {text}".encode())
    return sha.hexdigest()
