"""Our own integrator of argon: forces against their formula, and the physics of the liquid."""

import functools

import numpy as np
import pytest

from geotdm_fast.simulation.argon import EPSILON, MASS, SIGMA, OwnArgon, lennard_jones
from geotdm_fast.simulation.lattice import close_packed
from geotdm_fast.simulation.settings import MDSettings
from geotdm_fast.simulation.state import BOLTZMANN, Block

EDGE, CUTOFF = 15.0, 7.3


def positions(num_atoms=7, seed=0):
    """Atoms at least 3 angstrom apart, some of them in other images of the box."""
    rng = np.random.default_rng(seed)
    grid = close_packed(32, EDGE)[rng.permutation(32)[:num_atoms]]
    return grid + 0.1 * rng.standard_normal((num_atoms, 3)) + EDGE * rng.integers(-2, 3, (num_atoms, 3))


def pairs(num_atoms):
    return np.triu_indices(num_atoms, 1)


def energy_by_loops(x):
    """The formula of the docstring, pair by pair, over every image that may be near."""
    u = lambda r: 4 * EPSILON * ((SIGMA / r) ** 12 - (SIGMA / r) ** 6)
    slope = 4 * EPSILON * (-12 * SIGMA**12 / CUTOFF**13 + 6 * SIGMA**6 / CUTOFF**7)
    total, images = 0.0, np.stack(np.meshgrid(*[range(-5, 6)] * 3), -1).reshape(-1, 3) * EDGE
    for i in range(len(x)):
        for j in range(i):
            r = np.linalg.norm(x[i] - x[j] + images, axis=1).min()
            if r < CUTOFF:
                total += u(r) - u(CUTOFF) - (r - CUTOFF) * slope
    return total


def test_the_energy_is_that_of_the_formula():
    x = positions()
    assert lennard_jones(x, EDGE, CUTOFF, pairs(7))[1] == pytest.approx(energy_by_loops(x), rel=1e-12)
    assert energy_by_loops(x) < -1


def test_forces_are_the_slope_of_the_energy():
    x, forces = positions(), lennard_jones(positions(), EDGE, CUTOFF, pairs(7))[0]
    step = 1e-5
    for i, k in np.ndindex(x.shape):
        there, back = x.copy(), x.copy()
        there[i, k] += step
        back[i, k] -= step
        slope = (energy_by_loops(there) - energy_by_loops(back)) / (2 * step)
        assert forces[i, k] == pytest.approx(-slope, abs=1e-7)
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-12)


def test_a_perfect_crystal_and_far_atoms_feel_no_force():
    crystal = lennard_jones(close_packed(32, EDGE), EDGE, CUTOFF, pairs(32))
    np.testing.assert_allclose(crystal[0], 0, atol=1e-12)
    forces, energy = lennard_jones(np.array([[0.0, 0, 0], [EDGE / 2, 0, 0]]), EDGE, CUTOFF, pairs(2))
    assert (forces == 0).all() and energy == 0


def test_force_and_energy_go_to_zero_at_the_cutoff():
    x = np.array([[0.0, 0, 0], [EDGE - CUTOFF + 1e-6, 0, 0]])  # across the border
    forces, energy = lennard_jones(x, EDGE, CUTOFF, pairs(2))
    assert 0 < abs(forces[0, 0]) < 1e-7 and abs(energy) < 1e-12


def test_openmm_has_the_same_forces():
    """The same formula in OpenMM's own language, in double precision."""
    openmm = pytest.importorskip("openmm")
    number, x = 32, close_packed(32, EDGE) + 0.2 * np.random.default_rng(1).standard_normal((32, 3))
    system, u = openmm.System(), "4*eps*((s/{r})^12-(s/{r})^6)"
    slope = "4*eps*(-12*s^12/c^13+6*s^6/c^7)"
    force = openmm.CustomNonbondedForce(f"{u.format(r='r')}-{u.format(r='c')}-(r-c)*{slope}")
    for name, value in (("eps", EPSILON), ("s", SIGMA / 10), ("c", CUTOFF / 10)):
        force.addGlobalParameter(name, value)
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF / 10)
    for _ in range(number):
        system.addParticle(MASS)
        force.addParticle([])
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(EDGE / 10 * np.eye(3)))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x / 10)
    theirs = context.getState(forces=True, energy=True)
    forces, energy = lennard_jones(x, EDGE, CUTOFF, pairs(number))
    assert energy == pytest.approx(theirs.getPotentialEnergy()._value, rel=1e-9)
    np.testing.assert_allclose(forces, theirs.getForces(asNumpy=True)._value / 10, rtol=1e-8, atol=1e-9)


