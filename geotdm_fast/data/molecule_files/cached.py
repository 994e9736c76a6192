"""A data set of a molecule's file whose frames lie in a cache."""

import math
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch

from geotdm_fast.data.cache.arrays import write_array
from geotdm_fast.data.cache.folder import Cached, FrameCache
from geotdm_fast.data.cache.making import Making, write_frames
from geotdm_fast.data.cache.source import describe_source
from geotdm_fast.data.cache.windows import StoredWindows
from geotdm_fast.data.distances import check_distances, unit_factor
from geotdm_fast.data.given_graph import GivenGraph
from geotdm_fast.data.molecule_files.molecule import Molecule
from geotdm_fast.data.molecule_files.molecule_reading import How, Read
from geotdm_fast.data.own_windows import OwnSource, Wanted
from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.stretches import TooShort
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.bars import say
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.memory import physical_memory
from geotdm_fast.runtime.shown import shown


class CacheOf(NamedTuple):
    """folder: of the caches; path, topology: the files that are read."""

    folder: PathLike
    path: pathlib.Path
    topology: pathlib.Path | None


def cached_dataset(
    where: str, of: CacheOf, how: How, rules: GivenGraph, wanted: Wanted, read: Callable[[], Read], name: str
) -> TrajectoryDataset:
    """The data set that `file_dataset` gives, whose frames lie in a cache, which is made where it is not there.

    read: opens the file, called where the cache is made
    """
    span = cast(int, wanted.span)
    source = describe_source(of.path, of.topology, how._asdict())
    make = lambda folder: _make(folder, where, how, read())
    cached = FrameCache(of.folder, source).get(where, span, make, say)
    about = cached.about
    first, z, bonds = (cached.array(name) for name in ("first", "elements", "bonds"))
    molecule = Molecule(cast(np.ndarray, first), z, about["names"], bonds, about["given"])
    unit = about["unit"]
    factor = 1.0 if molecule.z is None else unit_factor(where, unit)
    first = molecule.first if factor == 1 else molecule.first * factor
    graph = molecule.graph(where, how.types, rules).checked(where, len(first))
    if graph.z is not None:
        check_distances(where, "x", first, graph.z, stated=unit != "", guessed=graph.bonds is None)
    boxes = _boxes(cached)
    h, edge_index, edge_attr = graph.tensors(where, first, one_molecule=boxes is None)
    ends, origin = (cast(np.ndarray, cached.array(name)) for name in ("ends", "origin"))
    lengths = np.diff(ends, prepend=0)
    num_frames = cached.about["arrays"]["positions"]["shape"][0]
    if ends.ndim != 1 or len(ends) == 0 or (lengths < 0).any() or ends[-1] != num_frames:
        raise ValueError(
            f"{cached.folder / 'ends.npy'} must hold ascending ends of stretches, the last the {num_frames} frames "
            f"there are, got {shown(ends.tolist())}; delete the folder {cached.folder}, and it is made anew"
        )
    longest = int(lengths.max())
    if longest < span:
        raise TooShort(
            f"{where} must have at least span={span} frames that are equally far apart, got at most {longest} in a row"
        )
    windows = StoredWindows(
        cached.positions,
        ends,
        span,
        wanted.stride,
        h,
        edge_index,
        edge_attr,
        wanted.project,
        torch.from_numpy(origin) if origin.any() else None,
        boxes,
    )
    return TrajectoryDataset(
        windows,
        name=name,
        unit=unit if graph.z is None else "angstrom",
        atomic_numbers=None if graph.z is None else torch.from_numpy(graph.z.astype(np.int64)),
        frame_time=about["frame_time"],
        h_is_made=True,
    )


def hint_at_cache(where: str, shape: tuple[int, ...]) -> None:
    """Warn where positions of this shape, kept in memory, are more than half of what the machine has."""
    there, needed = physical_memory(), 4 * math.prod(shape)
    if there is not None and needed > there / 2:
        warnings.warn(
            f"{where}: {needed / 2**30:.3g} GiB of positions are kept in memory, of which there are "
            f"{there / 2**30:.3g} GiB; cache: FOLDER keeps them on disk",
            stacklevel=4,
        )


def _make(folder: pathlib.Path, where: str, how: How, read: Read) -> dict:
    """Write the arrays of a cache, and return what it says of itself beside them."""
    molecule, motion, even, unit, frame_time, plan = read
    own = OwnSource(where, "x", motion, None, "times", molecule.first, None, unit, even, lambda: motion.boxes)
    factor = 1.0 if molecule.z is None else unit_factor(where, unit)
    write_frames(folder, Making(own, factor, molecule.z, how.remove_drift))
    arrays = {"first": molecule.first, "elements": molecule.z, "bonds": molecule.bonds}
    for name, array in arrays.items():
        if array is not None:
            write_array(folder / f"{name}.npy", array)
    return {
        "where": where,
        "unit": unit,
        "frame_time": frame_time,
        "names": molecule.names,
        "given": molecule.given,
        "pbc": None if motion.boxes is None else motion.boxes.pbc.tolist(),
        "shortest": min(len(part.wanted) for part in plan.parts),
        "left_out": plan.left_out,
    }


def _boxes(cached: Cached) -> Boxes | None:
    vectors, pbc = cached.array("box"), cached.about["pbc"]
    return None if vectors is None else Boxes(torch.from_numpy(vectors)[None], torch.tensor(pbc, device="cpu"))
