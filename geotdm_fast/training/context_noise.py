"""Noise on the given frames of training: in a rollout they are drawn ones, which are not exact."""

from dataclasses import replace

import torch
from torch import Tensor

from geotdm_fast.data import Batch
from geotdm_fast.reference.row_sums import mean_by_graph, take_rows
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.training import random_streams


class ContextNoise:
    """Adds s z to the given frames of every graph of a training step, s ~ U[0, level] and z ~ N(0, I) without its mean.

    z has zero mean over the nodes and given frames of a graph: the given frames are not moved as a whole, and turned or
    shifted data are as likely as before.

    level: in the unit of the stored positions; given: the numbers of the given frames
    Random: a function of (seed, step) alone, by a stream of its own, so a resume needs nothing stored.
    """

    def __init__(self, level: float, given: tuple[int, ...], device: torch.device):
        self.level = level
        self.index = to_device(torch.tensor(given, dtype=torch.int64), device)

    def drawn(self, seed: int, step: int, sizes: Tensor, dim: int) -> Tensor:
        """[N, D, G] float32 on the host - what training step `step` adds; sizes: [B] int64 - the graphs' nodes."""
        rng = random_streams.generator(seed, random_streams.CONTEXT, step)
        level = self.level * torch.rand(len(sizes), generator=rng)
        z = torch.randn(int(sizes.sum()), dim, len(self.index), generator=rng)
        batch = torch.arange(len(sizes)).repeat_interleave(sizes)
        z = z - take_rows(mean_by_graph(z.mean(dim=2), batch), batch)[:, :, None]
        return level[batch, None, None] * z

    def added(self, batch: Batch, noise: Tensor) -> Batch:
        """`batch` with `noise` [N, D, G] on its given frames. Launches alone: a CUDA graph may capture it."""
        return replace(batch, x=batch.x.index_add(2, self.index, noise.to(batch.x.dtype)))
