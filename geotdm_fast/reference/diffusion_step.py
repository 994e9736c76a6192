"""One step of a diffusion sampler behind the network: plain PyTorch, any dtype."""

from typing import cast

from torch import Tensor

from geotdm_fast.reference.row_sums import zero_mean


def diffusion_step(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    output: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """From x_t and the network's output to what the next step begins with, in place.

        x_0 = P(p x + q output)
        x'  = P(a x + b x_0 + c before + s noise)
        x <- x',  before <- x_0,  positions <- x' + x_ref

    with the row `step` of the table: p and q turn the output into x_0 whatever it means (the noise, x_0 or the mean of
    x_{t-1}), a ... s are those of a method (`geotdm_fast.diffusion.methods`). P is the projection to zero mean over the
    nodes and frames of each graph, or nothing without `first`; x and before are in that subspace already.

    x, before: [N, D, T] - x_t, and x_0 of the step before (finite also where c = 0)
    positions: [N, D, T], the network's next input, with x_ref [N, D, 1 or T]; both or none
    output: [N, D, T], any strides; noise: [N, D, T] of N(0, 1), or None: no step adds noise
    first: [B + 1] int64 - the nodes of graph g are first[g] .. first[g + 1] - 1
    coefficients: [S, 6] - p, q, a, b, c, s of every step, float32, for float64 x float64; step: [1] int64
    Computed in the coefficients' dtype, rounded to that of x. On CUDA the means of graphs are summed by atomics.
    """
    p, q, a, b, c, s = coefficients.index_select(0, step).unbind(1)  # [1] each
    wide = coefficients.dtype
    now, last = x.to(wide), before.to(wide)
    x_0 = zero_mean(p * now + q * output.to(wide), first)
    after = a * now + b * x_0 + c * last
    if noise is not None:
        after = after + s * noise.to(wide)
    after = zero_mean(after, first)
    x.copy_(after)
    before.copy_(x_0)
    if positions is not None:
        positions.copy_(after + cast(Tensor, x_ref).to(wide))
