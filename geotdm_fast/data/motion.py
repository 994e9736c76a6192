"""What is looked at once when data are opened: steps that no motion explains."""

import warnings
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
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
_BLOCK = 2**20
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
    frames: Sequence[int] | None = None,
    seams: Collection[int] = (),
    origin: Tensor | None = None,
    stored: np.dtype | None = None,
    repeats: bool = True,
) -> None:
    """Warn of steps out of all proportion to the others, of steps that float32 blurs, and of frames that come twice.

    One pass over the steps, a block of atoms at a time.
    x: [B, N, D, T] float32 - positions, NaN for nodes that are not there
    frames: [T] - the frames' numbers in the file, for messages; seams: the t whose step to t + 1 is none
    origin: [B, D] float64 - what was subtracted; stored: the dtype of the file
    repeats: whether to look for frames that equal the one before, in data whose nodes move in all others
    """
    steps = _Steps(x.shape[0] * x.shape[1])
    still = np.zeros((x.shape[0], max(x.shape[3] - 1, 0)), dtype=np.int64)
    nodes = x.flatten(0, 1).numpy()  # [B N, D, T]
    for first, lengths in _blocks(nodes):
        np.add.at(still, np.arange(first, first + len(lengths)) // x.shape[1], lengths == 0)
        lengths[:, list(seams)] = 0
        steps.add(first, lengths)
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

    def __init__(self, num_atoms: int):
        self.largest = np.zeros(num_atoms, dtype=np.float32)
        self.own = np.zeros(num_atoms, dtype=np.float32)
        self.counts = np.zeros(256 * _BINS_PER_OCTAVE, dtype=np.int64)

    def add(self, first: int, lengths: np.ndarray) -> None:
        """lengths [n, T - 1] of the atoms from number `first` on."""
        if lengths.shape[1] == 0:
            return
        rows = slice(first, first + len(lengths))
        self.largest[rows] = lengths.max(axis=1)
        self.own[rows] = np.median(lengths[:, :: -(-lengths.shape[1] // _SAMPLE)], axis=1)
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


def _blocks(nodes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The number of its first node, and the lengths of the steps of some nodes; one block after the other."""
    number = max(1, _BLOCK // max(1, nodes[0].size))
    for first in range(0, len(nodes), number):
        yield first, _lengths(nodes[first : first + number])


def _lengths(x: np.ndarray) -> np.ndarray:
    """How far atoms x [n, D, T] go from frame to frame, [n, T - 1] float32; 0 where one is not there."""
    difference = x[..., 1:] - x[..., :-1]
    lengths = np.sqrt(np.einsum("ndt,ndt->nt", difference, difference))
    return np.nan_to_num(lengths, copy=False, nan=0.0)


def _check_steps(
    where: str, x: Tensor, steps: _Steps, usual: float, frames: Sequence[int], seams: Collection[int]
) -> None:
    apart = steps.apart(usual)
    common = np.maximum(steps.own, usual)
    wrong = steps.largest > np.where(steps.largest >= apart, _FAR, _OUT_OF_PROPORTION) * common
    if not wrong.any():
        return
    atom = int(np.argmax(np.where(wrong, steps.largest, 0)))
    trajectory, node = divmod(atom, x.shape[1])
    lengths = _lengths(x[trajectory, node : node + 1].numpy())[0]
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
    largest = float(torch.nan_to_num(x).abs().max())
    if origin is not None and stored == np.float32:
        largest = max(largest, float(origin.abs().max()))
    spacing = float(np.spacing(np.float32(largest)))
    if spacing <= _BLURRED * usual:
        return False
    how = "store them in float64" if stored == np.float32 else "shorten the trajectories, or use a larger unit"
    warnings.warn(
        f"{where}: float32 numbers near {largest:.3g} are {spacing:.2g} apart, a usual step is {usual:.2g}: the steps "
        f"are blurred; {how}",
        stacklevel=4,
    )
    return True


def _check_repeats(where: str, still: np.ndarray, num_nodes: int, frames: Sequence[int]) -> None:
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
