"""Lengths, angles and torsions of many frames at once.

Positions are `x [3, N, S]`: coordinates first and frames last, so that operations run over rows of frames.
Frames are taken in chunks, so that what is computed stays in the cache.
"""

from collections.abc import Iterator

import numpy as np

from geotdm_fast.scores.md.topology import Topology

# Numbers of one intermediate array: a quarter of a megabyte of float32.
_CHUNK = 1 << 16


def frame_chunks(num_rows: int, num_frames: int) -> Iterator[slice]:
    """Slices of the frames in which `num_rows` rows fit into the cache."""
    step = max(16, _CHUNK // max(1, num_rows))
    return (slice(start, min(start + step, num_frames)) for start in range(0, num_frames, step))


def squared_distances(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """|x_j - x_i|^2 of pairs [M, 2] in x [3, N, S]: [M, S]."""
    total = np.zeros((len(pairs), x.shape[2]), x.dtype)
    for axis in range(3):
        difference = x[axis, pairs[:, 1]] - x[axis, pairs[:, 0]]
        difference *= difference
        total += difference
    return total


def internal_coordinates(x: np.ndarray, topology: Topology) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bond lengths [P, S], bond angles [A, S] in 0..pi and torsions [Q, S] in -pi..pi, of all of a topology.

    With b_ij = x_j - x_i and the normal of an angle n_ijk = b_ji x b_jk:
        angle(i, j, k) = atan2(|n_ijk|, b_ji . b_jk)
        torsion(i, j, k, l) = atan2(-|b_jk| b_ij . n_jkl, n_ijk . n_jkl)
    A torsion is positive where, looked at along j to k, l is clockwise of i (IUPAC 1970). Each bond's vector and each
    angle's normal is computed once, whatever the number of torsions.

    x: [3, N, S] float - the results have its dtype. A torsion along a straight line of atoms is 0
    """
    bonds, angles, torsions = topology.bonds, topology.angles, topology.torsions
    num_frames = x.shape[2]
    lengths, bends, turns = (np.empty((len(rows), num_frames), x.dtype) for rows in (bonds, angles, torsions))
    legs = _Legs(topology)
    for frames in frame_chunks(3 * max(len(bonds), len(angles), len(torsions)), num_frames):
        part = x[:, :, frames]
        vector = part[:, bonds[:, 1]] - part[:, bonds[:, 0]]  # [3, P, s]
        length = np.sqrt(_dot(vector, vector))
        lengths[:, frames] = length
        if not len(angles):
            continue
        first, second = vector[:, legs.first], vector[:, legs.second]
        normal = _cross(first, second)  # [3, A, s]
        cosine = _dot(first, second)
        cosine *= legs.angle_sign[:, None]
        bends[:, frames] = np.arctan2(np.sqrt(_dot(normal, normal)), cosine)
        if not len(torsions):
            continue
        after = normal[:, legs.normal_after]
        cosine = _dot(normal[:, legs.normal_before], after)
        cosine *= legs.cosine_sign[:, None]
        sine = _dot(vector[:, legs.start], after)
        sine *= legs.sine_sign[:, None]
        sine *= length[legs.axis]
        turns[:, frames] = np.arctan2(sine, cosine)
    return lengths, bends, turns


def torsion_angles(x: np.ndarray, torsions: np.ndarray) -> np.ndarray:
    """The torsions [Q, 4] in x [3, N, S]: [Q, S], in -pi..pi; the formula of `internal_coordinates`."""
    i, j, k, m = torsions.T
    first, axis, last = x[:, j] - x[:, i], x[:, k] - x[:, j], x[:, m] - x[:, k]
    after = _cross(axis, last)
    return np.arctan2(np.sqrt(_dot(axis, axis)) * _dot(first, after), _dot(_cross(first, axis), after))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty_like(a)
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        np.multiply(a[u], b[v], out=out[axis])
        out[axis] -= a[v] * b[u]
    return out


class _Legs:
    """Which bonds' vectors make an angle, and which angles' normals a torsion, and the signs of their products.

    The vector of a bond (i, j) with i < j is b_ij, so that from j it counts -1; the normal of an angle is the product
    of these vectors as they are. Signs are taken to the end, where there is one number for three.
    """

    def __init__(self, topology: Topology):
        place = {}
        for p, (i, j) in enumerate(topology.bonds.tolist()):
            place[i, j], place[j, i] = (p, 1), (p, -1)
        corner = {}
        first, second = [], []
        for a, (i, j, k) in enumerate(topology.angles.tolist()):
            first.append(place[j, i])
            second.append(place[j, k])
            sign = first[-1][1] * second[-1][1]
            # n_kji = -n_ijk.
            corner[i, j, k], corner[k, j, i] = (a, sign), (a, -sign)
        self.first, first_sign = _split(first)
        self.second, second_sign = _split(second)
        self.angle_sign = first_sign * second_sign
        start, axis, before, after = [], [], [], []
        for i, j, k, m in topology.torsions.tolist():
            start.append(place[i, j])
            axis.append(place[j, k][0])
            before.append(corner[i, j, k])
            after.append(corner[j, k, m])
        self.start, start_sign = _split(start)
        self.axis = np.array(axis, dtype=np.int64)
        self.normal_before, before_sign = _split(before)
        self.normal_after, after_sign = _split(after)
        self.cosine_sign = before_sign * after_sign
        self.sine_sign = -start_sign * after_sign


def _split(found: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(found, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1].astype(np.float32)
