"""Samples of molecules whose scores are known: made from positions, not by a model."""

import numpy as np

from geotdm_fast.samples.record import Samples


def samples_from(
    truth: np.ndarray,
    drawn: np.ndarray,
    z: np.ndarray | None = None,
    *,
    given: int = 0,
    mode: str = "cond",
    bonds: np.ndarray | None = None,
    unit: str = "angstrom",
) -> Samples:
    """truth [B, given + T, N, D] and drawn [K, B, T, N, D] as `Samples`; bonds [P, 2]: the edges of every graph."""
    count, _, num_atoms, _ = truth.shape
    mask = np.arange(truth.shape[1]) < given
    rows = lambda x: np.ascontiguousarray(np.moveaxis(x, -3, -1)).astype(np.float32)  # [..., N, D, T]
    flat = rows(truth).reshape(count * num_atoms, truth.shape[3], -1)
    edges = np.zeros((2, 0), np.int64)
    if bonds is not None:
        both = np.concatenate([bonds, bonds[:, ::-1]]).T
        edges = np.concatenate([both + num_atoms * graph for graph in range(count)], axis=1)
    return Samples(
        samples=rows(drawn).reshape(len(drawn), count * num_atoms, truth.shape[3], -1),
        target=flat[..., ~mask],
        x_given=flat[..., mask],
        cond_mask=mask,
        batch=np.repeat(np.arange(count), num_atoms),
        scored=np.arange(count * num_atoms),
        h=np.zeros((count * num_atoms, 1), np.float32),
        edge_index=edges,
        atomic_numbers=np.zeros(0, np.int64) if z is None else np.tile(z, count),
        scale=1.0,
        unit=unit,
        name="made",
        mode=mode,
        seed=0,
        checkpoint="",
    )


def jittered(positions: np.ndarray, shape: tuple[int, ...], size: float, seed: int = 0) -> np.ndarray:
    """`positions [N, 3]` with noise of `size` in each coordinate: [*shape, N, 3]."""
    noise = np.random.default_rng(seed).normal(size=(*shape, *positions.shape))
    return positions + size * noise


def bent(torsion: float, angle: float = 1.9, length: float = 1.5) -> np.ndarray:
    """Four atoms with these, by construction."""
    a, b, c = np.array([length, 0, 0]), np.zeros(3), np.array([length * np.cos(angle), length * np.sin(angle), 0])
    axis = (c - b) / length
    side = a - b - (a - b) @ axis * axis
    side /= np.linalg.norm(side)
    # Looked at along the axis from b to c, clockwise from `side` is towards axis x side.
    across = np.cos(torsion) * side + np.sin(torsion) * np.cross(axis, side)
    d = c + length * (-np.cos(angle) * axis + np.sin(angle) * across)
    return np.array([a, b, c, d])
