"""What every engine takes and gives: the state of a simulation, a stretch of it, and the frames along the way."""

from typing import NamedTuple, Protocol

import numpy as np

BOLTZMANN = 0.00831446261815324  # kJ/mol/K


class State(NamedTuple):
    """x: [N, 3] float64 (angstrom), unwrapped; v: [N, 3] float64 (angstrom/ps); cell: [3, 3] float64 (angstrom), rows
    the vectors of the box, or None without a box."""

    x: np.ndarray
    v: np.ndarray
    cell: np.ndarray | None


class Frames(NamedTuple):
    """x: [T, N, 3] float32 (angstrom), unwrapped; cell: [T, 3, 3] float64 (angstrom) or None; potential_energy: [T]
    float64 (kJ/mol); temperature: [T] float64 (K), that of the kinetic energy and the degrees of freedom."""

    x: np.ndarray
    cell: np.ndarray | None
    potential_energy: np.ndarray
    temperature: np.ndarray


class Block(NamedTuple):
    """A stretch of a simulation that runs without a stop.

    stage: what it is for, in a word; num_frames: frames to keep, one each num_steps / num_frames steps; 0 for none
    num_steps: steps of the integrator; temperature: K; friction: 1/ps, 0 for Newton's equations
    barostat: whether the box moves; seed: of the noise
    """

    stage: str
    num_frames: int
    num_steps: int
    temperature: float
    friction: float
    barostat: bool
    seed: int


class Told(Protocol):
    """Called with the number of steps that were made since the last call."""

    def __call__(self, steps: int) -> object: ...


class Engine(Protocol):
    """Who integrates. Equal states, blocks and seeds give equal results, in whatever process.

    z: [N] int64, atomic numbers; bonds: [B, 2] int64; versions: of what the numbers depend on, and OpenMM's platform
    """

    z: np.ndarray
    bonds: np.ndarray
    versions: dict[str, str]

    def start(self, seed: int) -> State:
        """The state before the first block."""

    def run(self, state: State, block: Block, told: Told) -> tuple[State, Frames]:
        """The state after the block, and its frames, the last of which is that state. ValueError where it explodes."""
