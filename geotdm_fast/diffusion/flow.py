"""Flow matching over geometric trajectories: the same network, from a prior that knows the given frames."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geotdm_fast.conditioning import Frames, frames_of
from geotdm_fast.diffusion.chain import Chain, GradientFunction, NoiseFunction
from geotdm_fast.diffusion.flow_priors import FLOW_PRIORS, MOVING, moving_mean, walk_factor
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS
from geotdm_fast.diffusion.framed import FramedDiffusion
from geotdm_fast.diffusion.inputs import check_start
from geotdm_fast.diffusion.one_call import checked_calls, one_call_losses
from geotdm_fast.diffusion.plan import Plan
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.nn.plain import bare
from geotdm_fast.reference.row_sums import num_graphs
from geotdm_fast.runtime.checks import check_tensor, is_trusted
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.runtime.shown import shown
from geotdm_fast.runtime.tensor_cache import normal_tensors

PREDICTIONS = ("start_x", "velocity", "displacement")


class Flow(FramedDiffusion):
    """Trains and samples an `EGTN` by flow matching (Lipman et al. 2023, arXiv 2210.02747, Sec. 4.1, optimal transport
    path) from a prior that is coupled with the given frames (STFlow: ten Brinke et al. 2025, arXiv 2505.18647).

        x_prior = x_ref + sigma L z,  z ~ N(0, I)
        x_t = (1 - l) x_start + l x_prior,  l = t / S,  0 <= t <= S
        u = x_start - x_prior

    Training regresses the network at (x_t, t) on u, on x_start or on l u, without a division: at both ends of l too.
    The minimiser is the mean, given x_t. A chain starts from x_prior at l = 1 and follows dx/d(-l) = u to the data at
    l = 0, where it asks for no u. Literature on flows has time 1 - l; here it is counted as steps of a diffusion are, S
    of noise and 0 of data, so that the network's embedding of steps and `Sampler.refine` mean the same for both.

    denoise_network: `EGTN`, bare or wrapped
    num_timesteps: S: what the network is told of l = 1, and the most calls of a chain
    device: where sampling draws its noise
    prediction: what the network's output is: `start_x` - x_start - x_ref, as that of a `GeoTDM`, and
        u = (x_start - x_t) / l; `velocity` - u; `displacement` - x_start - x_t = l u, so that the positions behind the
        last layer are the data
    rescale_timesteps: the network sees l * 1000 instead of l S
    mode: `cond`, or `uncond`: data, noise and output are projected to zero mean over the nodes and frames of a graph,
        and the prior is N(0, sigma^2 I) there
    prior: of mode `cond`: `last_frame` - x_ref is every node's place in the last given frame, L = I; `learned` - x_ref
        of the network's second part, L = I; `velocity` - x_ref goes on from the last given frame by the velocity of the
        last two, L = I; `walk` - the same x_ref, and L z is a random walk away from it (`flow_priors`). Where frames
        are given on both sides of a gap the last two join them by a line and a bridge. Default: `learned` if the
        network was built for it, else `walk`
    sigma: standard deviation of the prior's noise, of a step of the walk; in the unit of the positions
    calls: as for `GeoTDM`

    Arguments of methods, noise and CUDA graphs are those of `GeoTDM`. There is no likelihood. Prior, path and every
    step are linear with factors that know no direction, so samples turn and move as the given frames do.
    Raises ValueError / TypeError naming the argument.
    """

    methods = tuple(FLOW_SOLVERS)
    spacings = tuple(FLOW_SPACINGS)
    fast_method = "euler"

    def __init__(
        self,
        denoise_network: nn.Module,
        num_timesteps: int,
        device: torch.device | str | int,
        prediction: str = "start_x",
        rescale_timesteps: bool = False,
        mode: str = "cond",
        prior: str | None = None,
        sigma: float = 1.0,
        calls: int | None = None,
    ):
        check_choice("Flow: mode", mode, ("cond", "uncond"))
        check_choice("Flow: prediction", prediction, PREDICTIONS)
        if num_timesteps < 1:
            raise ValueError(f"Flow: num_timesteps must be at least 1, got {num_timesteps}")
        if not 0 < sigma < float("inf"):
            raise ValueError(f"Flow: sigma must be above 0 and finite, got {shown(sigma)}")
        self.denoise_network = denoise_network
        self.learn_ref_frame = cast(bool, bare(denoise_network).learn_ref_frame)
        if mode == "uncond":
            if prior not in (None, "none"):
                raise ValueError(
                    f"Flow: prior must be left out in mode 'uncond', which starts from noise, got '{prior}'"
                )
            prior = "none"
        else:
            prior = prior or ("learned" if self.learn_ref_frame else "walk")
            check_choice("Flow: prior", prior, FLOW_PRIORS)
        if prior == "learned" and not self.learn_ref_frame:
            raise ValueError("Flow: prior 'learned' needs a network built with learn_ref_frame=True")
        self.num_timesteps, self.device, self.mode, self.prior = num_timesteps, device, mode, prior
        self.prediction, self.rescale_timesteps, self.sigma = prediction, rescale_timesteps, float(sigma)
        self.calls = checked_calls("Flow", calls)
        self.captures: CaptureCache | None = CaptureCache()
        self._held_ref_frame: tuple[dict, Tensor] | None = None
        # A captured step may hold these tensors, so they are never dropped.
        self._tables: dict[tuple, Tensor] = {}

    @property
    def reads_graph(self) -> bool:
        return type(self) is Flow and super().reads_graph

    @property
    def has_likelihood(self) -> bool:
        return False

    # --- the prior ------------------------------------------------------------------------------------------------

    def _fixed_ref_frame(self, x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
        last = x_given.index_select(2, frames.given_index[-1:])  # [N, D, 1]
        if self.prior not in MOVING:
            return last
        # Sums of differences: far from the origin a weighted sum of positions would lose digits.
        weights = self._table(moving_mean, frames, last)  # [G, T_noisy]
        return last + _over_frames(frames.given_of(x_given, 2) - last, weights)

    def _noise(self, z: Tensor, model_kwargs: dict) -> Tensor:
        """x_prior - x_ref = sigma L z."""
        if self.prior == "walk":
            z = _over_frames(z, self._table(walk_factor, frames_of(model_kwargs["cond_mask"]), z).T)
        return self.sigma * z

    def _table(self, make: Any, frames: Frames, like: Tensor) -> Tensor:
        """The matrix that `make` makes for these frames, on the device and in the dtype of `like`, made once."""
        key = (make.__name__, frames.given, frames.noisy, like.device, like.dtype)
        known = self._tables.get(key)
        if known is None:
            with normal_tensors():
                known = self._tables[key] = torch.from_numpy(make(frames)).to(like.dtype).to(like.device)
        return known

    def start(self, z: Tensor, model_kwargs: dict) -> Tensor:
        return self._noise(z, model_kwargs)

    def noised(self, x_start: Tensor, noised_steps: int, z: Tensor, model_kwargs: dict) -> Tensor:
        level = noised_steps / self.num_timesteps
        return (1 - level) * x_start + level * self._noise(z, model_kwargs)

    def guided_by(self, cond_fn: GradientFunction, model_kwargs: dict) -> GradientFunction:
        """Sigma times the gradient, Sigma = sigma^2 L L^T: the score moves u by l / (1 - l) times that (`plan`)."""
        factor = None
        if self.prior == "walk":
            # Not transposed, then transposed: rows times L^T are L z.
            factor = self._table(walk_factor, frames_of(model_kwargs["cond_mask"]), model_kwargs["x_given"])

        def moved(x: Tensor, t: Tensor) -> Tensor:
            gradient = cond_fn(x, t)
            if factor is not None:
                gradient = _over_frames(_over_frames(gradient, factor.to(gradient)), factor.T.to(gradient))
            return self.sigma**2 * gradient

        return moved

    # --- the chain ------------------------------------------------------------------------------------------------

    def scale_timesteps(self, t: Tensor) -> Tensor:
        """What the network and `cond_fn` are told of t: a real number, float32."""
        t = t.to(torch.float32)
        return t * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def plan(
        self, method: str, num_steps: int, spacing: str, eta: float = 0.0, noised_steps: int | None = None
    ) -> Plan:
        """As for `GeoTDM`; a chain over part of the path makes all its calls there.

        Guidance moves u by l / (1 - l) Sigma grad log p(y | x_t): what moving the score by the gradient does to the
        mean of the data. At l = 1 that is infinity times the gradient 0, x_prior telling nothing of y: the first call
        of a whole chain is not guided, which many calls make up for.
        """
        level = 1.0 if noised_steps is None else noised_steps / self.num_timesteps
        levels, rows = FLOW_SOLVERS[method](num_steps, level, spacing)
        zeros, ones = np.zeros(num_steps), np.ones(num_steps)
        # u = on_x x_t + on_output output
        on_x = -1 / levels if self.prediction == "start_x" else zeros
        on_output = ones if self.prediction == "velocity" else 1 / levels
        coefficients = np.concatenate([np.stack([on_x, on_output], axis=1), rows, zeros[:, None]], axis=1)
        on_velocity = np.divide(levels, 1 - levels, out=zeros.copy(), where=levels < 1)
        guidance = np.stack([rows[:, 1] * on_velocity, on_velocity], axis=1)
        return Plan(levels * self.num_timesteps, coefficients, guidance)

    def described(self) -> dict[str, Any]:
        return {
            "kind": "flow",
            "tables": {},
            "mode": self.mode,
            "prior": self.prior,
            "sigma": self.sigma,
            "model_mean_type": self.prediction,
            "num_timesteps": self.num_timesteps,
            "rescale_timesteps": bool(self.rescale_timesteps),
            **({} if self.calls is None else {"calls": self.calls}),
        }

    def _chain(
        self,
        num_steps: int,
        x: Tensor,
        x_ref: Tensor | None,
        model_kwargs: dict,
        cond_fn: GradientFunction | None,
    ) -> Chain:
        """Euler's chain from the level num_steps / S of the path down to the data, in that many steps."""
        plan = self.plan("euler", num_steps, "uniform", noised_steps=num_steps)
        guided = None if cond_fn is None else self.guided_by(cond_fn, model_kwargs)
        return Chain(self, plan, x, x_ref, model_kwargs, cond_fn=guided)

    # --- losses ---------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of what is predicted at one random time of each graph (Lipman et al. 2023, Eq. 23).

        t: [N] in 0 ... S, any number type, the same within a graph; noise: z [N, D, T_noisy]. They are drawn when they
            are not given: noise, then t = S U[0, 1).
        Returns `loss` and `mse`, both [N]: the mean over the dimensions of a node. Of a student: `one_call_losses`.
        """
        model_kwargs = self.with_graph(check_start("training_losses", self.mode, x_start, model_kwargs, noise))
        batch = model_kwargs["batch"]
        if self.calls is not None:
            return one_call_losses(self, x_start, model_kwargs, noise)
        z = torch.randn_like(x_start) if noise is None else noise
        if t is None:
            t = self.num_timesteps * torch.rand(num_graphs(batch)).to(x_start.device)[batch]
        check_tensor("training_losses", "t", t, (x_start.shape[0],))
        if not is_trusted() and len(t) and (float(t.min()) < 0 or float(t.max()) > self.num_timesteps):
            raise ValueError(
                f"training_losses: t must be in 0..{self.num_timesteps}, got {float(t.min()):g}..{float(t.max()):g}"
            )
        x_ref = self.get_ref_frame(model_kwargs)
        if self.mode == "uncond":
            z = self.project_to_subspace(z, batch)
        noise = self._noise(z, model_kwargs)
        data = self.to_relative(x_start, x_ref, batch)
        level = (t.to(data.dtype) / self.num_timesteps)[:, None, None]
        x_t = data + level * (noise - data)
        output = self._output_at(self.to_absolute(x_t, x_ref), t, model_kwargs)
        target = {"displacement": data - x_t, "start_x": data, "velocity": data - noise}[self.prediction]
        mse = nn.functional.mse_loss(output, target, reduction="none").mean(dim=(1, 2))
        return {"mse": mse, "loss": mse}

    def calc_bpd_loop(
        self,
        x_start: Tensor,
        model_kwargs: dict | None = None,
        progress: Progress = False,
        noise: NoiseFunction | None = None,
    ) -> dict[str, Tensor]:
        """Raises ValueError: a flow has no bound like that of a diffusion, and its exact likelihood is not computed."""
        raise ValueError("likelihood: a model of diffusion.kind flow has no likelihood here; its scores are of samples")


def _over_frames(x: Tensor, weights: Tensor) -> Tensor:
    """sum_s x_s weights_st, number by number in the order of the frames: x [N, D, S], weights [S, T] -> [N, D, T].

    A matrix product would be rounded by autocast and TF32, and its bits would depend on how many rows there are.
    """
    total = x[..., :1] * weights[0]
    for s in range(1, len(weights)):
        total = total + x[..., s : s + 1] * weights[s]
    return total
