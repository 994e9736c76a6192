"""DCD and XTC: bare positions, boxes and times, with the atoms in a `.pdb` of the same name."""

import contextlib
import errno
import pathlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.samples.atoms import UNNAMED, AtomTable
from geotdm_fast.samples.md_boxes import in_md_boxes
from geotdm_fast.samples.md_topology import md_topology
from geotdm_fast.samples.molecules import Molecule
from geotdm_fast.samples.wrapping import lengths_and_angles

# A DCD's header has the time between frames as float32 at this byte, in CHARMM's unit of time (ps): MDTraj writes 1.
_DCD_TIME, _AKMA = 44, 0.0488882129


def write_md(path: PathLike, molecules: Iterable[Molecule]) -> int:
    """Write `path` and its `.pdb` atomically, see `export_molecules`; returns the number of frames."""
    from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile

    is_dcd = pathlib.Path(path).suffix.lower() == ".dcd"
    first: Molecule | None = None
    count = 0
    with atomic_path(path) as aside:
        with (DCDTrajectoryFile if is_dcd else XTCTrajectoryFile)(str(aside), "w") as file:
            for molecule in in_md_boxes(path, molecules, "this format"):
                first = first or molecule
                with _writing():
                    if is_dcd:
                        file.write(molecule.positions.astype(np.float32, copy=False), **_dcd_box(molecule))
                    else:
                        file.write(**_xtc_frames(molecule, count))
                count += len(molecule.positions)
        first = cast(Molecule, first)  # samples are of a graph at least
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

    numbers = molecule.atomic_numbers
    names = [f"{SYMBOLS[number]}{i + 1}" for i, number in enumerate(numbers.tolist())]
    one_residue = AtomTable(numbers, names, [UNNAMED], np.zeros(len(names), np.int64), np.zeros((0, 2), np.int64))
    frame = mdtraj.Trajectory(molecule.positions[:1] / 10, md_topology(one_residue))
    if molecule.cell is not None:
        lengths, frame.unitcell_angles = lengths_and_angles(molecule.cell[:1])
        frame.unitcell_lengths = lengths / 10
    with atomic_path(path) as aside:
        frame.save_pdb(str(aside))
