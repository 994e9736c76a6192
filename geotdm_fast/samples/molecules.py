"""Samples of molecules one by one, in the boxes that they are written with."""

import operator
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import numpy as np

from geotdm_fast.runtime.files import PathLike
from geotdm_fast.samples.blocks import Block
from geotdm_fast.samples.record import Samples
from geotdm_fast.samples.shards import Shard, iterate_shards
from geotdm_fast.samples.wrapping import molecules_of, wrapped

# XTC holds no more than 2147483.75 nm, and MDTraj writes that for NaN and for what is more without a word.
_TOO_FAR = 2.1e7


class Molecule(NamedTuple):
    """One trajectory of one molecule.

    graph, sample: which; atomic_numbers: [N]; given: [T] bool - the frames from the data
    positions: [T, N, 3] float32, far from 0 float64 (angstrom)
    frame_time: the time between frames, or None
    cell: [T, 3, 3] float32 (angstrom) - the boxes, or None; pbc: [3] bool, with cell
    """

    graph: int
    sample: int
    atomic_numbers: np.ndarray
    given: np.ndarray
    positions: np.ndarray
    frame_time: float | None = None
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None


def molecules(
    path: PathLike, source: Samples | PathLike, wrap: str, graph: int | None = None, sample: int | None = None
) -> Iterator[Molecule]:
    """Graph by graph, sample by sample; see `export_molecules`.

    path: the file to write, or the function that asks, for messages
    graph, sample: of a `Samples` those of this graph and this sample alone; None: all
    """
    shards: Iterable[Shard]
    graphs: range | None
    drawn: range | None
    if isinstance(source, Samples):
        shards = [Shard(Block(range(source.num_graphs), range(source.num_samples)), source)]
        graphs = chosen(path, "graph", graph, source.num_graphs)
        drawn = chosen(path, "sample", sample, source.num_samples)
    else:
        shards, graphs, drawn = iterate_shards(source), None, None
    for block, samples in shards:
        if not samples.is_molecule or samples.samples.shape[2] != 3:
            raise ValueError(
                f"{path}: samples must be molecules in three dimensions, got '{samples.name}' (use .npz or to_frame)"
            )
        if samples.cell is None and wrap != "no":
            raise ValueError(f"{path}: wrap must be no for samples without a periodic box, got {wrap}")
        cells = samples.forecast_cell()
        for g, number in enumerate(block.graphs):
            if graphs is not None and number not in graphs:
                continue
            nodes = samples.nodes(g)
            for k, draw in enumerate(block.samples):
                if drawn is not None and draw not in drawn:
                    continue
                (x,) = samples.forecasts(graph=g, samples=range(k, k + 1))  # [N, 3, T]
                positions = np.ascontiguousarray(x.transpose(2, 0, 1))
                _check_positions(path, positions, number, draw)
                one = Molecule(
                    number, draw, samples.atomic_numbers[nodes], samples.cond_mask, positions, samples.frame_time
                )
                yield one if cells is None else _in_box(one, samples, g, cells[g], wrap)


def chosen(where: PathLike, name: str, index: int | None, count: int) -> range:
    """All of `count` graphs or samples, or the one of that number. Raises TypeError or ValueError for what is none."""
    if index is None:
        return range(count)
    try:
        if isinstance(index, bool):  # Python takes True for 1
            raise TypeError
        index = operator.index(index)
    except TypeError:
        raise TypeError(f"{where}: {name} must be a whole number or None, got {type(index).__name__}") from None
    if not 0 <= index < count:
        raise ValueError(f"{where}: {name} must be in 0..{count - 1}, got {index}")
    return range(index, index + 1)


def _in_box(one: Molecule, samples: Samples, g: int, cell: np.ndarray, wrap: str) -> Molecule:
    """A molecule of graph `g` in its boxes [1 or T, 3, 3], wrapped into them."""
    pbc, positions = cast(np.ndarray, samples.pbc)[g], one.positions
    if wrap != "no":
        molecule = None
        if wrap == "molecules":
            nodes = samples.nodes(g)
            edges = samples.edge_index[:, samples.batch[samples.edge_index[0]] == g] - nodes.start
            molecule = molecules_of(edges, one.atomic_numbers, positions[0])
        positions = wrapped(positions, cell, pbc, molecule)
    return one._replace(positions=positions, cell=np.broadcast_to(cell, (len(positions), 3, 3)), pbc=pbc)


def _check_positions(path: PathLike, positions: np.ndarray, graph: int, sample: int) -> None:
    held = np.abs(positions) < _TOO_FAR  # NaN is not
    if not held.all():
        frame, atom, axis = np.argwhere(~held)[0]
        raise ValueError(
            f"{path}: positions must be finite and below {_TOO_FAR:g} angstrom, got {positions[frame, atom, axis]:g} "
            f"for atom {atom} in frame {frame} of sample {sample} of graph {graph}"
        )
