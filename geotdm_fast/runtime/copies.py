"""Copies to the device that nobody waits for."""

from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = TypeVar("Tree")
# Elements: a copy's own tensors begin where those that torch allocates may begin, whatever the dtype.
_ALIGNED = 128


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; from the CPU to CUDA through pinned memory, so that the host goes on at once."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def all_to_device(tree: Tree, device: torch.device) -> Tree:
    """The tensors of the CPU in named tuples, lists and so on, on `device`, whatever else is there as it is.

    For CUDA those of one dtype go in one copy: a small one costs as much as a large one. They share memory there.
    """
    leaves, spec = tree_flatten(tree)
    there = list(leaves)
    for dtype in {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor)}:
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dtype == dtype]
        if device.type != "cuda":
            moved = [leaves[i].to(device) for i in places]
        else:
            moved = _together([leaves[i] for i in places], device)
        for i, tensor in zip(places, moved, strict=True):
            there[i] = tensor
    return tree_unflatten(there, spec)


def _together(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    rooms = [-(-tensor.numel() // _ALIGNED) * _ALIGNED for tensor in tensors]
    whole = tensors[0].new_empty(sum(rooms))
    for room, tensor in zip(whole.split(rooms), tensors, strict=True):
        room[: tensor.numel()] = tensor.reshape(-1)
    parts = to_device(whole, device).split(rooms)
    return [part[: tensor.numel()].view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
