"""What a simulation is: the settings that a user gives, and the run that they and the defaults make."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown
from geotdm_fast.simulation.installed import default_engine
from geotdm_fast.simulation.numbers import check_multiple, check_number, check_whole

WHERE = "simulate_md"
ENSEMBLES = ("nvt", "npt", "nve")
ENGINES = ("openmm", "own")
FLEXIBLE_TIMESTEP = 0.0005
_AVOGADRO = 0.602214076  # g/mol in a cubic angstrom are so many times 1/0.602 g/cm3
# The cutoff is at most half of the box, which shrinks and grows at constant pressure.
_SHARE_OF_BOX = {"nve": 0.49, "nvt": 0.49, "npt": 0.42}


class MDSystem(NamedTuple):
    """A system, and what it is where the settings do not say it.

    temperature: K; every, timestep: ps; friction: 1/ps
    unit: what num_particles counts, None where their number is fixed; mass: of one (g/mol); density: of all (g/cm3)
    cutoff, least_cutoff: of the forces (angstrom), the usual one and the least that makes sense; None without a box
    platform: OpenMM's, CPU or Reference
    """

    about: str
    temperature: float
    every: float
    friction: float
    timestep: float
    unit: str | None = None
    num_particles: int | None = None
    mass: float = 0.0
    density: float = 0.0
    cutoff: float | None = None
    least_cutoff: float = 0.0
    platform: str = "CPU"


SYSTEMS = {
    "argon": MDSystem("liquid argon", 94.4, 0.1, 0.1, 0.005, "atoms", 108, 39.948, 1.374, 8.5, 6.8),
    "water": MDSystem("TIP3P water", 300.0, 0.05, 0.1, 0.002, "molecules", 64, 18.0154, 0.997, 9.0, 5.0),
    "alanine-explicit": MDSystem("alanine dipeptide in TIP3P water", 300.0, 1.0, 1.0, 0.002, cutoff=9.0),
    # For 22 atoms OpenMM's threads cost more than they bring: 180 us a step on CPU, 24 on Reference (8.6.1).
    "alanine-vacuum": MDSystem("alanine dipeptide in vacuum", 300.0, 1.0, 1.0, 0.002, platform="Reference"),
}


@dataclass(frozen=True)
class MDRun:
    """A simulation with every default in its place, as `MDSettings.run` makes it.

    every, timestep, equilibrate: ps; temperature: K; friction: 1/ps; cutoff, box_edge: angstrom
    box_edge: of the cubic box that num_particles fill at the liquid's density; None where the system brings its own box
        or has none
    """

    system: str
    num_frames: int
    every: float
    timestep: float
    temperature: float
    ensemble: str
    friction: float
    equilibrate: float
    num_particles: int | None
    box_edge: float | None
    cutoff: float | None
    flexible: bool
    seed: int
    engine: str
    threads: int

    @property
    def steps_per_frame(self) -> int:
        """Steps of the integrator from frame to frame."""
        return round(self.every / self.timestep)


@dataclass(frozen=True)
class MDSettings:
    """A simulation as a user asks for it. What is None is the system's default, see `SYSTEMS`.

    system: argon, water, alanine-explicit or alanine-vacuum
    num_frames: frames to write; every: time between them (ps), a multiple of timestep
    timestep: of the integrator (ps); temperature: K
    ensemble: nvt (Langevin), npt (Langevin, and a barostat at 1 bar), nve (Newton's equations)
    friction: of Langevin's equation (1/ps); the smaller, the nearer the motion is to Newton's
    equilibrate: time before the first frame (ps), to the nearest step; with a thermostat in every ensemble
    num_particles: atoms of argon, molecules of water
    cutoff: of the forces in a box (angstrom); by default 8.5 for argon and 9 for water, less where the box is small
    flexible: bonds of hydrogen move; by default their lengths are fixed, and water is rigid
    seed: of the start and of the noise
    engine: openmm; or own, argon in nvt and nve. By default openmm, for argon own where OpenMM is not installed
    threads: of OpenMM. With more than one, equal seeds give trajectories that differ by rounding, and soon altogether
    """

    system: str
    num_frames: int = 1000
    every: float | None = None
    timestep: float | None = None
    temperature: float | None = None
    ensemble: str = "nvt"
    friction: float | None = None
    equilibrate: float = 20.0
    num_particles: int | None = None
    cutoff: float | None = None
    flexible: bool = False
    seed: int = 0
    engine: str | None = None
    threads: int = 1

    def run(self) -> MDRun:
        """The run that is asked for. Raises ValueError/TypeError naming what does not fit, and what would."""
        check_choice(f"{WHERE}: system", self.system, SYSTEMS)
        check_choice(f"{WHERE}: ensemble", self.ensemble, ENSEMBLES)
        of = SYSTEMS[self.system]
        engine = default_engine(self.system) if self.engine is None else self.engine
        check_choice(f"{WHERE}: engine", engine, ENGINES)
        self._check_agreement(of, engine)
        usual = FLEXIBLE_TIMESTEP if self.flexible else of.timestep
        timestep = check_number(WHERE, "timestep", usual if self.timestep is None else self.timestep)
        every = check_number(WHERE, "every", of.every if self.every is None else self.every)
        check_multiple(WHERE, every=every, timestep=timestep)
        num_particles = of.num_particles if self.num_particles is None else self.num_particles
        edge = None
        if num_particles is not None:
            check_whole(WHERE, "num_particles", num_particles, 1)
            edge = (num_particles * of.mass / (of.density * _AVOGADRO)) ** (1 / 3)
        friction = of.friction if self.friction is None else self.friction
        return MDRun(
            system=self.system,
            num_frames=check_whole(WHERE, "num_frames", self.num_frames, 1),
            every=every,
            timestep=timestep,
            temperature=check_number(
                WHERE, "temperature", of.temperature if self.temperature is None else self.temperature
            ),
            ensemble=self.ensemble,
            friction=0.0 if self.ensemble == "nve" else check_number(WHERE, "friction", friction),
            equilibrate=check_number(WHERE, "equilibrate", self.equilibrate, zero=True),
            num_particles=num_particles,
            box_edge=edge,
            cutoff=self._cutoff(of, num_particles, edge),
            flexible=self.flexible,
            seed=check_whole(WHERE, "seed", self.seed, 0),
            engine=engine,
            threads=check_whole(WHERE, "threads", self.threads, 1),
        )

    def _check_agreement(self, of: MDSystem, engine: str) -> None:
        """ValueError for a setting that this system, engine or ensemble does not have."""
        if engine == "own" and self.system != "argon":
            raise ValueError(f"{WHERE}: engine must be openmm for {self.system}, own simulates argon alone")
        if self.threads != 1 and (engine == "own" or of.platform != "CPU"):
            whose = "with engine own" if engine == "own" else f"for {self.system}"
            raise ValueError(f"{WHERE}: threads must be 1 {whose}, got {shown(self.threads)}")
        if self.ensemble == "npt" and engine == "own":
            raise ValueError(f"{WHERE}: ensemble must be nvt or nve with engine own, got npt, which needs OpenMM")
        if self.ensemble == "npt" and of.cutoff is None:
            raise ValueError(f"{WHERE}: ensemble must be nvt or nve for {self.system}, which has no box, got npt")
        if self.ensemble == "nve" and self.friction is not None:
            raise ValueError(f"{WHERE}: friction must not be given with ensemble nve, got {shown(self.friction)}")
        if self.num_particles is not None and of.unit is None:
            raise ValueError(
                f"{WHERE}: num_particles must not be given for {self.system}, whose atoms are fixed, got "
                f"{shown(self.num_particles)}"
            )
        if self.cutoff is not None and of.cutoff is None:
            raise ValueError(
                f"{WHERE}: cutoff must not be given for {self.system}, which has no box, got {shown(self.cutoff)}"
            )
        if self.flexible and self.system == "argon":
            raise ValueError(f"{WHERE}: flexible must be false for argon, which has no bonds")

    def _cutoff(self, of: MDSystem, num_particles: int | None, edge: float | None) -> float | None:
        """The cutoff (angstrom): as asked; else the usual one, or what the box has room for."""
        if of.cutoff is None:
            return None
        asked = None if self.cutoff is None else check_number(WHERE, "cutoff", self.cutoff)
        if edge is None:
            return asked or of.cutoff
        share = _SHARE_OF_BOX[self.ensemble]
        needed = asked or of.least_cutoff
        if needed > share * edge:
            fewest = math.ceil((needed / share) ** 3 * of.density * _AVOGADRO / of.mass)
            raise ValueError(
                f"{WHERE}: the box of {num_particles} {of.unit} must be at least {needed / share:.2f} angstrom wide "
                f"for a cutoff of {needed:g}, got {edge:.2f}; {fewest} {of.unit} would do"
                + (", or a smaller cutoff" if asked else "")
            )
        return asked or min(of.cutoff, math.floor(share * edge * 100) / 100)
