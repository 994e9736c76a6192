"""No speed without correct results: every contender against the truth before any clock starts."""

import torch
from torch import Tensor

from bench.network.contenders import Contender

# Relative error of x_out, h_out and every gradient in float32.
FLOAT32 = 1e-4
# In bfloat16 a contender may err as much as this many times the eager memory-efficient peer, and one roundoff more.
TIMES_PLAIN = 2
ROUNDOFF = 2.0**-8
# A gradient that is zero but for rounding (keys' biases: softmax does not see them) is measured against this share of
# the whole gradient.
SHARE = {"float32": 1e-3, "bfloat16": 1e-1, "mixed": 1e-1, "tf32": 1e-1}


def results(contender: Contender, mode: str) -> dict[str, Tensor]:
    """x_out and h_out, and in mode `training` the gradient of every parameter that has one, by name."""
    x_out, h_out = contender.call(mode)
    found = {"x_out": x_out, "h_out": h_out}
    if mode == "training":
        parameters = contender.network.named_parameters()
        found |= {f"grad {name}": p.grad for name, p in parameters if p.grad is not None}
        contender.network.zero_grad(set_to_none=True)
    return {name: value.detach().clone() for name, value in found.items()}


def worst_error(
    found: dict[str, Tensor], truth: dict[str, Tensor], dtype: str = "float32", least_x: float = 1e-8
) -> tuple[float, str]:
    """The largest relative error and where it is; infinite where a name is missing or a value is not finite.

    least_x: an x_out of a smaller norm is measured against this
    """
    gradients = [value.double().square().sum() for name, value in truth.items() if name.startswith("grad")]
    whole = float(torch.stack(gradients).sum().sqrt()) if gradients else 0.0
    worst = (0.0, "x_out")
    for name in truth.keys() | found.keys():
        if name not in found or name not in truth or found[name].shape != truth[name].shape:
            return float("inf"), name
        expected = truth[name].double()
        least = SHARE[dtype] * whole if name.startswith("grad") else least_x if name == "x_out" else 1e-8
        scale = max(float(expected.norm()), least)
        error = float((found[name].double() - expected).norm()) / scale
        worst = max(worst, (error if error == error else float("inf"), name))
    return worst


def check(contenders: list[Contender], truth: Contender, mode: str) -> dict[tuple[str, str], float]:
    """Call every contender once and return its worst error. Raises ValueError if one is not correct."""
    expected = results(truth, mode)
    # x_out is positions less x: in float32 the rounding of positions of that size is in it.
    least_x = max(1e-8, 2.0**-24 * float(truth.inputs["x"].norm()) / FLOAT32)
    return judge({c.key: worst_error(results(c, mode), expected, c.dtype, least_x) for c in contenders}, mode)


def judge(errors: dict[tuple[str, str], tuple[float, str]], mode: str) -> dict[tuple[str, str], float]:
    """The worst errors by (implementation, dtype), without where they are. Raises ValueError if one is too large."""
    for (name, dtype), (error, where) in errors.items():
        bound = FLOAT32
        if dtype != "float32":
            plain = errors.get(("efficient", dtype), (ROUNDOFF * 16, ""))[0]
            bound = TIMES_PLAIN * plain + ROUNDOFF
        if not error <= bound:
            raise ValueError(
                f"{name} in {dtype} is wrong, so nothing is timed: {mode}, {where} must be within {bound:.1e} of the "
                f"truth, got {error:.1e}"
            )
    return {key: error for key, (error, _) in errors.items()}
