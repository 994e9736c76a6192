"""Settings of molecular dynamics: defaults, blocks, starts, and every error."""

import re

import numpy as np
import pytest

from geotdm_fast.runtime.packages import how_to_install
from geotdm_fast.simulation import SYSTEMS, MDSettings, installed
from geotdm_fast.simulation.blocks import blocks
from geotdm_fast.simulation.lattice import close_packed, water_molecules


def own(**given):
    return MDSettings("argon", engine="own", **given)


def openmm(system, **given):
    return MDSettings(system, engine="openmm", **given)


def test_defaults_are_those_of_the_liquid():
    run = own().run()
    grams = 108 * 39.948 / 6.02214076e23
    assert grams / (run.box_edge * 1e-8) ** 3 == pytest.approx(1.374, rel=1e-9)
    assert (run.temperature, run.every, run.timestep, run.steps_per_frame) == (94.4, 0.1, 0.005, 20)
    assert run.cutoff == 8.49  # 0.49 of 17.34
    water = openmm("water", num_particles=512).run()
    assert water.cutoff == 9.0 and water.box_edge == pytest.approx(24.86, abs=0.01)
    assert openmm("water", flexible=True).run().timestep == 0.0005
    assert openmm("water", ensemble="npt").run().cutoff == 5.22  # 0.42 of 12.43
    alone = openmm("alanine-vacuum").run()
    assert (alone.cutoff, alone.box_edge, alone.num_particles) == (None, None, None)
    assert own(ensemble="nve").run().friction == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (openmm("argun"), "system must be one of argon, water, .*; got 'argun'; did you mean 'argon'"),
        (openmm("water", ensemble="nvp"), "ensemble must be one of nvt, npt, nve; got 'nvp'"),
        (MDSettings("argon", engine="lammps"), "engine must be one of openmm, own; got 'lammps'"),
        (MDSettings("water", engine="own"), "engine must be openmm for water, own simulates argon alone"),
        (own(threads=2), "threads must be 1 with engine own, got 2"),
        (openmm("alanine-vacuum", threads=2), "threads must be 1 for alanine-vacuum, got 2"),
        (own(ensemble="npt"), "ensemble must be nvt or nve with engine own, got npt"),
        (openmm("alanine-vacuum", ensemble="npt"), "ensemble must be nvt or nve for alanine-vacuum, which has no box"),
        (own(ensemble="nve", friction=1.0), "friction must not be given with ensemble nve, got 1.0"),
        (openmm("alanine-explicit", num_particles=3), "num_particles must not be given for alanine-explicit"),
        (
            openmm("alanine-vacuum", cutoff=8.0),
            "cutoff must not be given for alanine-vacuum, which has no box",
        ),
        (own(flexible=True), "flexible must be false for argon"),
        (own(num_frames=0), "num_frames must be at least 1, got 0"),
        (own(seed=-1), "seed must be at least 0, got -1"),
        (own(num_particles=0), "num_particles must be at least 1, got 0"),
        (own(every=0.012), "every must be a multiple of timestep, 0.005 ps, got 0.012 ps; 0.01 or 0.015 would do"),
        (own(every=0.001), "every must be a multiple of timestep, 0.005 ps, got 0.001 ps; 0.005 would do"),
        (own(timestep=0.0), "timestep must be finite and positive, got 0.0"),
        (own(temperature=float("nan")), "temperature must be finite and positive, got nan"),
        (own(equilibrate=-1.0), "equilibrate must be finite and at least 0, got -1.0"),
        (
            own(num_particles=32),
            "the box of 32 atoms must be at least 13.88 .* for a cutoff of 6.8, got 11.56; 56 atoms would do",
        ),
        (
            openmm("water", cutoff=9.0),
            "the box of 64 molecules must be at least 18.37 .* got 12.43; 207 molecules would do, or a smaller cutoff",
        ),
    ],
)
def test_what_does_not_fit_is_told(settings, message):
    with pytest.raises(ValueError, match=f"simulate_md: {message}"):
        settings.run()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"num_frames": 2.5}, "num_frames must be a whole number, got 2.5"), ({"every": "0.1"}, "every")],
)
def test_other_types_are_told(given, message):
    with pytest.raises(TypeError, match=message):
        own(**given).run()


def test_what_would_do_does():
    assert own(num_particles=56).run().cutoff >= SYSTEMS["argon"].least_cutoff
    assert openmm("water", cutoff=9.0, num_particles=207).run().cutoff == 9.0
    assert own(every=0.015).run().steps_per_frame == 3


def test_without_openmm_argon_is_our_own_and_others_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openmm" else object())
    with pytest.warns(UserWarning, match="openmm is not installed, so argon is simulated by the package's own"):
        assert MDSettings("argon").run().engine == "own"
    assert MDSettings("water").run().engine == "openmm"
    with pytest.raises(
        ModuleNotFoundError, match=f"md:water needs openmm, .* {re.escape(how_to_install('simulate-md'))}"
    ):
        installed.openmm_versions("md:water")


def test_blocks_hold_every_step_and_frame_once():
    run = own(num_frames=7001, every=0.1, equilibrate=21.0).run()
    all_blocks = blocks(run)
    stages = {stage: [b for b in all_blocks if b.stage == stage] for stage in ("melt", "equilibrate", "simulate")}
    steps = {stage: sum(b.num_steps for b in found) for stage, found in stages.items()}
    assert steps == {"melt": 1050, "equilibrate": 3150, "simulate": 7001 * 20}
    assert sum(b.num_frames for b in all_blocks) == 7001
    assert {b.temperature for b in stages["melt"]} == {2.5 * 94.4}
    assert len({b.seed for b in all_blocks}) == len(all_blocks)
    assert all(0 < b.seed < 2**31 for b in all_blocks)
    assert [b.seed for b in blocks(own(seed=1).run())] != [b.seed for b in blocks(own().run())]
    assert max(b.num_steps for b in all_blocks) <= 2000
    # A frame that takes more steps than a block is a block.
    assert [b.num_steps for b in blocks(own(num_frames=2, every=100.0, equilibrate=0.0).run())] == [20000, 20000]


def test_a_longer_run_begins_with_the_shorter_one():
    short, long = blocks(own(num_frames=150).run()), blocks(own(num_frames=1000).run())
    assert short[:-1] == long[: len(short) - 1]


@pytest.mark.parametrize("number", [1, 4, 31, 108])
def test_lattices_keep_particles_apart(number):
    edge = 4.0 * number ** (1 / 3)
    x = close_packed(number, edge)
    r = x[:, None] - x
    r -= edge * np.rint(r / edge)
    d = np.linalg.norm(r, axis=-1)[~np.eye(number, dtype=bool)]
    assert x.shape == (number, 3) and ((x >= 0) & (x < edge)).all()
    assert number == 1 or d.min() > 3.5


def test_water_molecules_have_their_shape_and_no_direction():
    x = water_molecules(500, 30.0, np.random.default_rng(0)).reshape(500, 3, 3)
    first, second = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
    np.testing.assert_allclose(np.linalg.norm([first, second], axis=-1), 0.9572)
    cosine = (first * second).sum(-1) / 0.9572**2
    np.testing.assert_allclose(np.rad2deg(np.arccos(cosine)), 104.52)
    dipole = (first + second) / np.linalg.norm(first + second, axis=-1, keepdims=True)
    assert np.abs(dipole.mean(axis=0)).max() < 4 / np.sqrt(3 * 500)  # 4 deviations
    np.testing.assert_allclose((dipole**2).mean(axis=0), 1 / 3, atol=4 * np.sqrt(4 / 45 / 500))
