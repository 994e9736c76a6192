"""Files of text, plain or compressed, whose frames begin at known places."""

import bz2
import gzip
import lzma
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

_COMPRESSED: dict[str, Callable[[pathlib.Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def open_text(path: pathlib.Path) -> BinaryIO:
    """The bytes of a file, decompressed where its name ends in .gz, .bz2 or .xz."""
    return _COMPRESSED.get(path.suffix.lower(), open)(path, "rb")


def shown(text: bytes, length: int = 60) -> str:
    """A line of a file as it may stand in a message."""
    line = repr(text.decode("utf-8", "replace").rstrip("\r\n"))
    return line if len(line) <= length else line[:length] + "...'"
