"""The trajectories of one molecule, true and drawn, in the layout that the scores read."""

from dataclasses import dataclass, replace

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.samples.npz import check_samples
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.md.periodic import box_vectors
from geotdm_fast.scores.md.resampling import Both
from geotdm_fast.scores.md.topology import Topology

# With fewer true trajectories they are cut in time, so that there is something to halve and to resample.
LEAST_TRAJECTORIES = 8
LEAST_FRAMES = 4


class Unfit(ValueError):
    """A score that these trajectories do not allow, and why."""


@dataclass(frozen=True)
class Ensemble:
    """True and drawn trajectories of one molecule; frames are the drawn ones alone.

    topology: elements and bonds
    truth: [3, N, B, T] float - the true trajectories (unit of the samples)
    drawn: [3, N, B K, T] float - K drawn ones of each, side by side
    num_draws: K
    cell, drawn_cell: [B, 1 or T, 3, 3] float64 - lattice vectors as rows, of the true and of the drawn frames, whose
        boxes are those that the network was told; or None
    reference: [3, N] - the first true frame
    conditional: whether a drawn trajectory continues the given frames of its true one
    consecutive: whether the drawn frames follow each other
    graphs: how many graphs of the samples these are, before they were cut in time
    notes: what was chosen for the user, one sentence each
    """

    topology: Topology
    truth: np.ndarray
    drawn: np.ndarray
    num_draws: int
    cell: np.ndarray | None
    drawn_cell: np.ndarray | None
    reference: np.ndarray
    conditional: bool
    consecutive: bool
    graphs: int
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def num_truth(self) -> int:
        return self.truth.shape[2]

    @property
    def num_frames(self) -> int:
        return self.truth.shape[3]

    @property
    def num_atoms(self) -> int:
        return self.topology.num_atoms

    @property
    def both(self) -> Both:
        """truth, drawn."""
        return self.truth, self.drawn

    def cell_of(self, drawn: bool) -> np.ndarray | None:
        """The cell of each true, or of each drawn trajectory."""
        if not drawn or self.drawn_cell is None:
            return self.cell
        return np.repeat(self.drawn_cell, self.num_draws, axis=0)

    def need_bonds(self) -> None:
        """Raise unless there are bonds, by name of why there are none."""
        if self.unit != "angstrom" and len(self.topology.bonds) == 0:
            self.need_angstrom()
        if len(self.topology.bonds) == 0:
            raise Unfit(
                "the first true frame has no bonds by covalent radii; --bonds edges takes the edges of the samples"
            )

    def need_angstrom(self) -> None:
        """Raise unless positions are in angstrom, as covalent radii are."""
        if self.unit != "angstrom":
            raise Unfit(f"positions must be in angstrom, got '{self.unit}'")

    def need_lag(self, lag: int) -> None:
        """Raise unless there are pairs of frames `lag` apart."""
        if not self.consecutive:
            raise Unfit("the drawn frames do not follow each other: given frames lie between them")
        if lag >= self.num_frames:
            raise Unfit(f"a lag of {lag} frames needs more than {self.num_frames} drawn frames in a row")


def ensembles(
    samples: Samples,
    *,
    bonds: str | np.ndarray = "distance",
    cell: np.ndarray | None = None,
    longest_lag: int | None = None,
) -> list[Ensemble]:
    """The samples taken apart: one ensemble for each molecule, graphs with the same atomic numbers together.

    bonds: `distance`, `edges`, or the bonds themselves [P, 2], of samples of one molecule
    cell: [3, 3], [G, 3, 3] or [G or 1, T, 3, 3], G graphs and T drawn frames or all; None: `samples.cell` if there is
        one. Lattice vectors are rows, in the unit of the samples
    longest_lag: frames that stay together where trajectories are cut in time
    Raises ValueError for samples without truth, not in 3 dimensions or not finite, and a cell that fits nothing.
    """
    where = "evaluate: md"
    check_samples(where, samples)
    samples.check_target(where)
    if samples.samples.shape[2] != 3:
        raise ValueError(f"{where}: positions must be in 3 dimensions, got {samples.samples.shape[2]}")
    for name in ("samples", "target"):
        if not np.isfinite(getattr(samples, name)).all():
            raise ValueError(f"{where}: {name} must be finite, got NaN or Inf")
    noisy = ~samples.cond_mask if samples.mode == "cond" else np.ones(samples.samples.shape[-1], bool)
    places = np.flatnonzero(noisy)
    vectors = drawn_vectors = None
    if cell is not None:
        vectors = drawn_vectors = box_vectors(where, cell, samples.num_graphs, noisy, samples, given=True)
    elif samples.cell is not None:
        vectors = box_vectors(where, samples.cell, samples.num_graphs, noisy, samples, given=False)
        drawn_vectors = box_vectors(where, samples.forecast_cell(), samples.num_graphs, noisy, samples, given=True)
    groups = _molecules(samples, by_edges=isinstance(bonds, str) and bonds == "edges")
    if not isinstance(bonds, str) and len(groups) > 1:
        raise ValueError(f"{where}: bonds must come with samples of one molecule, got {len(groups)} molecules")
    found = []
    for graphs, numbers in groups:
        nodes = np.array([np.arange(*samples.nodes(g).indices(len(samples.batch))[:2]) for g in graphs])  # [B, N]
        truth = samples.target[nodes] * samples.scale  # [B, N, 3, T]
        drawn = samples.samples[:, nodes] * samples.scale  # [K, B, N, 3, T]
        num_draws, num_graphs, num_atoms, _, num_frames = drawn.shape
        reference = samples.truth(absolute=False)[nodes[0]][..., 0]
        topology = Topology(numbers, _bonds(bonds, samples, nodes[0], reference, numbers))
        ensemble = Ensemble(
            topology=topology,
            truth=np.ascontiguousarray(truth.transpose(2, 1, 0, 3)),
            drawn=np.ascontiguousarray(drawn.transpose(3, 2, 1, 0, 4)).reshape(
                3, num_atoms, num_graphs * num_draws, num_frames
            ),
            num_draws=num_draws,
            cell=None if vectors is None else vectors[graphs],
            drawn_cell=None if drawn_vectors is None else drawn_vectors[graphs],
            reference=np.ascontiguousarray(reference.T),
            conditional=samples.mode == "cond",
            consecutive=bool((np.diff(places) == 1).all()),
            graphs=num_graphs,
            unit=samples.unit,
        )
        found.append(_cut_in_time(ensemble, longest_lag))
    return found


