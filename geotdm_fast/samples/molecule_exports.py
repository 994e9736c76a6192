"""Samples of molecules in the formats of chemistry: extended XYZ, DCD and XTC."""

import contextlib
import errno
import importlib.util
import pathlib
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np

from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.samples.blocks import Block
from geotdm_fast.samples.record import Samples
from geotdm_fast.samples.shards import Shard, iterate_shards

XYZ_SUFFIXES = (".xyz", ".extxyz")
# DCD and XTC are written by MDTraj: its files are written frame by frame without a topology, it needs only NumPy and
# SciPy, and its wheels exist for every Python here. ASE writes neither; MDAnalysis brings ten packages more.
MD_SUFFIXES = (".dcd", ".xtc")
# XTC holds no more than 2147483.75 nm, and MDTraj writes that for NaN and for what is more without a word.
_TOO_FAR = 2.1e7
_PACKAGES = {"ase": ("ASE", "molecules"), "mdtraj": ("MDTraj", "md")}


class Molecule(NamedTuple):
    """One trajectory of one molecule.

    graph, sample: which; atomic_numbers: [N]; given: [T] bool - the frames from the data
    positions: [T, N, 3] float32, far from 0 float64 (angstrom)
    """

    graph: int
    sample: int
    atomic_numbers: np.ndarray
    given: np.ndarray
    positions: np.ndarray


def check_export(path: PathLike) -> None:
    """ImportError that says what to install where the package is missing that writes files of this suffix."""
    package = "ase" if pathlib.Path(path).suffix.lower() in XYZ_SUFFIXES else "mdtraj"
    name, extra = _PACKAGES[package]
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{path}: {name} is needed to write this format; pip install 'geotdm-fast[{extra}]'")


def export_molecules(path: PathLike, source: Samples | PathLike, progress: bool = True) -> int:
    """Write molecules atomically, graph by graph, sample by sample, frame by frame; returns the number of frames.

    path: its suffix says the format
        .xyz, .extxyz: extended XYZ (angstrom); each comment line carries `graph`, `sample`, `frame` and `given` (T:
            from the data, F: drawn)
        .dcd, .xtc: bare positions of a molecule that is the same in all graphs, with its atoms in a `.pdb` of the same
            name; XTC rounds to 0.01 angstrom from 10 atoms on
    source: samples, or a finished folder of shards, one of which is in memory at a time

    Raises ValueError when these are no molecules in three dimensions, and for positions that are not finite or beyond
    what XTC can hold, whatever the format; ImportError without ASE (extra `molecules`) or MDTraj (extra `md`), OSError
    when the file cannot be written.
    """
    from geotdm_fast.runtime.bars import progress_bar

    check_export(path)
    suffix = pathlib.Path(path).suffix.lower()
    molecules = progress_bar(
        _molecules(path, source), desc=f"writing {suffix[1:]}", unit=" trajectories", disable=not progress
    )
    return _write_xyz(path, molecules) if suffix in XYZ_SUFFIXES else _write_md(path, molecules)


def _molecules(path: PathLike, source: Samples | PathLike) -> Iterator[Molecule]:
    shards: Iterable[Shard]
    if isinstance(source, Samples):
        shards = [Shard(Block(range(source.num_graphs), range(source.num_samples)), source)]
    else:
        shards = iterate_shards(source)
    for block, samples in shards:
        if not samples.is_molecule or samples.samples.shape[2] != 3:
            raise ValueError(f"{path}: samples must be molecules in three dimensions, got '{samples.name}' (use .npz)")
        forecasts = samples.forecasts()  # [K, N, 3, T]
        for g, graph in enumerate(block.graphs):
            nodes = samples.nodes(g)
            for k, sample in enumerate(block.samples):
                positions = np.ascontiguousarray(forecasts[k, nodes].transpose(2, 0, 1))
                _check_positions(path, positions, graph, sample)
                yield Molecule(graph, sample, samples.atomic_numbers[nodes], samples.cond_mask, positions)


def _check_positions(path: PathLike, positions: np.ndarray, graph: int, sample: int) -> None:
    held = np.abs(positions) < _TOO_FAR  # NaN is not
    if not held.all():
        frame, atom, axis = np.argwhere(~held)[0]
        raise ValueError(
            f"{path}: positions must be finite and below {_TOO_FAR:g} angstrom, got {positions[frame, atom, axis]:g} "
            f"for atom {atom} in frame {frame} of sample {sample} of graph {graph}"
        )


def _write_xyz(path: PathLike, molecules: Iterable[Molecule]) -> int:
    from ase import Atoms
    from ase.io import write

    count = 0
    with atomic_path(path) as aside, open(aside, "w") as file:
        for molecule in molecules:
            frames = []
            for t, positions in enumerate(molecule.positions):
                about = {
                    "graph": molecule.graph,
                    "sample": molecule.sample,
                    "frame": t,
                    "given": bool(molecule.given[t]),
                }
                frames.append(Atoms(molecule.atomic_numbers, positions, info=about))
            write(file, frames, format="extxyz")
            count += len(frames)
    return count


def _write_md(path: PathLike, molecules: Iterable[Molecule]) -> int:
    from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile

    is_dcd = pathlib.Path(path).suffix.lower() == ".dcd"
    first: Molecule | None = None
    count = 0
    with atomic_path(path) as aside:
        with (DCDTrajectoryFile if is_dcd else XTCTrajectoryFile)(str(aside), "w") as file:
            for molecule in molecules:
                first = first or molecule
                if molecule is first and molecule.positions.dtype == np.float64:
                    warnings.warn(f"{path}: positions are far from 0, where float32 blurs them; use .xyz", stacklevel=3)
                if not np.array_equal(molecule.atomic_numbers, first.atomic_numbers):
                    raise ValueError(f"{path}: all graphs must be the same molecule, graph {molecule.graph} is another")
                step = np.arange(count, count + len(molecule.positions))
                positions = molecule.positions.astype(np.float32, copy=False)
                with _writing():
                    if is_dcd:
                        file.write(positions)
                    else:
                        nm = positions / np.float32(10)
                        file.write(nm, time=step.astype(np.float32), step=step.astype(np.int32))
                count += len(step)
        first = cast(Molecule, first)  # samples are of a graph at least
        # What the C library kept until it closed the file fails without a word.
        size = 12 * len(first.atomic_numbers) * count
        if is_dcd and aside.stat().st_size < size:
            raise OSError(errno.EIO, f"{aside.stat().st_size} bytes arrived of at least {size}")
        if not is_dcd:
            with _writing(), XTCTrajectoryFile(str(aside)) as file:
                if len(file) != count:
                    raise OSError(errno.EIO, f"{len(file)} frames arrived of {count}")
        _write_pdb(pathlib.Path(path).with_suffix(".pdb"), first)
    return count


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """MDTraj says RuntimeError, for DCD by mistake TypeError, when the system refuses a write; AssertionError when it
    reads an XTC file that was cut short."""
    try:
        yield
    except (RuntimeError, TypeError, AssertionError) as error:
        raise OSError(errno.EIO, f"MDTraj could not write: {error}") from error


def _write_pdb(path: pathlib.Path, molecule: Molecule) -> None:
    """The atoms and the first frame."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for i, number in enumerate(molecule.atomic_numbers.tolist()):
        element = mdtraj.element.Element.getByAtomicNumber(number)
        topology.add_atom(f"{element.symbol}{i + 1}", element, residue)
    with atomic_path(path) as aside:
        mdtraj.Trajectory(molecule.positions[:1] / 10, topology).save_pdb(str(aside))
