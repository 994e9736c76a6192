"""The marginal score: do single numbers of the samples have the distribution of the real ones?"""

import torch
from torch import Tensor

from geotdm_fast.metrics.graphs import check_finite


def marginal_score(real: Tensor, fake: Tensor, num_bins: int = 50) -> float:
    """Mean over channels and bins of |p_fake - p_real|, p the histogram density; lower is better.

    real: [B, T, C] float - N-body: `coordinate_channels`; molecules: `bond_lengths`
    fake: [B', T', C] float - samples, as many as you like
    num_bins: equal bins from the smallest to the largest real value of each channel

    Deterministic. Raises ValueError for wrong shapes, non-finite numbers and a channel whose real values are all equal.
    Source: arXiv 2410.13027, after Zhou et al. 2023 (LS4).
    """
    return float(marginal_distances(real, fake, num_bins).mean())


def marginal_distances(real: Tensor, fake: Tensor, num_bins: int = 50) -> Tensor:
    """The marginal score of each channel, [C] float64; arguments and errors as in `marginal_score`.

    Fake values outside the range of the real ones fall in no bin but count in the total.
    """
    where = "marginal_score"
    if real.dim() != 3 or 0 in real.shape:
        raise ValueError(f"{where}: real must be [B, T, C], none of them 0, got {list(real.shape)}")
    if fake.dim() != 3 or 0 in fake.shape or fake.shape[2] != real.shape[2]:
        raise ValueError(f"{where}: fake must be [B, T, {real.shape[2]}], got {list(fake.shape)}")
    if num_bins < 1:
        raise ValueError(f"{where}: num_bins must be at least 1, got {num_bins}")
    check_finite(where, "real", real)
    check_finite(where, "fake", fake)
    real = real.flatten(0, 1).double()  # [values, C]
    fake = fake.flatten(0, 1).to(real)
    low, high = real.amin(0), real.amax(0)
    if not bool((low < high).all()):
        channel = int((low == high).nonzero()[0])
        raise ValueError(
            f"{where}: real must vary in every channel, got {float(low[channel]):g} throughout in channel {channel}"
        )
    difference = _densities(fake, low, high, num_bins) - _densities(real, low, high, num_bins)
    return difference.abs().mean(1)


def _densities(values: Tensor, low: Tensor, high: Tensor, num_bins: int) -> Tensor:
    """Histogram densities [C, num_bins] of `values` [V, C] between `low` and `high` [C]; the last bin is closed."""
    num_channels = values.shape[1]
    inside = (values >= low) & (values <= high)
    index = ((values - low) / (high - low) * num_bins).long().clamp(max=num_bins - 1)
    index = index + torch.arange(num_channels, device=values.device) * num_bins
    # Counting integers is exact and, unlike torch.histc, deterministic on CUDA.
    count = torch.bincount(index[inside], minlength=num_channels * num_bins).view(num_channels, num_bins)
    width = (high - low) / num_bins
    return count / (len(values) * width[:, None])


def coordinate_channels(x: Tensor) -> Tensor:
    """Positions as channels for the marginal score of N-body: one channel for each coordinate, all nodes together.

    x: [N, D, T] float - nodes of any number of graphs
    returns: [N, T, D]
    Raises ValueError for a wrong shape.
    """
    if x.dim() != 3:
        raise ValueError(f"coordinate_channels: x must be [N, D, T], got {list(x.shape)}")
    return x.transpose(1, 2)


def bond_lengths(x: Tensor, edge_index: Tensor) -> Tensor:
    """Lengths of bonds as channels for the marginal score of molecules: one channel for each bond.

    x: [B, N, D, T] float - B trajectories of one molecule (`by_graph` lays a batch out so)
    edge_index: [2, C] int64 - the bonds, each once (`close_pairs`)
    returns: [B, T, C]
    Raises ValueError for wrong shapes and atoms out of range.
    """
    if x.dim() != 4:
        raise ValueError(f"bond_lengths: x must be [B, N, D, T], got {list(x.shape)}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(f"bond_lengths: edge_index must be [2, C] int64, got {list(edge_index.shape)}")
    if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < x.shape[1]:
        raise ValueError(
            f"bond_lengths: edge_index must name atoms 0..{x.shape[1] - 1}, "
            f"got {int(edge_index.min())}..{int(edge_index.max())}"
        )
    row, col = edge_index
    return torch.linalg.vector_norm(x[:, row] - x[:, col], dim=2).transpose(1, 2)


def close_pairs(positions: Tensor, cutoff: float = 1.6) -> Tensor:
    """Pairs of atoms nearer than `cutoff`, each once: what the official scores take for bonds, in the first real frame.

    positions: [N, D] float (angstrom)
    returns: [2, C] int64, first index below second, sorted
    Raises ValueError for a wrong shape or cutoff.
    """
    if positions.dim() != 2:
        raise ValueError(f"close_pairs: positions must be [N, D], got {list(positions.shape)}")
    if not cutoff > 0:
        raise ValueError(f"close_pairs: cutoff must be positive, got {cutoff}")
    distance = torch.linalg.vector_norm(positions[:, None] - positions[None], dim=-1)
    return (distance < cutoff).triu(1).nonzero().T.contiguous()
