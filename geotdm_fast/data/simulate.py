"""The three N-body systems, integrated for many systems at once in float64."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from geotdm_fast.data.checks import check_count, check_positions, check_shape
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown

SYSTEMS = ("charged", "springs", "gravity")
NUM_PARTICLES = {"charged": 5, "springs": 5, "gravity": 10}

_MAX_FORCE = 100.0
_SPRING_CONSTANT = 0.1
_SOFTENING = 0.1
_SPEED = 0.5
# Numpy costs about 1 us a call, so blocks are large; at 1 KB of buffers per charged system 1024 still run from cache.
_BLOCK = 1024
_SMALLEST_BLOCK = 256


class InitialState(NamedTuple):
    """Where systems start: `simulate(kind, *state[:2], charges=state.charges, springs=state.springs)`.

    x0, v0: [B, N, 3] float64 - positions and velocities
    charges: [B, N] float64, each +1 or -1, or None
    springs: [B, N, N] float64, symmetric, each 0 or 1, or None
    """

    x0: np.ndarray
    v0: np.ndarray
    charges: np.ndarray | None
    springs: np.ndarray | None


def initial_state(
    kind: str, num_systems: int, rng: np.random.Generator, *, num_particles: int | None = None
) -> InitialState:
    """Draw the starts of `num_systems` systems as the benchmark does.

    charged: x0 ~ N(0, (N / 5)^(1/3)), speed 0.5, charges +-1; springs: x0 ~ N(0, 0.5), speed 0.5, each pair joined
    with probability 1/2; gravity: x0, v0 ~ N(0, 1), total momentum removed. (Standard deviations; N = 5, 5, 10.)
    Random: all draws come from `rng`. Raises ValueError for an unknown kind or a number below 1.
    """
    where = "initial_state"
    check_choice(f"{where}: kind", kind, SYSTEMS)
    num_systems = check_count(where, "num_systems", num_systems)
    n = NUM_PARTICLES[kind] if num_particles is None else check_count(where, "num_particles", num_particles)
    x0 = rng.standard_normal((num_systems, n, 3))
    v0 = rng.standard_normal((num_systems, n, 3))
    if kind == "gravity":
        return InitialState(x0, v0 - v0.mean(axis=1, keepdims=True), None, None)
    v0 *= _SPEED / np.linalg.norm(v0, axis=-1, keepdims=True)
    if kind == "charged":
        charges = rng.integers(0, 2, (num_systems, n)) * 2.0 - 1.0
        return InitialState(x0 * (n / 5) ** (1 / 3), v0, charges, None)
    upper = np.triu(rng.integers(0, 2, (num_systems, n, n)).astype(np.float64), 1)
    return InitialState(x0 * 0.5, v0, None, upper + upper.transpose(0, 2, 1))


def simulate(
    kind: str,
    x0: ArrayLike,
    v0: ArrayLike,
    *,
    charges: ArrayLike | None = None,
    springs: ArrayLike | None = None,
    dt: float = 1e-3,
    num_steps: int = 5000,
    save_every: int = 100,
    num_threads: int | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Integrate many N-body systems and keep every `save_every`-th step.

    With r_ij = x_i - x_j, the forces on unit masses are
        charged: sum_j q_i q_j r_ij / |r_ij|^3      springs: -0.1 sum_j k_ij r_ij      (each component within +-100)
        gravity: -sum_j r_ij / (|r_ij|^2 + 0.1^2)^(3/2)
    charged and springs take one full kick, then drift and kick in turn; frame f is the state after
    (f + 1) * save_every drifts, and the start itself is not kept: 49 frames by default. gravity is kick-drift-kick
    and keeps the start: 50 frames.

    kind: charged, springs or gravity
    x0, v0: [B, N, 3] - positions and velocities at the start
    charges: [B, N] - needed by charged; springs: [B, N, N], symmetric - needed by springs
    num_threads: how many blocks of systems to integrate at once; all available cores by default
    progress: show a bar when the work takes more than a second
    Returns x, v: [B, frames, N, 3] float64. The result does not depend on `num_threads` nor on which systems are
    integrated together. Raises ValueError/TypeError for wrong shapes, NaN or Inf, charged particles at one place.
    Source: the simulators of Kipf et al. 2018 (NRI) and Brandstetter et al. 2022 (SEGNN).
    """
    where = "simulate"
    check_choice(f"{where}: kind", kind, SYSTEMS)
    x0 = check_positions(where, "x0", x0, "B, N, 3", dtype=np.float64)
    v0 = check_positions(where, "v0", v0, "B, N, 3", dtype=np.float64)
    check_shape(where, "v0", v0, x0.shape)
    num_steps = check_count(where, "num_steps", num_steps)
    save_every = check_count(where, "save_every", save_every)
    if not (isinstance(dt, (int, float)) and np.isfinite(dt)):
        raise ValueError(f"{where}: dt must be a finite number, got {shown(dt)}")
    num_threads = _available_cores() if num_threads is None else check_count(where, "num_threads", num_threads)
    strength = _pair_strength(kind, x0, charges, springs)  # [P, B]
    num_frames = frame_count(kind, num_steps, save_every)
    if num_frames < 1:
        raise ValueError(
            f"{where}: num_steps must be more than save_every ({save_every}) to keep a frame, got {num_steps}"
        )

    shape = (x0.shape[0], num_frames, *x0.shape[1:])
    from geotdm_fast.runtime.bars import progress_bar

    x, v = np.empty(shape), np.empty(shape)

    def run(block: slice) -> int:
        system = _Block(kind, x0[block], v0[block], strength[:, block])
        _INTEGRATORS[kind](system, x[block], v[block], float(dt), save_every)
        return block.stop - block.start

    size = min(_BLOCK, max(_SMALLEST_BLOCK, -(-len(x0) // num_threads)))
    blocks = [slice(a, min(a + size, len(x0))) for a in range(0, len(x0), size)]
    with (
        progress_bar(total=len(x0), desc=f"simulate {kind}", unit="system", delay=1, disable=not progress) as bar,
        ThreadPoolExecutor(num_threads) as pool,
    ):
        for done in pool.map(run, blocks):
            bar.update(done)
    return x, v


def frame_count(kind: str, num_steps: int, save_every: int) -> int:
    """How many frames `simulate` keeps."""
    return -(-num_steps // save_every) if kind == "gravity" else (num_steps - 1) // save_every


def step_count(kind: str, num_frames: int, save_every: int) -> int:
    """The fewest steps with which `simulate` keeps `num_frames` frames."""
    return (num_frames - 1) * save_every + 1 if kind == "gravity" else num_frames * save_every + 1


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _offsets(n: int) -> list[tuple[int, int]]:
    """Every pair of n particles once, as (k, m): particle i with (i + k) mod n for i < m."""
    return [(k, n // 2 if 2 * k == n else n) for k in range(1, n // 2 + 1)]


def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    row = np.concatenate([np.arange(m) for _, m in _offsets(n)] or [np.arange(0)])
    col = np.concatenate([(np.arange(m) + k) % n for k, m in _offsets(n)] or [np.arange(0)])
    return row, col


def _pair_strength(kind: str, x0: np.ndarray, charges: ArrayLike | None, springs: ArrayLike | None) -> np.ndarray:
    """The factor of each pair's force that does not change with time: [P, B]."""
    where = "simulate"
    given = {"charges": charges, "springs": springs}
    needed = {"charged": "charges", "springs": "springs", "gravity": None}[kind]
    for name, value in given.items():
        if name == needed and value is None:
            raise ValueError(f"{where}: {name} must be given for '{kind}', got None")
        if name != needed and value is not None:
            raise ValueError(f"{where}: {name} must be None for '{kind}', got an array")
    num_systems, n, _ = x0.shape
    row, col = _pairs(n)
    if kind == "charged":
        charges = check_positions(where, "charges", cast(ArrayLike, charges), "B, N", dtype=np.float64)
        check_shape(where, "charges", charges, (num_systems, n))
        apart = (x0[:, row] != x0[:, col]).any(axis=-1)
        if not apart.all():
            system, pair = np.argwhere(~apart)[0]
            raise ValueError(
                f"{where}: x0 must have charged particles at different places, "
                f"got particles {row[pair]} and {col[pair]} of system {system} at one place"
            )
        return np.ascontiguousarray((charges[:, row] * charges[:, col]).T)
    if kind == "springs":
        springs = check_positions(where, "springs", cast(ArrayLike, springs), "B, N, N", dtype=np.float64)
        check_shape(where, "springs", springs, (num_systems, n, n))
        if not np.array_equal(springs, springs.transpose(0, 2, 1)):
            raise ValueError(f"{where}: springs must be symmetric, got a matrix that is not")
        return np.ascontiguousarray(springs[:, row, col].T) * -_SPRING_CONSTANT
    return np.full((len(row), num_systems), -1.0)


class _Block:
    """Some systems as structure of arrays, with every buffer the steps need.

    x, v, force: [3, N, B]; r: [3, P, B] for the P pairs (i, i + k mod N), ordered by k so that no gather is needed.
    Every operation is elementwise, so a system's numbers do not depend on its neighbours in the block.
    """

    def __init__(self, kind: str, x0: np.ndarray, v0: np.ndarray, strength: np.ndarray):
        self.x = np.ascontiguousarray(x0.transpose(2, 1, 0))
        self.v = np.ascontiguousarray(v0.transpose(2, 1, 0))
        self.force = np.zeros_like(self.x)
        self.strength = np.ascontiguousarray(strength)
        self.r = np.empty((3, *strength.shape))
        self.square = np.empty_like(self.r)
        self.scaled = np.empty_like(self.x)
        self.weight = getattr(self, f"_weight_{kind}")
        self.clipped = kind != "gravity"
        self.pieces = list(self._views())

    def _views(self) -> Iterator[tuple[np.ndarray, ...]]:
        n, start = self.x.shape[1], 0
        for k, m in _offsets(n):
            whole = min(m, n - k)  # the pairs i < whole do not wrap around
            for rows, senders in ((slice(0, whole), slice(k, k + whole)), (slice(whole, m), slice(0, m - whole))):
                if rows.stop > rows.start:
                    r = self.r[:, start + rows.start : start + rows.stop]
                    yield r, self.x[:, rows], self.x[:, senders], self.force[:, rows], self.force[:, senders]
            start += m

    def update_force(self) -> None:
        for r, receiver, sender, _, _ in self.pieces:
            np.subtract(receiver, sender, out=r)
        np.multiply(self.r, self.weight(), out=self.r)
        self.force.fill(0.0)
        for r, _, _, receiver, sender in self.pieces:
            np.add(receiver, r, out=receiver)
            np.subtract(sender, r, out=sender)
        if self.clipped:
            np.minimum(self.force, _MAX_FORCE, out=self.force)
            np.maximum(self.force, -_MAX_FORCE, out=self.force)

    def kick(self, dt: float) -> None:
        np.multiply(self.force, dt, out=self.scaled)
        np.add(self.v, self.scaled, out=self.v)

    def drift(self, dt: float) -> None:
        np.multiply(self.v, dt, out=self.scaled)
        np.add(self.x, self.scaled, out=self.x)

    def save(self, x: np.ndarray, v: np.ndarray) -> None:
        x[...] = self.x.transpose(2, 1, 0)
        v[...] = self.v.transpose(2, 1, 0)

    def _weight_charged(self) -> np.ndarray:
        d2, root = self._squared_distance(), self.square[1]
        np.sqrt(d2, out=root)
        np.multiply(d2, root, out=d2)
        return np.divide(self.strength, d2, out=d2)

    def _weight_gravity(self) -> np.ndarray:
        d2, root = self._squared_distance(), self.square[1]
        np.add(d2, _SOFTENING**2, out=d2)
        np.sqrt(d2, out=root)
        np.multiply(d2, root, out=d2)
        return np.divide(self.strength, d2, out=d2)

    def _weight_springs(self) -> np.ndarray:
        return self.strength

    def _squared_distance(self) -> np.ndarray:
        np.multiply(self.r, self.r, out=self.square)
        d2 = np.add(self.square[0], self.square[1], out=self.square[0])
        return np.add(d2, self.square[2], out=d2)


def _kick_then_drift(system: _Block, x: np.ndarray, v: np.ndarray, dt: float, save_every: int) -> None:
    for frame in range(x.shape[1]):
        for _ in range(save_every):
            system.update_force()
            system.kick(dt)
            system.drift(dt)
        system.save(x[:, frame], v[:, frame])


def _kick_drift_kick(system: _Block, x: np.ndarray, v: np.ndarray, dt: float, save_every: int) -> None:
    system.update_force()
    system.save(x[:, 0], v[:, 0])
    for frame in range(1, x.shape[1]):
        for _ in range(save_every):
            system.kick(dt / 2)
            system.drift(dt)
            system.update_force()
            system.kick(dt / 2)
        system.save(x[:, frame], v[:, frame])


_INTEGRATORS: dict[str, Callable[..., None]] = {
    "charged": _kick_then_drift,
    "springs": _kick_then_drift,
    "gravity": _kick_drift_kick,
}
