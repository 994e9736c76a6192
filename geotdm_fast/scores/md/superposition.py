"""Superposition of frames: the rotation that brings two structures nearest to each other."""

import numpy as np

# Rounds of superposing all frames and averaging them: a mean structure changes little after the second.
_ROUNDS = 3


def rotations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[S, 3, 3] float64 - the proper rotations R that minimise sum_i |R x_i - y_i|^2, of centred x, y [3, N, S].

    R = V diag(1, 1, d) U^T from the singular vectors of sum_i x_i y_i^T, with d the sign that makes det R = 1.
    Source: Kabsch, Acta Crystallographica A 34, 827 (1978).
    """
    covariance = np.einsum("dns,ens->sde", x, np.broadcast_to(y, x.shape), optimize=True)
    u, _, vt = np.linalg.svd(covariance)
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    vt = vt.copy()
    vt[:, 2] *= np.where(sign == 0, 1.0, sign)[:, None]
    return np.einsum("sde,sfd->sef", vt, u)


def superposed(x: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """x [3, N, S] turned and shifted onto a structure [3, N]: float64, about the structure's centre at its place."""
    x = centred(x)
    middle = onto.mean(axis=1, keepdims=True)
    turn = rotations(x, (onto - middle)[:, :, None])
    return np.einsum("sde,ens->dns", turn, x, optimize=True) + middle[:, :, None]


def centred(x: np.ndarray) -> np.ndarray:
    """x [3, N, ...] with its mean over atoms at the origin, float64."""
    x = x.astype(np.float64)
    return x - x.mean(axis=1, keepdims=True)


def mean_structure(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[3, N] float64 - the mean of frames x [3, N, S] superposed on it, begun from `start [3, N]`, at the origin."""
    mean = centred(start)
    for _ in range(_ROUNDS):
        mean = centred(superposed(x, mean).mean(axis=2))
    return mean


def rmsd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sqrt(min over R of sum_i |R x_i - y_i|^2 / N) of pairs of frames x, y [3, N, ...]: [...]."""
    shape = x.shape[2:]
    x, y = (centred(one.reshape(3, x.shape[1], -1)) for one in (x, y))
    turn = rotations(x, y)
    difference = np.einsum("sde,ens->dns", turn, x, optimize=True) - y
    return np.sqrt((difference * difference).sum((0, 1)) / x.shape[1]).reshape(shape)
