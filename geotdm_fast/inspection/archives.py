"""What an `.npz` says of itself."""

import pathlib
import zipfile

import numpy as np

from geotdm_fast.data.molecule_files.elements import formula
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.inspection.times import times_in_words
from geotdm_fast.runtime.files import UNREADABLE, PathLike, read_npz

Headers = dict[str, tuple[tuple[int, ...], np.dtype]]
_TIMES = ("time", "times", "step", "steps")


def arrays_in(path: PathLike) -> Headers:
    """The shape and dtype of every array of an `.npz`, from the headers alone; nothing else is read.

    Raises FileNotFoundError, ValueError for a file that is no archive of arrays.
    """
    path = pathlib.Path(path)
    if not path.is_file() or not zipfile.is_zipfile(path):
        read_npz(path)  # says what is wrong
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _header(archive, name) for name in archive.namelist()}
    except UNREADABLE as error:
        raise ValueError(f"{path} must be an .npz archive of plain arrays, got a damaged one ({error})") from error


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(name) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        shape, _, dtype = (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(file)
        return shape, dtype


def positions_in(arrays: Headers, path: PathLike, found: Findings) -> int | None:
    """Note times, and where elements come from, of an archive; 1 if it holds one trajectory, None for many."""
    found.add("elements", "z of the file" if "z" in arrays else "none: there is no array z, so these are no molecules")
    name = next((name for name in _TIMES if name in arrays), None)
    if name is None:
        found.add("times", "unknown: there is no array " + ", ".join(_TIMES[:-1]) + f" or {_TIMES[-1]}")
    elif arrays[name][1].kind in "fiu" and len(arrays[name][0]) == 1:
        with np.load(path, allow_pickle=False) as archive:
            found.add("times", times_in_words(archive[name], name))
    else:
        found.add("times", f"{name} {list(arrays[name][0])}")
    found.add("box", _box_in(arrays, path))
    return None if any(len(arrays[name][0]) == 4 for name in ("x", "R") if name in arrays) else 1


def _box_in(arrays: Headers, path: PathLike) -> str:
    """The lengths of the first frame's box, in the unit of the positions; its shape where it is none."""
    if "cell" not in arrays:
        return "none: there is no array cell"
    shape, dtype = arrays["cell"]
    if dtype.kind not in "fiu" or shape[-2:] != (3, 3) or 0 in shape:
        return f"cell {list(shape)}"
    first = read_npz(path, only=("cell",))["cell"].reshape(-1, 3, 3)[0]
    lengths = " x ".join(f"{length:.4g}" for length in np.linalg.norm(first, axis=1))
    return f"{lengths} in the unit of the positions" + (f", of {shape[-3]} frames" if len(shape) > 2 else "")


def inspect_samples(path: PathLike) -> Findings:
    """A file or a folder of `geotdm sample`."""
    from geotdm_fast.samples.npz import read_samples

    samples, found = read_samples(path), Findings()
    found.add("kind", f"samples of `geotdm sample` ({samples.mode}), drawn by {samples.checkpoint} for {samples.name}")
    found.add("samples", f"{samples.num_samples} of each of {samples.num_graphs} graphs, seed {samples.seed}")
    given, drawn = int(samples.cond_mask.sum()), samples.samples.shape[-1]
    found.add("frames", f"{given} given and {drawn} drawn")
    if samples.target.shape[-1] == 0:
        found.add("truth", "none: the future of the given frames is unknown")
    found.add("nodes", f"{len(samples.batch)} in all, in {samples.samples.shape[2]} dimensions")
    if samples.is_molecule:
        found.add("elements", formula(samples.atomic_numbers[samples.nodes(0)].tolist()) + " (the first graph)")
    found.add("unit", samples.unit or "not said")
    cell = samples.truth_cell()
    if cell is not None:
        lengths = " x ".join(f"{length:.4g}" for length in np.linalg.norm(cell[0, 0], axis=1))
        found.add("box", f"{lengths} (the first graph)" + (", changes with the frames" if cell.shape[1] > 1 else ""))
    broken = int((~np.isfinite(samples.samples)).any(axis=(1, 2, 3)).sum())
    found.add(
        "finite", "all of them" if not broken else f"no: {broken} of {samples.num_samples} samples hold NaN or Inf"
    )
    found.add("next", "`geotdm evaluate` scores them, `geotdm plot` draws them")
    return found
