"""Diffusion of Align Your Structures: GeoTDM's unconditional algebra, with given frames for the network alone."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geotdm_fast.ays.alignment import align_frames, align_jointly
from geotdm_fast.ays.ddim import OfficialDDIM
from geotdm_fast.ays.rollouts import Rollouts
from geotdm_fast.diffusion.chain import GradientFunction
from geotdm_fast.diffusion.gaussian import GaussianDiffusion
from geotdm_fast.diffusion.geotdm import GeoTDM
from geotdm_fast.diffusion.inputs import check_start, loss_draws
from geotdm_fast.diffusion.model_types import LossType, ModelMeanType, ModelVarType
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.plain import bare


class OurDiffusion(Rollouts, OfficialDDIM, GaussianDiffusion):
    """Trains and samples a network of `geotdm_fast.ays`, which every method takes as its first argument, `model`.

    beta_schedule_name: `linear` and others (`geotdm_fast.diffusion.get_named_beta_schedule`); num_timesteps: S
    model_mean_type, model_var_type, loss_type: as for `geotdm_fast.GeoTDM`
    rescale_timesteps: the network sees t 1000 / S instead of t
    use_kabsch_alignment: the loss is taken at an x_t that is turned onto x_0, see `training_losses`

    x, noise and the network's output are projected to zero mean over the nodes and noisy frames of each graph. Given
    frames, in model_kwargs, enter the network as they are.
    In all methods x is [N, 3, M] with M noisy frames, t is [N] int64, and model_kwargs holds what the network's forward
    takes beside x and diffusion_t: `h`, `f`, `edge_index`, `edge_attr`, `batch`, `cond_mask`, `original_frames`. They
    are never written into. Noise comes from torch's global generator: one `randn` of the shape, then one `randn_like`
    for each step. Constructor, methods and returns are those of the official class.
    """

    def __init__(
        self,
        beta_schedule_name: str,
        num_timesteps: int,
        model_mean_type: ModelMeanType = ModelMeanType.EPSILON,
        model_var_type: ModelVarType = ModelVarType.FIXED_LARGE,
        loss_type: LossType = LossType.MSE,
        rescale_timesteps: bool = False,
        use_kabsch_alignment: bool = False,
    ):
        super().__init__(beta_schedule_name, num_timesteps)
        self.beta_schedule_name = beta_schedule_name
        self.model_mean_type, self.model_var_type, self.loss_type = model_mean_type, model_var_type, loss_type
        self.rescale_timesteps = rescale_timesteps
        self.use_kabsch_alignment = use_kabsch_alignment
        self._of_network: tuple[nn.Module, GeoTDM] | None = None

    def with_network(self, model: nn.Module, device: torch.device | str | None = None) -> GeoTDM:
        """The same diffusion as a `geotdm_fast.GeoTDM` of this network, in mode `uncond`: for `Sampler`, say.

        device: where noise is drawn; None: where the network is. Its losses are not aligned.
        """
        known = self._of_network
        if known is None or known[0] is not model:
            if getattr(bare(model), "learn_ref_frame", None) is not False:
                raise TypeError(f"OurDiffusion: model must be a network of geotdm_fast.ays, got {type(model).__name__}")
            types = (self.model_mean_type, self.model_var_type, self.loss_type)
            about = (self.beta_schedule_name, self.num_timesteps, *types)
            made = GeoTDM(model, *about, "cpu", self.rescale_timesteps, "uncond")
            known = self._of_network = (model, made)
        diffusion = known[1]
        diffusion.device = next(model.parameters()).device if device is None else device
        return diffusion

    # --- one step -------------------------------------------------------------------------------------------------

    def project_to_subspace(self, x: Tensor, batch: Tensor) -> Tensor:
        """x minus its mean over the nodes and frames of each graph."""
        return GeoTDM.project_to_subspace(self, x, batch)  # type: ignore[arg-type]  # it reads nothing of a network

    def compute_noise(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)."""
        signal = self.table(self.sqrt_alphas_cumprod, t, x_start) * x_start
        return (x_t - signal) / self.table(self.sqrt_one_minus_alphas_cumprod, t, x_start)

    def p_mean_variance(
        self, model: nn.Module, x: Tensor, t: Tensor, model_kwargs: dict | None = None
    ) -> dict[str, Tensor]:
        """p(x_{t-1} | x_t) and the prediction of x_0: `mean`, `variance`, `log_variance`, `pred_xstart`."""
        return self.with_network(model).p_mean_variance(x, t, model_kwargs=model_kwargs)

    def p_sample(
        self,
        model: nn.Module,
        x: Tensor,
        t: Tensor,
        cond_fn: GradientFunction | None = None,
        model_kwargs: dict | None = None,
    ) -> dict[str, Tensor]:
        """Draw x_{t-1} from p(x_{t-1} | x_t): `sample` and `pred_xstart`; no noise is added where t = 0."""
        return self.with_network(model).p_sample(x, t, cond_fn=cond_fn, model_kwargs=model_kwargs)

    # --- loops ----------------------------------------------------------------------------------------------------

    def p_sample_loop(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Tensor:
        """Draw the noisy frames, [N, 3, M]. noise: x_S instead of a draw."""
        about: dict[str, Any] = {"noise": noise, "cond_fn": cond_fn, "progress": progress}
        return self.with_network(model).p_sample_loop(shape, model_kwargs=with_sorted_graph(model_kwargs), **about)

    def p_sample_loop_progressive(
        self,
        model: nn.Module,
        shape: Sequence[int],
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
        progress: Progress = False,
        model_kwargs: dict | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Yield `sample` and `pred_xstart` after every step."""
        about: dict[str, Any] = {"noise": noise, "cond_fn": cond_fn, "progress": progress}
        model_kwargs = with_sorted_graph(model_kwargs)
        return self.with_network(model).p_sample_loop_progressive(shape, model_kwargs=model_kwargs, **about)

    # --- losses ---------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        model: nn.Module,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Mean squared error of the network for one random step of each graph: `loss` and `mse`, both [N].

            x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps,    loss_i = mean over 3 M numbers of (eps - P(network(x_t)))^2

        with x_0 and eps projected. With use_kabsch_alignment x_t is turned onto x_0 and eps is that of the turned x_t:
        by one rotation for all noisy frames of a graph where the network has an attribute `use_kabsch` that is false,
        else by one for each frame. noise, then t, are drawn when they are not given: one t for each graph.
        """
        model_kwargs = check_start("training_losses", "uncond", x_start, model_kwargs, noise)
        batch = model_kwargs["batch"]
        noise, t = loss_draws(x_start, t, noise, batch, self.num_timesteps)
        x_start = self.project_to_subspace(x_start, batch)
        noise = self.project_to_subspace(noise, batch)
        x_t = self.q_sample(x_start, t, noise=noise)
        if self.use_kabsch_alignment:
            with torch.no_grad():
                x_t = aligned_for(model, x_t, x_start, batch)
                noise = self.compute_noise(x_start, x_t, t)
        output, _ = model(x=x_t, diffusion_t=self.scale_timesteps(t), **model_kwargs)
        output = self.project_to_subspace(output, batch)
        target = noise
        if self.model_mean_type is not ModelMeanType.EPSILON:
            target = x_start
        if self.model_mean_type is ModelMeanType.PREVIOUS_X:
            target, _, _ = self.q_posterior_mean_variance(x_start, x_t, t)
        mse = nn.functional.mse_loss(output, target, reduction="none").mean(dim=(1, 2))
        return {"mse": mse, "loss": mse}

    def calc_bpd_loop(
        self, model: nn.Module, x_start: Tensor, model_kwargs: dict | None = None, progress: Progress = False
    ) -> dict[str, Tensor]:
        """The whole variational bound, in nats; returns as `geotdm_fast.GeoTDM.calc_bpd_loop`."""
        model_kwargs = with_sorted_graph(model_kwargs)
        return self.with_network(model).calc_bpd_loop(x_start, model_kwargs=model_kwargs, progress=progress)

    def scale_timesteps(self, t: Tensor) -> Tensor:
        """What the network is told of t."""
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    _scale_timesteps = scale_timesteps


def aligned_for(model: nn.Module, x_t: Tensor, x_start: Tensor, batch: Tensor) -> Tensor:
    """x_t turned onto x_0 as the network asks: jointly where its attribute `use_kabsch` is false, else by frames."""
    jointly = getattr(bare(model), "use_kabsch", None) is False
    return (align_jointly if jointly else align_frames)(x_t, x_start, batch)


def with_sorted_graph(model_kwargs: dict | None) -> dict:
    """A copy of model_kwargs with `graph`, sorted once for all calls of a loop."""
    given = dict(model_kwargs or {})
    edge_index, batch = given.get("edge_index"), given.get("batch")
    if given.get("graph") is None and isinstance(edge_index, Tensor) and isinstance(batch, Tensor):
        given["graph"] = Graph.static(edge_index, len(batch))
    return given
