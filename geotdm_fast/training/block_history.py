"""Given frames of training that the model drew itself, as those of a rollout are."""

import math

import torch
from torch import Tensor

from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.reference.row_sums import take_rows
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.cuda_graphs import CaptureCache, Recorder
from geotdm_fast.training import random_streams
from geotdm_fast.training.batches import Draw
from geotdm_fast.training.device_data import DeviceData, Structure
from geotdm_fast.training.history_windows import HistoryWindows
from geotdm_fast.training.objective import Objective

# Calls of the network for a block, by the method that needs fewest.
CALLS = 5
# A forecast that goes farther, in the largest displacements of the data, has exploded and is no history.
FARTHEST = 10.0


class BlockHistory:
    """Draws the given frames of a training step by the network as it is then, without gradient.

    In a share of the steps the G given frames of every graph are the last ones of K blocks: block 0 is given the true
    frames of an earlier stretch of the same trajectory, each later block the last frames that the one before drew. A
    block is drawn as `Sampler.refine` does: its true frames are noised by ceil(u S) of the S diffusion steps, u ~
    U[0, level], and denoised in at most 5 calls of the network. With u = 1 hardly anything of them is left, so that
    it is a forecast; with a small u it is near the truth, but for the errors that the network makes. What is to be
    drawn stays the truth. A network without errors changes nothing.

    A graph whose forecast is not finite, or goes farther than 10 times the farthest that its nodes go in the window,
    keeps its true frames.

    data: windows with a history; objective: diffusion, network and task
    share: of the steps, 0 ... 1; level: the largest u, 0 ... 1
    Random: whether, u and noise are a function of (seed, step, trajectory) and the weights, by a stream of their own,
    so a resume needs nothing stored; the processes and parts of a batch share whether and u.
    """

    def __init__(
        self, data: DeviceData, objective: Objective, windows: HistoryWindows, *, seed: int, share: float, level: float
    ):
        self.data, self.objective, self.windows = data, objective, windows
        self.seed, self.share, self.level = seed, share, level

    def capture(self, *, on: bool, record: Recorder | None, sizes: int = 0) -> None:
        """Whether chains are captured, and by what (`Captured`), as the step is.

        sizes: that batches are padded to, for each of which a captured chain is kept
        """
        diffusion = self.objective.diffusion
        if not on:
            diffusion.captures = None
        elif diffusion.captures is not None:
            # Chains run one after the other, and a step of one returns nothing: they can work in the same memory.
            diffusion.captures = CaptureCache(max(sizes, diffusion.captures.capacity), record, shares_memory=True)

    @property
    def made(self) -> int:
        """How many captured chains were made since `forget`."""
        captures = self.objective.diffusion.captures
        return 0 if captures is None else captures.made

    def forget(self) -> None:
        """Let all captured chains go."""
        if self.objective.diffusion.captures is not None:
            self.objective.diffusion.captures.clear()

    def given(self, draw: Draw, structure: Structure, step: int) -> Tensor:
        """[N, D, G]: the given frames of a draw, on the device, of training step `step` (from 0)."""
        windows = self.windows
        rng = random_streams.generator(self.seed, random_streams.HISTORY, step)
        chance, level = torch.rand(2, generator=rng).tolist()
        with torch.no_grad(), trusted():
            batch, _, _ = self.data.drawn(draw.windows, draw.steps, draw.weight, structure, draw.turn)
            truth = windows.block(batch, windows.num_blocks).x[..., : windows.num_given]
            if chance >= self.share:
                return truth.contiguous()
            given = batch.x[..., : windows.num_given]
            noised_steps = max(1, math.ceil(level * self.level * self.objective.diffusion.num_timesteps))
            diffusion = self.objective.diffusion
            sampler = Sampler(diffusion, diffusion.fast_method, min(CALLS, noised_steps))
            with evaluating(self.objective.diffusion.denoise_network):
                for number in range(windows.num_blocks):
                    block = windows.block(batch, number)
                    block.x = torch.cat([given, block.x[..., windows.num_given :]], dim=-1)
                    x_start, model_kwargs = self.objective.split_batch(block, structure.graph)
                    _, dim, num_drawn = x_start.shape
                    noise = TrajectoryNoise(
                        rng.initial_seed(), draw.items, torch.zeros_like(draw.items), structure.batch,
                        dim, num_drawn, x_start.dtype, number,
                    )  # fmt: skip
                    drawn = sampler.refine(x_start, noised_steps, model_kwargs, noise)
                    given = torch.cat([given, drawn.to(given.dtype)], dim=-1)[..., -windows.num_given :]
            is_good = take_rows(self._is_near(given, batch.x, structure), structure.batch)
            return torch.where(is_good[:, None, None], given, truth).contiguous()

    @staticmethod
    def _is_near(given: Tensor, truth: Tensor, structure: Structure) -> Tensor:
        """[B] bool: of which graphs all drawn frames [N, D, G] are near the window [N, D, frames]."""
        start = truth[..., :1]
        far = lambda x: (x - start).norm(dim=1).amax(dim=1)  # [N]
        farthest = far(truth).new_zeros(structure.num_graphs)
        farthest = farthest.scatter_reduce(0, structure.batch, far(truth), "amax")
        is_near = far(given) <= FARTHEST * take_rows(farthest, structure.batch)  # not where it is NaN
        every = torch.ones(structure.num_graphs, dtype=torch.int32, device=given.device)
        return every.scatter_reduce(0, structure.batch, is_near.int(), "amin") > 0
