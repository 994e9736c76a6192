"""Single arrays on disk, read without executing anything."""

import pathlib

import numpy as np

from geotdm_fast.files import PathLike


def read_npy(path: PathLike) -> np.ndarray:
    """The array of an `.npy` file; pickled objects are refused. Raises FileNotFoundError, or ValueError naming it."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be an .npy file of plain numbers, got an unreadable file ({error})") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be an .npy file of one array, got an archive")
    return array
