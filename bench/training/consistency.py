"""The loss of consistency distillation: a student that learns to agree with itself along its teacher's chain."""

import torch
from torch import Tensor, nn

from geotdm_fast.diffusion import GeoTDM, Sampler
from geotdm_fast.diffusion.inputs import check_start, loss_draws

# The teacher's solver: one step needs nothing of the steps before it, and adds no noise.
SOLVER = "ddim"


class Consistency:
    """The loss of consistency distillation (Song et al. 2023, arXiv 2303.01469, Algorithm 2).

        t_1 < ... < t_n = S - 1    the steps of the teacher's chain; t_0 is the data, abar_0 = 1
        x_k = sqrt(abar_k) (x_start - x_ref) + sqrt(1 - abar_k) z,  z ~ N(0, I)
        x'  = sqrt(abar_{k-1}) x_0 + sqrt((1 - abar_{k-1}) / (1 - abar_k)) (x_k - sqrt(abar_k) x_0)
        loss = |f(x_k, t_k) - f_average(x', t_{k-1})|^2
        f(x, t_0) = x,  f(x, t) = p x + q output(x + x_ref, t)

    x_0 is the teacher's prediction at (x_k, t_k), and x' the step of DDIM with it (Eq. 6 of the paper). f is Eq. 4,
    with p and q of `Plan`: where the network predicts positions, f is its output. f_average has the averaged weights
    and no gradient (Eq. 7, with the squared distance and equal weights). All three have the teacher's reference frame,
    so the student's own part for it learns nothing. The loss stays as it is where positions, given frames and noise
    turn together.

    teacher: a `GeoTDM` of all steps; nothing of it is changed
    student: the network that is trained, of the same sizes; average: the network of its averaged weights, or itself
    num_steps: n, 1 ... S; spacing: which steps, as for `Sampler`
    Raises ValueError for a teacher that is a student, for num_steps out of range and for an unknown spacing.
    """

    def __init__(
        self, teacher: GeoTDM, student: nn.Module, average: nn.Module, num_steps: int, spacing: str = "uniform"
    ):
        teacher.check_has_steps("Consistency")
        self.teacher, self.denoise_network, self.average = teacher, student, average
        plan = Sampler(teacher, SOLVER, num_steps, spacing).plan
        # They rise, as torch.searchsorted asks for.
        self._steps, self._rows = (
            torch.from_numpy(table[::-1].copy()).to(teacher.device)
            for table in (plan.timesteps, plan.coefficients[:, :4])
        )

    def training_losses(
        self,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`loss` and `mse`, both [N]: the mean over the dimensions of a node.

        x_start: [N, D, T_noisy] - data; model_kwargs: as for `GeoTDM`; noise: z, like x_start
        t: [N] int64 in 0 ... S - 1, the same within a graph: t_k is the first step of the chain from t on
        What is not given is drawn as in `GeoTDM.training_losses`. A CUDA graph may capture the call.
        """
        teacher = self.teacher
        model_kwargs = check_start("training_losses", teacher.mode, x_start, model_kwargs, noise)
        model_kwargs = teacher.with_graph(model_kwargs)
        batch = model_kwargs["batch"]
        z, t = loss_draws(x_start, t, noise, batch, teacher.num_timesteps)
        k = torch.searchsorted(self._steps, t)
        with torch.no_grad():
            x_ref = teacher.get_ref_frame(model_kwargs)
            if teacher.mode == "uncond":
                z = teacher.project_to_subspace(z, batch)
            x = teacher.q_sample(teacher.to_relative(x_start, x_ref, batch), self._steps[k], noise=z)
            x_0 = self._clean(teacher.denoise_network, x, k, x_ref, model_kwargs)
            a, b = self._table(k, x)[2:]
            target = x_next = a * x + b * x_0
            if len(self._steps) > 1:
                later = self._clean(self.average, x_next, (k - 1).clamp(min=0), x_ref, model_kwargs)
                target = torch.where((k == 0)[:, None, None], x_next, later)
        clean = self._clean(self.denoise_network, x, k, x_ref, model_kwargs)
        mse = (clean - target).square().mean(dim=(1, 2))
        return {"mse": mse, "loss": mse}

    def _clean(self, network: nn.Module, x: Tensor, k: Tensor, x_ref: Tensor | None, model_kwargs: dict) -> Tensor:
        """What a network takes for the data, p x + q output, at the steps k [N] of the chain: [N, D, T_noisy]."""
        teacher, t = self.teacher, self.teacher.scale_timesteps(self._steps[k])
        output, _ = network(x=teacher.to_absolute(x, x_ref), diffusion_t=t, **model_kwargs)
        if teacher.mode == "uncond":
            output = teacher.project_to_subspace(output, model_kwargs["batch"])
        p, q = self._table(k, x)[:2]
        return p * x + q * output

    def _table(self, k: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        """p, q, a and b of the steps k: [N, 1, 1] each."""
        return self._rows[k, :, None, None].to(like.dtype).unbind(1)
