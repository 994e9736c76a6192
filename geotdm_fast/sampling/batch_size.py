"""How many trajectories to draw at once."""

import gc
from collections.abc import Callable

import torch

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.runtime.memory import FAILURES, is_out_of_memory

# Node-frames of a batch on the CPU, 32 systems of 5 x 30 or 7 windows of aspirin: the tensors stay in cache
# (measured per graph: 32 systems 6.9 ms, 8 systems 7.8, 128 systems 9.7, on one contended core).
NODE_FRAMES_CPU = 4_800
# Node-frames of a batch on CUDA where nothing is measured, and of a shard, which no batch goes beyond.
NODE_FRAMES_CUDA = 524_288
# Node-frames of a shard on the CPU: a kill costs a minute or so.
NODE_FRAMES_SHARD_CPU = 10 * NODE_FRAMES_CPU
# Trajectories of the larger probe; so many or fewer are drawn at once without measuring.
PROBE = 64
# The part of the free memory that a batch may fill: the allocator's blocks do not fit each other exactly.
FILL = 0.85


def default_batch_size(batch: Batch, device: torch.device) -> int:
    """Graphs per batch such that it holds about 4,800 node-frames (CPU) or 520,000 (CUDA), at least one."""
    return graphs_of(NODE_FRAMES_CUDA if device.type == "cuda" else NODE_FRAMES_CPU, batch)


def default_shard_size(batch: Batch, device: torch.device) -> int:
    """Trajectories per shard: ten batches on the CPU, one of 520,000 node-frames on CUDA."""
    return graphs_of(NODE_FRAMES_CUDA if device.type == "cuda" else NODE_FRAMES_SHARD_CPU, batch)


def graphs_of(node_frames: int, batch: Batch) -> int:
    """How many graphs of `batch`'s mean size have so many nodes times frames, at least one."""
    return max(1, int(node_frames * batch.num_graphs // (batch.x.shape[0] * batch.x.shape[-1])))


def measured_batch_size(draw: Callable[[int], object], most: int, device: torch.device) -> int:
    """The largest number of trajectories, at most `most`, that fits the free memory of a CUDA device.

    draw: draws so many trajectories in a few steps; called with 1 and with `PROBE`
    Memory is taken to grow linearly between and beyond the two, by the peaks of PyTorch's allocator; `FILL` of what is
    free now may be used. Where even the probe does not fit, smaller ones are tried.
    """
    if most <= PROBE:
        return most
    few, many = 1, PROBE
    first = _peak(draw, few, device)
    while many > few:
        try:
            last = _peak(draw, many, device)
            break
        except FAILURES as error:
            if not is_out_of_memory(error):
                raise
        many //= 2  # outside of the handler, whose traceback holds the tensors
    else:
        return few
    free = _free(device)
    return extrapolated_batch_size(few, first, many, last, FILL * free, most)


def extrapolated_batch_size(few: int, first: float, many: int, last: float, budget: float, most: int) -> int:
    """The number at which the line through (few, first) and (many, last) reaches `budget` bytes, in 1 ... most."""
    slope = max(last - first, 1.0) / (many - few)
    return int(min(max(few + (budget - first) / slope, 1), most))


def _peak(draw: Callable[[int], object], size: int, device: torch.device) -> int:
    """Bytes that `draw(size)` needed at once, beyond those that were taken before."""
    _free(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    draw(size)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _free(device: torch.device) -> int:
    """Bytes that are free on the device after PyTorch has given back what it keeps."""
    release_memory(device)
    return torch.cuda.mem_get_info(device)[0]


def release_memory(device: torch.device) -> None:
    """Let go of what nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
