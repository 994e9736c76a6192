"""The periodic box of a system on the HTML page of samples."""

from typing import Any

import numpy as np
import torch

from geotdm_fast.reference.cell import Cell
from geotdm_fast.samples.record import Samples

# Where all atoms of a film are in one plane the box is so high, in lengths of its longest periodic vector.
_LEAST_HEIGHT = 0.05


def box_of(samples: Samples, graph: int, x: np.ndarray) -> tuple[dict[str, Any], np.ndarray] | None:
    """The boxes of a system and the middle [3] of the first one; None without a box that is periodic.

    x: [N, 3, T] - positions that the box is drawn around along the directions that are not periodic: there it reaches
        from the least to the largest of them, whatever its vector was
    Of the boxes, truth and samples are the vectors, nine numbers for each frame, or for all; pbc is 1 for each periodic
    direction; corner is where the three vectors begin, seen from the middle.
    """
    if samples.cell is None or samples.pbc is None or not samples.pbc[graph].any():
        return None
    pbc = np.asarray(samples.pbc[graph], bool)
    both = samples.truth_cell(), samples.forecast_cell()
    truth, drawn = (_vectors(np.asarray(cells)[graph], pbc) for cells in both)
    # Along the direction of a vector of length 1 a fractional coordinate is a length.
    along = np.moveaxis(x, 2, 1).reshape(-1, 3) @ np.linalg.inv(drawn[0])
    low, high = along.min(0), along.max(0)
    least = _LEAST_HEIGHT * np.linalg.norm(drawn[0][pbc], axis=1).max()
    height = np.where(pbc, 1.0, np.maximum(high - low, least))
    corner = np.where(pbc, 0.0, (low + high - height) / 2) @ drawn[0]
    truth, drawn = truth * height[:, None], drawn * height[:, None]
    middle = corner + drawn[0].sum(0) / 2
    rows = lambda cells: cells.reshape(-1, 9).round(5).tolist()
    box = {
        "truth": rows(truth),
        "samples": rows(drawn),
        "pbc": pbc.astype(int).tolist(),
        "corner": (corner - middle).tolist(),
    }
    return box, middle


def _vectors(cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Boxes [F, 3, 3] in float64, their vectors along directions that are not periodic of length 1."""
    whole = torch.tensor(cells[None], dtype=torch.float64)
    vectors = Cell.of("plot", whole, torch.tensor(pbc)).vectors[0].numpy()
    return np.where(pbc[:, None], vectors, vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
