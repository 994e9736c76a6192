"""The engine `openmm`: OpenMM on the CPU, made anew for every block."""

from typing import Any

import numpy as np

from geotdm_fast.simulation.installed import openmm_versions
from geotdm_fast.simulation.openmm_systems import NM, build_system
from geotdm_fast.simulation.settings import SYSTEMS, WHERE, MDRun
from geotdm_fast.simulation.state import BOLTZMANN, Block, Frames, State, Told

_PRESSURE = 1.0  # bar
_BAROSTAT_EVERY = 25
_MOST_ITERATIONS = 100
# A signal is obeyed between two calls.
_MOST_STEPS_OF_A_CALL = 100


class OpenMMEngine:
    """A run on OpenMM: LangevinMiddleIntegrator, or VerletIntegrator where there is no friction.

    The platform is CPU; without a box it is Reference, in float64 and on one thread. The neighbour list of CPU depends
    on earlier steps, and with it the last bits of the forces. So the context is initialised anew for every block, and
    its noise seeded: then a block is the same in whatever process it runs. With more than one thread it is not:
    threads add forces in the order in which they come.
    Raises ModuleNotFoundError without OpenMM or openmmtools.
    """

    def __init__(self, run: MDRun):
        platform = SYSTEMS[run.system].platform
        self.versions = openmm_versions(f"{WHERE}: {run.system}") | {"platform": platform}
        import openmm

        self.settings = run
        self.built = build_system(run, run.seed)
        self.z, self.bonds = self.built.z, self.built.bonds
        self.periodic = self.built.system.usesPeriodicBoundaryConditions()
        # Whoever moves the box is there from the start, and asleep where it must not.
        self.barostat = openmm.MonteCarloBarostat(_PRESSURE, run.temperature, 0) if run.ensemble == "npt" else None
        if self.barostat is not None:
            self.built.system.addForce(self.barostat)
        self.contexts: dict[bool, Any] = {}  # by whether they follow Newton's equations
        moving = sum(self.built.system.getParticleMass(i)._value > 0 for i in range(len(self.z)))
        self.degrees_of_freedom = 3 * moving - self.built.system.getNumConstraints() - 3

    def start(self, seed: int) -> State:
        """Where the atoms start, moved to a minimum of the energy, with velocities of the temperature: random, from
        `seed`."""
        import openmm

        context = self._context(Block("start", 0, 0, self.settings.temperature, 1.0, False, seed))
        context.setPositions(self.built.x * NM)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=_MOST_ITERATIONS)
        context.setVelocitiesToTemperature(self.settings.temperature, seed)
        return self._state(context)

    def run(self, state: State, block: Block, told: Told) -> tuple[State, Frames]:
        """The block's steps. ValueError where positions run away, or the box shrinks below twice the cutoff."""
        import openmm

        context = self._context(block)
        if state.cell is not None:
            context.setPeriodicBoxVectors(*(state.cell * NM))
        context.setPositions(state.x * NM)
        context.setVelocities(state.v * NM)
        stretch = block.num_steps // block.num_frames if block.num_frames else block.num_steps
        kept = []
        try:
            for _ in range(block.num_frames or 1):
                for done in range(0, stretch, _MOST_STEPS_OF_A_CALL):
                    steps = min(_MOST_STEPS_OF_A_CALL, stretch - done)
                    context.getIntegrator().step(steps)
                    told(steps)
                kept.append(self._frame(context))
            after = self._state(context)
        except openmm.OpenMMException as error:
            raise ValueError(f"{WHERE}: {self._advice(str(error))}") from error
        return after, self._frames(kept if block.num_frames else [])

    def _context(self, block: Block) -> Any:
        """A context as new, with the block's integrator, temperature and seeds."""
        import openmm

        newton = block.friction == 0
        if newton not in self.contexts:
            dt = self.settings.timestep
            made = openmm.VerletIntegrator(dt) if newton else openmm.LangevinMiddleIntegrator(0.0, 0.0, dt)
            platform = openmm.Platform.getPlatformByName(SYSTEMS[self.settings.system].platform)
            wanted = {"Threads": str(self.settings.threads), "DeterministicForces": "true"}
            properties = {name: wanted[name] for name in platform.getPropertyNames() if name in wanted}
            self.contexts[newton] = openmm.Context(self.built.system, made, platform, properties)
        context = self.contexts[newton]
        if not newton:
            context.getIntegrator().setTemperature(block.temperature)
            context.getIntegrator().setFriction(block.friction)
            context.getIntegrator().setRandomNumberSeed(block.seed)
        if self.barostat is not None:
            self.barostat.setFrequency(_BAROSTAT_EVERY if block.barostat else 0)
            self.barostat.setDefaultTemperature(block.temperature)
            self.barostat.setRandomNumberSeed(block.seed)
        context.reinitialize()
        return context

    def _state(self, context: Any) -> State:
        found = context.getState(positions=True, velocities=True)
        cell = found.getPeriodicBoxVectors(asNumpy=True)._value / NM if self.periodic else None
        x, v = found.getPositions(asNumpy=True)._value, found.getVelocities(asNumpy=True)._value
        return State(x / NM, v / NM, cell)

    def _frame(self, context: Any) -> tuple[np.ndarray, np.ndarray, float, float]:
        found = context.getState(positions=True, energy=True)
        kinetic = found.getKineticEnergy()._value
        return (
            (found.getPositions(asNumpy=True)._value / NM).astype(np.float32),
            found.getPeriodicBoxVectors(asNumpy=True)._value / NM,
            found.getPotentialEnergy()._value,
            2 * kinetic / (self.degrees_of_freedom * BOLTZMANN),
        )

    def _frames(self, kept: list) -> Frames:
        x = np.array([frame[0] for frame in kept], dtype=np.float32).reshape(-1, len(self.z), 3)
        cell = np.array([frame[1] for frame in kept]).reshape(-1, 3, 3) if self.periodic else None
        return Frames(x, cell, np.array([frame[2] for frame in kept]), np.array([frame[3] for frame in kept]))

    def _advice(self, message: str) -> str:
        """What OpenMM says, and what helps."""
        run = self.settings
        if "NaN" in message:
            return f"atoms must stay together, got: {message}; a smaller timestep than {run.timestep:g} ps may do"
        if "cutoff" in message:
            return f"the box must be twice the cutoff wide, got: {message}; a cutoff below {run.cutoff:g} may do"
        return message
