"""Checks of tensors at the border: an error names the place, the argument, what was expected and what came.

Shapes, dtypes and devices are checked on every call. Values (NaN, an index out of range) are checked on every call on
the CPU, and on CUDA only where a loop begins, because reading them waits for the device.
"""

import torch
from torch import Tensor


def check_tensor(
    where: str, name: str, value: object, shape: tuple[int | str, ...], *, integer: bool | None = None
) -> None:
    """Raise TypeError / ValueError unless `value` is a tensor of `shape`; letters stand for any size.

    integer: True for an index, False for a floating-point tensor, None for either
    """
    expected = "[" + ", ".join(str(size) for size in shape) + "]"
    if not isinstance(value, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor {expected}, got {type(value).__name__}")
    matches = value.dim() == len(shape) and all(
        isinstance(size, str) or size == came for size, came in zip(shape, value.shape, strict=True)
    )
    if not matches:
        raise ValueError(f"{where}: {name} must be {expected}, got {list(value.shape)}")
    if integer is True and (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        raise TypeError(f"{where}: {name} must hold integers, got {value.dtype}")
    if integer is False and not value.is_floating_point():
        raise TypeError(f"{where}: {name} must be floating point, got {value.dtype}")


def check_same_device(where: str, **tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on the device of the first; None is passed over."""
    present = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first, reference = present[0]
    for name, tensor in present[1:]:
        if tensor.device != reference.device:
            raise ValueError(f"{where}: {name} must be on {reference.device} like {first}, got {tensor.device}")


def check_finite(where: str, name: str, value: Tensor) -> None:
    """Raise ValueError if a floating-point tensor holds NaN or Inf, naming the first place. Waits for the device."""
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{where}: {name} must be finite, got {value[tuple(place)].item()} at index {place}")


def check_graph(where: str, num_nodes: int, edge_index: Tensor, edge_attr: Tensor | None, batch: Tensor | None) -> None:
    """Shapes and dtypes of a graph of `num_nodes` nodes."""
    check_tensor(where, "edge_index", edge_index, (2, "E"), integer=True)
    if edge_attr is not None:
        num_edges, shape = edge_index.shape[1], tuple(getattr(edge_attr, "shape", ()))
        if len(shape) not in (2, 3) or shape[0] != num_edges:
            came = list(shape) or type(edge_attr).__name__
            raise ValueError(f"{where}: edge_attr must be [{num_edges}, A] or [{num_edges}, A, T], got {came}")
    if batch is not None:
        check_tensor(where, "batch", batch, (num_nodes,), integer=True)


def check_graph_values(where: str, num_nodes: int, edge_index: Tensor, batch: Tensor | None) -> None:
    """Indices in range and `batch` ascending from 0. Waits for the device."""
    check_index(where, "edge_index", edge_index, num_nodes)
    if batch is None or batch.numel() == 0:
        return
    if int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any()):
        raise ValueError(f"{where}: batch must ascend from 0, got {batch.tolist()[:8]}...")


def check_index(where: str, name: str, index: Tensor, size: int) -> None:
    """Raise ValueError unless every entry of `index` is in 0..size-1. Waits for the device."""
    if index.numel() == 0:
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= size:
        raise ValueError(f"{where}: {name} must be in 0..{size - 1}, got {low if low < 0 else high}")


def reads_values(tensor: Tensor) -> bool:
    """Whether values can be checked on every call: on the CPU and outside `torch.compile`."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
