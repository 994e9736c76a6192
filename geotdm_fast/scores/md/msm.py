"""A Markov state model: states by k-means, their occupancies, transitions and timescale."""

import numpy as np
import torch

from geotdm_fast.metrics.kmeans import kmeans_centres
from geotdm_fast.scores.md.histograms import jensen_shannon
from geotdm_fast.scores.md.resampling import Resampling, each
from geotdm_fast.scores.md.rows import Row, plain_number
from geotdm_fast.scores.md.tica import Components, timescales

# True frames that k-means looks at, evenly taken, and how many each state should have at least.
_FRAMES = 10_000
_FRAMES_A_STATE = 20
# Row sums that change by less, of all, in one round of the iteration have come to rest.
_TOLERANCE = 1e-8
_MOST_ROUNDS, _BLOCK = 2000, 20
_CHUNK = 1 << 14


def msm_rows(components: Components, resampling: Resampling, num_states: int, seed: int) -> list[Row]:
    """States are k-means clusters of the true frames on the plane of the first two components of TICA, at its lag.

    JSD of the occupancies; sum_i p_i sum_j |T_ij - T_ij true| / 2 with the true occupancies p, the mean distance of
    what follows a state; |ln(t / t_true)| of the slowest implied timescale. T by `transition_matrix`.
    """
    lag = components.lag
    planes = each(lambda x: np.ascontiguousarray(x[:2]), (components.truth, components.drawn))
    flat = planes[0].reshape(2, -1).T
    num_states = min(num_states, max(2, len(flat) // _FRAMES_A_STATE))
    some = torch.from_numpy(np.ascontiguousarray(flat[:: -(-len(flat) // _FRAMES)]))
    centres = kmeans_centres(some, num_states, num_init=4, seed=seed).numpy()
    states = each(lambda x: nearest(x, centres), planes)
    sums = each(lambda s: transition_sums(s, num_states, lag), states)
    visits = lambda one: one[:, :num_states]
    counts = lambda one: one[:, num_states:].reshape(-1, num_states, num_states)
    occupancy = resampling.estimate(sums, lambda a, b: jensen_shannon(visits(a), visits(b)))

    def dynamics(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """[R, 2] - the distance of transitions, and |ln t / t true|."""
        weight = visits(b) / visits(b).sum(1, keepdims=True)
        (matrix, values), (other, other_values) = transition_matrix(counts(a)), transition_matrix(counts(b))
        apart = (weight * np.abs(matrix - other).sum(2) / 2).sum(1)
        ratio = np.log(timescales(values[:, 1], lag) / timescales(other_values[:, 1], lag))
        return np.stack([apart, np.abs(ratio)], axis=1)

    transitions, slowest = (
        resampling.summary(*columns)
        for columns in zip(*(one.T for one in resampling.scores(sums, dynamics)), strict=True)
    )
    truth, drawn = each(lambda one: one.sum(0)[None], sums)
    true_matrix, true_values = transition_matrix(counts(truth))
    own_matrix, own_values = transition_matrix(counts(drawn))
    detail = {
        "lag": lag,
        "states": num_states,
        "centres": centres.tolist(),
        "occupancies_truth": (visits(truth)[0] / visits(truth).sum()).tolist(),
        "occupancies_drawn": (visits(drawn)[0] / visits(drawn).sum()).tolist(),
        "transitions_truth": true_matrix[0].tolist(),
        "transitions_drawn": own_matrix[0].tolist(),
    }
    times = {
        "timescale_truth": plain_number(timescales(true_values[0, 1], lag)),
        "timescale_drawn": plain_number(timescales(own_values[0, 1], lag)),
    }
    return [
        Row("msm", f"JSD of the occupancies of {num_states} states", occupancy, "bit", detail=detail),
        Row("msm", "distance of transitions", transitions),
        Row("msm", "|ln t / t true| of the slowest time", slowest, detail=times),
    ]


def nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """[M, T] int64 - the centre [k, C] that each frame of x [C, M, T] is nearest to."""
    flat = x.reshape(len(x), -1)
    size = (centres * centres).sum(1)[:, None]
    found = np.empty(flat.shape[1], np.int64)
    for start in range(0, flat.shape[1], _CHUNK):
        rows = slice(start, start + _CHUNK)
        found[rows] = (size - 2 * centres @ flat[:, rows]).argmin(0)
    return found.reshape(x.shape[1:])


def transition_sums(states: np.ndarray, num_states: int, lag: int) -> np.ndarray:
    """[M, k + k^2] float64 - of states [M, T]: how often each was visited, and each pair of them `lag` apart."""
    rows = np.arange(len(states))[:, None]
    count = lambda place, cells: np.bincount((rows * cells + place).ravel(), minlength=len(states) * cells)
    visits = count(states, num_states).reshape(len(states), -1)
    pairs = count(states[:, :-lag] * num_states + states[:, lag:], num_states**2).reshape(len(states), -1)
    return np.concatenate([visits, pairs], axis=1).astype(np.float64)


def transition_matrix(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest reversible transition matrices T [R, k, k] of counts [R, k, k], and their eigenvalues [R, k].

    T_ij = x_ij / x_i, where x_ij = x_ji <- (c_ij + c_ji) / (c_i / x_i + c_j / x_j) is iterated, c_i and x_i row sums.
    Eigenvalues descend. A state that no pair has seen stays what it is, and has the eigenvalue 0.
    Source: Bowman et al., J. Chem. Phys. 131, 124101 (2009).
    """
    x = _reversible_flow(counts)
    weight = x.sum(2)
    seen = weight > 0
    own = np.where(seen, weight, 1.0)
    matrix = np.where(seen[:, :, None], x / own[:, :, None], np.eye(x.shape[1]))
    root = np.where(seen, 1 / np.sqrt(own), 0.0)
    eigenvalues = np.linalg.eigvalsh(x * root[:, :, None] * root[:, None])
    return matrix, eigenvalues[:, ::-1]


def _reversible_flow(counts: np.ndarray) -> np.ndarray:
    """x of `transition_matrix`. Matrices that no longer change leave the iteration."""
    x = counts + counts.swapaxes(1, 2)
    going = np.arange(len(x))
    for _ in range(_MOST_ROUNDS // _BLOCK):
        both = counts[going] + counts[going].swapaxes(1, 2)
        row, now = counts[going].sum(2), x[going]
        for _ in range(_BLOCK):
            before = now.sum(2)
            rate = np.divide(row, before, out=np.zeros_like(row), where=before > 0)
            below = rate[:, :, None] + rate[:, None]
            now = np.divide(both, below, out=np.zeros_like(both), where=below > 0)
        x[going] = now
        change = np.abs(now.sum(2) - before).max(1) / np.maximum(before.sum(1), 1e-300)
        going = going[change > _TOLERANCE]
        if len(going) == 0:
            break
    return x
