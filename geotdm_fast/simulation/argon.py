"""Liquid argon by an integrator of our own: Lennard-Jones atoms in a cubic box, in numpy."""

import numpy as np

from geotdm_fast.simulation.lattice import close_packed
from geotdm_fast.simulation.settings import WHERE, MDRun
from geotdm_fast.simulation.state import BOLTZMANN, Block, Frames, State, Told

# Rahman 1964: sigma in angstrom, epsilon / k in K; the mass in g/mol.
SIGMA, EPSILON_K, MASS = 3.4, 120.0, 39.948
EPSILON = EPSILON_K * BOLTZMANN  # kJ/mol
# All pairs are made at once, 100 bytes each.
MOST_ATOMS = 2000
_TOLD_EVERY = 20
_KT = 100 * BOLTZMANN / MASS  # k T / m in angstrom^2/ps^2 for T = 1 K; 1 kJ/mol is 100 g/mol angstrom^2/ps^2


def lennard_jones(
    x: np.ndarray, edge: float, cutoff: float, pairs: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Forces and energy of Lennard-Jones atoms in a cubic box, the force shifted to 0 at the cutoff.

    With u(r) = 4 epsilon ((sigma/r)^12 - (sigma/r)^6) and r the distance of the nearest images, a pair within the
    cutoff c has the energy u(r) - u(c) - (r - c) u'(c), and the force along it is u'(c) - u'(r).

    x: [N, 3] float64 (angstrom), wrapped or not; edge: of the box, at least 2 cutoff (angstrom)
    pairs: two arrays [N (N - 1) / 2] int64, every pair of atoms once: `np.triu_indices(N, 1)`
    Returns forces [N, 3] (kJ/mol/angstrom) and the energy (kJ/mol). Deterministic on one machine.
    Source: Toxvaerd & Dyre 2011, J. Chem. Phys. 134, 081102 (shifted forces).
    """
    i, j = pairs
    columns = np.ascontiguousarray(x.T)
    r = columns.take(i, axis=1) - columns.take(j, axis=1)  # [3, P]; x[i] takes four times as long
    r -= edge * np.rint(r / edge)
    d2 = np.einsum("kp,kp->p", r, r)
    near = np.flatnonzero(d2 < cutoff * cutoff)
    i, j, r, d2 = i.take(near), j.take(near), r.take(near, axis=1), d2.take(near)
    d, s2 = np.sqrt(d2), SIGMA * SIGMA / d2
    s6, c6 = s2 * s2 * s2, (SIGMA / cutoff) ** 6
    slope = -24 * EPSILON * (2 * c6 * c6 - c6) / cutoff  # u'(c)
    along = r * (24 * EPSILON * (2 * s6 * s6 - s6) / d2 + slope / d)
    forces = np.stack([np.bincount(i, f, len(x)) - np.bincount(j, f, len(x)) for f in along], axis=1)
    return forces, float((4 * EPSILON * (s6 * s6 - s6 - c6 * c6 + c6) - (d - cutoff) * slope).sum())


class OwnArgon:
    """The engine `own`: argon in nvt or nve.

    A step of dt is a half kick, a half drift, friction and noise, a half drift, a half kick (BAOAB; Leimkuhler &
    Matthews 2013); without friction it is velocity Verlet. The mean velocity is kept at 0, so positions do not drift
    and there are 3 N - 3 degrees of freedom.
    Raises ValueError for more than 2000 atoms, which need OpenMM.
    """

    def __init__(self, run: MDRun):
        number, edge, cutoff = run.num_particles, run.box_edge, run.cutoff
        if number is None or edge is None or cutoff is None or not 2 <= number <= MOST_ATOMS:
            raise ValueError(
                f"{WHERE}: num_particles must be from 2 to {MOST_ATOMS} with engine own, got {number}; "
                "OpenMM has no such limit"
            )
        self.edge, self.cutoff, self.timestep, self.temperature = edge, cutoff, run.timestep, run.temperature
        self.pairs = np.triu_indices(number, 1)
        self.z = np.full(number, 18)
        self.bonds = np.zeros((0, 2), dtype=np.int64)
        self.versions = {"numpy": np.__version__}

    def start(self, seed: int) -> State:
        """A lattice, and velocities of the temperature: random, from `seed`."""
        v = np.random.default_rng(seed).standard_normal((len(self.z), 3)) * np.sqrt(_KT * self.temperature)
        return State(close_packed(len(self.z), self.edge), v - v.mean(axis=0), self.edge * np.eye(3))

    def run(self, state: State, block: Block, told: Told) -> tuple[State, Frames]:
        """The block's steps; its noise is random, from `block.seed`. ValueError where positions run away."""
        x, v, dt = state.x.copy(), state.v.copy(), self.timestep
        rng = np.random.default_rng(block.seed)
        keep = np.exp(-block.friction * dt)
        noise = np.sqrt((1 - keep * keep) * _KT * block.temperature)
        a, energy = self._acceleration(x)
        kept: list[tuple[np.ndarray, float, float]] = []
        for step in range(1, block.num_steps + 1):
            v += dt / 2 * a
            x += dt / 2 * v
            if block.friction:
                v = keep * v + noise * rng.standard_normal(v.shape)
                v -= v.mean(axis=0)
            x += dt / 2 * v
            a, energy = self._acceleration(x)
            v += dt / 2 * a
            if block.num_frames and step % (block.num_steps // block.num_frames) == 0:
                kept.append((x.astype(np.float32), energy, self._temperature(v)))
            if step % _TOLD_EVERY == 0 or step == block.num_steps:
                self._check(x, v)
                told(step % _TOLD_EVERY or _TOLD_EVERY)
        frames = Frames(
            np.array([frame[0] for frame in kept], dtype=np.float32).reshape(-1, *x.shape),
            np.tile(self.edge * np.eye(3), (len(kept), 1, 1)),
            np.array([frame[1] for frame in kept]),
            np.array([frame[2] for frame in kept]),
        )
        return State(x, v, state.cell), frames

    def _acceleration(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """Accelerations (angstrom/ps^2) and the potential energy (kJ/mol)."""
        forces, energy = lennard_jones(x, self.edge, self.cutoff, self.pairs)
        return forces * (100 / MASS), energy

    def _temperature(self, v: np.ndarray) -> float:
        return float((v * v).sum() / (_KT * (v.size - 3)))

    def _check(self, x: np.ndarray, v: np.ndarray) -> None:
        """ValueError where an atom moves by more than half of the box in a step: forces are no longer those of x."""
        step = float(np.abs(v).max()) * self.timestep
        if not (np.isfinite(x).all() and step < self.edge / 2):
            raise ValueError(
                f"{WHERE}: atoms must stay together, got steps of {step:.3g} angstrom; a smaller timestep than "
                f"{self.timestep:g} ps may do"
            )