@functools.cache
def liquid(ensemble):
    """The liquid after it has melted: 250 frames, 0.04 ps apart."""
    run = MDSettings("argon", engine="own", ensemble=ensemble, timestep=0.01, friction=None).run()
    engine = OwnArgon(run)
    state = engine.start(1)
    for number, (steps, temperature) in enumerate(((200, 236.0), (500, 94.4)), start=1):
        state, _ = engine.run(state, Block("", 0, steps, temperature, 5.0, False, number), lambda steps: None)
    friction = 5.0 if ensemble == "nvt" else 0.0
    return run, engine.run(state, Block("", 250, 1000, 94.4, friction, False, 9), lambda steps: None)


def test_newtons_equations_keep_the_energy():
    _, (_, frames) = liquid("nve")
    kinetic = frames.temperature * BOLTZMANN * (3 * 108 - 3) / 2
    total = frames.potential_energy + kinetic
    assert kinetic.std() > 5  # energy is exchanged all the time
    assert total.std() < 0.01 * kinetic.std()
    drift = np.polyfit(0.04 * np.arange(250), total, 1)[0]
    assert abs(drift) < 0.02  # kJ/mol in a ps, of 108 atoms


def test_a_smaller_step_errs_less_by_its_square():
    """Velocity Verlet is of second order: at half the step the energy strays by a quarter."""
    engine = OwnArgon(MDSettings("argon", engine="own", ensemble="nve").run())
    state = engine.start(3)
    stray = []
    for steps in (20, 40):
        engine.timestep = 0.4 / steps
        _, frames = engine.run(state, Block("", 20, steps, 94.4, 0.0, False, 1), lambda steps: None)
        total = frames.potential_energy + frames.temperature * BOLTZMANN * (3 * 108 - 3) / 2
        stray.append(np.abs(total - total[-1]).max())
    assert stray[0] / stray[1] == pytest.approx(4, rel=0.25)


def test_the_thermostat_gives_the_temperature_to_every_direction():
    _, (state, frames) = liquid("nvt")
    # Frames 0.04 ps apart at a friction of 5 per ps; the deviation of the mean of T is about 1.3 K.
    assert frames.temperature.mean() == pytest.approx(94.4, abs=5)
    assert frames.temperature.std() == pytest.approx(94.4 * np.sqrt(2 / 321), rel=0.35)
    np.testing.assert_allclose(state.v.mean(axis=0), 0, atol=1e-12)


def test_equipartition_over_atoms_and_directions():
    run = MDSettings("argon", engine="own").run()
    engine = OwnArgon(run)
    v = np.stack([engine.start(seed).v for seed in range(200)])  # [200, 108, 3]
    of_each = MASS * (v * v).mean(axis=(0, 1)) / (100 * BOLTZMANN)
    np.testing.assert_allclose(of_each, 94.4 * 107 / 108, rtol=0.03)
    kicked, _ = engine.run(engine.start(0), Block("", 0, 100, 94.4, 20.0, False, 5), lambda steps: None)
    spread = MASS * (kicked.v * kicked.v).mean(axis=0) / (100 * BOLTZMANN)
    np.testing.assert_allclose(spread, 94.4 * 107 / 108, rtol=0.5)  # 108 atoms: 14 % is one deviation


def test_the_first_shell_is_where_it_is_measured():
    """X-ray diffraction of liquid argon near its triple point has g(r)'s first peak at 3.7 angstrom, about 3 high."""
    run, (_, frames) = liquid("nvt")
    r, g = radial_distribution(frames.x[::5], run.box_edge)
    peak = g.argmax()
    assert r[peak] == pytest.approx(3.7, abs=0.1)
    assert 2.6 < g[peak] < 3.4
    assert (g[r < 3.0] == 0).all()
    assert g[(r > 5.0) & (r < 5.6)].mean() < 0.8 and g[(r > 6.6) & (r < 7.4)].mean() > 1.1


def radial_distribution(x, edge, bins=80):
    """r [bins] and g(r) of atoms x [T, N, 3] in a cubic box."""
    i, j = pairs(x.shape[1])
    r = (x[:, i] - x[:, j]).astype(np.float64)
    r -= edge * np.rint(r / edge)
    counts, borders = np.histogram(np.linalg.norm(r, axis=-1), bins, (0, edge / 2))
    shells = 4 / 3 * np.pi * np.diff(borders**3)
    return (borders[1:] + borders[:-1]) / 2, counts / (len(x) * len(i) * shells / edge**3)


def test_a_step_that_is_too_large_is_told():
    engine = OwnArgon(MDSettings("argon", engine="own", timestep=0.5, every=0.5).run())
    message = r"atoms must stay together, got steps of .* a smaller timestep than 0.5 ps"
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        engine.run(engine.start(0), Block("", 0, 400, 94.4, 0.1, False, 1), lambda steps: None)


def test_more_atoms_than_fit_are_told():
    with pytest.raises(ValueError, match="num_particles must be from 2 to 2000 with engine own, got 2001; OpenMM"):
        OwnArgon(MDSettings("argon", engine="own", num_particles=2001).run())
