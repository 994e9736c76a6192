"""Average and final displacement errors (ADE, FDE) of forecasts."""

import torch
from torch import Tensor

from geotdm_fast.metrics.graphs import graph_mean


def displacement_errors(
    samples: Tensor, target: Tensor, batch: Tensor, scored: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance between forecast and truth: over all frames (ADE) and at the last one (FDE), for each sample and graph.

        ADE_kb = mean_{i in graph b} mean_t |samples_kit - target_it|
        FDE_kb = mean_{i in graph b} |samples_kiT - target_iT|

    samples: [K, N, D, T] float - K forecasts
    target: [N, D, T] float - what happened, in the same frames
    batch: [N] int64 - the graph of each node
    scored: [M] int64 - the nodes that count (pedestrians: the person asked about); None: all of them
    returns: ade [K, B], fde [K, B] - in the unit of the positions

    NaN in a sample gives NaN. Raises ValueError for wrong shapes and for a graph none of whose nodes count.
    Source: arXiv 2410.13027.
    """
    where = "displacement_errors"
    if target.dim() != 3 or target.shape[-1] == 0:
        raise ValueError(f"{where}: target must be [N, D, T] with T > 0, got {list(target.shape)}")
    if samples.dim() != 4 or samples.shape[1:] != target.shape or samples.shape[0] == 0:
        expected = ", ".join(map(str, target.shape))
        raise ValueError(f"{where}: samples must be [K, {expected}] with K > 0, got {list(samples.shape)}")
    distance = torch.linalg.vector_norm(samples - target, dim=2)  # [K, N, T]
    ade = graph_mean(where, distance.mean(-1), batch, scored)
    fde = graph_mean(where, distance[..., -1], batch, scored)
    return ade, fde


def displacement_summary(
    ade: Tensor, fde: Tensor, *, scale: float = 1.0, representatives: Tensor | None = None
) -> dict[str, float]:
    """One number for a whole test set from the errors of every sample and graph, averaged over the graphs.

    ade, fde: [K, B] - from `displacement_errors`; the graphs of several batches joined along B
    scale: what turns the positions' unit into the one reported (`traj_scale` of the pedestrians)
    representatives: [R, B] int64 - from `kmeans_representatives`, or None
    returns:
        ade_mean, fde_mean: the mean over the K samples - the tables of N-body and MD17 with K = 5
        ade_best, fde_best: the smallest over the K samples, each for itself - pedestrians with K = 20
        ade_best_kmeansR, fde_best_kmeansR: the smallest over R representatives of the K samples - the official
            pedestrian protocol with K = 60, R = 20; only if `representatives` is given

    Raises ValueError for wrong shapes. Source: arXiv 2410.13027; the official evaluation.
    """
    where = "displacement_summary"
    if ade.dim() != 2 or 0 in ade.shape or fde.shape != ade.shape:
        raise ValueError(
            f"{where}: ade and fde must be [K, B] with K, B > 0, got {list(ade.shape)} and {list(fde.shape)}"
        )
    errors = {"ade": ade.double() * scale, "fde": fde.double() * scale}
    summary = {f"{name}_mean": float(error.mean()) for name, error in errors.items()}
    summary |= {f"{name}_best": _best(error) for name, error in errors.items()}
    if representatives is not None:
        if representatives.dim() != 2 or representatives.shape[1] != ade.shape[1] or representatives.shape[0] == 0:
            raise ValueError(
                f"{where}: representatives must be [R, {ade.shape[1]}] with R > 0, got {list(representatives.shape)}"
            )
        for name, error in errors.items():
            summary[f"{name}_best_kmeans{len(representatives)}"] = _best(error.gather(0, representatives))
    return summary


def _best(error: Tensor) -> float:
    return float(error.amin(0).mean())
