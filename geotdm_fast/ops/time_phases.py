"""What the compiled temporal op knows of time: how far the sinusoids have turned at every frame.

psi(t - s) is made of cos f (t - s) and sin f (t - s), and those of cos f t, sin f t, cos f s and sin f s by the
addition theorems: [T, 2 n] numbers stand for the [2 T - 1, H] table of psi, whatever the frames' numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast.reference.sinusoid import frequencies

# Of (frames, width, device), the frames a power of two: few and small, so none is ever dropped. A captured CUDA graph
# may read one for as long as the process lives.
_tables: dict[tuple[int, int, torch.device], Tensor] = {}


def time_phases(h: Tensor, dim: int, frames: Sequence[int] | None = None) -> Tensor:
    """[T, 2 (dim // 2)] float32 for h [N, T, H], on its device: column 2 k is cos(f_k t), column 2 k + 1 sin(f_k t).

    dim: width of the sinusoids, whose frequencies f_k `geotdm_fast.reference.sinusoid` has
    frames: ascending numbers t, counted from the first of them; None: 0 .. T-1
    Angles are float64 and their cosines rounded once.
    """
    if frames is None:
        return _table(h, h.shape[1], dim)[: h.shape[1]]
    table = _table(h, frames[-1] - frames[0] + 1, dim)
    # Slices, not numbers from the host, which no CUDA graph could hold.
    starts = [i for i, t in enumerate(frames) if i == 0 or t != frames[i - 1] + 1]
    ends = [*starts[1:], len(frames)]
    return torch.cat([table[frames[a] - frames[0] :][: b - a] for a, b in zip(starts, ends, strict=True)])


def _table(h: Tensor, num_frames: int, dim: int) -> Tensor:
    """The phases of at least the frames 0 .. num_frames - 1."""
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
