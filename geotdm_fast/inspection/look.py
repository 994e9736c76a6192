"""Which kind of file this is, and who looks into it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from geotdm_fast.data.cache.folder import caches_in
from geotdm_fast.data.chemistry.names import MOLECULE_SUFFIXES
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.inspection.archives import arrays_in, inspect_samples, positions_in
from geotdm_fast.inspection.caches import inspect_caches
from geotdm_fast.inspection.conformers import inspect_conformers
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.inspection.molecules import box_and_times
from geotdm_fast.inspection.trajectories import inspect_trajectories
from geotdm_fast.runtime.files import PathLike

_RECORDINGS = (".txt", ".csv", ".tsv")
_OTHERS = {
    ".safetensors": "a checkpoint: `geotdm sample` and `geotdm evaluate` take it",
    ".pt": "an official checkpoint: `geotdm sample` takes it with --config",
    ".pth": "an official checkpoint: `geotdm sample` takes it with --config",
    ".yaml": "a configuration: `geotdm train` takes it",
    ".yml": "a configuration: `geotdm train` takes it",
    ".jsonl": "the log of a training: `geotdm plot` draws it",
}


def inspect_file(path: PathLike, topology: PathLike | None = None, keys: Mapping | None = None) -> Findings:
    """What is in a file of data, in a file or a folder of samples, or in a folder of caches.

    topology: the file that names the atoms of a trajectory of bare positions
    keys: further keys of the data section (selection, elements, unit, ...); `geotdm train --keys` lists them
    Raises FileNotFoundError, ValueError for a file of another kind and for data that cannot be opened; the message says
    which key would help. What is known all the same is in the attribute `findings` of the error.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise ValueError(f"{path} must be a file of data, got {_OTHERS[suffix]}")
    if path.is_dir():
        return inspect_caches(path) if caches_in(path) else inspect_samples(path)
    kind = "npz" if suffix == ".npz" else "pedestrian" if suffix in _RECORDINGS else "file"
    is_of_conformers = suffix in MOLECULE_SUFFIXES or (keys or {}).get("kind") == "conformers"
    kind = "conformers" if is_of_conformers else kind
    if topology is not None and kind != "file":
        raise ValueError(f"--topology goes with a file of molecules (.xtc, .dcd, .pdb, ...), got {path}")
    if kind == "conformers":
        return inspect_conformers({"kind": kind, "path": path.as_posix()} | dict(keys or {}))
    where = "recordings" if kind == "pedestrian" else "path"
    section: dict[str, Any] = {"kind": kind, where: [path.as_posix()] if kind == "pedestrian" else path.as_posix()}
    if topology is not None:
        section["topology"] = pathlib.Path(topology).as_posix()
    section |= keys or {}
    found = Findings()
    found.add("kind", f"{section['kind']}, by the suffix" if not keys or "kind" not in keys else section["kind"])
    span = 1
    try:
        if kind == "npz":
            arrays = arrays_in(path)
            if "format" in arrays and "samples" in arrays:
                return inspect_samples(path)
            found.add("arrays", ", ".join(f"{name} {list(shape)} {dtype}" for name, (shape, dtype) in arrays.items()))
            span = positions_in(arrays, path, found)
        with OpenFile() as file:
            if kind == "file":
                box_and_times(section, found, file)
            inspect_trajectories(section, found, span, file)
    except ValueError as error:
        error.findings = found  # type: ignore[attr-defined]  # for whoever shows the error
        raise
    return found
