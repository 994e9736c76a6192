"""How a rollout drifts: its scores block by block."""

import math
from typing import NamedTuple

import numpy as np
import torch

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.metrics.graphs import graph_mean
from geotdm_fast.runtime.shown import plain
from geotdm_fast.samples.npz import check_samples
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.tables import text_table

# A bond is one while its length is within this share of its mean over the given frames.
BOND_TOLERANCE = 0.25
# What is no molecule moves no farther from frame to frame than so many times the given frames.
STEP_TOLERANCE = 3.0


def drift(samples: Samples, block_frames: int) -> dict:
    """Scores of every block of `block_frames` drawn frames, as plain values, ready for JSON; None where there is none.

    ade: mean distance from the truth over samples, graphs, scored nodes and known frames (unit of the data)
    standing_still: the same of the last given frame
    speed: root of the mean squared displacement from frame to frame over nodes, so that speed^2 goes as kinetic energy
    bond_error: mean of |length / reference - 1| over the bonds of molecules, which are those by covalent radii in the
        first frame; the reference is a bond's mean length in the given frames
    valid: share of frames with finite positions and, of molecules, every bond within 25 % of its reference; of others,
        no node farther from its place in the frame before than 3 times the largest step in all given frames
    exploded: share of trajectories with a position that is not finite
    known: frames of the block that are known; speed_true, bond_error_true and valid_true: of the truth in these

    Only trajectories that are finite in the whole block count in ade, speed and bond_error. Raises ValueError for
    samples that are not forecasts from the first frames on, and for a block_frames under 1.
    """
    check_samples("drift", samples)
    num_given = int(samples.cond_mask.sum())
    if num_given == 0 or not samples.cond_mask[:num_given].all():
        raise ValueError(
            f"drift: samples must be given their first frames alone, got {samples.cond_mask.astype(int).tolist()}"
        )
    if block_frames < 1:
        raise ValueError(f"drift: block_frames must be at least 1, got {block_frames}")
    drawn = _Measured.of(samples, samples.forecasts(absolute=False))
    truth = _Measured.of(samples, samples.truth(absolute=False)[None])
    num_drawn = samples.samples.shape[-1]
    blocks: list[dict] = []
    for first in range(0, num_drawn, block_frames):
        frames = slice(first, min(first + block_frames, num_drawn))
        known = slice(first, min(frames.stop, samples.num_known))
        blocks.append({"block": len(blocks) + 1, "frames": [num_given + first, num_given + frames.stop - 1]})
        blocks[-1] |= _block(drawn, truth, frames, known)
    about = {"data": samples.name, "checkpoint": samples.checkpoint, "unit": samples.unit, "seed": samples.seed}
    counts = {"num_graphs": samples.num_graphs, "num_samples": samples.num_samples, "num_given": num_given}
    return about | counts | {"block_frames": block_frames, "blocks": blocks}


class _Measured(NamedTuple):
    """What is measured of trajectories in every drawn frame; K samples of B graphs.

    error, still: [K, B, T] - distance from the truth, and that of the last given frame, mean over scored nodes
    square_step: [K, B, T] - squared displacement from the frame before, mean over nodes
    bond_error: [K, B, T], or None where there are no bonds; is_finite, valid: [K, B, T] bool
    """

    error: np.ndarray
    still: np.ndarray
    square_step: np.ndarray
    bond_error: np.ndarray | None
    is_finite: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, samples: Samples, x: np.ndarray) -> "_Measured":
        """Of trajectories x [K, N, D, frames] (unit)."""
        num_given = int(samples.cond_mask.sum())
        truth = samples.truth(absolute=False)
        distance = lambda a, b: np.linalg.norm(a - b, axis=-2)  # [..., N, T]
        step = distance(x[..., 1:], x[..., :-1])[..., num_given - 1 :]
        finite = np.isfinite(x[..., num_given:]).all(axis=2)  # [K, N, T]
        starts = np.flatnonzero(np.diff(samples.batch, prepend=-1))
        every = lambda values: np.logical_and.reduceat(values, starts, axis=1)
        is_finite, bond_error = every(finite), None
        if samples.is_molecule:
            bond_error, whole = _bonds(samples, x, num_given)
            valid = is_finite & whole
        else:
            given = x[0, :, :, :num_given]
            largest = distance(given[..., 1:], given[..., :-1]).max() if num_given > 1 else math.inf
            valid = is_finite & every(~(step > STEP_TOLERANCE * largest))
        return cls(
            _by_graph(samples, distance(x[..., num_given:], truth[..., num_given:]), scored=True),
            _by_graph(samples, distance(x[..., num_given - 1 : num_given], truth[..., num_given:]), scored=True),
            _by_graph(samples, step**2),
            bond_error,
            is_finite,
            valid,
        )


