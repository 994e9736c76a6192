"""The headers of GROMACS' XTC and TRR files: how many frames there are, their times, which hold positions.

Source: the XDR library xdrfile; all numbers are big-endian and fill multiples of four bytes.
"""

import array
import os
import pathlib
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.xtc import read_xtc_header

_TRR_MAGIC = 1993
_TRR_TEXT = 12


class Headers(NamedTuple):
    """times [F] (ps), in the precision of the file; has_positions [F] bool; num_atoms."""

    times: np.ndarray
    has_positions: np.ndarray
    num_atoms: int


def read_headers(path: pathlib.Path, kind: str) -> Headers:
    """The headers of all frames of an `xtc` or `trr`; ValueError for another or a broken file."""
    read = {"xtc": _xtc_frame, "trr": _trr_frame}[kind]
    # Nine bytes a frame: a file of 100 GB may have tens of millions. A float64 holds every float32.
    times, present = array.array("d"), bytearray()
    dtype: np.dtype | None = None
    atoms: int | None = None
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        while (start := file.tell()) < size:
            try:
                num_atoms, time, has_positions, length = read(file)
            except struct.error as error:
                raise ValueError(f"{path} must hold whole frames, got an end within frame {len(times)}") from error
            except ValueError as error:
                raise ValueError(f"{path}: frame {len(times)}: {error}") from error
            if num_atoms is None:
                raise ValueError(f"{path} must be a file of format {kind}, got other bytes at byte {start}")
            if atoms not in (None, num_atoms):
                raise ValueError(f"{path} must have {atoms} atoms in every frame, got {num_atoms} in {len(times)}")
            if num_atoms < 0 or length <= 0 or start + length > size:
                raise ValueError(f"{path} must hold whole frames, got an end within frame {len(times)}")
            atoms, dtype = num_atoms, time.dtype
            times.append(time)
            present.append(has_positions)
            file.seek(start + length)
    return Headers(np.array(times, dtype), np.array(present, bool), atoms or 0)


def _numbers(file: BinaryIO, code: str) -> tuple:
    return struct.unpack(f">{code}", file.read(struct.calcsize(f">{code}")))


def _trr_frame(file: BinaryIO) -> tuple:
    """num_atoms, time, whether it has positions, the bytes of the frame."""
    magic, _, text = _numbers(file, "3i")
    if magic != _TRR_MAGIC or text != _TRR_TEXT:
        return None, 0, False, 0
    file.read(_TRR_TEXT)
    sizes = _numbers(file, "10i")  # ir, e, box, vir, pres, top, sym, x, v, f
    num_atoms, _, _ = _numbers(file, "3i")  # atoms, step, nre
    box, x, v, f = sizes[2], *sizes[7:]
    vectors = {0, 12 * num_atoms, 24 * num_atoms}
    if box not in (0, 36, 72) or not {x, v, f} <= vectors or any(sizes[:2]) or any(sizes[3:7]):
        return None, 0, False, 0
    longest = max((box // 9, *(part // (3 * num_atoms) for part in (x, v, f))) if num_atoms else (4,))
    (time, _) = _numbers(file, "2d" if longest == 8 else "2f")
    header = 3 * 4 + _TRR_TEXT + 13 * 4 + (16 if longest == 8 else 8)
    return num_atoms, np.float64(time) if longest == 8 else np.float32(time), x > 0, header + sum(sizes)


def _xtc_frame(file: BinaryIO) -> tuple:
    """num_atoms, time, True, the bytes of the frame."""
    header = read_xtc_header(file)
    return (None, 0, False, 0) if header is None else (header.num_atoms, header.time, True, header.length)
