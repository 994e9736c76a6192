"""What must hold of the frames of an XTC before they are decompressed: MDTraj reads and writes beyond its memory else.

Seen with MDTraj 1.11.1: a frame whose `smallidx`, counts of atoms or ranges are damaged ends the process.
Source of the layout: the XDR library xdrfile; all numbers are big-endian and fill multiples of four bytes.
"""

import pathlib
import struct

# Before the block: magic, atoms, step, time, box (9); atoms once more.
_HEADER = struct.Struct(">3if9fi")
# Of a block of more than nine atoms: precision, least and largest (3 each), smallidx; its bytes follow as a number.
_BLOCK = struct.Struct(">f6ii")
_BYTES = {1995: struct.Struct(">i"), 2023: struct.Struct(">q")}
_UNCOMPRESSED = 9
# Indices of xdrfile's table of small ranges that stand for one.
_SMALL = range(9, 73)


def check_xtc(path: pathlib.Path) -> None:
    """ValueError naming the frame, what was expected and what came, unless the headers of all frames can be right."""
    size, atoms, number = path.stat().st_size, None, 0
    with open(path, "rb") as file:
        while file.tell() < size:
            try:
                atoms, length = _frame(file, atoms)
            except struct.error:
                raise ValueError(f"{path} must hold whole frames, got an end within frame {number}") from None
            except ValueError as error:
                raise ValueError(f"{path}: frame {number}: {error}") from None
            file.seek(length, 1)
            if file.tell() > size:
                raise ValueError(f"{path} must hold whole frames, got an end within frame {number}")
            number += 1


def _frame(file, atoms: int | None) -> tuple[int, int]:
    """The atoms of the frame that begins here, and the bytes of its positions, which come next."""
    magic, came, _, _, *_, again = _HEADER.unpack(file.read(_HEADER.size))
    if magic not in _BYTES:
        raise ValueError(f"an XTC's frame begins with {' or '.join(map(str, _BYTES))}, got {magic}")
    if came < 1 or came != again or atoms not in (None, came):
        expected = "one or more" if atoms is None else atoms
        raise ValueError(f"atoms must be {expected}, twice the same, got {came} and {again}")
    if came <= _UNCOMPRESSED:
        return came, 12 * came
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
    if not 0 < length <= 16 * came + 16:
        raise ValueError(f"the positions of {came} atoms must take 1..{16 * came + 16} bytes, got {length}")
    return came, (length + 3) // 4 * 4
