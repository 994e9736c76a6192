"""How far a model is from the symmetry that it should have exactly: measured, precision by precision.

A motion g turns, mirrors or shifts all positions, renumbers nodes or graphs, or shifts all frames in time. A quantity f
of an equivariant model obeys f(g x) = g f(x) but for rounding. What is measured is the deviation
|f(g x) - g f(x)| / |f|, where |f| is the size of g f(x), for displacements of the network (and for a chain that ends
with them, of a model that predicts x_0) together with that of the positions that they are differences of.

What is expected: every operation rounds by at most the precision's roundoff u, relatively (2^-53, 2^-24, 2^-11 and 2^-8
for float64, fp32, tf32 and bf16), and the errors of a network's some hundred operations, of random sign, add up to
about the square root of their number: `ROUNDOFFS` = 16 u. A quantity that answers to a relative change of its input
by a factor kappa (its condition, measured in float64 by small random changes, of which the largest answer counts: one
alone may happen to change little) passes early errors on that much larger. So

    deviation <= ROUNDOFFS max(1, kappa s) u,  s = max(1, |g x| / |x|)

(positions far from the origin are themselves rounded more coarsely, by s for a shift), and a deviation beyond it is not
rounding; nor is a result that is not finite. float64 is the sharpest judge of a fault in the model; the lower
precisions tell whether kernels add one of their own.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.ays.egtn import EGTN as AysEGTN
from geotdm_fast.ays.network import Network
from geotdm_fast.ays.structure import BasicES
from geotdm_fast.data.checks import check_count
from geotdm_fast.data.trajectory import Batch
from geotdm_fast.diffusion import FramedDiffusion, ModelMeanType, Sampler
from geotdm_fast.diffusion.progress import Progress
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.plain import bare
from geotdm_fast.ops import backend
from geotdm_fast.runtime.bars import progress_bar
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.scores.motions import MOTIONS, Motion, motion
from geotdm_fast.scores.random_batches import kinds_of, random_batch
from geotdm_fast.task import Task

ROUNDOFF = {"float64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
QUANTITIES = ("network", "loss", "chain")
ROUNDOFFS = 16
# How many random changes measure a condition, and how large they are beside what they change.
NUDGES, NUDGE = 4, 1e-7
# The noisy frames of data for a network of Align Your Structures where nobody says how many there are, and the least
# of a structure model, which knows no other frames: a single one cannot change its place.
FRAMES, LEAST_FRAMES = 8, 3


class Deviation(NamedTuple):
    """kind: of data; quantity, motion, precision: what was compared; value: the deviation; bound: what it may be."""

    kind: str
    quantity: str
    motion: str
    precision: str
    value: float
    bound: float

    @property
    def holds(self) -> bool:
        return math.isfinite(self.value) and self.value <= self.bound


def check_equivariance(
    diffusion: FramedDiffusion,
    task: Task,
    *,
    precisions: tuple[str, ...] = tuple(ROUNDOFF),
    kinds: tuple[str, ...] | None = None,
    num_graphs: int = 3,
    num_steps: int | None = None,
    num_frames: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[Deviation]:
    """Every deviation, one by one: network, loss and a whole chain, under every motion, in every precision.

    diffusion: of the model, in float32 or float64; it is left as it is
    task: which frames are given, see `Task`
    kinds: of data: `nbody` (3-D, complete graphs), `molecule` (3-D, sparse), `pedestrian` (2-D, self-loops, features
        over time); random positions, features and edges of the network's widths. A network of Align Your Structures
        takes `molecule` alone: random atoms, bonds and pairs up to three bonds apart. None: all that the network takes
    num_steps: of the chain, default all; a tenth of them finds the same faults
    num_frames: T of the data; None: as the task and the network say, and where they do not, 8 frames are drawn
    progress: show a bar of the steps of all chains, which take most of the time

    `motions_of` says which motions a quantity follows.
    float64 runs the reference; fp32 what runs on this device by itself; tf32 and bf16 too on CUDA, on the CPU the
    reference, which rounds the inputs of matrix products. Deterministic. Raises ValueError for an unknown name, for a
    kind that the network does not take, and for fewer frames than 1 (a structure model: 3); TypeError for frames that
    are no whole number.
    """
    network = bare(diffusion.denoise_network)
    if not isinstance(network, (EGTN, Network)):
        came = type(network).__name__
        raise ValueError(
            f"check_equivariance: the network must be an EGTN, or one of Align Your Structures, got {came}"
        )
    kinds = kinds_of(network) if kinds is None else kinds
    for name, chosen, known in (("precisions", precisions, ROUNDOFF), ("kinds", kinds, kinds_of(network))):
        for one in chosen:
            check_choice(f"check_equivariance: {name}", one, known)
    least = LEAST_FRAMES if isinstance(network, BasicES) else 1
    if num_frames is None:
        num_frames = max(task.window(network.num_w if isinstance(network, EGTN) else FRAMES), least)
    num_frames = check_count("check_equivariance", "num_frames", num_frames, minimum=least)
    if isinstance(network, BasicES):
        task = replace(task, num_frames=num_frames)
    dtype = diffusion.dtype
    before, was_training = network.precision, network.training
    sampler = Sampler(diffusion, num_steps=num_steps)
    motions = {name for quantity in QUANTITIES for name in motions_of(quantity, diffusion, task)}
    chains = len(kinds) * (1 + NUDGES + len(precisions) * (1 + len(motions)))
    bar = progress_bar(total=chains * sampler.num_steps, desc="equivariance", unit="step", disable=not progress)
    network.eval()
    try:
        for kind in kinds:
            batch = random_batch(kind, network, num_frames, num_graphs, seed, task.num_told)
            subject = _Subject(sampler, task, batch, seed, bar.update)
            with torch.no_grad():
                yield from _deviations(subject, kind, precisions)
    finally:
        bar.close()
        network.to(dtype).set_precision(before).train(was_training)


def motions_of(quantity: str, diffusion: FramedDiffusion, task: Task) -> tuple[str, ...]:
    """The motions of `MOTIONS` that a quantity of `QUANTITIES` follows.

    All follow rotation, reflection and renumbered nodes and graphs. A conditional model without a prior is tied to the
    origin: nothing follows a translation. So are loss and chain of a model of Align Your Structures with given frames:
    these enter as they are, which is centred, beside noise of zero mean. Its network follows one, but for a structure
    model and the baseline `egtn` of another scale than 1: as officially, positions that were not scaled are subtracted
    from positions that were.
    A shift of all frames in time is followed by structure models alone, to which each frame is one for itself. All
    others know how far frames are apart, and no frame comes before the first or behind the last.
    """
    network, left_out = bare(diffusion.denoise_network), set()
    if diffusion.mode == "cond" and diffusion.prior == "none":
        left_out.add("translation")
    if diffusion.mode == "uncond" and task.is_conditional and quantity != "network":
        left_out.add("translation")
    if quantity == "network" and isinstance(network, (BasicES, AysEGTN)) and network.scale != 1:
        left_out.add("translation")
    if not isinstance(network, BasicES):
        left_out.add("frames")
    return tuple(name for name in MOTIONS if name not in left_out)


def _deviations(subject: "_Subject", kind: str, precisions: tuple[str, ...]) -> Iterator[Deviation]:
    condition = subject.condition()
    followed = {quantity: motions_of(quantity, subject.diffusion, subject.task) for quantity in QUANTITIES}
    motions = {name: motion(name, subject.batch) for name in MOTIONS if any(name in of for of in followed.values())}
    for precision in precisions:
        plain = subject.quantities(None, precision)
        for name, change in motions.items():
            moved = subject.quantities(change, precision)
            for quantity in (one for one, of in followed.items() if name in of):
                expected, ours = subject.transformed(quantity, plain[quantity], change), moved[quantity]
                value = _deviation(ours, expected, subject.sizes(quantity, change))
                bound = ROUNDOFFS * max(1.0, condition[quantity] * subject.stretch(change)) * ROUNDOFF[precision]
                yield Deviation(kind, quantity, name, precision, value, bound)


class _Subject:
    """A diffusion with data, and its quantities for the data as they are or moved."""

    def __init__(self, sampler: Sampler, task: Task, batch: Batch, seed: int, progress: Progress = False):
        self.sampler, self.task, self.batch, self.seed, self.progress = sampler, task, batch, seed, progress
        self.diffusion = sampler.diffusion
        self.device = torch.device(self.diffusion.device)
        self.last_positions = 0.0

    def quantities(
        self, change: Motion | None, precision: str, nudge: int | None = None
    ) -> dict[str, tuple[Tensor, ...]]:
        """x_out and h_out of the network, the loss of each node, the samples; float64, on the CPU.

        nudge: the number of a random change, by `NUDGE`, of all positions and of the noise; None: none
        """
        network = cast("EGTN | Network", bare(self.diffusion.denoise_network))
        dtype = torch.float64 if precision == "float64" else torch.float32
        network.to(dtype).set_precision("fp32" if precision == "float64" else precision)
        emulated = self.device.type == "cpu" and precision in ("tf32", "bf16")
        batch = self.batch
        if nudge is not None:
            batch = replace(batch, x=batch.x + NUDGE * batch.x.std() * self._noise(7 + nudge, batch.x))
        batch = (batch if change is None else change(batch)).to(self.device, dtype)
        x_start, model_kwargs = self.task.split(batch)
        with backend("reference" if emulated else "auto"):
            return self._computed(x_start, model_kwargs, change, nudge)

    def _computed(self, x_start: Tensor, model_kwargs: dict, change: Motion | None, nudge: int | None) -> dict:
        diffusion = self.diffusion
        turned = (lambda z: z) if change is None else change.turned
        like = torch.empty(x_start.shape, dtype=torch.float64)

        def noise(k: int) -> Tensor:
            drawn = self._noise(100 + k, like)
            if nudge is not None:
                drawn = drawn + NUDGE * self._noise(50_000 * (1 + nudge) + k, like)
            return turned(drawn).to(x_start)

        step = (diffusion.num_timesteps // 4 + self.batch.batch) % diffusion.num_timesteps
        step = (step if change is None else step[change.order]).to(self.device)
        x_t = x_start + 0.3 * noise(0)
        x_out, h_out = diffusion.denoise_network(x=x_t, diffusion_t=diffusion.scale_timesteps(step), **model_kwargs)
        loss = diffusion.training_losses(x_start, t=step, model_kwargs=model_kwargs, noise=noise(1))["loss"]
        sample = self.sampler.draw(tuple(x_start.shape), model_kwargs, noise=noise, progress=self.progress)
        found = {"network": (x_out, h_out), "loss": (loss,), "chain": (sample,)}
        return {name: tuple(value.double().cpu() for value in values) for name, values in found.items()}

    def transformed(self, quantity: str, values: tuple[Tensor, ...], change: Motion) -> tuple[Tensor, ...]:
        """g f(x): what the quantity must be for the moved data."""
        if quantity == "network":
            x_out, h_out = values
            return change.turned(x_out), change.renumbered(h_out)
        if quantity == "loss":
            return (values[0][change.order],)
        # An unconditional sample has zero mean, wherever the data were.
        move = change.turned if self.diffusion.mode == "uncond" else change.moved
        return (move(values[0]),)

    def sizes(self, quantity: str, change: Motion) -> tuple[float, ...]:
        """What each part of a quantity is small beside: the positions that displacements are differences of.

        For the network's displacements the moved positions; for a chain that ends with displacements, which predict
        x_0, the positions of its last call, as `condition` found them; else nothing.
        """
        if quantity == "network":
            return float(change.moved(self.batch.x).norm()), 0.0
        return (self.last_positions if quantity == "chain" else 0.0,)

    def stretch(self, change: Motion) -> float:
        """How much larger the moved positions are, at least 1."""
        return max(1.0, float(change.moved(self.batch.x).norm() / self.batch.x.norm()))

    def condition(self) -> dict[str, float]:
        """kappa of each quantity: the relative change of the result for one of the input, in float64: the largest."""
        with self._keeping_last_positions():
            plain = self.quantities(None, "float64")
        still = motion("nodes", self.batch)
        nudged = [self.quantities(None, "float64", nudge) for nudge in range(NUDGES)]
        return {
            name: max(_deviation(one[name], plain[name], self.sizes(name, still)) for one in nudged) / NUDGE
            for name in QUANTITIES
        }

    @contextlib.contextmanager
    def _keeping_last_positions(self) -> Iterator[None]:
        """Within the block, `last_positions` is the size of what the network is called with, where it predicts x_0."""
        if getattr(self.diffusion, "model_mean_type", ModelMeanType.EPSILON) is ModelMeanType.EPSILON:
            yield
            return

        def keep(network: torch.nn.Module, args: tuple, kwargs: dict) -> None:
            if kwargs.get("x") is not None:  # the learned prior has no positions
                self.last_positions = float(kwargs["x"].norm())

        handle = self.diffusion.denoise_network.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _noise(self, number: int, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _deviation(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...], sizes: tuple[float, ...]) -> float:
    """The largest |ours - expected| / (|expected| + size) of a quantity's parts; infinite when one is not finite."""
    values = [
        float((a - b).norm() / (b.norm() + size).clamp(min=1e-30))
        for a, b, size in zip(ours, expected, sizes, strict=True)
    ]
    return max(value if value == value else float("inf") for value in values)


def largest(deviations: Iterable[Deviation]) -> list[Deviation]:
    """Of each precision, quantity and motion the deviation that is largest beside its bound, in their order."""
    found: dict[tuple, Deviation] = {}
    for deviation in deviations:
        key = (
            list(ROUNDOFF).index(deviation.precision),
            QUANTITIES.index(deviation.quantity),
            MOTIONS.index(deviation.motion),
        )
        if key not in found or deviation.value / deviation.bound > found[key].value / found[key].bound:
            found[key] = deviation
    return [found[key] for key in sorted(found)]
