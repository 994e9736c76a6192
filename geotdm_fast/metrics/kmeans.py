"""A few representatives of many forecasts: k-means over where they end, for many scenes at once."""

from typing import cast

import torch
from torch import Tensor

from geotdm_fast.metrics.graphs import check_finite
from geotdm_fast.runtime.bars import progress_bar

# Distances held at once: 4 M numbers stay in a few tens of MB, and small chunks let easy scenes stop early.
_MAX_DISTANCES = 1 << 22


def kmeans_representatives(
    end_points: Tensor,
    num_clusters: int = 20,
    *,
    num_init: int = 8,
    max_iter: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """For each scene, the samples that end nearest to the k-means centres of where all of them end.

    The official pedestrian protocol draws 60 samples and scores the best of 20 such representatives
    (`displacement_summary(..., representatives=...)`).

    end_points: [K, B, D] float - last position of sample k in scene b (`samples[:, scored, :, -1]`)
    num_clusters: R <= K
    num_init: starts per scene from R different samples, of which the one with the tightest clusters is kept
    returns: [R, B] int64 - indices into the K samples; two centres may share a sample

    Random, from its own generator seeded with `seed`, whose draws do not depend on the device; the global generator is
    left alone. Raises ValueError for wrong shapes, sizes and non-finite positions.
    Source: Lloyd 1982; starts, their number and `max_iter` as in torch_kmeans, which the official code calls. That one
    moves a centre that lost all its points to the origin; here it stays (about one start of a hundred).
    """
    where = "kmeans_representatives"
    if end_points.dim() != 3 or 0 in end_points.shape:
        raise ValueError(f"{where}: end_points must be [K, B, D], none of them 0, got {list(end_points.shape)}")
    check_finite(where, "end_points", end_points)
    num_samples, num_scenes, _ = end_points.shape
    if not 1 <= num_clusters <= num_samples:
        raise ValueError(f"{where}: num_clusters must be in 1..{num_samples} (the samples), got {num_clusters}")
    for name, value in (("num_init", num_init), ("max_iter", max_iter)):
        if value < 1:
            raise ValueError(f"{where}: {name} must be at least 1, got {value}")
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, _MAX_DISTANCES // (num_init * num_samples * num_clusters))
    chosen = []
    bar = progress_bar(total=num_scenes, desc="k-means", unit="scene", disable=not progress)
    for points in end_points.transpose(0, 1).split(chunk):  # [b, K, D]
        draws = torch.rand(len(points), num_init, num_samples, generator=generator, dtype=torch.float64)
        starts = draws.argsort(dim=2)[..., :num_clusters].to(points.device)
        chosen.append(_representatives(points, starts, max_iter))
        bar.update(len(points))
    bar.close()
    return torch.cat(chosen).T.contiguous()


def kmeans_centres(
    points: Tensor, num_clusters: int, *, num_init: int = 8, max_iter: int = 100, seed: int = 0
) -> Tensor:
    """[R, D] - the centres of the tightest clusters of points [K, D] float that Lloyd finds from `num_init` starts.

    Random and its source as `kmeans_representatives`; ValueError for fewer points than clusters.
    """
    if not 1 <= num_clusters <= len(points):
        raise ValueError(f"kmeans_centres: num_clusters must be in 1..{len(points)} (the points), got {num_clusters}")
    generator = torch.Generator().manual_seed(seed)
    best, least = points[:num_clusters], float("inf")
    for _ in range(num_init):
        start = torch.randperm(len(points), generator=generator)[:num_clusters]
        centres = _lloyd(points[None], points[start][None], max_iter)[0]
        spread = float(_square_distance(points[None], centres[None]).amin(2).sum())
        if spread < least:
            best, least = centres, spread
    return best


def _representatives(points: Tensor, starts: Tensor, max_iter: int) -> Tensor:
    """[B, R] of the samples points [B, K, D]: nearest to the best centres that Lloyd finds from starts [B, I, R]."""
    num_scenes, num_init, num_clusters = starts.shape
    tries = points.repeat_interleave(num_init, dim=0)  # [B * I, K, D]
    index = starts.view(-1, num_clusters, 1).expand(-1, -1, points.shape[2])
    centres = _lloyd(tries, tries.gather(1, index), max_iter)
    distance = _square_distance(tries, centres)  # [B * I, K, R]
    spread = distance.amin(2).sum(1).view(num_scenes, num_init)
    best = spread.argmin(1) + torch.arange(num_scenes, device=points.device) * num_init
    return distance[best].argmin(1)  # [B, R]


def _lloyd(points: Tensor, centres: Tensor, max_iter: int) -> Tensor:
    assigned = None
    for _ in range(max_iter):
        nearest = _square_distance(points, centres).argmin(2)  # [P, K]
        if assigned is not None and torch.equal(nearest, assigned):
            break
        assigned = nearest
        member = torch.nn.functional.one_hot(nearest, centres.shape[1]).to(points.dtype).transpose(1, 2)  # [P, R, K]
        count = member.sum(2, keepdim=True)
        # A centre that lost all its points stays where it was.
        centres = torch.where(count > 0, member @ points / count.clamp(min=1), centres)
    return centres


def _square_distance(points: Tensor, centres: Tensor) -> Tensor:
    # One axis at a time: D is 2 or 3, and [P, K, R, D] is never held.
    axes = zip(points.unbind(-1), centres.unbind(-1), strict=True)
    return cast(Tensor, sum((p[:, :, None] - c[:, None, :]).square() for p, c in axes))  # [P, K, R]
