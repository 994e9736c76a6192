"""Distributions of energies and forces, by a calculator."""

import numpy as np

from geotdm_fast.scores.md.calculators import energies_and_forces, make_calculator
from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.histograms import point_counts, value_points, wasserstein
from geotdm_fast.scores.md.resampling import Both, Resampling, each, mean_over_frames
from geotdm_fast.scores.md.rows import Row, plain_number
from geotdm_fast.scores.md.settings import MDSettings


def energy_rows(ensemble: Ensemble, settings: MDSettings) -> list[Row]:
    """W1 of the potential energies (eV) and of the forces' sizes (eV/angstrom) of some true and some drawn frames.

    Frames are chosen at random, the same trajectories and times of both; of K drawn trajectories one. A frame whose
    energy is not finite counts in a row of its own, and in no other.
    """
    if not ensemble.topology.atomic_numbers.all():
        raise Unfit("a calculator needs the elements of all atoms")
    ensemble.need_angstrom()
    calculator = make_calculator(settings.calculator or "")
    generator = np.random.default_rng(settings.seed)
    count = min(settings.energy_frames, ensemble.num_truth * ensemble.num_frames)
    chosen = np.sort(generator.choice(ensemble.num_truth * ensemble.num_frames, count, replace=False))
    trajectory, frame = np.divmod(chosen, ensemble.num_frames)
    draw = generator.integers(0, ensemble.num_draws, ensemble.num_truth)[trajectory]
    cells = [_of_frames(cell, ensemble, trajectory, frame) for cell in (ensemble.cell, ensemble.drawn_cell)]
    places = (trajectory, trajectory * ensemble.num_draws + draw)
    numbers = ensemble.topology.atomic_numbers
    found = [
        energies_and_forces(calculator, numbers, x[:, :, place, frame].transpose(2, 1, 0).astype(np.float64), cell)
        for x, place, cell in zip(ensemble.both, places, cells, strict=True)
    ]
    resampling = Resampling(ensemble.num_truth, 1, settings.resamples, settings.seed)
    energies = (found[0][0], found[1][0])
    finite = each(np.isfinite, energies)
    if not finite[0].all():
        raise Unfit(f"the calculator gives {int((~finite[0]).sum())} of {count} true frames no finite energy")
    rows = [_row("W1 of energies", "eV", energies, trajectory, ensemble.num_truth, resampling)]
    forces = found[0][1], found[1][1]
    if forces[0] is not None and forces[1] is not None:
        sizes = each(lambda force: np.linalg.norm(force, axis=2), (forces[0], forces[1]))  # [S, N]
        rows.append(_row("W1 of |force|", "eV/angstrom", sizes, trajectory, ensemble.num_truth, resampling))
    if not finite[1].all():
        summed = lambda weights: np.bincount(trajectory, weights, ensemble.num_truth)
        share = each(lambda known: np.stack([summed(~known), summed(np.ones(count))], axis=1), finite)
        rows.append(Row("energy", "frames without a finite energy", resampling.estimate(share, mean_over_frames)))
    return rows


def _of_frames(
    cell: np.ndarray | None, ensemble: Ensemble, trajectory: np.ndarray, frame: np.ndarray
) -> np.ndarray | None:
    """[S, 3, 3]: the boxes of these frames."""
    if cell is None:
        return None
    return np.broadcast_to(cell, (ensemble.num_truth, ensemble.num_frames, 3, 3))[trajectory, frame]


def _row(about: str, unit: str, values: Both, owner: np.ndarray, num_truth: int, resampling: Resampling) -> Row:
    """W1 of values [S] or [S, N] of frames of the trajectories owner [S], but for drawn ones that are not finite."""
    known = np.isfinite(values[1].reshape(len(owner), -1)).all(axis=1)
    kept = values[0], values[1][known]
    points = value_points(*kept)
    counts = point_counts(kept[0], points, num_truth, owner), point_counts(kept[1], points, num_truth, owner[known])
    detail = {name: plain_number(one.mean()) for name, one in zip(("mean_truth", "mean_drawn"), kept, strict=True)}
    compare = lambda a, b: wasserstein(a, b, points)
    return Row("energy", about, resampling.estimate(counts, compare), unit, detail={**detail, "frames": len(owner)})
