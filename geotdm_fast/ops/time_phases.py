"""The table of cosines and sines of the frames' times that the compiled temporal op reads.

The op needs psi(t - s), the sinusoidal embedding of the distance of two frames, for all pairs. With n frequencies f_k

    cos f_k (t - s) = cos f_k t cos f_k s + sin f_k t sin f_k s
    sin f_k (t - s) = sin f_k t cos f_k s - cos f_k t sin f_k s

so a table [T, 2 n] of cos f_k t and sin f_k t is enough, in place of one [2 T - 1, H] of psi.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast.reference.sinusoid import frequencies

# Of (frames, width, device), the frames a power of two: few and small, so none is ever dropped. A captured CUDA graph
# may read one for as long as the process lives.
_tables: dict[tuple[int, int, torch.device], Tensor] = {}


def time_phases(h: Tensor, dim: int, frames: Sequence[int] | None = None) -> Tensor:
    """[T, 2 n] float32, n = dim // 2, on the device of h: column 2 k is cos(f_k t), column 2 k + 1 is sin(f_k t).

    h: [N, T, H] - of which T and the device are read
    dim: width of the sinusoids, whose frequencies f_k are those of `geotdm_fast.reference.sinusoid`
    frames: T ascending numbers of frames; t is counted from the first of them. None: t = 0 .. T - 1
    Angles, cosines and sines are computed in float64 and rounded once. Deterministic. A table is kept as long as the
    process lives, since a captured CUDA graph may read it.
    """
    if frames is None:
        return _table(h, h.shape[1], dim)[: h.shape[1]]
    table = _table(h, frames[-1] - frames[0] + 1, dim)
    # Slices, not numbers from the host, which no CUDA graph could hold.
    starts = [i for i, t in enumerate(frames) if i == 0 or t != frames[i - 1] + 1]
    ends = [*starts[1:], len(frames)]
    return torch.cat([table[frames[a] - frames[0] :][: b - a] for a, b in zip(starts, ends, strict=True)])


def _table(h: Tensor, num_frames: int, dim: int) -> Tensor:
    """The kept table of dim and device for the times 0 .. num_frames - 1 or more: its rows are a power of two."""
    if torch.compiler.is_compiling() or type(h) is not Tensor:  # sizes may be symbols, results fake
        return _computed(num_frames, dim, h.device)
    rows = 1 << (num_frames - 1).bit_length()
    key = (rows, dim, h.device)
    if key not in _tables:
        if h.is_cuda and torch.cuda.is_current_stream_capturing():
            return _computed(rows, dim, h.device)  # what a capture computes has no values yet
        with torch.inference_mode(False):  # else no backward could keep it
            # Copied by the host, which waits: any stream may read it.
            _tables[key] = _computed(rows, dim, torch.device("cpu")).to(h.device)
    return _tables[key]


def _computed(num_frames: int, dim: int, device: torch.device) -> Tensor:
    frame = torch.arange(num_frames, device=device, dtype=torch.float64)
    angle = frame[:, None] * frequencies(dim, torch.float64, device)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1).float()
