"""DCD and XTC: bare positions, boxes and times, with the atoms in a `.pdb` of the same name."""

import contextlib
import errno
import pathlib
import struct
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.samples.molecules import Molecule
from geotdm_fast.samples.wrapping import lengths_and_angles, lower_triangular

# A DCD's header has the time between frames as float32 at this byte, in CHARMM's unit of time (ps): MDTraj writes 1.
_DCD_TIME, _AKMA = 44, 0.0488882129


def write_md(path: PathLike, molecules: Iterable[Molecule]) -> int:
    """Write `path` and its `.pdb` atomically, see `export_molecules`; returns the number of frames."""
    from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile

    is_dcd = pathlib.Path(path).suffix.lower() == ".dcd"
    first: Molecule | None = None
    count, turned = 0, 0
    with atomic_path(path) as aside:
        with (DCDTrajectoryFile if is_dcd else XTCTrajectoryFile)(str(aside), "w") as file:
            for molecule in molecules:
                if first is None:
                    first = molecule
                    _tell_first(path, molecule)
                _check_alike(path, molecule, first)
                molecule, is_turned = _as_md_has_it(molecule)
                turned += is_turned
                if molecule.graph == first.graph and molecule.sample == first.sample:
                    first = molecule
                with _writing():
                    if is_dcd:
                        file.write(molecule.positions.astype(np.float32, copy=False), **_dcd_box(molecule))
                    else:
                        file.write(**_xtc_frames(molecule, count))
                count += len(molecule.positions)
        first = cast(Molecule, first)  # samples are of a graph at least
        if turned:
            warnings.warn(
                f"{path}: this format has boxes whose first vector is along x and whose second is in the xy plane; "
                f"{turned} trajectories were turned so, positions with their boxes; .xyz holds them as they are",
                stacklevel=3,
            )
        # What the C library kept until it closed the file fails without a word.
        size = 12 * len(first.atomic_numbers) * count
        if is_dcd and aside.stat().st_size < size:
            raise OSError(errno.EIO, f"{aside.stat().st_size} bytes arrived of at least {size}")
        if not is_dcd:
            with _writing(), XTCTrajectoryFile(str(aside)) as file:
                if len(file) != count:
                    raise OSError(errno.EIO, f"{len(file)} frames arrived of {count}")
        elif first.frame_time is not None:
            with open(aside, "r+b") as header:
                _set_dcd_time(header, first.frame_time)
        _write_pdb(pathlib.Path(path).with_suffix(".pdb"), first)
    return count


def _tell_first(path: PathLike, molecule: Molecule) -> None:
    """Warn of what this format does not hold."""
    if molecule.positions.dtype == np.float64:
        warnings.warn(f"{path}: positions are far from 0, where float32 blurs them; use .xyz", stacklevel=4)
    if molecule.pbc is not None and not molecule.pbc.all():
        warnings.warn(
            f"{path}: this format has boxes that are periodic in all directions alone, and these are so in "
            f"{molecule.pbc.tolist()}: positions are written without a box; .xyz holds it",
            stacklevel=4,
        )


def _check_alike(path: PathLike, molecule: Molecule, first: Molecule) -> None:
    if not np.array_equal(molecule.atomic_numbers, first.atomic_numbers):
        raise ValueError(f"{path}: all graphs must be the same molecule, graph {molecule.graph} is another")
    if molecule.pbc is not None and first.pbc is not None and molecule.pbc.all() != first.pbc.all():
        raise ValueError(
            f"{path}: all graphs must be periodic in all directions or none of them, graph {molecule.graph} is so in "
            f"{molecule.pbc.tolist()}"
        )


def _as_md_has_it(molecule: Molecule) -> tuple[Molecule, bool]:
    """The molecule in a box as these formats have boxes, or without; and whether it was turned for that."""
    if molecule.cell is None or not cast(np.ndarray, molecule.pbc).all():
        return molecule._replace(cell=None), False
    positions, cell, turned = lower_triangular(molecule.positions, molecule.cell)
    return molecule._replace(positions=positions, cell=cell), turned


def _dcd_box(molecule: Molecule) -> dict[str, np.ndarray]:
    if molecule.cell is None:
        return {}
    lengths, angles = lengths_and_angles(molecule.cell)
    return {"cell_lengths": lengths.astype(np.float32), "cell_angles": angles.astype(np.float32)}


def _xtc_frames(molecule: Molecule, count: int) -> dict[str, Any]:
    step = np.arange(count, count + len(molecule.positions))
    time = step if molecule.frame_time is None else step * molecule.frame_time
    box = {} if molecule.cell is None else {"box": molecule.cell / np.float32(10)}
    nm = molecule.positions.astype(np.float32, copy=False) / np.float32(10)
    return {"xyz": nm, "time": time.astype(np.float32), "step": step.astype(np.int32), **box}


def _set_dcd_time(file: BinaryIO, frame_time: float) -> None:
    """Write the time between frames into the header of a DCD file that has 1 there."""
    file.seek(_DCD_TIME)
    written = file.read(4)
    for order in "<>":
        if written == struct.pack(f"{order}f", 1.0):
            file.seek(_DCD_TIME)
            file.write(struct.pack(f"{order}f", frame_time / _AKMA))


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """MDTraj says RuntimeError, for DCD by mistake TypeError, when the system refuses a write; AssertionError when it
    reads an XTC file that was cut short."""
    try:
        yield
    except (RuntimeError, TypeError, AssertionError) as error:
        raise OSError(errno.EIO, f"MDTraj could not write: {error}") from error


def _write_pdb(path: pathlib.Path, molecule: Molecule) -> None:
    """The atoms and the first frame, with its box."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for i, number in enumerate(molecule.atomic_numbers.tolist()):
        element = mdtraj.element.Element.getByAtomicNumber(number)
        topology.add_atom(f"{element.symbol}{i + 1}", element, residue)
    frame = mdtraj.Trajectory(molecule.positions[:1] / 10, topology)
    if molecule.cell is not None:
        lengths, frame.unitcell_angles = lengths_and_angles(molecule.cell[:1])
        frame.unitcell_lengths = lengths / 10
    with atomic_path(path) as aside:
        frame.save_pdb(str(aside))
