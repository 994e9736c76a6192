"""How far a model is from the symmetry that it should have exactly: measured, precision by precision.

A motion g turns, mirrors or shifts all positions, or renumbers nodes or graphs. A quantity f of an equivariant model
obeys f(g x) = g f(x) but for rounding. What is measured is the deviation |f(g x) - g f(x)| / |f|, where |f| is the size
of g f(x), for the network's displacements together with that of the positions that they are differences of.

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

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch, Trajectory, collate
from geotdm_fast.diffusion import FramedDiffusion, Sampler
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.plain import bare
from geotdm_fast.ops import backend
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.task import Task

ROUNDOFF = {"float64": 2.0**-53, "fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
MOTIONS = ("rotation", "reflection", "translation", "nodes", "graphs")
KINDS = ("nbody", "molecule", "pedestrian")
QUANTITIES = ("network", "loss", "chain")
ROUNDOFFS = 16
# How many random changes measure a condition, and how large they are beside what they change.
NUDGES, NUDGE = 4, 1e-7


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


@dataclass(frozen=True)
class Motion:
    """x to x Q^T + shift; node k of the moved batch is node order[k] of the other, edge k is edge edge_order[k]."""

    q: Tensor
    shift: Tensor
    order: Tensor
    edge_order: Tensor
    batch: Tensor

    def turned(self, x: Tensor) -> Tensor:
        """Vectors [N, D, T], as noise: turned and renumbered, not shifted."""
        return torch.einsum("de,net->ndt", self.q.to(x), x)[self.order]

    def moved(self, x: Tensor) -> Tensor:
        return self.turned(x) + self.shift.to(x)[:, None]

    def __call__(self, batch: Batch) -> Batch:
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order))
        first = torch.searchsorted(self.batch, torch.arange(batch.num_graphs))
        graphs = batch.batch[self.order[first]]  # which graph of the other batch each one is
        return replace(
            batch,
            x=self.moved(batch.x),
            h=batch.h[self.order],
            edge_index=place[batch.edge_index[:, self.edge_order]],
            edge_attr=None if batch.edge_attr is None else batch.edge_attr[self.edge_order],
            scored=place[batch.scored].sort().values,
            batch=self.batch,
            conditions=None if batch.conditions is None else batch.conditions[graphs],
        )


def check_equivariance(
    diffusion: FramedDiffusion,
    task: Task,
    *,
    precisions: tuple[str, ...] = tuple(ROUNDOFF),
    kinds: tuple[str, ...] = KINDS,
    num_graphs: int = 3,
    num_steps: int | None = None,
    seed: int = 0,
) -> Iterator[Deviation]:
    """Every deviation, one by one: network, loss and a whole chain, under every motion, in every precision.

    diffusion: of the model, in float32 or float64; it is left as it is
    task: which frames are given, see `Task`
    kinds: of data: `nbody` (3-D, complete graphs), `molecule` (3-D, sparse), `pedestrian` (2-D, self-loops, features
        over time); random positions, features and edges of the network's widths
    num_steps: of the chain, default all; a tenth of them finds the same faults
    A conditional model without a prior is tied to the origin: translations are left out.

    float64 runs the reference; fp32 what runs on this device by itself; tf32 and bf16 too on CUDA, on the CPU the
    reference, which rounds the inputs of matrix products. Deterministic. Raises ValueError for an unknown name.
    """
    for name, chosen, known in (("precisions", precisions, ROUNDOFF), ("kinds", kinds, KINDS)):
        for one in chosen:
            check_choice(f"check_equivariance: {name}", one, known)
    network = bare(diffusion.denoise_network)
    if not isinstance(network, EGTN):
        raise ValueError(f"check_equivariance: the network must be an EGTN, got {type(network).__name__}")
    dtype = diffusion.dtype
    before, was_training = network.precision, network.training
    network.eval()
    try:
        for kind in kinds:
            batch = random_batch(kind, network, task.window(network.num_w), num_graphs, seed, task.num_told)
            subject = _Subject(diffusion, task, batch, num_steps, seed)
            with torch.no_grad():
                yield from _deviations(subject, kind, precisions)
    finally:
        network.to(dtype).set_precision(before).train(was_training)


def _deviations(subject: "_Subject", kind: str, precisions: tuple[str, ...]) -> Iterator[Deviation]:
    condition = subject.condition()
    motions = {name: motion(name, subject.batch) for name in MOTIONS}
    if subject.diffusion.mode == "cond" and subject.diffusion.prior == "none":
        del motions["translation"]
    for precision in precisions:
        plain = subject.quantities(None, precision)
        for name, change in motions.items():
            moved = subject.quantities(change, precision)
            for quantity in QUANTITIES:
                expected, ours = subject.transformed(quantity, plain[quantity], change), moved[quantity]
                value = _deviation(ours, expected, subject.sizes(quantity, change))
                bound = ROUNDOFFS * max(1.0, condition[quantity] * subject.stretch(change)) * ROUNDOFF[precision]
                yield Deviation(kind, quantity, name, precision, value, bound)


class _Subject:
    """A diffusion with data, and its quantities for the data as they are or moved."""

    def __init__(self, diffusion: FramedDiffusion, task: Task, batch: Batch, num_steps: int | None, seed: int):
        self.diffusion, self.task, self.batch, self.seed = diffusion, task, batch, seed
        self.sampler = Sampler(diffusion, num_steps=num_steps)
        self.device = torch.device(diffusion.device)

    def quantities(
        self, change: Motion | None, precision: str, nudge: int | None = None
    ) -> dict[str, tuple[Tensor, ...]]:
        """x_out and h_out of the network, the loss of each node, the samples; float64, on the CPU.

        nudge: the number of a random change, by `NUDGE`, of all positions and of the noise; None: none
        """
        network = cast(EGTN, bare(self.diffusion.denoise_network))
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
        sample = self.sampler.draw(tuple(x_start.shape), model_kwargs, noise=noise)
        found = {"network": (x_out, h_out), "loss": (loss,), "chain": (sample,)}
        return {name: tuple(value.double().cpu() for value in values) for name, values in found.items()}

    def transformed(self, quantity: str, values: tuple[Tensor, ...], change: Motion) -> tuple[Tensor, ...]:
        """g f(x): what the quantity must be for the moved data."""
        if quantity == "network":
            x_out, h_out = values
            return change.turned(x_out), h_out[change.order]
        if quantity == "loss":
            return (values[0][change.order],)
        # An unconditional sample has zero mean, wherever the data were.
        move = change.turned if self.diffusion.mode == "uncond" else change.moved
        return (move(values[0]),)

    def sizes(self, quantity: str, change: Motion) -> tuple[float, ...]:
        """What each part of a quantity is small beside: the moved positions, for displacements; else nothing."""
        return (float(change.moved(self.batch.x).norm()), 0.0) if quantity == "network" else (0.0,)

    def stretch(self, change: Motion) -> float:
        """How much larger the moved positions are, at least 1."""
        return max(1.0, float(change.moved(self.batch.x).norm() / self.batch.x.norm()))

    def condition(self) -> dict[str, float]:
        """kappa of each quantity: the relative change of the result for one of the input, in float64: the largest."""
        plain, still = self.quantities(None, "float64"), motion("nodes", self.batch)
        nudged = [self.quantities(None, "float64", nudge) for nudge in range(NUDGES)]
        return {
            name: max(_deviation(one[name], plain[name], self.sizes(name, still)) for one in nudged) / NUDGE
            for name in QUANTITIES
        }

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


# --- motions and data ---------------------------------------------------------------------------------------------


def motion(name: str, batch: Batch) -> Motion:
    """A motion of `MOTIONS` for a batch: always the same one."""
    dim, generator = batch.x.shape[1], torch.Generator().manual_seed(21)
    q, shift = torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    order, edge_order = torch.arange(len(batch.x)), torch.arange(batch.edge_index.shape[1])
    owner = batch.batch
    if name in ("rotation", "reflection"):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        if (torch.linalg.det(q) < 0) == (name == "rotation"):
            q = torch.cat([-q[:1], q[1:]])
    elif name == "translation":
        # Ten times as far as the data are wide: what a float loses there it loses for a good reason.
        shift = 10 * batch.x.std() * torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)[:dim]
    else:
        graphs = [(owner == graph).nonzero()[:, 0] for graph in range(batch.num_graphs)]
        if name == "graphs":
            graphs = graphs[1:] + graphs[:1]
            owner = torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor([len(g) for g in graphs]))
        else:
            graphs = [nodes[torch.randperm(len(nodes), generator=generator)] for nodes in graphs]
        order = torch.cat(graphs)
        edge_order = torch.randperm(len(edge_order), generator=generator)
    return Motion(q, shift, order, edge_order, owner)


def random_batch(kind: str, network: EGTN, num_frames: int, num_graphs: int, seed: int = 0, num_told: int = 0) -> Batch:
    """Random trajectories of a kind of data, float64, with as many features as the network reads.

    num_told: of these features are not the data's, see `Task.num_told`
    Positions are walks of steps N(0, 0.1^2) from N(0, 1). Graphs have 5, 4, ... nodes; pedestrians 3, 1, 2, ... .
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # The last feature of a graph of bonds and distances is its own.
    edge_dim = network.edge_dim - (network.graph_spec is not None and network.graph_spec.bonds)
    graphs = []
    for graph in range(num_graphs):
        size = (3, 1, 2)[graph % 3] if kind == "pedestrian" else 5 - graph % 2
        edge_index = _edges(kind, size)
        x = draw(size, 2 if kind == "pedestrian" else 3, 1) + 0.1 * draw(
            size, 2 if kind == "pedestrian" else 3, num_frames
        ).cumsum(-1)
        # As large as walkers' speeds are, metres in 0.4 s: larger ones can send a model made for them to infinity.
        h = 0.3 * draw(size, network.node_dim - num_told, *((num_frames,) if kind == "pedestrian" else ()))
        edge_attr = draw(edge_index.shape[1], edge_dim) if edge_dim else None
        graphs.append(Trajectory(x, h, edge_index, edge_attr, torch.arange(size)))
    batch = collate(graphs)
    told = network.conditions
    if told is not None:  # within the trained range
        low, high = torch.tensor(told.low), torch.tensor(told.high)
        batch.conditions = low + (high - low) * torch.rand(num_graphs, len(low), generator=generator)
        batch.condition_names = told.names
    return batch


def _edges(kind: str, size: int) -> Tensor:
    allowed = torch.ones(size, size, dtype=torch.bool)
    if kind != "pedestrian":
        allowed.fill_diagonal_(False)
    if kind == "molecule":  # a chain, the last atom without a bond
        place = torch.arange(size)
        near = (place[:, None] - place[None]).abs() == 1
        allowed &= near & (place[:, None] < size - 1) & (place[None] < size - 1)
    return allowed.nonzero().T.contiguous()


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
