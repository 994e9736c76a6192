"""Checks of tensors at the border: an error names the place, the argument, what was expected and what came.

Shapes, dtypes and devices are checked on every call. Values (NaN, an index out of range) are checked where a loop
begins, and on the CPU on every call from outside; on CUDA no more than that, because reading them waits for the device.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from geotdm_fast.runtime.shown import shown


def check_tensor(
    where: str, name: str, value: object, shape: tuple[int | str, ...], *, integer: bool | None = None
) -> Tensor:
    """`value`, or TypeError / ValueError unless it is a tensor of `shape`; letters stand for any size.

    integer: True for an index (int64 or int32), False for a floating-point tensor, None for either
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{where}: {name} must be a tensor {_written(shape)}, got {type(value).__name__}")
    check_shape(where, name, value.shape, shape)
    # Smaller integers are no indices to PyTorch, and uint8 is a mask.
    if integer is True and value.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{where}: {name} must be int64, got {value.dtype}")
    if integer is False and not value.is_floating_point():
        raise TypeError(f"{where}: {name} must be floating point, got {value.dtype}")
    return value


def check_shape(where: str, name: str, came: Sequence[int], shape: tuple[int | str, ...]) -> None:
    """Raise ValueError unless the sizes `came` are those of `shape`; letters stand for any size."""
    came = list(came)
    fits = [isinstance(size, str) or size == other for size, other in zip(shape, came, strict=False)]
    if len(came) != len(shape) or not all(fits):
        raise ValueError(f"{where}: {name} must be {_written(shape)}, got {came}")


def _written(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def check_same_device(where: str, **tensors: object) -> None:
    """Raise ValueError unless tensors and graphs are all on the device of the first; what has none is passed over."""
    devices = {name: getattr(value, "device", None) for name, value in tensors.items()}
    present = [(name, device) for name, device in devices.items() if isinstance(device, torch.device)]
    first, expected = present[0]
    for name, device in present[1:]:
        if device != expected:
            raise ValueError(f"{where}: {name} must be on {expected} like {first}, got {device}")


def check_same_dtype(where: str, name: str, value: Tensor, weight: Tensor) -> None:
    """Raise TypeError unless `value` has the dtype of the network's `weight` (or autocast takes care of it)."""
    if value.dtype != weight.dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(f"{where}: {name} must be {weight.dtype} like the network, got {value.dtype}")


def check_whole(where: str, name: str, value: object) -> int:
    """`value` as an int; TypeError unless it is a whole number, also of NumPy or a tensor of one, and no bool."""
    return as_whole(f"{where}: {name}", value)


def as_whole(called: str, value: object) -> int:
    """`check_whole` of what a message calls `called`."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{called} must be a whole number, got {shown(value)}")
    return int(value)


def check_window(where: str, window: object) -> None:
    """Raise TypeError / ValueError unless `window` is None (all frames) or how many frames away is seen, 0 or more."""
    if window is None:
        return
    if not isinstance(window, int) or isinstance(window, bool):
        raise TypeError(f"{where}: window must be an integer or None, got {shown(window)}")
    if window < 0:
        raise ValueError(f"{where}: window must be at least 0, got {window}")


def check_finite(where: str, name: str, value: Tensor) -> None:
    """Raise ValueError if a floating-point tensor holds NaN or Inf, naming the first place. Waits for the device."""
    # The sum shows both, by one operation in place of six; it may be infinite where all numbers are finite but large.
    if math.isfinite(value.detach().sum()):
        return
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{where}: {name} must be finite, got {value[tuple(place)].item()} at index {place}")


def check_graph(
    where: str,
    num_nodes: int,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    num_frames: int | None = None,
) -> None:
    """Shapes and dtypes of a graph of `num_nodes` nodes; edge_attr is [E, A], or [E, A, num_frames]."""
    check_tensor(where, "edge_index", edge_index, (2, "E"), integer=True)
    if edge_attr is not None:
        time_axis = ("T" if num_frames is None else num_frames,) if getattr(edge_attr, "ndim", 2) == 3 else ()
        check_tensor(where, "edge_attr", edge_attr, (edge_index.shape[1], "A", *time_axis))
    if batch is not None:
        check_tensor(where, "batch", batch, (num_nodes,), integer=True)


def check_graph_values(where: str, num_nodes: int, edge_index: Tensor | None, batch: Tensor | None) -> None:
    """Indices in range, `batch` ascending from 0, no edge between two graphs. Waits for the device.

    edge_index: None where a graph stands in its place
    """
    if edge_index is not None:
        check_index(where, "edge_index", edge_index, num_nodes)
    if batch is None or batch.numel() == 0:
        return
    graph = _numbers(batch)
    if graph[0] < 0 or (graph[1:] < graph[:-1]).any():
        raise ValueError(f"{where}: batch must ascend from 0, got {graph[:8].tolist()}...")
    if edge_index is None:
        return
    row, col = _numbers(edge_index)
    crossing = graph[row] != graph[col]
    if crossing.any():
        edge = int(crossing.nonzero()[0][0])
        pair = [int(row[edge]), int(col[edge])]
        graphs = [int(graph[node]) for node in pair]
        raise ValueError(f"{where}: edge_index must stay within graphs, got edge {edge} from {pair} of graphs {graphs}")


def _numbers(index: Tensor) -> np.ndarray | Tensor:
    """`index` to compute with: on the CPU numpy takes a fifth of torch's time for a few numbers."""
    return index.detach().numpy() if index.device.type == "cpu" else index.long()


def check_not_traced(where: str, reference: bool) -> None:
    """TypeError where torch records what the network does, and cannot. reference: whether the reference runs."""
    if torch.compiler.is_exporting():
        raise TypeError(f"{where}: torch.export cannot follow cond_mask, whose values are read; use torch.compile")
    if torch.jit.is_tracing() and not reference:
        raise TypeError(
            f"{where}: torch.jit.trace and ONNX cannot follow the compiled operations; trace it within "
            'backend("reference"), for the edges and the mask that it is traced with, or use torch.compile'
        )


def check_index(where: str, name: str, index: Tensor, size: int) -> None:
    """Raise ValueError unless every entry of `index` is in 0..size-1. Waits for the device."""
    if index.numel() == 0:
        return
    numbers = _numbers(index)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= size:
        raise ValueError(f"{where}: {name} must be in 0..{size - 1}, got {low if low < 0 else high}")


_trusted = contextvars.ContextVar("geotdm_fast_trusted", default=False)


@contextlib.contextmanager
def trusted() -> Iterator[None]:
    """Within the block values are not checked: a loop has checked its input, and what it draws from there is its own.

    An untrained network may diverge; its samples come back as they are, on the CPU as on CUDA.
    """
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """Whether this runs in a `trusted` block."""
    return _trusted.get()


def reads_values(tensor: Tensor) -> bool:
    """Whether values are to be checked: on the CPU, and not under `torch.compile`, `torch.func` or in `trusted`."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not is_trusted() and not is_transformed()


def is_transformed() -> bool:
    """Whether a transform of `torch.func` or a level of forward-mode differentiation is active."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
