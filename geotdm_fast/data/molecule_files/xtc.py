"""The header of a frame of an XTC, held to what it can be before anybody decompresses the frame.

Source of the layout: the XDR library xdrfile; all numbers are big-endian and fill multiples of four bytes.
"""

import struct
from typing import BinaryIO, NamedTuple

import numpy as np

# Before the block: magic, atoms, step, time, box (9); atoms once more.
_HEADER = struct.Struct(">3if9fi")
# Of a block of more than nine atoms: precision, least and largest (3 each), smallidx; its bytes follow as a number.
_BLOCK = struct.Struct(">f6ii")
_BYTES = {1995: struct.Struct(">i"), 2023: struct.Struct(">q")}
_UNCOMPRESSED = 9
# Indices of xdrfile's table of small ranges that stand for one.
_SMALL = range(9, 73)


class XtcHeader(NamedTuple):
    """num_atoms; time (ps); length: the bytes of the whole frame."""

    num_atoms: int
    time: np.float32
    length: int


def read_xtc_header(file: BinaryIO) -> XtcHeader | None:
    """Of the frame that begins here, None where none does. Raises struct.error at the end of the file, ValueError for
    numbers that no frame has, saying what was expected and what came."""
    magic, atoms, _, time, *_, again = _HEADER.unpack(file.read(_HEADER.size))
    if magic not in _BYTES:
        return None
    if atoms < 1 or atoms != again:
        raise ValueError(f"atoms must be one or more, twice the same, got {atoms} and {again}")
    if atoms <= _UNCOMPRESSED:
        return XtcHeader(atoms, np.float32(time), _HEADER.size + 12 * atoms)
    precision, *limits, small = _BLOCK.unpack(file.read(_BLOCK.size))
    (length,) = _BYTES[magic].unpack(file.read(_BYTES[magic].size))
    least, largest = limits[:3], limits[3:]
    if not 0 < precision < float("inf"):
        raise ValueError(f"precision must be a positive number, got {precision}")
    if any(a > b or b - a >= 2**31 for a, b in zip(least, largest, strict=True)):
        raise ValueError(f"positions must be in ranges, got from {least} to {largest}")
    if small not in _SMALL:
        raise ValueError(f"smallidx must be in {_SMALL.start}..{_SMALL.stop - 1}, got {small}")
    # An atom takes 3 x 32 bits and a few more at most.
    if not 0 < length <= 16 * atoms + 16:
        raise ValueError(f"the positions of {atoms} atoms must take 1..{16 * atoms + 16} bytes, got {length}")
    inside = _HEADER.size + _BLOCK.size + _BYTES[magic].size
    return XtcHeader(atoms, np.float32(time), inside + (length + 3) // 4 * 4)
