"""Superposition of frames: the rotation that brings two structures nearest to each other."""

import numpy as np

from geotdm_fast.scores.md.geometry import frame_chunks

# Rounds of superposing all frames and averaging them: a mean structure changes little after the second.
_ROUNDS = 3
_MOST_NEWTON_STEPS = 60
# Where the largest eigenvalue is nearer than that to the next (of its size, cubed), its eigenvector is badly known.
_LEAST_GAP = 1e-5


def rotations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[3, 3, S] float64 - the proper rotations R that minimise sum_i |R x_i - y_i|^2, of centred x, y [3, N, S].

    R is that of the quaternion q with K q = lambda q, for the largest eigenvalue lambda of a symmetric 4 x 4 matrix K
    of S_ab = sum_i x_ia y_ib. lambda is the largest root of p(lambda) = det(lambda - K), by Newton from above it, at
    (sum |x|^2 + |y|^2) / 2; q is a column of adj(lambda - K) = p'(lambda) q q^T. So all frames are computed at once.
    Where two rotations are all but equally good, as for atoms in a line, R comes from a singular value decomposition.
    Source: Horn, J. Opt. Soc. Am. A 4, 629 (1987); Theobald, Acta Crystallographica A 61, 478 (2005); Kabsch 1978.
    """
    s = np.array([[(x[a] * y[b]).sum(0) for b in range(3)] for a in range(3)], np.float64)  # [3, 3, S]
    bound = ((x * x).sum((0, 1)) + (y * y).sum((0, 1))).astype(np.float64) / 2
    key = _key_matrix(s)
    powers = _product(key, key)
    c2 = -np.trace(powers) / 2
    cubed = _product(powers, key)
    c1 = -np.trace(cubed) / 3
    c0 = -(np.einsum("abs,bas->s", powers, powers) + c2 * np.trace(powers)) / 4
    value = bound.copy()
    for _ in range(_MOST_NEWTON_STEPS):
        slope = (4 * value * value + 2 * c2) * value + c1
        step = ((value * value + c2) * value + c1) * value + c0
        step = np.divide(step, slope, out=np.zeros_like(value), where=slope > 0)
        value -= step
        if (np.abs(step) <= 1e-14 * bound).all():
            break
    # adj(lambda - K) by the theorem of Cayley and Hamilton.
    unit = np.eye(4)[:, :, None]
    adjugate = cubed + value * powers + (value**2 + c2) * key + (value**3 + c2 * value + c1) * unit
    weight = np.einsum("aas->as", adjugate)
    column = weight.argmax(0)
    q = np.take_along_axis(adjugate, column[None, None], 1)[:, 0]
    norm = np.sqrt((q * q).sum(0))
    found = _of_quaternion(q / np.where(norm > 0, norm, 1))
    doubtful = ~(weight.sum(0) > _LEAST_GAP * bound**3)
    if doubtful.any():
        found[:, :, doubtful] = _by_singular_values(s[:, :, doubtful])
    return found


def _key_matrix(s: np.ndarray) -> np.ndarray:
    """K [4, 4, S] of the sums of products s [3, 3, S]."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = s
    return np.array(
        [
            [xx + yy + zz, yz - zy, zx - xz, xy - yx],
            [yz - zy, xx - yy - zz, xy + yx, zx + xz],
            [zx - xz, xy + yx, yy - xx - zz, yz + zy],
            [xy - yx, zx + xz, yz + zy, zz - xx - yy],
        ]
    )


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of two commuting symmetric matrices [4, 4, S], which is symmetric."""
    out = np.empty_like(a)
    for i in range(4):
        for j in range(i, 4):
            out[i, j] = out[j, i] = (a[i] * b[j]).sum(0)
    return out


def _of_quaternion(q: np.ndarray) -> np.ndarray:
    """The rotation matrices [3, 3, S] of unit quaternions [4, S]."""
    w, x, y, z = q
    return np.array(
        [
            [w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z],
        ]
    )


def _by_singular_values(s: np.ndarray) -> np.ndarray:
    """R = V diag(1, 1, d) U^T from U, V of s, with d the sign that makes det R = 1: [3, 3, S]."""
    u, _, vt = np.linalg.svd(s.transpose(2, 0, 1))
    vt[:, 2] *= np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)[:, None]
    return np.einsum("sde,sfd->efs", vt, u)


def _turned(turn: np.ndarray, x: np.ndarray) -> np.ndarray:
    """R x of every frame: turn [3, 3, S], x [3, N, S]."""
    return np.array([turn[d, 0] * x[0] + turn[d, 1] * x[1] + turn[d, 2] * x[2] for d in range(3)])


def superposed(x: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """x [3, N, S] turned and shifted onto a structure [3, N], in the dtype of x."""
    middle = onto.mean(axis=1, keepdims=True, dtype=np.float64)
    body, middle = (onto - middle).astype(x.dtype)[:, :, None], middle.astype(x.dtype)[:, :, None]
    found = np.empty_like(x)
    for frames in frame_chunks(x.shape[1], x.shape[2]):
        part = centred(x[:, :, frames])
        turn = rotations(part, body).astype(x.dtype)
        np.add(_turned(turn, part), middle, out=found[:, :, frames])
    return found


def centred(x: np.ndarray) -> np.ndarray:
    """x [3, N, ...] with its mean over atoms at the origin."""
    return x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(x.dtype)


def mean_structure(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[3, N] float64 - the mean of frames x [3, N, S] superposed on it, begun from `start [3, N]`, at the origin."""
    mean = centred(start.astype(np.float64))
    for _ in range(_ROUNDS):
        mean = centred(superposed(x, mean).mean(axis=2, dtype=np.float64))
    return mean


def rmsd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sqrt(min over R of sum_i |R x_i - y_i|^2 / N) of pairs of frames x, y [3, N, ...]: [...]."""
    shape = x.shape[2:]
    x, y = (centred(one.reshape(3, x.shape[1], -1).astype(np.float64)) for one in (x, y))
    difference = _turned(rotations(x, y), x) - y
    return np.sqrt((difference * difference).sum((0, 1)) / x.shape[1]).reshape(shape)
