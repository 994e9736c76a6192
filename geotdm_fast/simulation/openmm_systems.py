"""The systems that OpenMM simulates: forces, atoms, bonds and where they start."""

from typing import Any, NamedTuple, cast

import numpy as np

from geotdm_fast.simulation.argon import EPSILON, MASS, SIGMA
from geotdm_fast.simulation.lattice import close_packed, water_molecules
from geotdm_fast.simulation.settings import MDRun

# OpenMM's unit of length is nm.
NM = 0.1
_SWITCH = 1.0  # angstrom, over which Lennard-Jones forces of argon go to 0


class OpenMMSystem(NamedTuple):
    """system: `openmm.System`, topology: `openmm.app.Topology`; x: [N, 3] float64 (angstrom) - where atoms start."""

    system: Any
    topology: Any
    x: np.ndarray

    @property
    def z(self) -> np.ndarray:
        """Atomic numbers [N] int64."""
        return np.array([atom.element.atomic_number for atom in self.topology.atoms()], dtype=np.int64)

    @property
    def bonds(self) -> np.ndarray:
        """Bonded atoms [B, 2] int64, ascending."""
        pairs = [sorted((bond[0].index, bond[1].index)) for bond in self.topology.bonds()]
        return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def build_system(run: MDRun, seed: int) -> OpenMMSystem:
    """The system of a run on OpenMM, with the mean velocity removed in every step. Random, from `seed`: how water
    molecules are turned at the start."""
    build = {"argon": _argon, "water": _water}.get(run.system, _alanine)
    return build(run, seed)


def _argon(run: MDRun, seed: int) -> OpenMMSystem:
    """openmmtools' fluid: forces go to 0 over the last angstrom before the cutoff; what is beyond counts on average."""
    import openmm
    from openmm import unit

    number, edge = cast(int, run.num_particles), cast(float, run.box_edge)
    fluid = _test_systems().LennardJonesFluid(
        nparticles=number,
        reduced_density=number * SIGMA**3 / edge**3,
        mass=MASS * unit.amu,
        sigma=SIGMA * unit.angstrom,
        epsilon=EPSILON * unit.kilojoule_per_mole,
        cutoff=run.cutoff * unit.angstrom,
        switch_width=_SWITCH * unit.angstrom,
    )
    fluid.system.addForce(openmm.CMMotionRemover(1))
    return OpenMMSystem(fluid.system, fluid.topology, close_packed(number, edge))


def _water(run: MDRun, seed: int) -> OpenMMSystem:
    """TIP3P with particle-mesh Ewald. openmmtools' WaterBox takes the width of a box, and puts too few molecules in."""
    from openmm import app, unit

    number, edge = cast(int, run.num_particles), cast(float, run.box_edge)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(number):
        residue = topology.addResidue("HOH", chain)
        oxygen = topology.addAtom("O", app.element.oxygen, residue)
        for name in ("H1", "H2"):
            topology.addBond(oxygen, topology.addAtom(name, app.element.hydrogen, residue))
    topology.setPeriodicBoxVectors(edge * NM * np.eye(3) * unit.nanometer)
    system = app.ForceField("tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=run.cutoff * unit.angstrom,
        rigidWater=not run.flexible,
        removeCMMotion=True,
    )
    return OpenMMSystem(system, topology, water_molecules(number, edge, np.random.default_rng(seed)))


def _alanine(run: MDRun, seed: int) -> OpenMMSystem:
    """openmmtools' alanine dipeptide, ff96, with its 22 atoms first; bonds of hydrogen rigid unless flexible."""
    from openmm import app, unit

    constraints = None if run.flexible else app.HBonds
    if run.system == "alanine-vacuum":
        made = _test_systems().AlanineDipeptideVacuum(constraints=constraints)
    else:
        made = _test_systems().AlanineDipeptideExplicit(
            constraints=constraints, rigid_water=not run.flexible, nonbondedCutoff=run.cutoff * unit.angstrom
        )
    x = np.asarray(made.positions.value_in_unit(unit.angstrom), dtype=np.float64)
    return OpenMMSystem(made.system, made.topology, x)


def _test_systems() -> Any:
    from openmmtools import testsystems

    return testsystems
