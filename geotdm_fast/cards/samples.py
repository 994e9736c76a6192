"""What a `Samples` shows of itself."""

import numpy as np
import torch

from geotdm_fast.cards.card import Card, counted, sizes
from geotdm_fast.cards.picture import MOST_NUMBERS, MOST_SAMPLES, picture
from geotdm_fast.data.molecule_files.elements import formula
from geotdm_fast.metrics.displacement import displacement_errors, displacement_summary
from geotdm_fast.samples.record import Samples

# The molecules of so many graphs are counted, where they differ.
_MOST_MOLECULES = 1000


def samples_card(samples: Samples) -> Card:
    """Task, sizes, molecules, units, boxes, how they were drawn, what is known of the truth, and the scores."""
    card = Card(f"Samples of {samples.name}")
    num_frames, given = len(samples.cond_mask), int(samples.cond_mask.sum())
    if samples.mode == "uncond":
        card.add("task", f"trajectories of {counted(num_frames, 'frame')}")
    else:
        first = bool(samples.cond_mask[:given].all())
        card.add("task", f"{'forecast' if first else 'fill gaps'}: {given} of {counted(num_frames, 'frame')} are given")
    per_graph = np.bincount(samples.batch, minlength=samples.num_graphs)
    card.add("graphs", f"{samples.num_graphs:,}, with {counted(samples.num_samples, 'sample')} of each")
    card.add("nodes", f"{sizes(per_graph.tolist(), 'node')}, in {samples.samples.shape[2]} dimensions")
    if len(samples.scored) < len(samples.batch):
        card.add("scored", f"{counted(len(samples.scored), 'node')} of them")
    if samples.is_molecule:
        card.add("molecules", _molecules(samples, per_graph))
    card.add("unit", samples.unit)
    if samples.frame_time is not None:
        card.add("time", f"{samples.frame_time:g} between two frames")
    if samples.cell is not None and samples.pbc is not None:
        changes = "which change from frame to frame" if samples.cell.shape[1] > 1 else "which do not change"
        periodic = samples.pbc.sum(1)
        least, most = int(periodic.min()), int(periodic.max())
        card.add(
            "boxes", f"periodic in {'' if least == most else f'{least} to '}{counted(most, 'direction')}, {changes}"
        )
    if samples.condition_names is not None and samples.conditions is not None:
        ends = zip(samples.condition_names, samples.conditions.min(0), samples.conditions.max(0), strict=True)
        card.add("conditions", "; ".join(f"{name} {_range(low, high)}" for name, low, high in ends))
    card.add("model", samples.checkpoint)
    steps = "" if samples.num_steps is None else f" in {counted(samples.num_steps, 'step')}"
    card.add("method", f"{samples.method}{steps}" if samples.method is not None else None)
    card.add("seed", samples.seed)
    num_known = samples.num_known
    card.add("truth", _truth(samples, num_known))
    card.add("scores", _scores(samples, num_known))
    card.add("samples", f"{list(samples.samples.shape)} {samples.samples.dtype}")
    return card


def samples_picture(samples: Samples) -> str:
    """The first graph: given frames, truth, and samples."""
    nodes = samples.nodes(0)
    if (nodes.stop - nodes.start) * _numbers_of_a_node(samples, MOST_SAMPLES) > MOST_NUMBERS:
        return ""
    numbers = None
    if samples.is_molecule and samples.samples.shape[2] == 3:
        numbers = samples.atomic_numbers[nodes]
    first = samples.scored[samples.scored < nodes.stop].tolist()
    forecasts = samples.forecasts(absolute=False, graph=0, samples=range(MOST_SAMPLES))
    if samples.mode != "uncond":
        return picture(samples.truth(absolute=False, graph=0), samples.cond_mask, forecasts, numbers, first)
    # What was generated has nothing to do with the trajectory of the data.
    if numbers is None:
        return picture(forecasts[0], samples.cond_mask, None, None, first)
    return picture(np.full_like(forecasts[0], np.nan), samples.cond_mask, forecasts[:1], numbers, first)


def _numbers_of_a_node(samples: Samples, most_samples: int) -> int:
    """How many numbers a node has in all frames of at most so many samples and of the truth."""
    return (min(samples.num_samples, most_samples) + 1) * samples.samples.shape[2] * len(samples.cond_mask)


def _molecules(samples: Samples, per_graph: np.ndarray) -> str:
    """`C2 H6 O`, or `C2 H6 O (3 graphs), ...` where graphs differ; per_graph: [num_graphs] - their atoms."""
    numbers = samples.atomic_numbers
    first = formula(numbers[: per_graph[0]].tolist())
    if (per_graph == per_graph[0]).all():
        rows = numbers.reshape(len(per_graph), -1)
        if (rows == rows[0]).all():
            return first
    if len(per_graph) > _MOST_MOLECULES:
        return f"{first} and others"
    counts: dict[str, int] = {}
    for graph in range(samples.num_graphs):
        name = formula(samples.atomic_numbers[samples.nodes(graph)].tolist())
        counts[name] = counts.get(name, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} ({counted(count, 'graph')})" for name, count in list(counts.items())[:4]]
    return ", ".join([*shown, *([f"{len(counts) - 4} more"] if len(counts) > 4 else [])])


def _truth(samples: Samples, num_known: int) -> str:
    num_drawn = samples.samples.shape[-1]
    if not num_known:
        return "not known"
    if num_known < num_drawn:
        return f"known of the first {num_known} of {num_drawn} drawn frames"
    return f"known of all {counted(num_drawn, 'drawn frame')}"


def _scores(samples: Samples, num_known: int) -> str | None:
    """The displacement errors, as `evaluate` has them; None where the truth is not known or there is too much."""
    if samples.mode == "uncond" or not num_known:
        return None
    if len(samples.batch) * _numbers_of_a_node(samples, samples.num_samples) > MOST_NUMBERS:
        return None
    if len(np.unique(samples.batch[samples.scored])) < samples.num_graphs:
        return None  # a graph none of whose nodes count has no error
    known = samples.until_known()
    arrays = (known.samples, known.target, known.batch, known.scored)
    ade, fde = displacement_errors(*(torch.from_numpy(array) for array in arrays))
    found = displacement_summary(ade, fde, scale=samples.scale)
    means = f"ADE {found['ade_mean']:.4g}, FDE {found['fde_mean']:.4g}"
    if samples.num_samples == 1:
        return means
    return f"{means}; of the best sample ADE {found['ade_best']:.4g}, FDE {found['fde_best']:.4g}"


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
