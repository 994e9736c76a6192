"""A student: a model whose network makes a trajectory of noise in one call, as its teacher does in several.

A student of a diffusion takes the noise for that of a step t of its choice, as if x_ref were the data: it begins with
sqrt(1 - abar_t) z. At the last step its network, which is the teacher's in the beginning, sees nothing but noise, and
answers with a mean, whatever z is. At a step of less noise it takes a part of z for the data's, and its answers differ
from sample to sample, as the teacher's draws do.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geotdm_fast.runtime.shown import shown

if TYPE_CHECKING:
    from geotdm_fast.diffusion.framed import FramedDiffusion


def one_call(diffusion: "FramedDiffusion", z: Tensor, x_ref: Tensor | None, model_kwargs: dict) -> Tensor:
    """What a chain of one step makes of z, relative to x_ref, with gradients: [N, D, T_noisy].

        x_0 = (a + b p) x_t + b q output(x_t + x_ref, t)

    x_t is `diffusion.start(z)`, t is `call_step`, and p, q, a and b are those of `diffusion.plan` in one step.
    A first step has nothing before it, and the last adds no noise: all methods of a diffusion, and all solvers of a
    flow, are the same here.

    z: [N, D, T_noisy] - standard normal; projected to zero mean in mode `uncond`
    x_ref: [N, D, 1 or T_noisy]; None in mode `uncond`
    model_kwargs: as for `GeoTDM`, checked
    """
    plan = diffusion.plan(diffusion.fast_method, 1, "uniform", noised_steps=diffusion.noised_steps)
    p, q, a, b = plan.coefficients[0, :4].tolist()
    if diffusion.mode == "uncond":
        z = diffusion.project_to_subspace(z, model_kwargs["batch"])
    x = diffusion.start(z, model_kwargs)
    t = torch.full((len(x),), plan.timesteps[0].item(), device=x.device)
    output = diffusion._output_at(diffusion.to_absolute(x, x_ref), t, model_kwargs)
    return (a + b * p) * x + b * q * output


def checked_calls(where: str, calls: int | None) -> int | None:
    """`calls`, or ValueError unless it is 1 or None."""
    if calls not in (None, 1):
        raise ValueError(
            f"{where}: calls must be 1, of a student, or None, of a model of all steps, got {shown(calls)}"
        )
    return calls


def one_call_losses(
    diffusion: "FramedDiffusion", x_start: Tensor, model_kwargs: dict, noise: Tensor | None
) -> dict[str, Tensor]:
    """How far one call is from what the teacher made of the same noise: `loss` and `mse`, both [N].

    The mean squared error over the dimensions of a node, x_start [N, D, T_noisy] being the teacher's draw from `noise`.
    It stays as it is where the data turn and move, since only the difference of positions enters. The step that
    `training_losses` is given is not looked at. Raises ValueError where noise is not given: none other than the
    teacher's tells what x_start should be.
    """
    if noise is None:
        raise ValueError("training_losses: noise must be what the student's teacher made x_start of, got None")
    x_ref = diffusion.get_ref_frame(model_kwargs)
    drawn = one_call(diffusion, noise, x_ref, model_kwargs)
    target = diffusion.to_relative(x_start, x_ref, model_kwargs["batch"])
    mse = (drawn - target).square().mean(dim=(1, 2))
    return {"mse": mse, "loss": mse}