def _molecules(samples: Samples, by_edges: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The graphs of every molecule and its atomic numbers (zeros where there are none)."""
    z = samples.atomic_numbers if samples.is_molecule else np.zeros(len(samples.batch), np.int64)
    groups: dict[tuple, list[int]] = {}
    for graph in range(samples.num_graphs):
        nodes = samples.nodes(graph)
        edges = _edges(samples, nodes.start, nodes.stop).tobytes() if by_edges else b""
        groups.setdefault((z[nodes].tobytes(), edges), []).append(graph)
    return [(np.array(graphs), z[samples.nodes(graphs[0])].astype(np.int64)) for graphs in groups.values()]


def _edges(samples: Samples, start: int, stop: int) -> np.ndarray:
    """The edges of the nodes start..stop - 1, each once, [P, 2], numbered from the first of them."""
    edges = samples.edge_index.T - start
    edges = edges[((edges >= 0) & (edges < stop - start)).all(axis=1)]
    edges = np.sort(edges, axis=1)
    return np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)


def _bonds(
    bonds: str | np.ndarray, samples: Samples, nodes: np.ndarray, reference: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    if not isinstance(bonds, str):
        from geotdm_fast.data.checks import check_indices

        return check_indices("evaluate: md", "bonds", bonds, "M, 2", len(nodes))
    if bonds == "edges":
        return _edges(samples, int(nodes[0]), int(nodes[-1]) + 1)
    if samples.unit != "angstrom":
        return np.zeros((0, 2), np.int64)
    return bonds_by_distance(reference, numbers)


def _cut_in_time(ensemble: Ensemble, longest_lag: int | None) -> Ensemble:
    """With fewer than 8 true trajectories: cut into parts of equal length, each at least 4 frames and twice the lag."""
    count, frames = ensemble.num_truth, ensemble.num_frames
    if count >= LEAST_TRAJECTORIES or not ensemble.consecutive:
        return ensemble
    least = max(LEAST_FRAMES, 2 * (longest_lag or max(1, frames // 10)) + 1)
    parts = min(-(-LEAST_TRAJECTORIES // count), frames // least)
    if parts < 2:
        return ensemble
    length = frames // parts
    truth = ensemble.truth[..., : parts * length].reshape(3, ensemble.num_atoms, count * parts, length)
    drawn = ensemble.drawn[..., : parts * length]
    # From graph, draw, part to graph, part, draw.
    drawn = drawn.reshape(3, ensemble.num_atoms, count, ensemble.num_draws, parts, length).swapaxes(3, 4)

    def cut(cell: np.ndarray | None) -> np.ndarray | None:
        if cell is None:
            return None
        whole = np.broadcast_to(cell, (count, frames, 3, 3))[:, : parts * length]
        return whole.reshape(count * parts, length, 3, 3)

    note = (
        f"{count} true trajectories are too few to halve and to resample: each was cut in time into {parts} parts of "
        f"{length} frames"
    )
    return replace(
        ensemble,
        truth=truth,
        drawn=np.ascontiguousarray(drawn).reshape(3, ensemble.num_atoms, -1, length),
        cell=cut(ensemble.cell),
        drawn_cell=cut(ensemble.drawn_cell),
        notes=(*ensemble.notes, note),
    )
