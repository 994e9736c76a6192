"""A digest of a file of any size in a moment: its size and pieces spread over it."""

import hashlib
import os
import pathlib

PIECE_BYTES = 2**16
PIECES = 64


def sampled_sha256(path: pathlib.Path) -> str:
    """SHA-256 of the size of a file and of 64 pieces of 64 KiB, evenly spaced from its first byte to its last.

    A file of 4 MiB or less is read whole. Of a larger one a change between the pieces is not seen: reading 100 GB takes
    minutes, this takes milliseconds. Raises FileNotFoundError and OSError as `open` does.
    """
    size = os.path.getsize(path)
    sha = hashlib.sha256(f"{size} ".encode())
    with open(path, "rb") as file:
        if size <= PIECES * PIECE_BYTES:
            sha.update(file.read())
        else:
            for piece in range(PIECES):
                file.seek(piece * (size - PIECE_BYTES) // (PIECES - 1))
                sha.update(file.read(PIECE_BYTES))
    return sha.hexdigest()
