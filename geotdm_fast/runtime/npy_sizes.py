"""The size of an array on disk, compared with its header before numpy allocates what the header says."""

import math
import os
from typing import IO

import numpy as np

from geotdm_fast.runtime.shown import plain


def check_npy_size(path: str | os.PathLike) -> None:
    """ValueError where an `.npy` file is not as long as its header says; other files are passed over."""
    with open(path, "rb") as file:
        _check_size(file, os.fstat(file.fileno()).st_size)


def check_member_size(archive: np.lib.npyio.NpzFile, name: str) -> None:
    """ValueError where the array `name` of an `.npz` is not as long as its header says."""
    members = archive.zip
    if members is None:  # closed
        raise ValueError("the archive must be open, got a closed one")
    for member in {name, f"{name}.npy"} & set(members.namelist()):
        with members.open(member) as file:
            _check_size(file, members.getinfo(member).file_size)


def _check_size(file: IO[bytes], size: int) -> None:
    """ValueError where the array in the `size` bytes of `file` has another size: numpy would allocate it first."""
    magic = np.lib.format.MAGIC_PREFIX
    start = file.read(len(magic) + 2)
    if len(start) < len(magic) + 2 or not start.startswith(magic):
        return
    version = start[len(magic)]
    if version not in (1, 2):
        raise ValueError(f"its header must be of version 1 or 2, got {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    header = file.tell()
    if not dtype.hasobject and header + dtype.itemsize * math.prod(shape) != size:
        raise ValueError(f"its header says {plain(dtype)} {plain(list(shape))}, which is not the size of what follows")