def _by_graph(samples: Samples, values: np.ndarray, scored: bool = False) -> np.ndarray:
    """[K, N, T] to [K, B, T]: the mean over the nodes of a graph, or over those that are scored."""
    counted = torch.from_numpy(samples.scored) if scored else None
    of_nodes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 1, -1))).double()
    return np.moveaxis(graph_mean("drift", of_nodes, torch.from_numpy(samples.batch), counted).numpy(), -1, 1)


def _bonds(samples: Samples, x: np.ndarray, num_given: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean deviation of bonds [K, B, T], and whether each is within its tolerance [K, B, T]."""
    shape = (len(x), samples.num_graphs, x.shape[-1] - num_given)
    error, whole = np.full(shape, np.nan), np.ones(shape, bool)
    for graph in range(samples.num_graphs):
        own = x[:, samples.nodes(graph)]
        pairs = bonds_by_distance(own[0, :, :, 0], samples.atomic_numbers[samples.nodes(graph)])
        row, col = pairs[pairs[:, 0] < pairs[:, 1]].T
        if len(row) == 0:
            continue
        length = np.linalg.norm(own[:, row].astype(np.float64) - own[:, col], axis=2)  # [K, P, frames]
        away = np.abs(length[..., num_given:] / length[:1, :, :num_given].mean(axis=2, keepdims=True) - 1)
        error[:, graph] = away.mean(axis=1)
        whole[:, graph] = ~(away > BOND_TOLERANCE).any(axis=1)
    return error, whole


def _block(drawn: _Measured, truth: _Measured, frames: slice, known: slice) -> dict:
    unbroken = drawn.is_finite[..., frames].all(axis=2)  # [K, B]
    counted = lambda values, part: _mean(values[..., part][unbroken])
    real = lambda values, part: _mean(values[..., part])
    bonds = drawn.bond_error is not None and truth.bond_error is not None
    return {
        "known": max(known.stop - known.start, 0),
        "ade": counted(drawn.error, known),
        "standing_still": real(truth.still, known),
        "speed": _root(counted(drawn.square_step, frames)),
        "speed_true": _root(real(truth.square_step, known)),
        "bond_error": counted(drawn.bond_error, frames) if bonds else None,
        "bond_error_true": real(truth.bond_error, known) if bonds else None,
        "valid": float(drawn.valid[..., frames].mean()),
        "valid_true": real(truth.valid.astype(float), known),
        "exploded": float(1 - drawn.is_finite[..., frames].all(axis=2).mean()),
    }


def _mean(values: np.ndarray) -> float | None:
    """The mean; None of nothing, and of graphs without bonds, which are NaN."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def report(result: dict) -> str:
    """The result of `drift` as text: what was scored, then a row for each block."""
    unit = f" ({plain(result['unit'])})" if result["unit"] else ""
    percent = lambda value: None if value is None else f"{100 * value:.1f}"
    has_bonds = any(block["bond_error"] is not None for block in result["blocks"])
    header = ["block", "frames", f"ADE{unit}", "standing still", "speed", "of the data"]
    header += ["bond error (%)", "of the data"] if has_bonds else []
    header += ["valid (%)", "of the data", "exploded (%)"]
    rows = []
    for block in result["blocks"]:
        row = [block["block"], "{}-{}".format(*block["frames"])]
        row += [block[name] for name in ("ade", "standing_still", "speed", "speed_true")]
        row += [percent(block[name]) for name in ("bond_error", "bond_error_true")] if has_bonds else []
        row += [percent(block[name]) for name in ("valid", "valid_true", "exploded")]
        rows.append(row)
    about = f"{result['num_graphs']} graphs x {result['num_samples']} samples, {result['num_given']} frames given"
    return f"{plain(result['data'])}, {plain(result['checkpoint'])}: {about}\n\n{text_table(header, rows)}"
