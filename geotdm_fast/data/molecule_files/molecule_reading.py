"""From a file to the atoms that are kept and their motion."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from geotdm_fast.data.checks import check_indices
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule import renumbered_bonds
from geotdm_fast.data.molecule_files.boxes import touching_radii
from geotdm_fast.data.molecule_files.elements import elements_of
from geotdm_fast.data.molecule_files.molecule import Molecule
from geotdm_fast.data.molecule_files.motion import Motion
from geotdm_fast.data.molecule_files.opening import select
from geotdm_fast.data.molecule_files.plan import Plan, plan_frames
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.stretches import Stretches
from geotdm_fast.data.times import frame_time

_BEAD = 2.75  # the radius by which beads are of one molecule, where a box cuts it (angstrom)


class How(NamedTuple):
    """Which atoms and frames of a file are kept, and how: the arguments of `file_dataset` of these names.

    unwrap, box: whether atoms are followed through a periodic box, and whether the box goes with them
    """

    reader: str
    format: str | None
    selection: str | None
    with_h: bool
    elements: Sequence | Mapping | None
    types: str | Sequence[str]
    unwrap: bool
    box: bool
    remove_drift: bool
    frames: Sequence[int | None] | str | None
    every: int | None
    split: str | None
    split_ratio: Sequence[float]
    bonds: ArrayLike | None
    unit: str | None


class Read(NamedTuple):
    """motion: read when asked for its blocks; even: its stretches, where the file's times tell them; unit: of length;
    frame_time: between two frames; plan: which frames of the file."""

    molecule: Molecule
    motion: Motion
    even: Stretches | None
    unit: str
    frame_time: float | None
    plan: Plan


def read_molecule(
    where: str,
    path: pathlib.Path,
    topology: pathlib.Path | None,
    how: How,
    span: int,
    opened: OpenFile,
    progress: bool,
) -> Read:
    """Open a file and look through it; the frames are read later. Raises and warns as `file_dataset` does."""
    reading = opened.molecules(where, path, topology, how.reader, how.format, how.unwrap)
    if reading.reduced and how.unit is None:
        raise ValueError(f"{where}: lengths are in reduced units; unit must name the unit of length, got none")
    atoms, source = reading.atoms, reading.source
    chosen, numbers = select(where, atoms, how.selection), None
    if how.types == "element":
        numbers = elements_of(where, atoms, chosen, how.elements, reading.per_type)
        chosen = chosen if how.with_h else chosen[numbers[chosen] > 1]
    if len(chosen) == 0:
        left = f"selection={how.selection!r} and with_h={how.with_h}"
        raise ValueError(f"{where} must have atoms left after {left}, got none")
    plan = plan_frames(where, source, how.frames, how.every, how.split, how.split_ratio, span)
    motion = Motion(where, reading, chosen, plan, how.unwrap, how.box, progress)
    pairs = None
    if how.bonds is not None or atoms.bonds is not None:
        said = atoms.bonds if how.bonds is None else np.asarray(how.bonds)
        pairs = renumbered_bonds(where, cast(np.ndarray, said), chosen, len(atoms.names))
    everywhere = atoms.bonds
    if how.bonds is not None:
        everywhere = check_indices(where, "bonds", how.bonds, "M, 2", len(atoms.names))
    if numbers is not None:
        motion.make_whole(everywhere, touching_radii(numbers))
    else:
        motion.make_whole(everywhere, np.full(len(atoms.names), _BEAD) if everywhere is None else None)
    z = None if numbers is None else numbers[chosen]
    names = [atoms.names[i] for i in chosen] if numbers is None else None
    molecule = Molecule(motion.first, z, names, pairs, how.bonds is not None)
    # Frames that are equally far apart in time: what stands still is no frame that was written twice.
    even = plan.stretches if plan.timed else None
    step = frame_slice(where, how.frames, how.every, source.num_frames).step
    unit = "angstrom" if how.unit is None else how.unit
    return Read(molecule, motion, even, unit, frame_time(source.times, step), plan)
