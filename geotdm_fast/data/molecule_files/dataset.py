"""Windows of a molecule's trajectory in any format that a reader knows."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from geotdm_fast.data.checks import check_auto, check_flag
from geotdm_fast.data.drift import check_drift
from geotdm_fast.data.given_graph import GivenGraph
from geotdm_fast.data.molecule_files.cached import CacheOf, cached_dataset, hint_at_cache
from geotdm_fast.data.molecule_files.formats import READERS
from geotdm_fast.data.molecule_files.molecule_reading import How, Read, read_molecule
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.own_windows import SPAN, OwnSource, Wanted, own_windows
from geotdm_fast.data.splits import SPLIT_RATIO
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike


def file_dataset(
    path: PathLike,
    topology: PathLike | None = None,
    split: str | None = None,
    *,
    reader: str = "auto",
    format: str | None = None,
    selection: str | None = None,
    with_h: bool = True,
    elements: Sequence | Mapping | None = None,
    types: str | Sequence[str] = "element",
    unwrap: str | bool = "auto",
    box: str | bool = "auto",
    remove_drift: bool = False,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    project: bool | str = False,
    cutoff: float | None = None,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str | None = None,
    unit: str | None = None,
    progress: bool = False,
    file: OpenFile | None = None,
    cache: PathLike | None = None,
) -> TrajectoryDataset:
    """Windows of a molecule's trajectory in any format that this package, ASE, MDTraj or MDAnalysis reads.

    Only the chosen atoms of the frames of the split are kept, in angstrom. The graph is that of the first frame.

    path: .xyz, .extxyz, LAMMPS dumps (.lammpstrj, .lammpsdump, .dump) and .pdb are read by this package, compressed
        too (.gz, .bz2, .xz); .traj, .xsf, XDATCAR, OUTCAR, vasprun.xml, .castep by ASE; all else by MDTraj or
        MDAnalysis, whichever is installed and knows the format
    topology: the file that names the atoms of a trajectory of bare positions (.dcd, .xtc, ...), or bonds and residues
        of another; read by MDTraj or MDAnalysis
    reader: ase, mdtraj or mdanalysis instead of the choice above
    format: the format of `path` by its usual suffix, where the name of the file does not say it
    selection: atoms to keep, in the selection language of MDTraj or MDAnalysis
    with_h: keep hydrogen atoms
    elements: symbols or atomic numbers of the atoms, where the file names none: one for each atom of the file (for a
        LAMMPS dump, of each type), or by the names or types that the file has, {CA: C, 1: O}
    types: element; or name, for coarse-grained beads without elements: features by their names, sorted; or the names
        themselves in the order of their features, for several files. Edges are then by bonds, within `cutoff`, or all
    unwrap: auto, where the file has a periodic box: atoms are followed from frame to frame by their nearest image, and
        molecules are made whole in the first frame; no: positions as they are stored
    box: auto, where the file has a periodic box: the windows have it as `cell` and `pbc`; no: they have none
    remove_drift: as in `array_dataset`, of the atoms that are kept
    frames: [start, stop] or [start, stop, step] of the frames to read, as a slice of Python; every: every n-th of them
    cutoff: as in `array_dataset`
    bonds: [M, 2] - pairs of atoms as numbered in the file, instead of the topology's or those by distance
    progress: show how many frames are read
    unit: the unit of length; by default angstrom, to be given where the file has reduced units
    file: what opens the file. Data sets that are made one after the other with the same, as those of train, val and
        test, open the file once, look through it once, and read on where the one before ended
    cache: a folder for plain arrays of what is kept: made when the file is first read so, and read a window at a time
        from then on, with the same numbers as without; see `geotdm_fast.data.cache`. None: everything is kept in memory
    The other arguments are as in `array_dataset`.
    Raises FileNotFoundError, ModuleNotFoundError naming the extra to install, ValueError for a file that cannot be
    read, whose frames differ in their atoms, whose times are mostly uneven, and for elements that nobody states.
    Warns of what was left out, mended or taken from names, and of gaps in time, which no window crosses (see
    `even_stretches`).
    """
    where = f"file_dataset: {path}"
    check_choice(f"{where}: reader", reader, READERS)
    with_h = check_flag(where, "with_h", with_h)
    follow, carry = check_auto(where, "unwrap", unwrap), check_auto(where, "box", box)
    _check_types(where, types)
    span = SPAN if span is None else span
    wanted = Wanted(None, span, stride, split_ratio, None, None, project, remove_drift).checked(where)
    check_drift(where, wanted.remove_drift, follow)
    for name_of_file in (path, topology):
        if name_of_file is not None and not pathlib.Path(name_of_file).exists():
            raise FileNotFoundError(f"file_dataset: {name_of_file}: no such file")
    path = pathlib.Path(path)
    if selection is not None and reader == "ase":
        raise ValueError(f"{where}: selection must be None for ASE, it is for MDTraj and MDAnalysis")
    topology = None if topology is None else pathlib.Path(topology)
    how = How(
        reader, format, selection, with_h, elements, types, follow, carry, wanted.remove_drift, frames, every, split,
        wanted.split_ratio, bonds, unit,
    )  # fmt: skip
    rules = GivenGraph(None, None, None, None, None, cutoff, max_hops, fully_connected, num_types, atom_types)
    name = path.stem if name is None else name
    with OpenFile() if file is None else contextlib.nullcontext(file) as opened:

        def read() -> Read:
            return read_molecule(where, path, topology, how, span, opened, progress)

        if cache is not None:
            return cached_dataset(where, CacheOf(cache, path, topology), how, rules, wanted, read, name)
        molecule, motion, even, unit, time = read()[:5]
        hint_at_cache(where, motion.shape)
        own = OwnSource(where, "x", motion, None, "times", molecule.first, None, unit, even, lambda: motion.boxes)
        graph = molecule.graph(where, types, rules).checked(where, len(molecule.first))
        items, z = own_windows(own, graph, wanted)
    return TrajectoryDataset(
        items,
        name=name,
        unit=unit if z is None else "angstrom",
        atomic_numbers=z,
        frame_time=time,
        h_is_made=True,
    )


def _check_types(where: str, types: str | Sequence[str]) -> None:
    if types in ("element", "name") or (not isinstance(types, str) and isinstance(types, Sequence) and len(types)):
        return
    raise ValueError(f"{where}: types must be element, name, or the names of the beads, got {types!r}")
