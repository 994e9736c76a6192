"""Shares of frames that no molecule has: wrong bonds, clashes, broken rings, flipped centres."""

import numpy as np

from geotdm_fast.data.bonds import STRETCH
from geotdm_fast.data.covalent_radii import COVALENT_RADII, bonding_radii
from geotdm_fast.scores.md.distributions import Internals
from geotdm_fast.scores.md.ensemble import Ensemble
from geotdm_fast.scores.md.geometry import frame_chunks, squared_distances
from geotdm_fast.scores.md.resampling import Both, Resampling, each, frame_sums, mean_over_frames
from geotdm_fast.scores.md.rows import Row
from geotdm_fast.scores.md.topology import Centre

# Of three unit vectors: 0 in a plane, 0.77 at the angles of a tetrahedron.
_PLANAR = 0.4
# How far a bond may be from its reference, as a share of it.
TOLERANCE = 0.25
_NOBLE_GASES = (2, 10, 18, 36, 54, 86)
_PAIRS = 4096


def validity_rows(ensemble: Ensemble, internals: Internals, resampling: Resampling) -> list[Row]:
    """Shares of frames with
    - a bond more than 25 % from its reference, the median of the true frames;
    - a clash: atoms more than two bonds apart as near as bonded ones may be, 1.3 (r_i + r_j) with covalent radii r;
      ions of alkali and alkaline earth metals and atoms without an element are passed over;
    - a broken ring: one with such a bond;
    - a flipped stereocentre: the sign of (x_a - x_0) . ((x_b - x_0) x (x_c - x_0)) is not that of the true frames of
      its own trajectory, of samples without given frames of all true frames;
    - and of frames with none of these. The floor is the share in the truth.
    """
    ensemble.need_bonds()
    lengths = internals.pair("bonds")
    reference = np.median(lengths[0], axis=1)[:, None]
    stretched = each(lambda one: far_off(one, reference), lengths)
    faults = {"a bond 25 % off": each(in_any, stretched)}
    pairs, limits = clash_limits(ensemble)
    if len(pairs):
        flat = lambda x: x.reshape(3, ensemble.num_atoms, -1)
        faults["a clash"] = each(lambda x: clashes(flat(x), pairs, limits), ensemble.both)
    rings = ensemble.topology.ring_bonds
    if rings:
        members = np.unique(np.concatenate(rings))
        faults["a broken ring"] = each(lambda one: in_any(one[members]), stretched)
    centres = stereocentres(ensemble)
    if centres:
        faults["a flipped centre"] = flipped(ensemble, centres)
    truth, drawn = zip(*faults.values(), strict=True)
    right = each(lambda found: ~np.any(found, axis=0), (np.array(truth), np.array(drawn)))
    rows = [_share("frames without any fault", right, ensemble, resampling, "higher")]
    rows += [_share(f"frames with {name}", both, ensemble, resampling, "lower") for name, both in faults.items()]
    return rows


def in_any(found: np.ndarray) -> np.ndarray:
    """[S] bool - the frames of found [P, S] with any True."""
    return np.logical_or.reduce(found, axis=0)


def far_off(lengths: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[P, S] bool - whether lengths [P, S] are more than 25 % from their reference [P, 1]."""
    return np.abs(lengths - reference) > TOLERANCE * reference


def clash_limits(ensemble: Ensemble) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [M, 2] that may clash, and how near that is [M]."""
    z = ensemble.topology.atomic_numbers
    radii = bonding_radii(z)
    noble = np.isin(z, _NOBLE_GASES)
    radii[noble] = COVALENT_RADII[z[noble]]
    pairs = ensemble.topology.pairs_beyond(2, np.flatnonzero(np.isfinite(radii)))
    return pairs, STRETCH * (radii[pairs[:, 0]] + radii[pairs[:, 1]])


def clashes(x: np.ndarray, pairs: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """[S] bool - whether two atoms of a pair are nearer than its limit, in x [3, N, S]."""
    found = np.zeros(x.shape[2], bool)
    squared_limits = (limits * limits).astype(x.dtype)[:, None]
    for start in range(0, len(pairs), _PAIRS):
        rows = slice(start, start + _PAIRS)
        for frames in frame_chunks(len(pairs[rows]), x.shape[2]):
            found[frames] |= (squared_distances(x[:, :, frames], pairs[rows]) < squared_limits[rows]).any(axis=0)
    return found


def stereocentres(ensemble: Ensemble) -> list[Centre]:
    """Those of the topology; of carbons with three neighbours those that are no planar ones in the true frames."""
    found = []
    for centre in ensemble.topology.centres:
        flatness = np.median(np.abs(_volumes(centre, ensemble.truth, unit=True))) if centre.hidden else 1.0
        if flatness > _PLANAR:
            found.append(centre)
    return found


def _volumes(centre: Centre, x: np.ndarray, unit: bool = False) -> np.ndarray:
    """[...] - the signed volume that the bonds to the three neighbours span, or their directions, in x [3, N, ...]."""
    sides = [x[:, near].astype(np.float64) - x[:, centre.atom] for near in centre.neighbours]
    if unit:
        sides = [side / np.maximum(np.sqrt((side * side).sum(0)), 1e-12) for side in sides]
    return np.einsum("d...,d...->...", sides[0], np.cross(sides[1], sides[2], axis=0))


def flipped(ensemble: Ensemble, centres: list[Centre]) -> Both:
    """[B T] and [B K T] bool - whether a centre is the mirror image of what it should be."""
    signs = lambda x: np.array([np.sign(_volumes(centre, x)) for centre in centres])
    truth, drawn = each(signs, ensemble.both)  # [C, M, T]
    right = np.sign(truth.sum(-1, keepdims=True))  # [C, B, 1]
    if not ensemble.conditional:
        right = np.broadcast_to(np.sign(truth.sum((1, 2), keepdims=True)), right.shape)
    right_of_drawn = np.repeat(right, ensemble.num_draws, axis=1)
    return (truth != right).any(axis=0).ravel(), (drawn != right_of_drawn).any(axis=0).ravel()


def _share(quantity: str, both: Both, ensemble: Ensemble, resampling: Resampling, better: str) -> Row:
    by_trajectory = each(lambda one: one.reshape(-1, ensemble.num_frames), both)
    estimate = resampling.estimate(each(frame_sums, by_trajectory), mean_over_frames)
    detail = {"truth": float(by_trajectory[0].mean()), "drawn": float(by_trajectory[1].mean())}
    return Row("validity", quantity, estimate, better=better, detail=detail)
