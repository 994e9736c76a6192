"""The engine `openmm`, where OpenMM and openmmtools are installed: systems, physics, and blocks that repeat."""

import numpy as np
import pytest
from test_argon import radial_distribution

from geotdm_fast.runtime.files import read_npz
from geotdm_fast.simulation import MDSettings, simulate_md
from geotdm_fast.simulation.openmm_engine import OpenMMEngine
from geotdm_fast.simulation.state import Block

pytest.importorskip("openmm")
pytest.importorskip("openmmtools")


def engine(system, **given):
    return OpenMMEngine(MDSettings(system, engine="openmm", **given).run())


def quiet(steps):
    """No progress."""


def liquid(system, steps, **given):
    """A run from the start, 20 frames of so many steps."""
    made = engine(system, **given)
    run = made.settings
    state, _ = made.run(made.start(1), Block("", 0, 500, run.temperature, 5.0, False, 1), quiet)
    return made, made.run(state, Block("", 20, 20 * steps, run.temperature, run.friction, False, 2), quiet)


@pytest.mark.parametrize("system", ["argon", "water", "alanine-vacuum"])
def test_a_block_is_the_same_in_another_process_of_its_own(system):
    """Bit for bit: in one context after another block, and in one that is new."""
    used, new = engine(system), engine(system)
    start = used.start(7)
    block = Block("", 2, 60, used.settings.temperature, 1.0, False, 5)
    middle, _ = used.run(start, block, quiet)
    expected, frames = used.run(middle, block._replace(seed=6), quiet)
    again, same = new.run(middle, block._replace(seed=6), quiet)
    np.testing.assert_array_equal(again.x, expected.x)
    np.testing.assert_array_equal(again.v, expected.v)
    np.testing.assert_array_equal(same.x, frames.x)
    np.testing.assert_array_equal(frames.x[-1], expected.x.astype(np.float32))
    other, _ = new.run(middle, block, quiet)
    assert np.abs(other.x - expected.x).max() > 1e-3  # noise is seeded


def test_water_is_rigid_whole_and_of_its_temperature():
    made, (state, frames) = liquid("water", 15)
    assert made.z.tolist() == [8, 1, 1] * 64
    assert made.bonds[:3].tolist() == [[0, 1], [0, 2], [3, 4]] and made.bonds.shape == (128, 2)
    lengths = np.linalg.norm(frames.x[:, made.bonds[:, 0]] - frames.x[:, made.bonds[:, 1]], axis=-1)
    np.testing.assert_allclose(lengths, 0.9572, atol=1e-4)
    assert made.degrees_of_freedom == 6 * 64 - 3
    assert frames.temperature.mean() == pytest.approx(300, rel=0.1)
    np.testing.assert_allclose(np.diag(state.cell), made.settings.box_edge, rtol=1e-6)
    weight = np.array([15.999, 1.008, 1.008] * 64)
    np.testing.assert_allclose((weight[:, None] * state.v).sum(axis=0), 0, atol=80)  # of one step's noise; else 540


def test_flexible_water_vibrates():
    made, (_, frames) = liquid("water", 5, flexible=True, num_particles=64)
    lengths = np.linalg.norm(frames.x[:, made.bonds[:, 0]] - frames.x[:, made.bonds[:, 1]], axis=-1)
    assert lengths.std() > 0.01 and lengths.mean() == pytest.approx(0.96, abs=0.05)
    assert made.degrees_of_freedom == 9 * 64 - 3


def test_argon_has_the_first_shell_of_our_own_integrator():
    made = engine("argon", timestep=0.01)
    state = made.start(1)
    for number, (steps, temperature) in enumerate(((200, 236.0), (500, 94.4)), start=1):
        state, _ = made.run(state, Block("", 0, steps, temperature, 5.0, False, number), quiet)
    _, frames = made.run(state, Block("", 50, 1000, 94.4, 5.0, False, 9), quiet)
    r, g = radial_distribution(frames.x, made.settings.box_edge)
    assert r[g.argmax()] == pytest.approx(3.7, abs=0.1) and 2.6 < g.max() < 3.4
    assert frames.temperature.mean() == pytest.approx(94.4, abs=5)
    assert made.z.tolist() == [18] * 108 and made.bonds.shape == (0, 2)


