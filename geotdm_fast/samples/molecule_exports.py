"""Samples of molecules in the formats of chemistry: extended XYZ, DCD and XTC, with their boxes and times."""

import pathlib
from collections.abc import Iterable

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.packages import require_package
from geotdm_fast.runtime.shown import shown
from geotdm_fast.samples.ase_frames import ase_frames
from geotdm_fast.samples.manifest import read_manifest
from geotdm_fast.samples.md_files import write_md
from geotdm_fast.samples.molecules import Molecule, molecules
from geotdm_fast.samples.record import Samples
from geotdm_fast.samples.wrapping import WRAPS

XYZ_SUFFIXES = (".xyz", ".extxyz")
# DCD and XTC are written by MDTraj: its files are written frame by frame without a topology, it needs only NumPy and
# SciPy, and its wheels exist for every Python here. ASE writes neither; MDAnalysis brings ten packages more.
MD_SUFFIXES = (".dcd", ".xtc")


def check_export(path: PathLike) -> None:
    """ValueError for a suffix that is none of ours, ImportError that says what to install where the package is missing
    that writes files of it."""
    suffix, known = pathlib.Path(path).suffix.lower(), (*XYZ_SUFFIXES, *MD_SUFFIXES)
    if suffix not in known:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(known)}, got {shown(suffix)}")
    is_xyz = suffix in XYZ_SUFFIXES
    require_package(path, *(("ase", "molecules") if is_xyz else ("mdtraj", "md")))


def export_molecules(path: PathLike, source: Samples | PathLike, progress: bool = True, wrap: str = "no") -> int:
    """Write molecules atomically, graph by graph, sample by sample, frame by frame; returns the number of frames.

    path: its suffix says the format
        .xyz, .extxyz: extended XYZ (angstrom); each comment line carries `graph`, `sample`, `frame` and `given` (T:
            from the data, F: drawn), `time` where the time between frames is known, and the box where there is one
        .dcd, .xtc: bare positions of a molecule that is the same in all graphs, with its atoms in a `.pdb` of the same
            name; XTC rounds to 0.01 angstrom from 10 atoms on. The first vector of a box is along x and the second in
            the xy plane there: other boxes are turned so, and positions with them, which a warning says. A box that is
            not periodic in all directions is left out with a warning
    source: samples, or a finished folder of shards, one of which is in memory at a time
    wrap: atoms - every atom is put into its box; molecules - every molecule whose centre is outside, as a whole; see
        `wrapping.wrapped`. no: as they are

    Frames that were drawn have the box of the last given frame before them, see `Samples.forecast_cell`. Times go on
    from one trajectory to the next; without the time between frames XTC counts frames.
    Raises ValueError for another suffix, when these are no molecules in three dimensions, for positions that are not
    finite or beyond what XTC can hold, whatever the format, for `wrap` without a box, and for a
    source that is a file; FileNotFoundError for a folder without samples, ImportError without ASE
    (extra `molecules`) or MDTraj (extra `md`), OSError when the file cannot be written.
    """
    from geotdm_fast.runtime.bars import progress_bar

    check_choice(f"{path}: wrap", wrap, WRAPS)
    check_export(path)
    if not isinstance(source, Samples):
        read_manifest(pathlib.Path(source))  # before the file is begun, whose errors are told as errors of writing
    suffix = pathlib.Path(path).suffix.lower()
    each = progress_bar(
        molecules(path, source, wrap), desc=f"writing {suffix[1:]}", unit=" trajectories", disable=not progress
    )
    return _write_xyz(path, each) if suffix in XYZ_SUFFIXES else write_md(path, each)


def _write_xyz(path: PathLike, molecules: Iterable[Molecule]) -> int:
    from ase.io import write

    count = 0
    with atomic_path(path) as aside, open(aside, "w") as file:
        for molecule in molecules:
            frames = ase_frames(molecule, count)
            write(file, frames, format="extxyz")
            count += len(frames)
    return count
