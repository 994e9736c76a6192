"""The drift of all atoms together, taken out: in a liquid it is none of their motion."""

from collections.abc import Sequence

import numpy as np

from geotdm_fast.data.atomic_masses import ATOMIC_MASSES
from geotdm_fast.data.positions import Kept


def check_drift(where: str, remove_drift: bool, unwrap: bool) -> None:
    """ValueError where the drift is to be removed of atoms that are not followed through their box."""
    if remove_drift and not unwrap:
        raise ValueError(
            f"{where}: unwrap must be auto where remove_drift is true, got no: the centre of mass jumps with every "
            "atom that is put back into its box"
        )


def without_drift(where: str, name: str, kept: Kept, graphs: Sequence[slice], z: np.ndarray | None) -> Kept:
    """Positions minus how far the centre of mass has moved: x_t - (c_t - c_0), c_t = sum m_i x_it / sum m_i.

    The drift of frame t is of frames 0 and t alone, and frame 0 is the first that is kept: no frame learns of a later
    one. Graphs side by side, and trajectories, have each their own.

    kept: x [B, N, D, T], which is changed in place; graphs: the nodes of each graph
    z: [N] - atomic numbers, for the masses m; 0, a site without an element, has none. None: all masses are the same
    Raises ValueError for nodes that are not there, and for numbers that are of no element.
    """
    mass = drift_masses(where, kept.x.shape[1], z)
    x = kept.x.numpy()
    for trajectory in x:
        for own in graphs:
            centre = centres(where, name, trajectory[own], mass[own])
            trajectory[own] -= (centre - centre[:, :1]).astype(np.float32)
    return kept


def drift_masses(where: str, num_nodes: int, z: np.ndarray | None) -> np.ndarray:
    """The masses [N] float64 by which `without_drift` weighs."""
    if z is not None and not ((z >= 0) & (z < len(ATOMIC_MASSES))).all():
        raise ValueError(f"{where}: z must be atomic numbers from 0 to 118 where remove_drift is true, got {z.max()}")
    return np.ones(num_nodes) if z is None else ATOMIC_MASSES[z.astype(np.int64)]


def centres(where: str, name: str, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The centre of mass [D, T] float64 of one graph's positions x [N, D, T], the same in any part of the frames."""
    weight = mass if mass.any() else np.ones(len(x))
    centre = np.einsum("n,ndt->dt", weight / weight.sum(), x, dtype=np.float64)
    if np.isnan(centre).any():
        raise ValueError(
            f"{where}: remove_drift must be false where {name} is nan for nodes that are not there: their "
            "centre moves as they come and go"
        )
    return centre
