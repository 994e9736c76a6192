"""Contact maps: how often every two atoms touch."""

import numpy as np

from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.geometry import frame_chunks
from geotdm_fast.scores.md.rdf import distances_of
from geotdm_fast.scores.md.resampling import Resampling, each
from geotdm_fast.scores.md.rows import Row

# More pairs than that are taken evenly from all.
MOST_PAIRS = 20_000
_PAIRS = 1024


def contact_row(ensemble: Ensemble, resampling: Resampling, contact: float) -> Row:
    """f_ij = share of frames in which atoms i and j are nearer than `contact`: the mean of |f - f_true| over pairs.

    Pairs of atoms other than hydrogen more than three bonds apart that touch in some frames and not in all. In a box
    the nearest image counts.
    """
    topology = ensemble.topology
    pairs = topology.pairs_beyond(3, np.flatnonzero(topology.atomic_numbers != 1))
    every = -(-len(pairs) // MOST_PAIRS)
    pairs = pairs[::every] if len(pairs) else pairs
    if len(pairs) == 0:
        raise Unfit("no two atoms other than hydrogen are more than three bonds apart")
    found = [contact_counts(x, pairs, contact, ensemble.cell_of(bool(k))) for k, x in enumerate(ensemble.both)]
    shares = [one.sum(0) / (len(one) * ensemble.num_frames) for one in found]
    varied = (shares[0] + shares[1] > 0) & (shares[0] + shares[1] < 2)
    if not varied.any():
        raise Unfit(f"no two atoms come nearer than {contact:g} and part again")
    counts = each(lambda one: one[:, varied] / ensemble.num_frames, (found[0], found[1]))
    counted = each(lambda one: np.concatenate([one, np.ones((len(one), 1), one.dtype)], axis=1), counts)

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.abs(a / a[:, -1:] - b / b[:, -1:])[:, :-1].mean(-1)

    detail = {
        "contact": contact,
        "every": every,
        "pairs": pairs[varied].tolist(),
        "truth": shares[0][varied].tolist(),
        "drawn": shares[1][varied].tolist(),
    }
    quantity = f"mean |share - share true| of {int(varied.sum())} contacts"
    return Row("contacts", quantity, resampling.estimate(counted, difference), detail=detail)


def contact_counts(x: np.ndarray, pairs: np.ndarray, contact: float, cell: np.ndarray | None = None) -> np.ndarray:
    """[M, P] float32 - in how many frames of each trajectory of x [3, N, M, T] the atoms of a pair touch."""
    num_trajectories, num_frames = x.shape[2:]
    flat = x.reshape(3, x.shape[1], -1)
    distances = distances_of(flat, cell, num_frames, contact)
    counts = np.zeros((len(pairs), num_trajectories), np.float32)
    for start in range(0, len(pairs), _PAIRS):
        rows = slice(start, start + _PAIRS)
        near = np.zeros((len(pairs[rows]), flat.shape[2]), bool)
        for frames in frame_chunks(len(near), flat.shape[2]):
            for squared in distances(pairs[rows], frames):
                near[:, frames] |= squared < contact * contact
        counts[rows] = near.reshape(len(near), num_trajectories, num_frames).sum(-1)
    return counts.T
