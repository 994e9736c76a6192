"""The rotation, or reflection, that turns points onto points, without a decomposition that waits for the device."""

import torch
from torch import Tensor

# So often a matrix is squared. A largest eigenvalue that is apart from the next one by more than the rounding of the
# covariance, relatively, is alone after that: (1 - 1e-7)^(2^32) and (1 - 2e-15)^(2^56) are below 1e-60.
_SQUARINGS, _SQUARINGS_FLOAT64 = 32, 56
# Relative to rounding: by how much a reflection must fit better than a rotation. Planar points fit both alike.
_MARGIN = 16
# (w of the quaternion)^2 from which on it is far enough from half a turn to be read from the first column.
_LEAST_W2 = 1e-4


def turns(covariance: Tensor) -> Tensor:
    """R [..., 3, 3], orthogonal, that turns points a onto points b: the largest trace(R C) for C = sum a b^T.

        C = U S V^T,    R = V U^T    (Kabsch 1976)

    covariance: C [..., 3, 3] floating. R has its dtype, and is a constant for gradients.

    The rotation (determinant 1) of the largest trace is that of the unit quaternion q which is the eigenvector of the
    largest eigenvalue of a symmetric, traceless 4 x 4 matrix N(C) (Horn 1987). The reflection (determinant -1) of the
    largest trace is -R of -C, since N(-C) = -N(C). The projection onto the eigenvector is a power of
    1 + N / |N|, made by squaring, in float64 whatever the dtype of C. So R is as near to that of a decomposition in
    float64 as C in its dtype tells, at any scale of C.

    R is not unique in these cases, and then is
        - for points in a plane the rotation, although a reflection fits as well: a reflection is taken only where its
          trace is larger by more than rounding
        - for points on a line a rotation of the line onto the other one. Where C is exact it is the one by the least
          angle; else the rounding of C chooses, as it does in a decomposition
        - for C = 0, 1
    NaN or infinity in C makes its R NaN.
    Deterministic where torch's product of matrices is. Nothing waits for the device: a CUDA graph may capture the call.
    """
    with torch.no_grad():
        n = _of_length_1(_horn(covariance.double()))
        of_both = torch.stack([n, -n])  # of C for a rotation, of -C for a reflection
        squarings = _SQUARINGS_FLOAT64 if covariance.dtype == torch.float64 else _SQUARINGS
        q = _eigenvector(of_both, squarings)
        fit = (q[..., None, :] * of_both * q[..., :, None]).sum(dim=(-2, -1))
        least = _MARGIN * torch.finfo(covariance.dtype).eps
        reflects = (fit[1] - fit[0] > least)[..., None]
        r = _rotation(torch.where(reflects, q[1], q[0]))
        return torch.where(reflects[..., None], -r, r).to(covariance.dtype)


def _of_length_1(matrix: Tensor) -> Tensor:
    """The matrix [..., M, M] divided by its largest entry, then by its Frobenius norm; 0 stays 0."""
    for length in (lambda m: m.abs().amax(dim=(-2, -1)), lambda m: m.square().flatten(-2).sum(-1).sqrt()):
        size = length(matrix)[..., None, None]
        matrix = matrix / torch.where(size == 0, 1, size)
    return matrix


def _horn(c: Tensor) -> Tensor:
    """N [..., 4, 4] of C [..., 3, 3]: q^T N q = trace(R C) for the rotation R of a unit quaternion q = (w, x, y, z)."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = c.flatten(-2).unbind(-1)
    w_x, w_y, w_z = yz - zy, zx - xz, xy - yx
    x_y, x_z, y_z = xy + yx, zx + xz, yz + zy
    diagonal = (xx + yy + zz, xx - yy - zz, yy - xx - zz, zz - xx - yy)
    rows = (
        (diagonal[0], w_x, w_y, w_z),
        (w_x, diagonal[1], x_y, x_z),
        (w_y, x_y, diagonal[2], y_z),
        (w_z, x_z, y_z, diagonal[3]),
    )
    return torch.stack([entry for row in rows for entry in row], dim=-1).unflatten(-1, (4, 4))


def _eigenvector(n: Tensor, squarings: int) -> Tensor:
    """q [..., 4] of length 1: the eigenvector of the largest eigenvalue of N [..., 4, 4], symmetric, |N| <= 1.

    Of several it is the one nearest to (1, 0, 0, 0), but where that is nearly at a right angle to all of them.
    """
    p = n + torch.eye(4, dtype=n.dtype, device=n.device)
    for _ in range(squarings // 2):
        p = p / p.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        p = p @ p
        p = p @ p
    diagonal = p.diagonal(dim1=-2, dim2=-1)
    diagonal = diagonal / diagonal.sum(-1, keepdim=True)
    column = torch.where(diagonal[..., 0] > _LEAST_W2, 0, diagonal.argmax(dim=-1))
    q = torch.take_along_dim(p, column[..., None, None], dim=-1).squeeze(-1)
    return q / q.square().sum(-1, keepdim=True).sqrt()


def _rotation(q: Tensor) -> Tensor:
    """R [..., 3, 3] of unit quaternions q [..., 4] = (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    wx, wy, wz, xy, xz, yz = w * x, w * y, w * z, x * y, x * z, y * z
    rows = (
        (ww + xx - yy - zz, 2 * (xy - wz), 2 * (xz + wy)),
        (2 * (xy + wz), ww - xx + yy - zz, 2 * (yz - wx)),
        (2 * (xz - wy), 2 * (yz + wx), ww - xx - yy + zz),
    )
    return torch.stack([entry for row in rows for entry in row], dim=-1).unflatten(-1, (3, 3))
