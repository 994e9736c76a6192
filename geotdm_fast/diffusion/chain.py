"""The loop of every sampler: it prepares once what does not change, and runs one step after the other.

A step, `advance`, is a function of tensors that keep their addresses. On CUDA it is captured as a graph and replayed;
elsewhere the same function is called.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.diffusion.plan import Plan
from geotdm_fast.diffusion.progress import Progress, falling_steps
from geotdm_fast.graphs import GraphRule
from geotdm_fast.nn.plain import bare, wrappers
from geotdm_fast.nn.prepared import Prepared, PreparedSteps
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference import Counters
from geotdm_fast.reference.row_sums import num_graphs, zero_mean
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.cuda_graphs import CaptureCache, Captured, CUDAGraphRecorder

if TYPE_CHECKING:
    from geotdm_fast.diffusion.framed import FramedDiffusion

# (x_t, t) to the gradient of a log probability.
GradientFunction = Callable[[Tensor, Tensor], Tensor]
# k to z ~ N(0, I) [N, D, T_noisy]: k = 0 for the start, then one for each step.
NoiseFunction = Callable[[int], Tensor]


class StepInputs(NamedTuple):
    """All tensors that a step, `advance`, reads and writes.

    A step writes these:
    x: [N, D, T_noisy] - x_t, relative to x_ref
    before: [N, D, T_noisy] - the prediction of x_0: that of the previous step when it is read, then that of this step
    positions: [N, D, T_noisy] - x + x_ref, what the network sees; None: x itself
    index: [1] int64 - how many steps are done

    A step reads these. Tables have R rows, one for each step and then zeros, R being the same for chains of any length:
    x_ref: [N, D, 1 or T_noisy] - the reference frame, or None
    first: [B + 1] int64 - where each graph begins, for the projection to zero mean; None: no projection
    coefficients: [R, 6] - of `geotdm_fast.reference.diffusion_step`
    t: [R] - the number that the network is told of the step
    prepared: the network, and what its first layer makes of features and of that number; None where the network cannot
        be taken apart (it has hooks, or is somebody else's), and is called
    noise: [N, D, T_noisy] - z of this step, written before it; counters: of noise that the step computes itself by
        counter. Where both are None, and is_random holds, the step draws from torch's global generator
    """

    x: Tensor
    before: Tensor
    positions: Tensor | None
    index: Tensor  # type: ignore[assignment]  # hides the tuple's method, which nobody calls
    x_ref: Tensor | None
    first: Tensor | None
    coefficients: Tensor
    t: Tensor
    prepared: PreparedSteps | None
    noise: Tensor | None
    counters: Counters | None
    is_random: bool


def advance(inputs: StepInputs, call: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
    """Do one step of a chain in place: predict, combine, add noise, count.

    call: (positions, t [N]) to the output of the network, for a network that is not prepared; None: the prepared
        network
    Nothing waits for the device: a CUDA graph may capture it.
    """
    positions = inputs.x if inputs.positions is None else inputs.positions
    if call is None:
        network, features, rows = cast(PreparedSteps, inputs.prepared)
        z = features + rows.index_select(0, inputs.index)[:, None]
        z = z.to(positions.dtype).expand(-1, network.num_frames, -1)
        output = network.denoise(positions, z)[0].transpose(1, 2)
    else:
        output = call(positions, step_of_nodes(inputs))
    ops.diffusion_step(
        inputs.x, inputs.before, inputs.positions, output, _noise(inputs), inputs.x_ref, inputs.first,
        inputs.coefficients, inputs.index,
    )  # fmt: skip
    inputs.index.add_(1)


def _noise(inputs: StepInputs) -> Tensor | None:
    """z of this step, or None where the step adds none."""
    if inputs.counters is not None:
        return ops.trajectory_noise(inputs.counters, inputs.index + 1, inputs.x.shape[1:], inputs.x.dtype)[0]
    if inputs.noise is None and inputs.is_random:
        return torch.randn_like(inputs.x)
    return inputs.noise


def _step_as_one_op(inputs: StepInputs) -> Callable[[], None] | None:
    """`advance` as one op: the same bits, without a dozen small operations. None where it is not for one op."""
    prepared, features, rows = cast(PreparedSteps, inputs.prepared)
    if not isinstance(prepared, Prepared) or prepared.pairs is None:
        return None
    pairs, noisy = prepared.pairs, None if prepared.frames is None else prepared.frames.noisy_index
    network = ops.StepNetwork(prepared.given, noisy, prepared.scale, features, rows)
    state = ops.StepState(
        inputs.x, inputs.before, inputs.positions, inputs.index, inputs.noise, inputs.x_ref, inputs.first,
        inputs.coefficients,
    )  # fmt: skip
    if not ops.takes_step(state, network):
        return None
    step = pairs.step(network)
    return lambda: step(state._replace(noise=_noise(inputs)))


def step_of_nodes(inputs: StepInputs) -> Tensor:
    """The number that the network is told of the current step, for every node: [N]."""
    return inputs.t.index_select(0, inputs.index).expand(inputs.x.shape[0])


class Chain:
    """Denoises x along a plan of steps.

        for _ in chain.steps():
            chain.x, chain.x_0    # after this step

    diffusion: the `GeoTDM` or `Flow`; plan: steps and coefficients of a sampling method
    x: [N, D, T_noisy] - x_t of the first step, relative to x_ref; the chain works on a copy
    x_ref: [N, D, 1 or T_noisy] - the reference frame; None in mode `uncond`
    model_kwargs: as for `GeoTDM.p_sample_loop`, checked
    noise: k to the noise of step k; None: each step of a random plan draws one `randn` from torch's global generator
    cond_fn: (x_t, t) to the gradient that guides the step. It is called before each step, outside of any CUDA graph
    """

    def __init__(
        self,
        diffusion: "FramedDiffusion",
        plan: Plan,
        x: Tensor,
        x_ref: Tensor | None,
        model_kwargs: dict,
        noise: NoiseFunction | None = None,
        cond_fn: GradientFunction | None = None,
    ):
        self.plan, self.noise, self.cond_fn = plan, noise if plan.is_random else None, cond_fn
        self._captured: Captured | None = None
        self._rule: GraphRule | None = None
        # As they came: the rule below is a copy that does not grow.
        arguments = (diffusion, plan, x, x_ref, model_kwargs, noise, cond_fn)
        self._again = lambda: Chain(*arguments)
        if isinstance(model_kwargs.get("graph"), GraphRule):
            self._rule = model_kwargs["graph"]
            # What a CUDA graph holds cannot grow: its chain is repeated where it must.
            grows = self._rule.grows and self._captures(diffusion, x) is None
            model_kwargs = model_kwargs | {"graph": self._rule.growing(grows)}
        with torch.no_grad(), trusted():
            inputs = self._inputs(diffusion, x, x_ref, model_kwargs)
            if inputs.prepared is None:
                self._step = lambda: advance(inputs, lambda x, t: _call(diffusion.denoise_network, x, t, model_kwargs))
            elif (captures := self._captures(diffusion, x)) is not None:
                self._captured = captures.borrow(advance, inputs, key=current_backend())
                self._cache = captures
                self._step, inputs = self._captured.replay, self._captured.inputs
            else:
                self._step = _step_as_one_op(inputs) or (lambda: advance(inputs))
        self.inputs = inputs

    @property
    def x(self) -> Tensor:
        """x_t after the steps so far; overwritten by the next one."""
        return self.inputs.x

    @property
    def x_0(self) -> Tensor:
        """The last step's prediction of x_0 (of a `Flow`: of its velocity); overwritten by the next one."""
        return self.inputs.before

    def steps(self, progress: Progress = False) -> Iterator[None]:
        """An iterator that does one step each time, to the end of the plan. A chain has one."""
        try:
            yield from self._steps(progress)
        finally:
            self._give_back()

    def finish(self, progress: Progress = False, after_step: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Do all steps and return x.

        Where a graph by distance had no room for all edges, it gets more room, and the chain runs again from its start.

        after_step: x to what takes its place after every step, outside of any CUDA graph; of mode `uncond` alone
        """
        for _ in self.steps(progress):
            if after_step is not None:
                self.x.copy_(after_step(self.x))
        if self._rule is None or not self._rule.grows or not self._rule.overflowed():
            return self.x
        self._rule.enlarge()
        return self._again().finish(progress, after_step)

    def _steps(self, progress: Progress) -> Iterator[None]:
        z, draw = self.inputs.noise, self.noise
        adds_noise = (self.plan.coefficients[:, 5] != 0).tolist()
        for left in falling_steps(len(adds_noise), progress):
            k = len(adds_noise) - 1 - left
            with torch.no_grad(), trusted():
                if z is not None and draw is not None and adds_noise[k]:
                    z.copy_(draw(k + 1))
                if self.cond_fn is None:
                    self._step()
                else:
                    self._guided(self.cond_fn, self.plan.guidance[k].tolist())
            yield

    def _give_back(self) -> None:
        """Copy x and x_0 out of the captured graph, whose memory the next chain overwrites, and give the graph back."""
        if self._captured is not None:
            if self._rule is not None:  # the graph counted in a copy
                counted = cast(GraphRule, cast(Prepared, cast(PreparedSteps, self.inputs.prepared).network).rule)
                self._rule.needed.copy_(counted.needed)
            self.inputs = self.inputs._replace(x=self.x.clone(), before=self.x_0.clone())
            self._cache.give_back(self._captured)
            self._captured = None

    def _guided(self, cond_fn: GradientFunction, weights: Sequence[float]) -> None:
        """Do a step, then move x and x_0 by the gradient at x_t, projected to zero mean where the mode asks for it."""
        inputs = self.inputs
        gradient = cond_fn(inputs.x.clone(), step_of_nodes(inputs)).to(inputs.x.dtype)
        self._step()
        gradient = zero_mean(gradient, inputs.first)
        for tensor, weight in ((inputs.x, weights[0]), (inputs.positions, weights[0]), (inputs.before, weights[1])):
            if tensor is not None and weight:
                tensor.add_(gradient, alpha=weight)

    @staticmethod
    def _captures(diffusion: "FramedDiffusion", x: Tensor) -> CaptureCache | None:
        """The cache of captured steps; None where steps are not captured (on the CPU, or switched off)."""
        captures = diffusion.captures
        return captures if captures is not None and (x.is_cuda or captures.record is not None) else None

    @staticmethod
    def _prepared(diffusion: "FramedDiffusion", x: Tensor, t: Tensor, model_kwargs: dict) -> PreparedSteps | None:
        """The network taken apart; None where its call does more."""
        network, around = bare(diffusion.denoise_network), wrappers(diffusion.denoise_network)
        # Of the type: a module that hands on the attributes of another one has them all.
        if around is None or not hasattr(type(network), "prepare_steps"):
            return None
        for wrapper in around:
            as_within = getattr(type(wrapper), "kwargs_within", None)
            model_kwargs = model_kwargs if as_within is None else as_within(model_kwargs)
        return cast(Callable[..., PreparedSteps | None], network.prepare_steps)(x, t, **model_kwargs)

    def _inputs(self, diffusion: "FramedDiffusion", x: Tensor, x_ref: Tensor | None, model_kwargs: dict) -> StepInputs:
        """The `StepInputs` of this chain, on the device of x."""
        # A capture warms up with steps beyond the last.
        total, device = diffusion.num_timesteps + CUDAGraphRecorder.WARM_UP, x.device
        dtype = x.dtype if x_ref is None else torch.promote_types(x.dtype, x_ref.dtype)
        wide = torch.promote_types(dtype, torch.float32)
        x = x.to(dtype, copy=True, memory_format=torch.contiguous_format)
        steps = torch.from_numpy(_to_rows(self.plan.timesteps, total)).to(device)
        t = diffusion.scale_timesteps(steps)
        first, positions = None, None
        if x_ref is None:
            batch = model_kwargs["batch"]
            first = torch.searchsorted(batch, torch.arange(num_graphs(batch) + 1, device=device))
            x = zero_mean(x, first)
        else:
            positions = x + x_ref
        prepared = self._prepared(diffusion, x, t, model_kwargs)
        # In a graph the numbers are made where they are used; else some steps' at once.
        counters, is_captured = None, prepared is not None and self._captures(diffusion, x) is not None
        if isinstance(self.noise, TrajectoryNoise) and is_captured:
            counters = self.noise.counters
        return StepInputs(
            x=x,
            before=torch.zeros_like(x),
            positions=positions,
            index=torch.zeros(1, dtype=torch.int64, device=device),
            x_ref=x_ref,
            first=first,
            coefficients=torch.from_numpy(_to_rows(self.plan.coefficients, total)).to(device, wide),
            t=t,
            prepared=prepared,
            noise=torch.zeros_like(x) if self.noise is not None and counters is None else None,
            counters=counters,
            is_random=self.plan.is_random,
        )


def _call(network: Callable, x: Tensor, t: Tensor, model_kwargs: dict) -> Tensor:
    output, _ = network(x=x, diffusion_t=t, **model_kwargs)
    return output


def _to_rows(values: np.ndarray, count: int) -> np.ndarray:
    """`values`, followed by zeros up to `count` rows, so that chains of any length have tables of one shape."""
    return np.concatenate([values, np.zeros((count - len(values), *values.shape[1:]), dtype=values.dtype)])
