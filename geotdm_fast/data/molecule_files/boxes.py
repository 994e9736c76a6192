"""Periodic boxes: atoms that jump across are followed, molecules that are cut in two are made whole.

Box vectors are the rows of a cell [3, 3]; a position x has the fractional coordinates s = x inverse(cell); x + n cell
with whole numbers n is the image n of x.
"""

import itertools

import numpy as np
import torch

from geotdm_fast.ops import radius_graph

# Atoms no further apart than the sum of these are of one molecule, where a box cuts it (angstrom). Hydrogen bonds are
# longer than 0.4 + 1.2.
_HYDROGEN, _OTHER = 0.4, 1.2
_NEIGHBOURS = np.array(list(itertools.product((0, -1, 1), repeat=3)))


def periodic_cell(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The cells with vectors that span space, and the directions that are periodic; None where there is no box.

    cell: [..., 3, 3] - a vector of zeros stands for an open direction
    pbc: [3] bool - the periodic directions
    """
    lengths = np.linalg.norm(cell, axis=-1)
    pbc = pbc & (lengths > 0).reshape(-1, 3).all(axis=0)
    if not pbc.any() or not np.isfinite(cell).all():
        return None
    open_rows = lengths == 0
    if open_rows.any():
        # The right singular vectors of the vanishing singular values span what the other vectors leave free.
        complement = np.linalg.svd(cell)[2]
        rank = np.cumsum(~open_rows, axis=-1)[..., -1:] + np.cumsum(open_rows, axis=-1) - 1
        filled = np.take_along_axis(complement, np.clip(rank, 0, 2)[..., None], axis=-2)
        cell = np.where(open_rows[..., None], filled, cell)
    return (cell, pbc) if (np.abs(np.linalg.det(cell)) > 1e-9).all() else None


def checked_cell(cell: np.ndarray, pbc: np.ndarray, place: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The cell [3, 3] of one frame and its periodic directions, as of `periodic_cell`; None where there is no box.

    place: where the cell is from, for messages
    Raises ValueError for vectors that are not finite, and for ones of periodic directions that span no volume.
    """
    if not pbc.any():
        return None
    box = periodic_cell(cell, pbc)
    is_box = bool((np.abs(cell).sum(axis=1) != 0)[pbc].all())  # NaN is not 0
    if box is None and is_box:
        what = "span a volume" if np.isfinite(cell).all() else "be finite"
        raise ValueError(f"the cell must {what}, got {cell.tolist()} {place}")
    return box


def heights(cell: np.ndarray) -> np.ndarray:
    """The distances between opposite faces of the cell: [..., 3]."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=-2)


def follow(x: np.ndarray, cell: np.ndarray, pbc: np.ndarray, before: np.ndarray | None = None) -> np.ndarray:
    """The images [T, N, 3] that make the motion smooth: x + images cell goes on from frame to frame by the nearest one.

    Every atom is followed by itself, in fractional coordinates, so that a cell may change from frame to frame. Right
    where no atom truly moves by half of the smallest height of the cell between two frames.

    x: [T, N, 3] - wrapped in any way
    cell: [T, 3, 3], pbc: [3] bool - as of `periodic_cell`
    before: [N, 3] - fractional coordinates of the frame before, as followed; None: the first frame stays
    """
    s = x @ np.linalg.inv(cell)
    step = np.diff(s, axis=0, prepend=s[:1] if before is None else before[None])
    move = -np.rint(step) * pbc
    rest = (step + move) @ cell
    # In a skewed cell the rounded image may not be the nearest where it is far.
    far = np.linalg.norm(rest, axis=-1) > heights(cell)[:, pbc].min(axis=1)[:, None] / 2
    if far.any():
        frame, atom = np.nonzero(far)
        shifts = _NEIGHBOURS[(_NEIGHBOURS[:, ~pbc] == 0).all(axis=1)]
        images = rest[frame, atom][:, None] + np.einsum("sk,fkd->fsd", shifts, cell[frame])
        move[frame, atom] += shifts[np.linalg.norm(images, axis=-1).argmin(axis=1)]
    return np.cumsum(move, axis=0)


def whole(
    x: np.ndarray, cell: np.ndarray, pbc: np.ndarray, bonds: np.ndarray | None, radii: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """The images [N, 3] that put bonded atoms of a frame beside each other, and how many bonds none of them can.

    Bonds come first, then pairs by distance, the nearest before the others, so that a molecule is whole before others
    are put beside it. A bond that leaves its molecule through one side of the box and enters at the other side, as in a
    crystal, stays long.

    x: [N, 3]; cell: [3, 3]; pbc: [3] bool
    bonds: [M, 2] or None
    radii: [N] - pairs at most the sum of their radii apart belong together; None: bonds alone
    """
    pairs, shifts = np.zeros((0, 2), np.int64), np.zeros((0, 3))
    broken = 0
    if radii is not None:
        pairs, shifts = _near_pairs(x, cell, pbc, radii)
    if bonds is not None and len(bonds):
        s = x @ np.linalg.inv(cell)
        step = s[bonds[:, 1]] - s[bonds[:, 0]]
        pairs = np.concatenate([bonds, pairs])
        shifts = np.concatenate([-np.rint(step) * pbc, shifts])
    image = np.zeros((len(x), 3))
    group = [[i] for i in range(len(x))]
    place = list(range(len(x)))
    for k, ((i, j), shift) in enumerate(zip(pairs.tolist(), shifts, strict=True)):
        if place[i] == place[j]:
            broken += bonds is not None and k < len(bonds) and bool((image[j] - image[i] != shift).any())
            continue
        move = image[i] + shift - image[j]
        if len(group[place[i]]) < len(group[place[j]]):  # the smaller piece moves
            i, j, move = j, i, -move
        joined = group[place[j]]
        image[joined] += move
        group[place[i]] += joined
        for node in joined:
            place[node] = place[i]
    return image, broken


def touching_radii(numbers: np.ndarray) -> np.ndarray:
    """The radii (angstrom) of atoms with these atomic numbers, for `whole`."""
    return np.where(numbers == 1, _HYDROGEN, _OTHER)


def _near_pairs(x: np.ndarray, cell: np.ndarray, pbc: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [M, 2] of atoms that touch in any image, the nearest first, and the images [M, 3] of their second."""
    reach = 2 * float(radii.max())
    s = x @ np.linalg.inv(cell)
    base = -np.floor(s) * pbc
    s = s + base
    margin = reach / heights(cell)
    atoms, images = [np.arange(len(s))], [np.zeros((len(s), 3))]
    for shift in _NEIGHBOURS[1:]:
        if (shift[~pbc] != 0).any():
            continue
        moved = s + shift
        near = (((moved >= -margin) & (moved <= 1 + margin)) | ~pbc).all(axis=1).nonzero()[0]
        atoms.append(near)
        images.append(np.broadcast_to(shift, (len(near), 3)))
    atom, image = np.concatenate(atoms), np.concatenate(images)
    places = (s[atom] + image) @ cell
    row, col = radius_graph(torch.from_numpy(places), reach).numpy()
    distance = np.linalg.norm(places[row] - places[col], axis=1)
    touching = np.flatnonzero((row < len(s)) & (distance <= radii[atom[row]] + radii[atom[col]]))
    order = touching[np.argsort(distance[touching], kind="stable")]
    row, col = row[order], col[order]
    return np.stack([row, atom[col]], axis=1), image[col] + base[atom[col]] - base[row]
