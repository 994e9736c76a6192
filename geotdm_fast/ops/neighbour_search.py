"""The pairs of a radius graph in separate groups of points: blocks of all pairs, and a k-d tree for large groups."""

import importlib.util
import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.reference.radius_graph import squared_cutoff, squared_distances

# A block's distances stay in cache.
_PAIRS_AT_ONCE = 2**18
# The tree wins above this many points (bench/NOTES.md).
TREE_FROM = 500
# From here on all pairs take seconds.
_MANY = 10_000


def search(points: Tensor, sizes: Tensor, cutoff: float, loop: bool) -> tuple[Tensor, Tensor]:
    """The pairs at most `cutoff` apart, exactly as `geotdm_fast.reference.radius_graph` decides them.

    points: [M, D] - group after group; sizes: [G] - how many points each group has, ascending
    Returns receivers and senders [E] int64, by their places in `points`, sorted by receiver, then by sender.
    """
    limit = squared_cutoff(cutoff, points)
    sizes = sizes.tolist()
    on_cpu = points.device.type == "cpu"
    use_tree = on_cpu and bool(sizes) and sizes[-1] >= TREE_FROM and has_tree() and _squares_fit(points)
    if on_cpu and sizes and sizes[-1] >= _MANY and not has_tree():
        warnings.warn(
            f"radius_graph: without scipy every pair of {sizes[-1]} nodes is looked at, which takes seconds: "
            "pip install 'geotdm-fast[radius]'",
            stacklevel=3,
        )
    blocks = [size for size in sizes if not (use_tree and size >= TREE_FROM)]
    found = [_empty(points), *_by_blocks(points, blocks, limit, loop)]
    start = sum(blocks)
    for size in sizes[len(blocks) :]:
        row, col = _by_tree(points[start : start + size], cutoff, limit, loop)
        found.append((row + start, col + start))
        start += size
    return torch.cat([row for row, _ in found]), torch.cat([col for _, col in found])


def has_tree() -> bool:
    """Whether scipy, whose k-d tree large groups are searched with, is installed."""
    return importlib.util.find_spec("scipy") is not None


def status() -> tuple[str, str]:
    """What searches on the CPU, and why: for `geotdm doctor`."""
    if has_tree():
        return "scipy", f"a k-d tree for graphs from {TREE_FROM} nodes on the CPU; smaller ones look at all pairs"
    return "all pairs", "scipy is not installed, so large graphs are slow: pip install 'geotdm-fast[radius]'"


def _squares_fit(points: Tensor) -> bool:
    """Whether squared distances fit into the float64 of the tree, which raises an error otherwise."""
    return math.isfinite(4.0 * points.shape[1] * float(points.abs().max()) * float(points.abs().max()))


def _empty(points: Tensor) -> tuple[Tensor, Tensor]:
    none = torch.zeros(0, dtype=torch.int64, device=points.device)
    return none, none


def _by_blocks(points: Tensor, sizes: list[int], limit: Tensor, loop: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of many small groups at once, padded to the largest; of a large group, some receivers at once."""
    # The last point is nowhere, so padding is near to nothing.
    padded = torch.cat([points, points.new_full((1, points.shape[1]), math.nan)])
    first, start = 0, 0
    while first < len(sizes):
        stop = min(len(sizes), first + max(1, _PAIRS_AT_ONCE // sizes[first] ** 2))
        while stop > first + 1 and (stop - first) * sizes[stop - 1] ** 2 > _PAIRS_AT_ONCE:
            stop = max(first + 1, first + _PAIRS_AT_ONCE // sizes[stop - 1] ** 2)
        size = sizes[stop - 1]
        count = torch.tensor(sizes[first:stop], device=points.device)
        begin = start + count.cumsum(0) - count  # [B]
        within = torch.arange(size, device=points.device)
        place = torch.where(within < count[:, None], begin[:, None] + within, len(points))  # [B, S]
        block = padded[place]  # [B, S, D]
        rows_at_once = max(1, _PAIRS_AT_ONCE // size) if stop == first + 1 else size
        for row_start in range(0, size, rows_at_once):
            rows = slice(row_start, row_start + rows_at_once)
            near = squared_distances(block[:, rows, None], block[:, None]) <= limit  # [B, rows, S]
            if not loop:
                near.diagonal(row_start, dim1=1, dim2=2).zero_()
            pair = _nonzero(near)
            row = pair // size
            num_rows = near.shape[1]
            col = pair - row * size + begin.repeat_interleave(num_rows)[row]
            yield place[:, rows].flatten()[row], col
        start += sum(sizes[first:stop])
        first = stop


def _nonzero(mask: Tensor) -> Tensor:
    """The places of True in the flattened mask; NumPy finds them several times faster than torch does on the CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().flatten()


def _by_tree(points: Tensor, cutoff: float, limit: Tensor, loop: bool) -> tuple[Tensor, Tensor]:
    """The pairs of one group: a search in float64 a little too far, then the exact decision."""
    from scipy.spatial import cKDTree

    size = len(points)
    # Rounding of coordinates' differences, squares, sums and of the cutoff: less than 4 + D roundoffs together.
    slack = 4 * (4 + points.shape[1]) * torch.finfo(points.dtype).eps
    tree = cKDTree(points.double().numpy(), balanced_tree=False)
    pairs = torch.from_numpy(tree.query_pairs(cutoff * (1 + slack), output_type="ndarray"))
    i, j = pairs.T.contiguous()
    exact = squared_distances(points.index_select(0, i), points.index_select(0, j)) <= limit
    if not bool(exact.all()):
        i, j = i[exact], j[exact]
    own = torch.arange(size if loop else 0, device="cpu")
    keys = torch.cat([i * size + j, j * size + i, own * (size + 1)]).numpy()
    keys.sort()
    keys = torch.from_numpy(keys)
    row = torch.arange(size, device="cpu").repeat_interleave(torch.bincount(torch.cat([i, j, own]), minlength=size))
    return row, keys - row * size
