"""Radial distribution functions, in a periodic box and without one."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.geometry import frame_chunks, squared_distances
from geotdm_fast.scores.md.periodic import images, wrapped_differences
from geotdm_fast.scores.md.resampling import Resampling
from geotdm_fast.scores.md.rows import Row, plain_number

NUM_BINS = 100
# Pairs of atoms times frames that are looked at; of more, frames are passed over evenly.
MOST_DISTANCES = 2_000_000_000
# Pairs looked at together.
_PAIRS = 4096


class Kind(NamedTuple):
    """The pairs [M, 2] of two elements, and their name, such as C-O."""

    name: str
    pairs: np.ndarray


class Curves(NamedTuple):
    """Radial distribution functions for a picture: of the truth and of what was drawn, by names such as C-O.

    r: [bins] - the middles of the bins (angstrom); truth, drawn: of [bins] each
    periodic: whether they are g(r), or shares of distances per angstrom
    """

    r: np.ndarray
    truth: dict[str, np.ndarray]
    drawn: dict[str, np.ndarray]
    periodic: bool


def rdf_row(ensemble: Ensemble, resampling: Resampling, r_max: float) -> tuple[Row, Curves]:
    """How far the radial distribution functions of every two elements are apart, and the functions.

    In a periodic box, of the atoms of different molecules and all their images within r_max, with n_ab pairs:
        g_ab(r) = sum_frames (distances in the shell) / (n_ab sum_frames (volume of the shell / volume of the box))
    whose score is the mean of |g - g_true| over shells and kinds of pairs. Without a box no density is there to compare
    with: p_ab is the share of the distances of atoms more than two bonds apart that lie in the shell, and the score is
    sum |p - p_true| / 2, in 0..1, averaged over kinds of pairs. The last p is of all that is beyond r_max.
    """
    kinds = pair_kinds(ensemble)
    if not kinds:
        raise Unfit("no two atoms are more than two bonds apart")
    edges = np.linspace(0.0, r_max, NUM_BINS + 1)
    num_pairs = sum(len(kind.pairs) for kind in kinds)
    every = -(-num_pairs * ensemble.drawn[0, 0].size // MOST_DISTANCES)
    sums = []
    for drawn, x in enumerate(ensemble.both):
        x, cell = x[..., ::every], ensemble.cell_of(bool(drawn))
        if cell is None:
            sums.append(shell_counts(x, kinds, r_max))
        else:
            cell = cell if cell.shape[1] == 1 else cell[:, ::every]
            counts = shell_counts(x, kinds, r_max, cell)[..., :-1]
            sums.append(np.stack([counts, ideal_counts(kinds, edges, cell, x.shape[3])], axis=1))
    periodic = ensemble.cell is not None
    estimate = resampling.estimate((sums[0], sums[1]), _mean_difference if periodic else _total_variation)
    truth, made = (_functions(one.sum(0), edges, periodic) for one in sums)
    names = [kind.name for kind in kinds]
    curves = Curves(
        (edges[1:] + edges[:-1]) / 2,
        dict(zip(names, truth, strict=True)),
        dict(zip(names, made, strict=True)),
        periodic,
    )
    detail = {
        "pairs": {kind.name: len(kind.pairs) for kind in kinds},
        "r_max": r_max,
        "every": every,
        "r": curves.r.tolist(),
        "truth": {name: [plain_number(g) for g in curve] for name, curve in curves.truth.items()},
        "drawn": {name: [plain_number(g) for g in curve] for name, curve in curves.drawn.items()},
    }
    quantity = "mean |g - g true| of RDFs" if periodic else "sum |p - p true| / 2 of distances"
    return Row("rdf", quantity, estimate, detail=detail), curves


def pair_kinds(ensemble: Ensemble) -> list[Kind]:
    """The pairs of every two elements: of different molecules in a box with several, else more than two bonds apart."""
    topology = ensemble.topology
    piece = topology.piece
    if ensemble.cell is not None and piece.max() > 0:
        i, j = np.triu_indices(topology.num_atoms, k=1)
        apart = piece[i] != piece[j]
        pairs = np.stack([i[apart], j[apart]], axis=1)
    else:
        pairs = topology.pairs_beyond(2)
    # Hydrogen is written last, as in C-H.
    z = topology.atomic_numbers[pairs]
    z = np.sort(np.where(z == 1, 1000, z), axis=1)
    found = []
    for a, b in np.unique(z, axis=0).tolist():
        name = "-".join(SYMBOLS[1 if number == 1000 else number] for number in (a, b)) if a else "all"
        found.append(Kind(name, pairs[(z == (a, b)).all(axis=1)]))
    return found


def shell_counts(x: np.ndarray, kinds: list[Kind], r_max: float, cell: np.ndarray | None = None) -> np.ndarray:
    """[M, kinds, bins + 1] float64 - distances in each of the bins up to r_max, and, without a cell, beyond.

    x: [3, N, M, T]; cell: [M, 1 or T, 3, 3] - then of all images within r_max, but for images of an atom itself
    """
    num_trajectories, num_frames = x.shape[2:]
    flat = x.reshape(3, x.shape[1], -1)
    wide = NUM_BINS + 1
    offset = np.repeat(np.arange(num_trajectories) * wide, num_frames)
    counts = np.zeros((len(kinds), num_trajectories * wide))
    distances = distances_of(flat, cell, num_frames, r_max)
    for row, kind in zip(counts, kinds, strict=True):
        for start in range(0, len(kind.pairs), _PAIRS):
            pairs = kind.pairs[start : start + _PAIRS]
            for frames in frame_chunks(len(pairs), flat.shape[2]):
                for squared in distances(pairs, frames):
                    place = np.sqrt(squared)
                    place *= NUM_BINS / r_max
                    np.minimum(place, NUM_BINS, out=place)
                    place = place.astype(np.int64)
                    place += offset[frames]
                    # The trajectories of this chunk alone.
                    first = int(offset[frames.start])
                    row_part = np.bincount(place.ravel() - first if first else place.ravel())
                    row[first : first + len(row_part)] += row_part
    return counts.reshape(len(kinds), num_trajectories, wide).swapaxes(0, 1)


def distances_of(flat: np.ndarray, cell: np.ndarray | None, num_frames: int, r_max: float) -> "_Distances":
    """What gives the squared distances of pairs in some of the frames: `for squared in found(pairs, frames)`, [M, s].

    flat: [3, N, M num_frames]; cell: [M, 1 or T, 3, 3] - then one array for every image that may be within r_max
    """
    return _Distances(flat) if cell is None else _PeriodicDistances(flat, cell, num_frames, r_max)


class _Distances:
    """Squared distances of pairs in frames: an iteration over arrays [M, s], here of one."""

    def __init__(self, flat: np.ndarray):
        self.flat = flat

    def __call__(self, pairs: np.ndarray, frames: slice) -> Iterator[np.ndarray]:
        yield squared_distances(self.flat[:, :, frames], pairs)


class _PeriodicDistances(_Distances):
    """The same for every image that can be within r_max."""

    def __init__(self, flat: np.ndarray, cell: np.ndarray, num_frames: int, r_max: float):
        super().__init__(flat)
        self.images = images("evaluate: md", cell, r_max)
        whole = np.broadcast_to(cell, (len(cell), num_frames, 3, 3)) if cell.shape[1] == 1 else cell
        self.cell = whole.reshape(-1, 3, 3)  # [S, 3, 3]

    def __call__(self, pairs: np.ndarray, frames: slice) -> Iterator[np.ndarray]:
        cell = self.cell[frames]
        fraction = wrapped_differences(self.flat[:, :, frames], pairs, cell)  # [3, M, s]
        for image in self.images:
            shifted = fraction + image[:, None, None]
            squared = np.zeros(shifted.shape[1:])
            for axis in range(3):
                along = sum(shifted[vector] * cell[:, vector, axis] for vector in range(3))
                squared += along * along
            yield squared


def ideal_counts(kinds: list[Kind], edges: np.ndarray, cell: np.ndarray, num_frames: int) -> np.ndarray:
    """[M, kinds, bins] float64 - the mean `shell_counts` of an ideal gas of as many pairs; cell [M, 1 or T, 3, 3]."""
    shells = 4 / 3 * np.pi * (edges[1:] ** 3 - edges[:-1] ** 3)
    density = (1 / np.abs(np.linalg.det(cell))).mean(axis=1) * num_frames  # [M]
    num_pairs = np.array([len(kind.pairs) for kind in kinds], dtype=np.float64)
    return density[:, None, None] * num_pairs[:, None] * shells


def _mean_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]).mean(axis=(1, 2))


def _total_variation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    share = lambda counts: counts / counts.sum(-1, keepdims=True)
    return (np.abs(share(a) - share(b)).sum(-1) / 2).mean(-1)


def _functions(sums: np.ndarray, edges: np.ndarray, periodic: bool) -> np.ndarray:
    """The functions [kinds, bins] of the summed counts: g, or the share of distances per unit of length."""
    if periodic:
        return sums[0] / sums[1]
    return sums[:, :-1] / sums.sum(-1, keepdims=True) / np.diff(edges)
