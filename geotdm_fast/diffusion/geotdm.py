"""Diffusion over geometric trajectories with an equivariant network (arXiv 2410.13027, Sec. 4)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.diffusion import ays_ddim, likelihood
from geotdm_fast.diffusion.chain import Chain, GradientFunction, NoiseFunction
from geotdm_fast.diffusion.framed import FramedDiffusion
from geotdm_fast.diffusion.gaussian import GaussianDiffusion
from geotdm_fast.diffusion.inputs import check_loop, check_model_kwargs, check_start, loss_draws
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.diffusion.model_types import LossType, ModelMeanType, ModelVarType
from geotdm_fast.diffusion.official_names import MethodChain, OfficialNames, replaced_parts, sampled_steps
from geotdm_fast.diffusion.one_call import checked_calls, one_call_losses
from geotdm_fast.diffusion.plan import Plan, ancestral_plan, method_plan
from geotdm_fast.diffusion.priors import PRIORS
from geotdm_fast.diffusion.progress import Progress, falling_steps
from geotdm_fast.diffusion.step_subsets import SPACINGS, choose_steps
from geotdm_fast.graphs import GraphRule
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.checks import check_index, check_tensor, reads_values
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.runtime.shown import shown


class GeoTDM(OfficialNames, GaussianDiffusion, FramedDiffusion):
    """Trains and samples an `EGTN`; constructor, methods and returns are those of the official `GeoTDM`.

    denoise_network: `EGTN`, bare or wrapped (DistributedDataParallel)
    beta_schedule_name: `linear`, `cosine`, `quadratic` or `sigmoid`; num_timesteps: S
    device: where sampling draws its noise
    rescale_timesteps: the network sees t * 1000 / S instead of t
    mode: `cond` - everything is diffused relative to a reference frame x_ref that moves with the given frames;
          `uncond` - positions, noise and output are projected to zero mean over the nodes and frames of each graph
    prior: x_ref by name: `learned`, `com`, `com_last`, `last_frame`, `none`. Default: `learned` if the network was
           built for it, else `com`; in mode `uncond` there is none.
    calls: 1 of a student of `geotdm distill`: its network makes a trajectory of noise in one call, and is told of no
           step but one. None: a model of all steps
    call_step: that step of a student, 0 ... S - 1: the chain begins with x_ref noised up to it, sqrt(1 - abar) z. None:
           the last, from noise alone

    On CUDA the steps of a chain are replayed as a CUDA graph; `captures` holds the last few graphs, and None in its
    place has every step launched by Python, which gives the same sample. A subclass that replaces part of a step
    (`p_sample`, `p_mean_variance`, `_predict_xstart_from_eps`, ...) is sampled by calls of its `p_sample`.

    In all methods x is [N, D, T_noisy], t is [N] int64, and model_kwargs holds `h`, `edge_index`, `edge_attr`, `batch`
    (see `EGTN.forward`; it may hold `graph` in place of both of the edges) and in mode `cond` also `cond_mask` and
    `x_given`. Noise comes from torch's global generator.
    """

    methods = (*METHODS, ays_ddim.NAME)
    spacings = tuple(SPACINGS)
    fast_method = "dpmpp_2m"

    def __init__(
        self,
        denoise_network: nn.Module,
        beta_schedule_name: str,
        num_timesteps: int,
        model_mean_type: ModelMeanType,
        model_var_type: ModelVarType,
        loss_type: LossType,
        device: torch.device | str | int,
        rescale_timesteps: bool = False,
        mode: str = "cond",
        prior: str | None = None,
        calls: int | None = None,
        call_step: int | None = None,
    ):
        super().__init__(beta_schedule_name, num_timesteps)
        check_choice("GeoTDM: mode", mode, ("cond", "uncond"))
        for name, value, kind in (
            ("model_mean_type", model_mean_type, ModelMeanType),
            ("model_var_type", model_var_type, ModelVarType),
            ("loss_type", loss_type, LossType),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"GeoTDM: {name} must be a {kind.__name__}, got {shown(value)}")
        self.denoise_network = denoise_network
        self.learn_ref_frame = cast(bool, bare(denoise_network).learn_ref_frame)
        if prior is None:
            prior = "none" if mode == "uncond" else "learned" if self.learn_ref_frame else "com"
        check_choice("GeoTDM: prior", prior, PRIORS)
        if mode == "uncond" and prior != "none":
            raise ValueError(f"GeoTDM: prior must be 'none' in mode 'uncond', got '{prior}'")
        if prior == "learned" and not self.learn_ref_frame:
            raise ValueError("GeoTDM: prior 'learned' needs a network built with learn_ref_frame=True")
        self.prior = prior
        self.mode = mode
        self.calls = checked_calls("GeoTDM", calls)
        self.call_step = self._checked_call_step(call_step)
        self.device = device
        self.model_mean_type = model_mean_type
        self.model_var_type = model_var_type
        self.loss_type = loss_type
        self.rescale_timesteps = rescale_timesteps
        self.captures: CaptureCache | None = CaptureCache()
        self._held_ref_frame: tuple[dict, Tensor] | None = None

    def _checked_call_step(self, call_step: int | None) -> int | None:
        if call_step is None:
            return None
        if self.calls is None:
            raise ValueError(f"GeoTDM: call_step is of a student, with calls=1, got {shown(call_step)} without")
        if not 0 <= call_step < self.num_timesteps:
            raise ValueError(f"GeoTDM: call_step must be in 0..{self.num_timesteps - 1}, got {shown(call_step)}")
        return call_step

    def clear_ref_frame(self) -> None:
        """Nothing: no reference frame is kept. Loops written for the official code call it."""

    @property
    def reads_graph(self) -> bool:
        return type(self) is GeoTDM and not self.replaced_parts() and super().reads_graph

    def replaced_parts(self) -> list[str]:
        return replaced_parts(self, GeoTDM)

    def plan(
        self, method: str, num_steps: int, spacing: str, eta: float = 0.0, noised_steps: int | None = None
    ) -> Plan:
        abar = self.alphas_cumprod[:noised_steps]
        if method == ays_ddim.NAME:
            timesteps = ays_ddim.ddim_timesteps(len(abar), num_steps + 1)
            rows = METHODS["ddim"](abar[timesteps], eta, False)
            return method_plan(self, self.model_mean_type, timesteps[:-1], rows, False)
        timesteps = choose_steps(min(num_steps, len(abar)), abar, spacing)
        is_large = self.model_var_type is ModelVarType.FIXED_LARGE
        rows = METHODS[method](np.append(abar[timesteps], 1.0), eta, is_large)
        return method_plan(self, self.model_mean_type, timesteps, rows, method == "ddpm")

    def start(self, z: Tensor, model_kwargs: dict) -> Tensor:
        return z if self.call_step is None else float(self.sqrt_one_minus_alphas_cumprod[self.call_step]) * z

    def noised(self, x_start: Tensor, noised_steps: int, z: Tensor, model_kwargs: dict) -> Tensor:
        t = torch.full((x_start.shape[0],), noised_steps - 1, device=x_start.device)
        return self.q_sample(x_start, t, noise=z)

    def described(self) -> dict[str, Any]:
        return {
            "tables": {"alphas_cumprod": self.alphas_cumprod},
            "mode": self.mode,
            "prior": self.prior,
            "model_mean_type": self.model_mean_type.name.lower(),
            "model_var_type": self.model_var_type.name.lower(),
            "rescale_timesteps": bool(self.rescale_timesteps),
            **({} if self.calls is None else {"calls": self.calls, "call_step": self.call_step}),
        }

    # --- one step -------------------------------------------------------------------------------------------------

    def scale_timesteps(self, t: Tensor) -> Tensor:
        """What the network and `cond_fn` are told of t."""
        return self._scale_timesteps(t)

    def _network_output(self, x: Tensor, t: Tensor, x_ref: Tensor | None, model_kwargs: dict) -> Tensor:
        """The network at relative positions x, projected in mode `uncond`."""
        return self._output_at(self.to_absolute(x, x_ref), t, model_kwargs)

    def _noised(self, x_start: Tensor, x_ref: Tensor | None, t: Tensor, noise: Tensor, batch: Tensor) -> Tensor:
        """q(x_t | x_0) of absolute positions, in absolute positions."""
        if self.mode == "uncond" or type(self).q_sample is not GaussianDiffusion.q_sample:
            return self.to_absolute(self.q_sample(self.to_relative(x_start, x_ref, batch), t, noise=noise), x_ref)
        tables = (self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod)
        signal, spread = (self.whole_table(values, x_start.device, x_start.dtype) for values in tables)
        return ops.noised_positions(x_start, cast(Tensor, x_ref), noise, signal, spread, t)

    def p_mean_variance(self, x: Tensor, t: Tensor, model_kwargs: dict | None = None) -> dict[str, Tensor]:
        """p(x_{t-1} | x_t) and the prediction of x_0.

        x: [N, D, T_noisy] - relative to x_ref in mode `cond`
        Returns `mean`, `variance`, `log_variance`, `pred_xstart`, all in the shape of x.
        """
        check_tensor("p_mean_variance", "t", t, (x.shape[0],), integer=True)
        if reads_values(t):
            check_index("p_mean_variance", "t", t, self.num_timesteps)
        model_kwargs = check_model_kwargs("p_mean_variance", self.mode, model_kwargs)
        model_kwargs = self.with_graph(model_kwargs)
        x_ref = self.get_ref_frame(model_kwargs)
        if self.mode == "uncond":
            x = self.project_to_subspace(x, model_kwargs["batch"])
        output = self._network_output(x, t, x_ref, model_kwargs)
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            mean, pred_xstart = output, self.predict_xstart_from_xprev(x, t, output)
        else:
            is_start = self.model_mean_type is ModelMeanType.START_X
            pred_xstart = output if is_start else self.predict_xstart_from_eps(x, t, output)
            mean, _, _ = self.q_posterior_mean_variance(pred_xstart, x, t)
        if self.model_var_type is ModelVarType.FIXED_LARGE:
            variance = self.table(self.fixed_large_variance, t, x)
            log_variance = self.table(self.fixed_large_log_variance, t, x)
        else:
            variance = self.table(self.posterior_variance, t, x)
            log_variance = self.table(self.posterior_log_variance_clipped, t, x)
        return {"mean": mean, "variance": variance, "log_variance": log_variance, "pred_xstart": pred_xstart}

    def condition_mean(self, cond_fn: GradientFunction, p_mean_var: dict, x: Tensor, t: Tensor) -> Tensor:
        """mean + variance * grad log p(y | x_t) (Sohl-Dickstein et al. 2015)."""
        gradient = cond_fn(x, self.scale_timesteps(t))
        return p_mean_var["mean"] + p_mean_var["variance"] * gradient.to(x.dtype)

    def condition_score(self, cond_fn: GradientFunction, p_mean_var: dict, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The p_mean_variance that a score moved by grad log p(y | x_t) would give (Song et al. 2020)."""
        eps = self.predict_eps_from_xstart(x, t, p_mean_var["pred_xstart"])
        eps = eps - self.table(self.sqrt_one_minus_alphas_cumprod, t, x) * cond_fn(x, self.scale_timesteps(t))
        pred_xstart = self.predict_xstart_from_eps(x, t, eps)
        mean, _, _ = self.q_posterior_mean_variance(pred_xstart, x, t)
        return p_mean_var | {"pred_xstart": pred_xstart, "mean": mean}

    def p_sample(
        self, x: Tensor, t: Tensor, cond_fn: GradientFunction | None = None, model_kwargs: dict | None = None
    ) -> dict[str, Tensor]:
        """Draw x_{t-1} from p(x_{t-1} | x_t): `sample` and `pred_xstart`; no noise is added where t = 0.

        cond_fn: (x_t, t) to the gradient of a log probability, for guidance
        """
        out = self.p_mean_variance(x, t, model_kwargs=model_kwargs)
        noise = torch.randn_like(x)
        if cond_fn is not None:
            out["mean"] = self.condition_mean(cond_fn, out, x, t)
        is_noisy = (t != 0).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        sample = out["mean"] + is_noisy * (0.5 * out["log_variance"]).exp() * noise
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    # --- loops ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def p_sample_loop(
        self,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """Draw trajectories: [N, D, T_noisy], with x_ref added in mode `cond`.

        noise: x_S instead of a draw. One `randn` of the shape comes first, then one for each step, in that order.
        """
        chain, x_ref = self._whole(shape, noise, cond_fn, model_kwargs)
        return self.to_absolute(chain.finish(progress), x_ref)

    @torch.no_grad()
    def p_sample_loop_keeptraj(
        self,
        shape: Sequence[int],
        keep_every: int = 10,
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """The sample after steps 0, keep_every, 2 keep_every, ... and after the last: [N, D, T_noisy, kept]."""
        if keep_every < 1:
            raise ValueError(f"p_sample_loop_keeptraj: keep_every must be at least 1, got {keep_every}")
        chain, x_ref = self._whole(shape, noise, cond_fn, model_kwargs, is_watched=True)
        kept = []
        for i, _ in enumerate(chain.steps(progress)):
            if i % keep_every == 0:
                kept.append(chain.x.clone())
        kept.append(chain.x)
        return torch.stack([self.to_absolute(sample, x_ref) for sample in kept], dim=-1)

    def p_sample_loop_progressive(
        self,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the result of `p_sample` after every step; positions are relative to x_ref in mode `cond`."""
        chain, _ = self._loop(shape, noise, cond_fn, model_kwargs, is_watched=True)
        for _ in chain.steps(progress):
            yield {"sample": chain.x.clone(), "pred_xstart": chain.x_0.clone()}

    def _whole(
        self,
        shape: Sequence[int],
        noise: Tensor | None,
        cond_fn: GradientFunction | None,
        model_kwargs: dict | None,
        is_watched: bool = False,
    ) -> tuple[Chain | MethodChain, Tensor | None]:
        """`_loop`, or a subclass's own `p_sample_loop_progressive`, from which the other loops officially come."""
        if not replaced_parts(self, GeoTDM, ["p_sample_loop_progressive"]):
            return self._loop(shape, noise, cond_fn, model_kwargs, is_watched)
        chain = MethodChain(
            lambda progress: self.p_sample_loop_progressive(
                shape, noise=noise, cond_fn=cond_fn, progress=progress, model_kwargs=model_kwargs
            )
        )
        return chain, self.get_ref_frame(model_kwargs)

    def _loop(
        self,
        shape: Sequence[int],
        noise: Tensor | None,
        cond_fn: GradientFunction | None,
        model_kwargs: dict | None,
        is_watched: bool = False,
    ) -> tuple[Chain | MethodChain, Tensor | None]:
        """The whole chain, and x_ref.

        is_watched: its steps are handed out one by one, so it cannot be repeated with more room for edges: a graph that
            may need more is not captured
        """
        model_kwargs = check_loop("p_sample_loop", self.mode, "shape", shape, model_kwargs)
        if noise is None:
            noise = torch.randn(*shape, device=self.device, dtype=self.dtype)
        else:
            check_tensor("p_sample_loop", "noise", noise, tuple(shape), integer=False)
        model_kwargs = self.with_graph(model_kwargs)
        with torch.no_grad():
            x_ref = self.get_ref_frame(model_kwargs)
        graph, captures = model_kwargs.get("graph"), self.captures
        if is_watched and isinstance(graph, GraphRule) and graph.grows:
            self.captures = None
        try:
            return self._chain(self.num_timesteps, noise, x_ref, model_kwargs, cond_fn), x_ref
        finally:
            self.captures = captures

    def _chain(
        self,
        num_steps: int,
        x: Tensor,
        x_ref: Tensor | None,
        model_kwargs: dict,
        cond_fn: GradientFunction | None,
    ) -> Chain | MethodChain:
        """The model's own chain from step num_steps - 1 on."""
        self.check_has_steps("GeoTDM")
        if self.replaced_parts():
            return MethodChain(partial(sampled_steps, self, num_steps, x, model_kwargs, cond_fn), x)
        plan = ancestral_plan(self, self.model_mean_type, self.model_var_type, num_steps)
        return Chain(self, plan, x, x_ref, model_kwargs, cond_fn=cond_fn)

    # --- losses ---------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of the network for one random step of each graph (Ho et al. 2020, Eq. 14).

        Returns `loss` and `mse`, both [N]: the mean over the dimensions of a node.
        noise, then t, are drawn when they are not given: one t for each graph. Of a student: `one_call_losses`.
        """
        model_kwargs = check_start("training_losses", self.mode, x_start, model_kwargs, noise)
        model_kwargs = self.with_graph(model_kwargs)
        batch = model_kwargs["batch"]
        if self.calls is not None:
            return one_call_losses(self, x_start, model_kwargs, noise)
        noise, t = loss_draws(x_start, t, noise, batch, self.num_timesteps)
        x_ref = self.get_ref_frame(model_kwargs)
        if self.mode == "uncond":
            noise = self.project_to_subspace(noise, batch)
        x = self._noised(x_start, x_ref, t, noise, batch)
        output = self._output_at(x, t, model_kwargs)
        target = noise
        if self.model_mean_type is not ModelMeanType.EPSILON:
            target = self.to_relative(x_start, x_ref, batch)
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            target, _, _ = self.q_posterior_mean_variance(target, self.to_relative(x, x_ref, batch), t)
        mse = nn.functional.mse_loss(output, target, reduction="none").mean(dim=(1, 2))
        return {"mse": mse, "loss": mse}

    @torch.no_grad()
    def calc_bpd_loop(
        self,
        x_start: Tensor,
        model_kwargs: dict | None = None,
        progress: Progress = False,
        noise: NoiseFunction | None = None,
    ) -> dict[str, Tensor]:
        """The whole variational bound, in nats (the official name says bits per dimension).

        noise: k = 0 for the last step, then one for each step before it, to z ~ N(0, I); default: `randn_like`
        Returns `total_bpd` [N], `prior_bpd` [N], and for each step from the last to the first `vb` [N, S] (terms of the
        bound), `xstart_mse` [N, S] and `mse` [N, S] (of the noise). The sum over the nodes of a graph is its bound.
        """
        self.check_has_steps("calc_bpd_loop")
        model_kwargs = check_start("calc_bpd_loop", self.mode, x_start, model_kwargs)
        model_kwargs = self.with_graph(model_kwargs)
        with self._holding_ref_frame(model_kwargs) as x_ref:
            x_start = self.to_relative(x_start, x_ref, model_kwargs["batch"])
            return likelihood.bound(self, x_start, model_kwargs, falling_steps(self.num_timesteps, progress), noise)
