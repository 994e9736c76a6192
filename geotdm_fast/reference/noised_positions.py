"""What a training step shows to a conditional model: noisy frames with noise around the mean of the prior."""

from torch import Tensor


def noised_positions(
    x_start: Tensor, x_ref: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, t: Tensor
) -> Tensor:
    """x_ref + signal[t] (x_start - x_ref) + spread[t] noise.

    x_start, noise: [N, D, T_noisy]; x_ref: [N, D, 1 or T_noisy]; signal, spread: [S] - sqrt(abar), sqrt(1 - abar)
    t: [N] int64; Returns [N, D, T_noisy].
    """
    of_node = lambda table: table[t][:, None, None]
    return of_node(signal) * (x_start - x_ref) + of_node(spread) * noise + x_ref
