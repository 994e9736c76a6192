"""What moves the weights along their gradient: Adam, or Muon for the matrices among them and Adam for the rest."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from geotdm_fast import ops
from geotdm_fast.reference import AdamSettings, AdamState
from geotdm_fast.reference.adam_step import BETAS, EPSILON
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights

MOMENTUM = 0.95
# Jordan's quintic: five steps bring singular values between about 0.01 and 1 to between 0.7 and 1.2.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Optimizer:
    """Moves `weights` by their gradient `weights.flat.grad`; nothing in a step waits for the device.

    adam: (Kingma and Ba 2015) on all weights at once: on CUDA `ops.adam_step`, elsewhere torch's fused one.
    muon: a matrix W [r, c] (`FlatWeights.matrices`) moves by its orthogonalised momentum (Jordan et al. 2024, "Muon"):
            m <- b m + (1 - b) g,   W <- W - rate 0.2 sqrt(max(r, c)) U V^T,   U S V^T = b m + (1 - b) g,   b = 0.95.
        The factor gives a step the size of Adam's (Liu et al. 2025, arXiv 2502.16982), so one rate serves both: what is
        no matrix is left to Adam. Matrices of one shape are one batch: `torch.optim.Muon` takes each on its own and
        its rate from the host, which a CUDA graph cannot change.

    weight_decay: matrices shrink by rate * weight_decay before a step, under both (Loshchilov and Hutter 2019)

    moments: laid out as `weights.flat`: exp_avg (of a matrix under muon: m), exp_avg_sq (of such a matrix: 0); and
        `step`, a number
    """

    def __init__(self, name: str, weights: FlatWeights, weight_decay: float = 0.0):
        flat, device = weights.flat, weights.flat.device
        self.moments = {key: torch.zeros_like(flat.detach()) for key in ("exp_avg", "exp_avg_sq")}
        self.moments["step"] = torch.zeros((), device=device)
        self._rate = torch.zeros((), device=device)

        self._weights, self._weight_decay = weights, weight_decay
        self._matrices = weights.matrices(flat)
        self._muons, adams = [], flat
        if name == "muon":
            beside = (weights.matrices(layout) for layout in (cast(Tensor, flat.grad), self.moments["exp_avg"]))
            self._muons = list(zip(self._matrices, *beside, strict=True))
            adams = nn.Parameter(flat.detach()[: weights.num_others])
            adams.grad = cast(Tensor, flat.grad)[: weights.num_others]
        # Views: what Adam writes is found in `moments`.
        self._moved_by_adam = adams
        self._adams_moments = {
            key: value[: adams.numel()] if value.dim() else value for key, value in self.moments.items()
        }

    @property
    def state(self) -> list[Tensor]:
        """Every tensor, but for the weights, that a step changes."""
        return [*self.moments.values(), self._rate]

    @torch.no_grad()
    def update(self, coefficients: Tensor, clip: float, average: WeightAverage | None) -> Tensor:
        """Clip the gradient, move the weights and their average, and set the gradient to 0. Returns the norm [] before.

            g <- g min(1, clip / |g|);   w <- w - (step of `adam` or `muon`);   a <- a + share (w - a)

        coefficients: [2] float32, on the device - the learning rate, and the share by which `average` moves
        clip: the largest norm |g| over all weights, inf for none; average: a, or None
        """
        flat = self._weights.flat
        if not self._muons and ops.has_adam_step(flat):
            moments = self.moments
            averaged = None if average is None else average.tensor
            state = AdamState(
                flat.detach(),
                cast(Tensor, flat.grad),
                moments["exp_avg"],
                moments["exp_avg_sq"],
                moments["step"],
                averaged,
            )
            settings = AdamSettings(clip, self._weight_decay, self._weights.num_others)
            return ops.adam_step(state, coefficients, settings)
        norm = nn.utils.clip_grad_norm_([flat], clip)
        self.step(coefficients[0])
        cast(Tensor, flat.grad).zero_()
        if average is not None:
            average.update(coefficients[1])
        return norm

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """One step of learning rate `rate` []."""
        self._rate.copy_(rate)
        if self._weight_decay > 0:
            for matrices in self._matrices:
                matrices.mul_(1 - self._weight_decay * self._rate)
        self._adam()
        for matrices, gradients, momentum in self._muons:
            momentum.lerp_(gradients, 1 - MOMENTUM)
            move = orthogonal_factor(gradients.lerp(momentum, MOMENTUM))
            matrices.sub_(move.mul_(0.2 * math.sqrt(max(matrices.shape[1:])) * self._rate))

    def _adam(self) -> None:
        """torch's fused Adam as a function: the class imports all of torch._dynamo, seconds at every start."""
        weights, moments = self._moved_by_adam, self._adams_moments
        adam(
            [weights],
            [cast(Tensor, weights.grad)],
            [moments["exp_avg"]],
            [moments["exp_avg_sq"]],
            [],
            [moments["step"]],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self._rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )


def orthogonal_factor(matrices: Tensor) -> Tensor:
    """[n, r, c] float - about U V^T for every matrix U S V^T, by five steps of Newton-Schulz (`NEWTON_SCHULZ`).

    Singular values below a hundredth of the matrix's norm stay below 1; a matrix of zeros stays one. Deterministic.
    """
    of_x, of_gram, of_square = NEWTON_SCHULZ
    # The smaller of both Gram matrices: the transpose has the same factor, transposed.
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=of_gram, alpha=of_square)
        x = torch.baddbmm(x, polynomial, x, beta=of_x)
    return x.mT if is_tall else x
