"""What a diffusion and a flow over trajectories have in common: positions relative to a reference frame, and a network
that sees absolute ones."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from geotdm_fast.conditioning import Frames, frames_of
from geotdm_fast.diffusion.chain import Chain, GradientFunction, NoiseFunction
from geotdm_fast.diffusion.inputs import check_model_kwargs, check_start
from geotdm_fast.diffusion.official_names import MethodChain
from geotdm_fast.diffusion.plan import Plan
from geotdm_fast.diffusion.priors import FIXED_PRIORS
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.egtn import EGTN, takes_graph
from geotdm_fast.nn.plain import bare
from geotdm_fast.reference.row_sums import mean_by_graph, take_rows
from geotdm_fast.runtime.cuda_graphs import CaptureCache


class FramedDiffusion:
    """Base of `GeoTDM` and `Flow`: what `Sampler`, `Chain`, training and scores ask of either.

    denoise_network: `EGTN`, bare or wrapped; num_timesteps: S; mode, prior, device: as for `GeoTDM`
    methods: names that `Sampler` takes, the first of them by default; fast_method: the one for a few calls
    spacings: names that `Sampler` takes for which steps a chain visits
    calls: of a student of `geotdm distill`, the calls that it draws in, 1; None: a model that is drawn in up to S calls
    call_step: of a student, the step that its call is one of; None: the last, S - 1
    """

    methods: ClassVar[tuple[str, ...]] = ()
    spacings: ClassVar[tuple[str, ...]] = ()
    fast_method: ClassVar[str] = ""

    denoise_network: nn.Module
    num_timesteps: int
    mode: str
    prior: str
    device: torch.device | str | int
    learn_ref_frame: bool
    calls: int | None = None
    call_step: int | None = None
    captures: CaptureCache | None
    _held_ref_frame: tuple[dict, Tensor] | None

    @property
    def task_mode(self) -> str:
        """The mode of the `Task` that the model is asked: whether frames are given (`cond`) or not (`uncond`)."""
        return self.mode

    @property
    def has_likelihood(self) -> bool:
        """Whether `calc_bpd_loop` gives a bound on the likelihood."""
        return self.calls is None

    def check_has_steps(self, where: str) -> None:
        """ValueError where the model is a student, whose network knows no step but the first."""
        if self.calls is not None:
            raise ValueError(
                f"{where}: the model must be one of all steps, got a student of {self.calls} call, which draws "
                "trajectories from noise alone; ask its teacher"
            )

    # --- reference frame and subspace -----------------------------------------------------------------------------

    def project_to_subspace(self, x: Tensor, batch: Tensor) -> Tensor:
        """x minus its mean over the nodes and frames of each graph; the result has (T n - 1) D dimensions a graph."""
        return x - take_rows(mean_by_graph(x.mean(dim=-1), batch), batch).unsqueeze(-1)

    def get_ref_frame(self, model_kwargs: dict | None = None) -> Tensor | None:
        """x_ref, [N, D, 1] or [N, D, T_noisy], computed anew; None in mode `uncond`."""
        if self.mode == "uncond":
            return None
        model_kwargs = check_model_kwargs("get_ref_frame", self.mode, model_kwargs)
        held = self._held_ref_frame
        if held is not None and held[0] is model_kwargs:
            return held[1]
        if self.prior == "learned":
            return self.denoise_network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
        frames = frames_of(model_kwargs["cond_mask"])
        return self._fixed_ref_frame(model_kwargs["x_given"], frames, model_kwargs["batch"])

    def _fixed_ref_frame(self, x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
        """x_ref of a prior that no network computes."""
        return FIXED_PRIORS[self.prior](x_given, frames, batch)

    @contextlib.contextmanager
    def _holding_ref_frame(self, model_kwargs: dict) -> Iterator[Tensor | None]:
        """x_ref, which is not computed again within the block: for a loop over steps that owns `model_kwargs`."""
        x_ref = self.get_ref_frame(model_kwargs)
        self._held_ref_frame = None if x_ref is None else (model_kwargs, x_ref)
        try:
            yield x_ref
        finally:
            self._held_ref_frame = None

    def to_relative(self, x: Tensor, x_ref: Tensor | None, batch: Tensor) -> Tensor:
        """Positions in the frame where the diffusion happens."""
        return x - cast(Tensor, x_ref) if self.mode == "cond" else self.project_to_subspace(x, batch)

    def to_absolute(self, x: Tensor, x_ref: Tensor | None) -> Tensor:
        """The inverse of `to_relative` in mode `cond`; x itself in mode `uncond`."""
        return x + cast(Tensor, x_ref) if self.mode == "cond" else x

    # --- the network ----------------------------------------------------------------------------------------------

    @property
    def reads_graph(self) -> bool:
        """Whether `with_graph` adds `graph`: the network is called by us alone, and reads it.

        Never of a user's subclass of `GeoTDM` or `Flow`, which may call the network with other edges, or with none:
        nothing is padded for it either.
        """
        return takes_graph(self.denoise_network)

    def with_graph(self, model_kwargs: dict, room: int | None = None) -> dict:
        """`model_kwargs`, with `graph` where the network reads one: made and sorted once for all calls.

        room: of a graph by the given frames, the edges of a receiver that it has room for, or more where it needs them;
            None: those that there are
        Not where somebody else's code is between, which may call the network with other edges.
        """
        if model_kwargs.get("graph") is not None or not self.reads_graph:
            return model_kwargs
        network = cast(EGTN, bare(self.denoise_network))
        if network.graph_spec is not None:
            return model_kwargs | {"graph": network.graph_of(model_kwargs, room)}
        return model_kwargs | {"graph": Graph.static(model_kwargs["edge_index"], len(model_kwargs["batch"]))}

    def scale_timesteps(self, t: Tensor) -> Tensor:
        """What the network and `cond_fn` are told of t."""
        raise NotImplementedError

    def _output_at(self, x: Tensor, t: Tensor, model_kwargs: dict) -> Tensor:
        """The network at absolute positions x, projected in mode `uncond`."""
        output, _ = self.denoise_network(x=x, diffusion_t=self.scale_timesteps(t), **model_kwargs)
        return self.project_to_subspace(output, model_kwargs["batch"]) if self.mode == "uncond" else output

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the network, in which sampling draws its noise."""
        parameter = next(self.denoise_network.parameters(), None)
        return torch.get_default_dtype() if parameter is None else parameter.dtype

    # --- what a `Sampler` asks ------------------------------------------------------------------------------------

    def plan(
        self, method: str, num_steps: int, spacing: str, eta: float = 0.0, noised_steps: int | None = None
    ) -> Plan:
        """The chain of a method in `num_steps` calls, from `noised_steps` (None: all S) down to the data."""
        raise NotImplementedError

    @property
    def noised_steps(self) -> int | None:
        """How many steps of noise a whole chain goes back: None, all of them, but for a student's."""
        return None if self.call_step is None else self.call_step + 1

    def start(self, z: Tensor, model_kwargs: dict) -> Tensor:
        """What a whole chain begins with, relative to x_ref, of z ~ N(0, I) [N, D, T_noisy]."""
        return z

    def noised(self, x_start: Tensor, noised_steps: int, z: Tensor, model_kwargs: dict) -> Tensor:
        """x_start [N, D, T_noisy], relative to x_ref, after `noised_steps` of the S steps of noise made of z."""
        raise NotImplementedError

    def guided_by(self, cond_fn: GradientFunction, model_kwargs: dict) -> GradientFunction:
        """The gradient that `Plan.guidance` multiplies, of that of log p(y | x_t)."""
        return cond_fn

    def replaced_parts(self) -> list[str]:
        """Parts of a step that a subclass has of its own, which a `Sampler` does not call."""
        return []

    def described(self) -> dict[str, Any]:
        """All of it, but for the network, that samples depend on: plain values, arrays of tables."""
        raise NotImplementedError

    # --- loops ----------------------------------------------------------------------------------------------------

    def _chain(
        self,
        num_steps: int,
        x: Tensor,
        x_ref: Tensor | None,
        model_kwargs: dict,
        cond_fn: GradientFunction | None,
    ) -> Chain | MethodChain:
        """The model's own chain from step num_steps - 1 on."""
        raise NotImplementedError

    @torch.no_grad()
    def optimize(
        self,
        x_start: Tensor,
        optimize_step: int,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
        cond_fn: GradientFunction | None = None,
    ) -> Tensor:
        """Noise x_start by `optimize_step` steps and denoise it again by the model's own chain: [N, D, T_noisy].

        A flow goes back to the level optimize_step / S of its path, and to the data again in that many steps of
        Euler's. `Sampler.refine` does so by any method in any number of calls. In mode `uncond` the result has zero
        mean over the nodes and frames of each graph.
        noise: z [N, D, T_noisy], default: drawn. Raises ValueError for a step outside of 1 ... S.
        """
        self.check_has_steps("optimize")
        if not 1 <= optimize_step <= self.num_timesteps:
            raise ValueError(f"optimize: optimize_step must be in 1..{self.num_timesteps}, got {optimize_step}")
        model_kwargs = self.with_graph(check_start("optimize", self.mode, x_start, model_kwargs, noise))
        z = torch.randn_like(x_start) if noise is None else noise
        batch, x_ref = model_kwargs["batch"], self.get_ref_frame(model_kwargs)
        if self.mode == "uncond":
            z = self.project_to_subspace(z, batch)
        x_t = self.noised(self.to_relative(x_start, x_ref, batch), optimize_step, z, model_kwargs)
        return self.to_absolute(self._chain(optimize_step, x_t, x_ref, model_kwargs, cond_fn).finish(), x_ref)

    # --- losses ---------------------------------------------------------------------------------------------------

    def training_losses(
        self,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`loss` [N] of one random step of each graph."""
        raise NotImplementedError

    def calc_bpd_loop(
        self,
        x_start: Tensor,
        model_kwargs: dict | None = None,
        progress: Progress = False,
        noise: NoiseFunction | None = None,
    ) -> dict[str, Tensor]:
        """The bound on the negative log likelihood, where there is one."""
        raise NotImplementedError
