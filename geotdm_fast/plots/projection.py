"""Three dimensions on paper: the plane in which a system spreads most."""

import numpy as np


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre [D] and two orthonormal axes [D, 2] along which `points` [M, D] vary most; D = 2 keeps its axes.

    Points that are not finite are passed over: frames that nobody knows. Where points vary along fewer
    than two directions, the other axes are any at right angles. Each axis points to the side of its largest component,
    so the picture does not flip from run to run.
    """
    dims = points.shape[1]
    if dims == 2:
        return np.zeros(2, points.dtype), np.eye(2, dtype=points.dtype)
    points = points[np.isfinite(points).all(axis=1)]
    centre = points.mean(0) if len(points) else np.zeros(dims, points.dtype)
    # Fewer points than dimensions span no plane: the full matrix has further axes at right angles.
    _, _, axes = np.linalg.svd(points - centre, full_matrices=len(points) < dims)
    axes = axes[:2]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    return centre, (axes * np.sign(largest)).T


def project(x: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Positions [..., D, T] in the plane: [..., 2, T]."""
    return np.einsum("...dt,dp->...pt", x - centre[:, None], axes)
