"""Energies by a calculator: one whose energies are known, and Lennard-Jones of two atoms."""

import sys

import numpy as np
import pytest
from molecule_samples import samples_from

from geotdm_fast.cli import main
from geotdm_fast.samples.npz import write_samples
from geotdm_fast.scores.md import MDSettings, score_molecules

pytest.importorskip("ase")

MODULE = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Spring(Calculator):
    # (d - 1)^2 / 2 of the first two atoms.
    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        way = self.atoms.positions[1] - self.atoms.positions[0]
        d = np.linalg.norm(way)
        if d > 50:
            raise RuntimeError("too far")
        force = (d - 1) * way / d
        energy = np.nan if d > 10 else (d - 1) ** 2 / 2
        self.results = {"energy": energy, "forces": np.array([force, -force])}

class Silent(Spring):
    implemented_properties = ["energy"]

def no_calculator():
    return 3
"""


@pytest.fixture
def spring(tmp_path, monkeypatch):
    (tmp_path / "my_springs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_springs:Spring"
    sys.modules.pop("my_springs", None)


def pairs_at(distances: np.ndarray) -> np.ndarray:
    """[M, T, 2, 3] - two atoms at distances [M, T]."""
    x = np.zeros((*distances.shape, 2, 3))
    x[..., 1, 0] = distances
    return x


def rows_of(truth, drawn, calculator, z=18, **options):
    settings = MDSettings(scores=("energy",), calculator=calculator, resamples=20, **options)
    return score_molecules(samples_from(pairs_at(truth), pairs_at(drawn)[None], np.full(2, z)), settings)[0].rows


def test_known_energies_and_forces(spring):
    truth = np.full((8, 4), 1.0)
    truth[::2] = 1.2
    energies, forces = rows_of(truth, truth * 0 + 1.4, spring)
    # Half of the truth has 0.02 eV, half 0; all that was drawn 0.08 eV. Forces 0.2, 0 and 0.4.
    assert energies.unit == "eV" and energies.estimate.value == pytest.approx(0.07, rel=0.2)
    assert energies.detail["mean_drawn"] == pytest.approx(0.08) and energies.detail["frames"] == 32
    assert energies.detail["mean_truth"] == pytest.approx(0.01)
    assert forces.detail["mean_drawn"] == pytest.approx(0.4) and forces.estimate.value == pytest.approx(0.3, rel=0.2)
    assert energies.estimate.floor < 0.02
    some = rows_of(truth, truth, spring, energy_frames=10)[0]
    assert some.detail["frames"] == 10 and some.estimate.value < 0.02
    assert len(rows_of(truth, truth, "my_springs:Silent")) == 1


def test_a_drawn_frame_without_energy_is_counted(spring):
    truth = np.full((8, 4), 1.2)
    drawn = truth.copy()
    drawn[0, 0] = 11
    energies, _, lost = rows_of(truth, drawn, spring)
    assert energies.estimate.value == pytest.approx(0, abs=1e-6)
    assert lost.quantity == "frames without a finite energy" and 0 < lost.estimate.value < 0.1
    with pytest.raises(ValueError, match="gives 1 of 32 true frames no finite energy"):
        rows_of(drawn, truth, spring)
    drawn[1, 1] = 60
    with pytest.raises(ValueError, match="calculator Spring refused frame 5 of those it got: RuntimeError: too far"):
        rows_of(truth, drawn, spring)


def test_calculators_by_name():
    # At the minimum of Lennard-Jones, 2^(1/6) sigma, the energy is -epsilon and the force nothing.
    bottom = 2 ** (1 / 6) * 3.405
    energies, forces = rows_of(np.full((8, 2), bottom), np.full((8, 2), 1.5 * bottom), "lj")
    assert energies.detail["mean_truth"] == pytest.approx(-0.010324, rel=1e-3)
    assert forces.detail["mean_truth"] == pytest.approx(0, abs=1e-5)
    found = rows_of(np.full((8, 2), 1.1), np.full((8, 2), 1.3), "emt", z=7)
    assert len(found) == 2 and found[0].estimate.value > 0.1


def test_a_box_is_the_calculators_too():
    # Atoms on either side of a wall.
    truth = np.full((8, 2), 20 - 2 ** (1 / 6) * 3.405)
    settings = MDSettings(scores=("energy",), calculator="lj", resamples=10)
    samples = samples_from(pairs_at(truth), pairs_at(truth)[None], np.full(2, 18))
    alone = score_molecules(samples, settings)[0].rows[0].detail["mean_truth"]
    boxed = score_molecules(samples, settings, cell=20 * np.eye(3))[0].rows[0].detail["mean_truth"]
    assert alone == pytest.approx(0, abs=1e-5) and boxed == pytest.approx(-0.010324, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("em", ValueError, "calculator must be emt, lj, tblite or module:function, got 'em'"),
        ("a b:c", ValueError, "must be emt, lj, tblite or module:function"),
        ("no_such_module:f", ImportError, "calculator 'no_such_module:f' cannot be imported: No module named"),
        ("my_springs:nothing", ValueError, "module my_springs has no function nothing"),
        ("my_springs:no_calculator", ValueError, "'my_springs:no_calculator' must return an ASE calculator, got int"),
    ],
)
def test_names_that_are_no_calculator(spring, name, error, message):
    with pytest.raises(error, match=message):
        rows_of(np.ones((8, 2)), np.ones((8, 2)), name)


def test_what_has_no_energy(spring):
    with pytest.raises(ValueError, match="no score 'energy': a calculator needs the elements of all atoms"):
        rows_of(np.ones((8, 2)), np.ones((8, 2)), spring, z=0)


def test_the_command(spring, tmp_path, capsys):
    x = pairs_at(np.random.default_rng(0).normal(size=(8, 4)) * 0.1 + 4)
    write_samples(tmp_path / "s.npz", samples_from(x, x[None], np.full(2, 18)))
    words = ["evaluate", str(tmp_path / "s.npz"), "--scores", "md", "--quiet", "--resamples", "10", "--calculator"]
    assert main([*words, spring]) == 0
    assert "W1 of energies" in capsys.readouterr().out
    assert main([*words, "no_such_module:f"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