def test_newtons_equations_keep_the_energy():
    made, (_, frames) = liquid("alanine-vacuum", 50, flexible=True, ensemble="nve")
    total = frames.potential_energy + frames.temperature * 0.00831446261815324 * made.degrees_of_freedom / 2
    assert frames.potential_energy.std() > 3
    assert total.std() < 0.1 * frames.potential_energy.std()


def test_alanine_has_its_atoms_and_bonds():
    made = engine("alanine-vacuum")
    assert np.bincount(made.z)[[1, 6, 7, 8]].tolist() == [12, 6, 2, 2]
    assert made.bonds.shape == (21, 2) and made.start(1).cell is None
    solvated = engine("alanine-explicit")
    assert len(solvated.z) == 22 + 3 * 749 and solvated.bonds.shape == (21 + 2 * 749, 2)
    of_hydrogen = (solvated.z[solvated.bonds] == 1).all(axis=1)
    assert not of_hydrogen.any()


def test_npt_moves_the_box_and_keeps_molecules(tmp_path):
    settings = MDSettings(
        "water", engine="openmm", ensemble="npt", num_frames=8, every=0.1, equilibrate=0.4, num_particles=64
    )
    simulate_md(tmp_path / "water.npz", settings, progress=False)
    found = read_npz(tmp_path / "water.npz")
    assert found["cell"].shape == (8, 3, 3) and found["cell"][:, 0, 0].std() > 1e-3
    density = 64 * 18.0154 / 0.602214076 / np.linalg.det(found["cell"])
    assert (abs(density - 1.0) < 0.15).all()
    lengths = np.linalg.norm(found["R"][:, found["bonds"][:, 0]] - found["R"][:, found["bonds"][:, 1]], axis=-1)
    np.testing.assert_allclose(lengths, 0.9572, atol=1e-4)


def test_a_barostat_leaves_positions_unwrapped():
    """Earlier releases of OpenMM moved every molecule into the first box as they scaled it."""
    made = engine("argon", ensemble="npt")
    start = made.start(1)
    far = start._replace(x=start.x + 5 * np.diag(start.cell))
    state, _ = made.run(far, Block("", 0, 200, 94.4, 1.0, True, 1), quiet)
    assert state.cell[0, 0] != start.cell[0, 0]
    np.testing.assert_allclose((state.x / np.diag(state.cell)).mean(axis=0), 5.5, atol=0.2)


@pytest.mark.parametrize("system", ["argon", "water"])
def test_stopped_between_blocks_it_ends_with_the_same_file(tmp_path, monkeypatch, system):
    """With a barostat too, whose own random numbers and state no file could keep."""
    settings = MDSettings(
        system, engine="openmm", ensemble="npt", num_frames=5, every=0.1, equilibrate=0.3, timestep=0.002
    )
    monkeypatch.setattr("geotdm_fast.simulation.blocks.BLOCK_STEPS", 100)
    simulate_md(tmp_path / "undisturbed.npz", settings, progress=False)
    whole, calls = OpenMMEngine.run, []

    def run(self, *args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(OpenMMEngine, "run", run)
        with pytest.raises(KeyboardInterrupt):
            simulate_md(tmp_path / "stopped.npz", settings, progress=False)
    simulate_md(tmp_path / "stopped.npz", settings, progress=False)
    assert (tmp_path / "stopped.npz").read_bytes() == (tmp_path / "undisturbed.npz").read_bytes()


def test_what_openmm_refuses_is_told_with_what_helps():
    made = engine("water", timestep=0.02, every=0.2)
    with pytest.raises(
        ValueError, match=r"atoms must stay together, got: .*NaN.*; a smaller timestep than 0.02 ps may do"
    ):
        made.run(made.start(1), Block("", 0, 500, 300.0, 1.0, False, 1), quiet)
    made = engine("water", ensemble="npt")
    small = made.start(1)
    small = small._replace(cell=small.cell * 0.8)
    with pytest.raises(ValueError, match=r"the box must be twice the cutoff wide, got: .*; a cutoff below 5.22 may do"):
        made.run(small, Block("", 0, 10, 300.0, 1.0, False, 1), quiet)
