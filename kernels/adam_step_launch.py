"""Launches a step of Adam on the current stream of its tensors' device."""

import math

import triton
from torch import Tensor

from geotdm_fast.kernels.adam_step import adam_step_kernel, square_sum_kernel
from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.reference.adam_step import BETAS, EPSILON, AdamSettings, AdamState

# Numbers at a time of the sum of squares, whose partial sums every program of the second kernel adds up, and of that.
SUM_BLOCK, PARTIALS, BLOCK = 2048, 512, 1024


def adam_step(state: AdamState, coefficients: Tensor, settings: AdamSettings) -> Tensor:
    """`geotdm_fast.reference.adam_step` of contiguous float32, by two kernels; the same bits in every run."""
    weights, gradient, exp_avg, exp_avg_sq, step, average = state
    size = weights.numel()
    num_partials = min(PARTIALS, triton.cdiv(size, SUM_BLOCK))
    partial, norm = weights.new_empty(num_partials), weights.new_empty(())
    with on_device(weights):
        square_sum_kernel[(num_partials,)](gradient, partial, step, size, BLOCK=SUM_BLOCK, num_warps=4)
        adam_step_kernel[(triton.cdiv(size, BLOCK),)](
            weights, gradient, exp_avg, exp_avg_sq, weights if average is None else average, coefficients, step,
            partial, norm, size, num_partials, settings.first_decayed, settings.clip, settings.weight_decay,
            BETA1=BETAS[0], BETA2=BETAS[1], LOG_BETA1=math.log(BETAS[0]), LOG_BETA2=math.log(BETAS[1]),
            EPSILON=EPSILON, HAS_AVERAGE=average is not None, BLOCK=BLOCK, PARTIALS=PARTIALS, num_warps=4,
        )  # fmt: skip
    return norm
