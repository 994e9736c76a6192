"""Distances in a periodic box: the nearest image, or all of them."""

from itertools import product
from typing import Any

import numpy as np

from geotdm_fast.data.molecule_files.boxes import heights
from geotdm_fast.reference import MOST_IMAGES
from geotdm_fast.samples.record import Samples

# Of the volume that the lattice vectors would span at right angles.
_LEAST_VOLUME = 1e-6


def box_vectors(
    where: str, cell: Any, num_graphs: int, noisy: np.ndarray, samples: Samples, *, given: bool
) -> np.ndarray:
    """The boxes of the drawn frames: [G, 1 or T, 3, 3] float64, lattice vectors as rows, in the unit of the samples.

    cell: [3, 3], [G, 3, 3], or [G or 1, T, 3, 3] of the drawn or of all frames; or what has such `vectors`, and `pbc`
    given: whether the caller gave it, in the unit of the samples, not the samples, whose box is scaled as they are
    Raises ValueError for other shapes, directions that are not periodic, and boxes without a volume.
    """
    pbc = getattr(cell, "pbc", None if given else getattr(samples, "pbc", None))
    if pbc is not None and not bool(np.asarray(pbc).all()):
        raise ValueError(f"{where}: cell must be periodic in all three directions, got pbc {np.asarray(pbc).tolist()}")
    vectors = np.asarray(getattr(cell, "vectors", cell), dtype=np.float64)
    shape = vectors.shape
    if vectors.ndim == 2:
        vectors = vectors[None, None]
    elif vectors.ndim == 3:
        vectors = vectors[:, None]
    num_frames, num_drawn = len(noisy), int(noisy.sum())
    fits = vectors.ndim == 4 and vectors.shape[2:] == (3, 3) and len(vectors) in (1, num_graphs)
    if not fits or vectors.shape[1] not in (1, num_drawn, num_frames):
        raise ValueError(
            f"{where}: cell must be [3, 3], [{num_graphs}, 3, 3] or [{num_graphs} or 1, {num_drawn}, 3, 3], got "
            f"{list(shape)}"
        )
    if vectors.shape[1] == num_frames and num_frames > 1:
        vectors = vectors[:, noisy]
    size = np.linalg.norm(vectors, axis=-1).prod(-1)
    finite = np.all(np.isfinite(vectors), axis=(-1, -2), keepdims=True)
    volume = np.abs(np.linalg.det(np.where(finite, vectors, 0)))
    flat = np.where(finite[..., 0, 0], volume <= _LEAST_VOLUME * size, True)
    if flat.any():
        graph, frame = (int(i) for i in np.argwhere(flat)[0])
        raise ValueError(
            f"{where}: cell must span a volume, got {vectors[graph, frame].tolist()} of graph {graph}, frame {frame}"
        )
    vectors = vectors if given else vectors * samples.scale
    return np.broadcast_to(vectors, (num_graphs, *vectors.shape[1:]))


def images(where: str, cell: np.ndarray, r_max: float) -> np.ndarray:
    """[M, 3] int - the images of a nearest-rounded difference that may be nearer than `r_max`, (0, 0, 0) first.

    A difference has fractional coordinates f in [-1/2, 1/2]; |f_a + n_a| height_a <= r_max bounds n. Up to half of the
    smallest height there is only n = 0: the nearest image is the only one. ValueError for more than 64 a direction.
    """
    reach = np.ceil(r_max / heights(cell).reshape(-1, 3).min(0) - 0.5 - 1e-9).astype(int).clip(0)
    if reach.max() > MOST_IMAGES:
        raise ValueError(
            f"{where}: r_max must need at most {MOST_IMAGES} images of the cell, got {r_max}, {reach.max()}"
        )
    found = product(*(range(-n, n + 1) for n in reach.tolist()))
    return np.array(sorted(found, key=lambda n: (sum(map(abs, n)), n)), dtype=np.float64)


def wrapped_differences(x: np.ndarray, pairs: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Fractional coordinates of x_j - x_i, brought to [-1/2, 1/2]: [3, M, T]; x [3, N, T], cell [1 or T, 3, 3]."""
    inverse = np.linalg.inv(cell)  # [1 or T, 3, 3]
    fraction = np.einsum("dnt,tde->ent", x, np.broadcast_to(inverse, (x.shape[2], 3, 3)))
    difference = fraction[:, pairs[:, 1]] - fraction[:, pairs[:, 0]]
    difference -= np.rint(difference)
    return difference
