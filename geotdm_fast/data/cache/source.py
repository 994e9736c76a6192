"""What a cache is made of: the files, and how they are read. Its digest is the name of the cache's folder."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from geotdm_fast.runtime.sampled_digest import sampled_sha256

# Another number where the same file would be cached otherwise: caches of before are not found then.
VERSION = 1


def describe_source(path: pathlib.Path, topology: pathlib.Path | None, how: Mapping[str, object]) -> dict:
    """The description of a cache: which bytes are read, and how.

    Of a file: its size, the time of its last change and `sampled_sha256`; not its path, so that a file that is moved
    keeps its cache.
    how: the arguments of `file_dataset` that decide which positions are kept, and how they are changed
    """
    files = {"path": path} if topology is None else {"path": path, "topology": topology}
    about = {name: _file(file) for name, file in files.items()}
    return {"version": VERSION, "files": about, "how": {name: plain_value(value) for name, value in how.items()}}


def _file(path: pathlib.Path) -> dict:
    status = os.stat(path)
    if path.is_dir():
        raise ValueError(f"cache: {path} must be a file, got a folder")
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns, "sha256": sampled_sha256(path)}


def key_of(source: Mapping) -> str:
    """The name of a cache: 24 digits of the SHA-256 of its description."""
    text = json.dumps(source, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def plain_value(value: object) -> object:
    """A setting as JSON has it; the same for the same setting, whatever the order of a mapping."""
    if isinstance(value, Mapping):
        return sorted([repr(key), plain_value(own)] for key, own in value.items())
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_value(own) for own in value]
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return value.item()
    return value if value is None or isinstance(value, (str, bool, int, float)) else repr(value)
