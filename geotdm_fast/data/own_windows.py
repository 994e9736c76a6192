"""From a user's positions to windows: which frames, which trajectories, which graph."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.agents import absent_windows, ragged_windows
from geotdm_fast.data.checks import check_array, check_count, check_flag, check_positions, check_project, check_shape
from geotdm_fast.data.distances import check_distances, unit_factor
from geotdm_fast.data.drift import without_drift
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.given_graph import CheckedGraph
from geotdm_fast.data.motion import check_motion
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.positions import Kept, check_size, kept_positions, warn_of_repeats
from geotdm_fast.data.splits import check_ratio, split_range
from geotdm_fast.data.stretches import Stretches, TooShort, written_twice
from geotdm_fast.data.times import even_stretches
from geotdm_fast.data.windows import Joined, Windows, places_of

SPAN = 30  # frames in a window of one long trajectory, where nothing is said


def _no_boxes() -> None:
    """What positions without boxes have."""


class OwnSource(NamedTuple):
    """What a user's positions come with; the fields are the arguments of `array_dataset`, x_name among them.

    ends: [G] - where each graph's nodes end, of graphs side by side, else None
    stretches: of a reader that has looked at the times itself, instead of times
    boxes: called when the positions are read - the boxes of x, by its trajectories and frames, or None
    """

    where: str
    name: str
    x: np.ndarray | StoredArray
    times: ArrayLike | Tensor | None
    times_name: str
    graph_frame: ArrayLike | Tensor | None
    ends: np.ndarray | None
    unit: str
    stretches: Stretches | None = None
    boxes: Callable[[], Boxes | None] = _no_boxes

    @property
    def many(self) -> bool:
        return self.x.ndim == 4

    @property
    def num_graphs(self) -> int | None:
        """How many trajectories there are; None where there is one, which is split in time."""
        return self.x.shape[0] if self.many else None if self.ends is None else len(self.ends)

    def nodes(self, graphs: Sequence[int]) -> list[range]:
        """The nodes of graphs side by side."""
        ends = cast(np.ndarray, self.ends)
        return [range(int(ends[g - 1]) if g else 0, int(ends[g])) for g in graphs]


@dataclass(frozen=True)
class Wanted:
    """Which windows; the fields are the arguments of `array_dataset`."""

    split: str | None
    span: int | None
    stride: int
    split_ratio: Sequence[float]
    frames: Sequence[int | None] | str | None
    every: int | None
    project: bool | str
    remove_drift: bool = False

    def checked(self, where: str) -> "Wanted":
        """The same; ValueError/TypeError for what cannot be."""
        return replace(
            self,
            span=None if self.span is None else check_count(where, "span", self.span),
            stride=check_count(where, "stride", self.stride),
            split_ratio=check_ratio(where, self.split_ratio),
            project=check_project(where, self.project),
            remove_drift=check_flag(where, "remove_drift", self.remove_drift),
        )


def own_windows(
    source: OwnSource, graph: CheckedGraph, wanted: Wanted
) -> tuple[Windows | Joined, Tensor | list[Tensor] | None]:
    """The windows, and the atomic numbers [N], or those of each window, or None; see `array_dataset`."""
    where, x, ends = source.where, source.x, source.ends
    factor = 1.0 if graph.z is None else unit_factor(where, source.unit)
    first_frame = _graph_frame(source, factor)
    if graph.z is not None and x.shape[-1] == 3:
        guessed = graph.bonds is None and graph.edge_index is None
        check_distances(where, source.name, first_frame, graph.z, stated=source.unit != "", guessed=guessed)
    graphs, stretches = _choose(source, wanted)
    span = wanted.span
    if span is None:
        span = SPAN if source.num_graphs is None else len(stretches.frames)
    _check_span(source, wanted, stretches, span)

    nodes = [] if ends is None else source.nodes(graphs)
    atoms = None if ends is None else np.concatenate([np.asarray(own) for own in nodes])
    kept = kept_positions(
        where,
        source.name,
        x,
        graphs if source.many else [0],
        stretches.frames,
        atoms=atoms,
        factor=factor,
        absent=graph.z is None and ends is None,
    )
    if graph.z is not None:
        check_size(where, source.name, kept)
        if source.times is None and source.stretches is None:
            kept, stretches = _without_repeats(where, kept, stretches)
            _check_span(source, wanted, stretches, span)
    if wanted.remove_drift:
        ends_kept = np.cumsum([len(own) for own in nodes]) if ends is not None else [kept.x.shape[1]]
        graphs_kept = [slice(begin, end) for begin, end in itertools.pairwise([0, *map(int, ends_kept)])]
        z = graph.z if graph.z is None or atoms is None else graph.z[atoms]
        kept = without_drift(where, source.name, kept, graphs_kept, z)
    boxes = source.boxes()
    if boxes is not None:
        boxes = boxes.scaled(factor).chosen(graphs if source.many else [0], stretches.frames)
    check_motion(
        where,
        kept.x,
        frames=stretches.frames,
        seams=stretches.seams,
        origin=kept.origin,
        stored=x.dtype,
        repeats=graph.z is None,
    )

    starts = stretches.starts(span, wanted.stride)
    if ends is not None:
        return ragged_windows(where, kept, nodes, graph, first_frame, starts, span, wanted.project, boxes)
    h, edge_index, edge_attr = graph.tensors(where, first_frame, one_molecule=boxes is None)
    h = _for_each(where, "h", h, source)[_part(graphs)]
    edge_attr = None if edge_attr is None else _for_each(where, "edge_attr", edge_attr, source)[_part(graphs)]
    places = places_of(len(graphs), starts)
    windows = Windows(kept.x, places, span, h, edge_index, edge_attr, wanted.project, kept.origin, boxes=boxes)
    if graph.z is None:
        part = replace(
            graph,
            h=None if graph.h is None or graph.h.ndim == 2 else graph.h[_part(graphs)],
            edge_attr=graph.edge_attr
            if graph.edge_attr is None or graph.edge_attr.ndim == 2
            else graph.edge_attr[_part(graphs)],
        )
        return absent_windows(where, source.name, windows, part), None
    return windows, torch.from_numpy(graph.z.astype(np.int64))


def _part(graphs: range) -> slice:
    return slice(graphs.start, graphs.stop)


def _graph_frame(source: OwnSource, factor: float) -> np.ndarray:
    """The frame that bonds are found in, [N, D] (angstrom for molecules)."""
    if source.graph_frame is not None:
        frame = check_positions(source.where, "graph_frame", source.graph_frame, "N, D")
        check_shape(source.where, "graph_frame", frame, source.x.shape[-2:])
    else:
        frame = source.x[0] if isinstance(source.x, np.ndarray) else source.x.first_row()
        frame = frame[0] if source.many else frame
    return frame if factor == 1.0 else frame * factor


def _choose(source: OwnSource, wanted: Wanted) -> tuple[range, Stretches]:
    """The trajectories of the split, and the frames to keep of each."""
    where, split, ratio, number = source.where, wanted.split, wanted.split_ratio, source.num_graphs
    stretches = _stretches(source, frame_slice(where, wanted.frames, wanted.every, source.x.shape[-3]))
    if split is None:
        return range(number or 1), stretches
    if number is None:
        return range(1), stretches.cut(split_range(where, len(stretches.frames), split, ratio))
    graphs = split_range(where, number, split, ratio)
    if len(graphs) == 0:
        raise ValueError(
            f"{where}: split '{split}' must hold a trajectory, got none of {number} at split_ratio {ratio}"
        )
    return graphs, stretches


def chosen_stretches(source: OwnSource) -> Stretches:
    """The frames to keep of one trajectory whose frames are all chosen."""
    return _stretches(source, range(source.x.shape[-3]))


def _stretches(source: OwnSource, chosen: range) -> Stretches:
    """The chosen frames, without those that come again and cut at gaps, where times are known."""
    if source.stretches is not None:
        return source.stretches
    if source.times is None:
        return Stretches.of([chosen])
    where, name = source.where, source.times_name
    times = check_array(where, name, source.times, "frames or B, frames")
    expected = source.x.shape[:2] if times.ndim == 2 and source.many else source.x.shape[-3:-2]
    check_shape(where, name, times, expected)
    frames, every = np.arange(chosen.start, chosen.stop), chosen.step
    if not source.many:
        return Stretches.of([frames[part] for part in even_stretches(where, name, times[frames], frames, every)])
    for own in np.unique(np.atleast_2d(times)[:, frames], axis=0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = even_stretches(where, name, own, frames, every)
        if len(parts) > 1 or len(parts[0]) < len(chosen):
            raise ValueError(
                f"{where}: {name} must be equally far apart in each of many trajectories, got "
                f"{own[::every].tolist()[:6]}; choose frames that are, with frames: [start, stop, step]"
            )
    return Stretches.of([chosen])


def _check_span(source: OwnSource, wanted: Wanted, stretches: Stretches, span: int) -> None:
    in_time = wanted.split is not None and source.num_graphs is None
    part = f"split '{wanted.split}' of {source.name}" if in_time else source.name
    if len(stretches.frames) < span:
        raise TooShort(f"{source.where}: {part} must have at least span={span} frames, got {len(stretches.frames)}")
    if stretches.longest < span:
        raise TooShort(
            f"{source.where}: {part} must have at least span={span} frames that are equally far apart, got at most "
            f"{stretches.longest} in a row"
        )


def _without_repeats(where: str, kept: Kept, stretches: Stretches) -> tuple[Kept, Stretches]:
    """What `frames_left` leaves."""
    left, stretches = frames_left(where, kept, stretches)
    return kept if left is None else Kept(kept.x[..., torch.from_numpy(left)], kept.origin, None), stretches


def frames_left(where: str, kept: Kept, stretches: Stretches) -> tuple[np.ndarray | None, Stretches]:
    """The places [T'] of the frames without those that a molecule's run wrote twice, None for all; and the stretches of
    what is left, cut where a run starts anew from an earlier frame.

    Where most frames equal an earlier one the molecule does not move, and nothing is left out.
    """
    if kept.repeats is None:
        return None, stretches
    twice, anew = written_twice(kept.repeats)
    still = len(twice) > len(kept.repeats) / 2
    done = [f"{len(twice)} that were written twice, as after a restart, are left out"] if twice else []
    if anew:
        done.append(f"no window goes on into frame {stretches.frames[anew[0]]}, where another run begins")
    meaning = "most frames do so, and none is left out" if still else ", and ".join(done)
    warn_of_repeats(where, kept, stretches.frames, meaning)
    if still:
        return None, stretches
    left = np.setdiff1d(np.arange(len(kept.repeats)), twice)
    return left if twice else None, stretches.cut_before(anew).without(twice)


def _for_each(where: str, name: str, value: Tensor, source: OwnSource) -> Tensor:
    """`value` with a leading dimension of trajectories: [B, ...]."""
    number = source.x.shape[0] if source.many else 1
    if value.dim() == 2:
        return value.expand(number, *value.shape)
    if not source.many or len(value) != number:
        expected = f"{number} trajectories" if source.many else "one trajectory, without a leading dimension"
        raise ValueError(f"{where}: {name} must be for {expected}, got {list(value.shape)}")
    return value
