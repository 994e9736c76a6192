"""Periodic boxes and positions for tests, and their neighbours by brute force in NumPy."""

import itertools

import numpy as np
import torch

SHAPES = ("cubic", "triclinic", "sheared", "left-handed", "tiny", "flat")


def vectors_of(shape, seed=0, size=4.0):
    """[3, 3] float64: lattice vectors in rows."""
    draw = np.random.default_rng(seed)
    if shape == "cubic":
        made = size * np.eye(3)
    elif shape == "sheared":  # far from reduced: vectors lean by more than their lengths
        made = size * np.array([[1, 0, 0], [1.7, 1, 0], [-0.9, 2.3, 1.1]])
    elif shape == "flat":
        made = size * np.diag([2.0, 0.35, 1.0]) + 0.1 * draw.standard_normal((3, 3))
    else:
        made = size * (np.eye(3) + 0.3 * draw.uniform(-1, 1, (3, 3)))
        if shape == "left-handed":
            made = made[[1, 0, 2]]
        if shape == "tiny":
            made = made / 3
    return torch.from_numpy(np.ascontiguousarray(made))


def positions_in(num_nodes, num_frames, vectors, seed=0, spread=2.0):
    """[N, T, 3] float64, within some boxes of the origin; unwrapped. vectors: [3, 3]"""
    draw = torch.Generator().manual_seed(seed)
    fractions = spread * (2 * torch.rand(num_nodes, num_frames, 3, generator=draw, dtype=torch.float64) - 1)
    return fractions @ vectors.double()


def brute_force(x, cutoff, vectors, pbc=(True, True, True), batch=None, loop=False):
    """{(row i T + t, row j T + t, n): r}, of x [N, T, 3] in boxes vectors [G, T, 3, 3], pbc [G, 3]: every image n that
    may be near is looked at, without moving anything into a box."""
    x, vectors = x.double().numpy(), vectors.double().numpy()
    num_nodes, num_frames, _ = x.shape
    pbc = np.broadcast_to(np.asarray(pbc), (len(vectors), 3))
    batch = np.zeros(num_nodes, dtype=int) if batch is None else batch.numpy()
    found = {}
    for i, j in itertools.product(range(num_nodes), repeat=2):
        if batch[i] != batch[j]:
            continue
        for t in range(num_frames):
            graph = min(batch[i], len(vectors) - 1)
            box = vectors[graph, min(t, vectors.shape[1] - 1)]
            between, inverse = x[i, t] - x[j, t], np.linalg.inv(box)
            # n is within cutoff times the length of a column of the inverse of the fractional difference.
            middle, reach = between @ inverse, cutoff * np.linalg.norm(inverse, axis=0)
            ranges = [
                range(int(np.ceil(middle[k] - reach[k] - 1e-6)), int(np.floor(middle[k] + reach[k] + 1e-6)) + 1)
                if pbc[graph, k]
                else range(1)
                for k in range(3)
            ]
            for n in itertools.product(*ranges):
                r = between - np.array(n) @ box
                distance = np.linalg.norm(r)
                assert abs(distance - cutoff) > 1e-9 * cutoff, "a pair at the cutoff: another seed"
                if distance <= cutoff and (loop or i != j or any(n)):
                    found[i * num_frames + t, j * num_frames + t, n] = r
    return found


def as_keys(edge_index, image):
    """[(receiver, sender, n)] of edges, in their order."""
    return [(i, j, tuple(n)) for i, j, n in zip(*edge_index.tolist(), image.tolist(), strict=True)]


def displacements(x, edge_index, image, vectors):
    """r_ij = x_i - x_j - n C [E, 3] of x [N, T, 3] in one box [3, 3]."""
    rows = x.double().flatten(0, 1)
    return rows[edge_index[0]] - rows[edge_index[1]] - image.double() @ vectors.double()
