"""What is looked at once when data are opened: steps that no motion explains."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import cast

import numpy as np
from torch import Tensor

# A step is out of proportion when it is so many times the usual step of its atom and of all atoms, or, beyond _FAR
# times the usual one, stands apart from all smaller ones by _GAP. The largest in data that are right, in usual steps of
# all, and beside the next smaller eighth of an octave: MD17's ethanol, aspirin, malonaldehyde, salicylic acid, every,
# every 10th and every 50th frame, 9.8, gap 1.1; adenylate kinase and alanine dipeptide 12.5 (8.7 of its atom), no gap;
# ETH and UCY pedestrians 13.6 (9.9), gap 1.09; 1000 simulated systems of charges, springs and masses 4.7, 3.1 and 4.6,
# no gap. In data that are wrong: ten runs of alanine dipeptide laid end to end 39.2 (34.8), a molecule that drifts
# through a box of 12 angstrom by 0.3 in a frame 39, gap 20.
_OUT_OF_PROPORTION = 20.0
_FAR, _GAP = 5.0, 2.0
_BINS_PER_OCTAVE = 8  # of the histogram of steps: the exponent and three bits of the mantissa of a float32
_BLOCK = 2**18  # numbers looked at once, which fit into a cache
_SAMPLE = 1000  # frames that an atom's usual step is taken from
_BLURRED = 0.1  # spacing of float32 numbers beside a usual step

ADVICE = (
    "Atoms that a simulation put back into its periodic box jump so; follow them through it first (gmx trjconv -pbc "
    "nojump, cpptraj unwrap, MDAnalysis.transformations.NoJump). Where such a step is real, nothing is to be done"
)


def check_motion(
    where: str,
    x: Tensor,
    *,
    frames: Sequence[int] | np.ndarray | None = None,
    seams: Collection[int] = (),
    origin: Tensor | None = None,
    stored: np.dtype | None = None,
    repeats: bool = True,
) -> None:
    """Warn of steps out of all proportion to the others, of steps that float32 or a narrower dtype of the file blurs,
    and of frames that come twice.

    One pass over the steps, a tile of atoms and frames at a time.
    x: [B, N, D, T] float32 - positions, NaN for nodes that are not there
    frames: [T] - the frames' numbers in the file, for messages; seams: the t whose step to t + 1 is none
    origin: [B, D] float64 - what was subtracted; stored: the dtype of the file
    repeats: whether to look for frames that equal the one before, in data whose nodes move in all others
    """
    still = np.zeros((x.shape[0], max(x.shape[3] - 1, 0)), dtype=np.int32)
    nodes = x.flatten(0, 1).numpy()  # [B N, D, T]
    steps = _Steps(nodes, seams)
    for first, frame, lengths in _tiles(nodes):
        trajectories = np.arange(first, first + len(lengths)) // x.shape[1]
        np.add.at(still[:, frame : frame + lengths.shape[1]], trajectories, lengths == 0)
        steps.add(first, frame, lengths)
    usual = steps.usual()
    if usual == 0:
        return
    numbers = range(x.shape[3]) if frames is None else frames
    if not _blurred(where, x, usual, origin, stored):
        _check_steps(where, x, steps, usual, numbers, seams)
    if repeats and x.shape[1] > 2:
        _check_repeats(where, still, x.shape[1], numbers)


class _Steps:
    """Lengths of steps, counted: the largest and the usual one of every atom, and a histogram of all."""

    def __init__(self, nodes: np.ndarray, seams: Collection[int]):
        """nodes: [M, D, T] - where all atoms are; seams: the t whose step to t + 1 is none."""
        num_steps = nodes.shape[2] - 1
        self.seams = np.array(sorted(seams), dtype=np.int64)
        self.largest = np.zeros(len(nodes), dtype=np.float32)
        self.own = np.zeros(len(nodes), dtype=np.float32)
        self.counts = np.zeros(256 * _BINS_PER_OCTAVE, dtype=np.int64)
        sample = np.arange(0, num_steps, max(1, -(-num_steps // _SAMPLE)))
        height = max(1, _BLOCK // (nodes.shape[1] * max(1, len(sample))))
        for first in range(0, len(nodes) if num_steps > 0 else 0, height):
            part = nodes[first : first + height]
            self.own[first : first + height] = np.median(_norm(part[..., sample + 1] - part[..., sample]), axis=1)

    def add(self, first: int, frame: int, lengths: np.ndarray) -> None:
        """lengths [n, t] of the steps from number `frame` on, of the atoms from number `first` on."""
        seams = self.seams[(self.seams >= frame) & (self.seams < frame + lengths.shape[1])]
        lengths[:, seams - frame] = 0
        rows = slice(first, first + len(lengths))
        self.largest[rows] = np.maximum(self.largest[rows], lengths.max(axis=1))
        self.counts += np.bincount(lengths.view(np.int32).ravel() >> 20, minlength=len(self.counts))
        self.counts[0] = 0  # no step

    def usual(self) -> float:
        """The median of the steps that are not 0."""
        total = self.counts.sum()
        return 0.0 if total == 0 else _edge(int(np.searchsorted(np.cumsum(self.counts), total / 2)) + 0.5)

    def apart(self, usual: float) -> float:
        """The length above which steps stand apart from all others; infinite where none do."""
        filled = np.flatnonzero(self.counts)
        wide = np.diff(filled) > _BINS_PER_OCTAVE * np.log2(_GAP)
        edges = [_edge(int(place)) for place in filled[1:][wide]]
        return next((edge for edge in edges if edge > _FAR * usual), np.inf)


def _edge(place: float) -> float:
    """Where bin `place` of the histogram begins."""
    octave, part = divmod(place, _BINS_PER_OCTAVE)
    return float(2.0 ** (octave - 127) * (1 + part / _BINS_PER_OCTAVE))


def _tiles(nodes: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Lengths of steps [n, t], a tile at a time, behind the numbers of its first node and its first step.

    Tiles are long in time where a node's frames lie together in memory, and of all nodes where those of a frame do.
    """
    num_steps = nodes.shape[2] - 1
    by_frames = len(nodes) > 1 and nodes.strides[2] > nodes.strides[0]
    per_step = nodes.shape[1] * (len(nodes) if by_frames else 1)
    width = min(num_steps, max(1, _BLOCK // per_step))
    if num_steps < 1:
        return
    height = len(nodes) if by_frames else max(1, _BLOCK // (nodes.shape[1] * width))
    for first in range(0, len(nodes), height):
        for frame in range(0, num_steps, width):
            part = nodes[first : first + height, :, frame : frame + width + 1]
            part = np.ascontiguousarray(part) if by_frames else part
            yield first, frame, _norm(part[..., 1:] - part[..., :-1])


def _norm(difference: np.ndarray) -> np.ndarray:
    """How long steps [n, D, t] are, [n, t] float32; 0 where an atom is not there."""
    lengths = np.sqrt(np.einsum("ndt,ndt->nt", difference, difference))
    return np.nan_to_num(lengths, copy=False, nan=0.0)


def _check_steps(
    where: str, x: Tensor, steps: _Steps, usual: float, frames: Sequence[int] | np.ndarray, seams: Collection[int]
) -> None:
    apart = steps.apart(usual)
    common = np.maximum(steps.own, usual)
    wrong = steps.largest > np.where(steps.largest >= apart, _FAR, _OUT_OF_PROPORTION) * common
    if not wrong.any():
        return
    atom = int(np.argmax(np.where(wrong, steps.largest, 0)))
    trajectory, node = divmod(atom, x.shape[1])
    path = x[trajectory, node : node + 1].numpy()
    lengths = _norm(path[..., 1:] - path[..., :-1])[0]
    lengths[list(seams)] = 0
    t = int(lengths.argmax())
    of = f" of trajectory {trajectory}" if len(x) > 1 else ""
    more = f"; {int(wrong.sum())} of {len(wrong)} atoms make such steps" if wrong.sum() > 1 else ""
    warnings.warn(
        f"{where}: a step of {lengths[t]:.3g} of atom {node}{of}, from frame {frames[t]} to {frames[t + 1]}, is out of "
        f"all proportion to the usual step, {usual:.2g}{more}. {ADVICE}",
        stacklevel=4,
    )


def _blurred(where: str, x: Tensor, usual: float, origin: Tensor | None, stored: np.dtype | None) -> bool:
    values = x.numpy()
    # fmin and fmax pass over NaN, and neither needs memory.
    largest = max(-float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None)))
    kept = np.dtype(np.float32)
    is_narrow = stored is not None and stored.kind == "f" and stored.itemsize <= kept.itemsize
    if is_narrow:
        kept = cast(np.dtype, stored)
    if origin is not None and is_narrow:
        largest = max(largest, float(origin.abs().max()))
    spacing = float(np.spacing(kept.type(min(largest, float(np.finfo(kept).max)))))
    if spacing <= _BLURRED * usual:
        return False
    how = "store them in float64" if is_narrow else "shorten the trajectories, or use a larger unit"
    warnings.warn(
        f"{where}: {kept} numbers near {largest:.3g} are {spacing:.2g} apart, a usual step is {usual:.2g}: the steps "
        f"are blurred; {how}",
        stacklevel=4,
    )
    return True


def _check_repeats(where: str, still: np.ndarray, num_nodes: int, frames: Sequence[int] | np.ndarray) -> None:
    """still: [B, T - 1] - how many nodes do not move from a frame to the next."""
    whole = still == num_nodes
    if whole.any() and not still[~whole].any():
        trajectory, t = np.argwhere(whole)[0]
        of = f" of trajectory {trajectory}" if len(still) > 1 else ""
        warnings.warn(
            f"{where}: {int(whole.sum())} frames equal the one before, the first is frame {frames[t + 1]}{of}, though "
            "all nodes move in the others; a frame that was written twice is to be left out",
            stacklevel=4,
        )
