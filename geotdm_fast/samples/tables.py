"""Samples as a table of pandas: a row for each node in each frame of each trajectory."""

from typing import TYPE_CHECKING, Any

import numpy as np

from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.packages import require_package
from geotdm_fast.samples.atoms import AtomTable, atom_table, first_frame, read_topology
from geotdm_fast.samples.molecules import chosen
from geotdm_fast.samples.record import Samples

if TYPE_CHECKING:
    import pandas


def data_frame(
    samples: Samples,
    graph: int | None,
    sample: int | None,
    truth: bool,
    topology: PathLike | None,
    selection: str | None,
) -> "pandas.DataFrame":
    """See `Samples.to_frame`."""
    where = "Samples.to_frame"
    require_package(where, "pandas", "tables")
    import pandas

    graphs = chosen(where, "graph", graph, samples.num_graphs)
    drawn = chosen(where, "sample", sample, samples.num_samples)
    if topology is not None and not (samples.is_molecule and samples.samples.shape[2] == 3):
        raise ValueError(f"{where}: topology must be None for samples that are no molecules in three dimensions")
    named = read_topology(where, topology, selection)
    parts: list[dict[str, Any]] = []
    for g in graphs:
        x = samples.forecasts(graph=g, samples=drawn)
        target = samples.truth(graph=g) if truth else None
        atoms = None
        if named is not None:
            first, _ = first_frame(samples, g, drawn.start)
            atoms = atom_table(where, samples.atomic_numbers[samples.nodes(g)], first, named)
        parts.append(_columns(samples, g, drawn, x, target, atoms))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("element", "resname"):
        if name in columns:
            columns[name] = pandas.Categorical(columns[name])
    table = pandas.DataFrame(columns)
    table.attrs = {"name": samples.name, "unit": samples.unit}
    return table


def _columns(
    samples: Samples, graph: int, drawn: range, x: np.ndarray, target: np.ndarray | None, atoms: AtomTable | None
) -> dict[str, np.ndarray]:
    """The columns of one graph: x [K, N, D, T], target [N, D, T] or None."""
    K, N, D, T = x.shape
    rows = (K, T, N)
    of_rows = lambda values: np.broadcast_to(np.asarray(values), rows).ravel()
    of_frames = lambda values: of_rows(np.asarray(values)[:, None])
    columns: dict[str, np.ndarray] = {
        "graph": np.full(K * T * N, graph),
        "sample": of_rows(np.asarray(drawn)[:, None, None]),
        "frame": of_frames(np.arange(T)),
    }
    if samples.frame_time is not None:
        columns["time"] = of_frames(np.arange(T) * samples.frame_time)
    columns["given"] = of_frames(samples.cond_mask)
    columns["node"] = of_rows(np.arange(N))
    if samples.is_molecule:
        numbers = samples.atomic_numbers[samples.nodes(graph)]
        columns["element"] = of_rows([SYMBOLS[number] for number in numbers.tolist()])
    if atoms is not None:
        columns["resid"] = of_rows(atoms.residue_of + 1)
        columns["resname"] = of_rows(np.array(atoms.residues)[atoms.residue_of])
    axes = "xyz"[:D]
    columns |= {axis: x[:, :, d].transpose(0, 2, 1).ravel() for d, axis in enumerate(axes)}
    if target is not None:
        columns |= {f"{axis}_true": of_rows(target[:, d].T) for d, axis in enumerate(axes)}
    return columns
