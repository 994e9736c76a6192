"""What the HTML page of samples holds: positions in few bytes, and what is drawn between and around them."""

import base64
from typing import Any

import numpy as np

from geotdm_fast.data.bonds import complete_bonds, fragments
from geotdm_fast.data.covalent_radii import COVALENT_RADII
from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.plots import molecule, style
from geotdm_fast.plots.forecast import spread
from geotdm_fast.plots.page_box import box_of
from geotdm_fast.plots.topology import Topology
from geotdm_fast.runtime.shown import plain
from geotdm_fast.samples.record import Samples

MAX_SAMPLES = 20
MAX_BYTES = 48_000_000  # of positions, before base64 makes them a third larger
MISSING, LARGEST = -32768, 32767


def content_of(samples: Samples, num_systems: int, atoms: Topology | None) -> tuple[dict[str, Any], str]:
    """What `tracks.js` reads, but for the title; and what is left out of it, in words, or ''.

    Positions are integers q of 16 bits, x = centre + step q, in the order [T, N, D], little endian, in base64; q =
    -32768 where a position is unknown.
    """
    graphs = spread(samples.num_graphs, num_systems)
    truth, forecasts = samples.truth(), samples.forecasts()[:MAX_SAMPLES]
    graphs, num_samples = _what_fits(samples, graphs, len(forecasts))
    forecasts = forecasts[:num_samples]
    topologies: list[dict] = []
    systems = [_system(samples, graph, truth, forecasts, atoms, topologies) for graph in graphs]
    about, left_out = _about(samples, len(graphs), num_samples, min(num_systems, samples.num_graphs))
    return {
        "about": about,
        "generated": samples.mode == "uncond",
        "given": samples.cond_mask.astype(int).tolist(),
        "truth_ends": _num_unknown(samples) > 0,
        "dims": samples.samples.shape[2],
        "frame_time": samples.frame_time,
        "node": "atom" if samples.is_molecule else "node",
        "nodes": "atoms" if samples.is_molecule else "nodes",
        "palette": list(style.PALETTE),
        "elements": {str(number): colour for number, colour in molecule.COLOURS.items()},
        "topologies": topologies,
        "systems": systems,
    }, left_out


def _what_fits(samples: Samples, graphs: list[int], num_samples: int) -> tuple[list[int], int]:
    """The systems and how many samples of each fit into `MAX_BYTES`; one of one always."""
    frames, dims = len(samples.cond_mask), samples.samples.shape[2]
    size = [2 * frames * dims * (nodes.stop - nodes.start) for nodes in map(samples.nodes, graphs)]
    num_samples = min(num_samples, max(1, MAX_BYTES // sum(size) - 1))
    while len(graphs) > 1 and sum(size[: len(graphs)]) * (num_samples + 1) > MAX_BYTES:
        graphs = graphs[:-1]
    return graphs, num_samples


def _about(samples: Samples, num_systems: int, num_samples: int, wanted: int) -> tuple[str, str]:
    """What the page says of itself, and what is left out for its size."""
    frames = f"{len(samples.cond_mask)} frames"
    given = int(samples.cond_mask.sum())
    frames += f", {given} given" if given else ""
    unit = f"; positions in {plain(samples.unit, 40)}" if samples.unit else ""
    shown = f"{num_systems} of {samples.num_graphs} systems, {num_samples} of {samples.num_samples} samples"
    unknown = _num_unknown(samples)
    truth = f"; the truth of the last {unknown} frames is not known" if unknown else ""
    left_out = ""
    if num_systems < wanted or num_samples < min(MAX_SAMPLES, samples.num_samples):
        left_out = f"a page of {MAX_BYTES / 1e6:.0f} MB holds {shown}; fewer systems leave room for more samples"
    return f"{shown}; {frames}{unit}{truth}", left_out


def _num_unknown(samples: Samples) -> int:
    """How many of the last frames nobody knows the truth of; none of generated trajectories, which have no truth."""
    return samples.samples.shape[-1] - samples.num_known if samples.mode == "cond" else 0


def _system(
    samples: Samples,
    graph: int,
    truth: np.ndarray,
    forecasts: np.ndarray,
    atoms: Topology | None,
    topologies: list[dict],
) -> dict:
    nodes = samples.nodes(graph)
    x, drawn = np.asarray(truth[nodes], np.float64), np.asarray(forecasts[:, nodes], np.float64)
    known = np.isfinite(x).all((0, 1))
    # What the middle and the size of a system are taken from: the truth, else what was given or drawn first.
    reference = x[..., known] if known.any() else drawn[0][..., :1]
    first = reference[..., 0] if np.isfinite(reference).all() else None
    reference = np.nan_to_num(reference, nan=0.0, posinf=0.0, neginf=0.0)
    found = box_of(samples, graph, reference)
    box, centre = (None, reference.mean((0, 2))) if found is None else found
    away = reference - centre[:, None]
    # A sphere around what turns, a rectangle around what does not.
    extent = float(np.linalg.norm(away, axis=1).max()) or 1.0
    sides = np.maximum(np.abs(away).max((0, 2)), 0.05 * extent)[:2]
    if box is not None:
        extent = float(np.linalg.norm(np.abs(np.reshape(box["samples"][0], (3, 3))).sum(0))) / 2
    topology = _topology(samples, nodes, first, atoms, box is not None)
    if topology not in topologies:
        topologies.append(topology)
    counted = np.isin(np.arange(nodes.start, nodes.stop), samples.scored)
    # The neighbours that a window of pedestrians has no room for are zeros in all frames.
    present = x[..., known].any((1, 2)) if known.any() and not samples.is_molecule else np.ones(len(x), bool)
    present |= counted  # what is scored is there, even at the origin
    return {
        "name": f"system {graph}",
        "topology": topologies.index(topology),
        "extent": extent,
        "sides": sides.tolist(),
        "truth": _encoded(x, centre) if known.any() else None,
        "samples": [_encoded(y, centre) for y in drawn],
        "counted": None if counted.all() else counted.astype(int).tolist(),
        "present": None if present.all() else present.astype(int).tolist(),
        "box": box,
    }


def _encoded(x: np.ndarray, centre: np.ndarray) -> dict:
    """Positions [N, D, T] as `content_of` describes them."""
    away = np.moveaxis(x - centre[:, None], 2, 0)  # [T, N, D]
    is_known = np.isfinite(away)
    largest = float(np.abs(away[is_known]).max(initial=0.0))
    step = largest / LARGEST or 1.0
    whole = np.where(is_known, np.rint(np.where(is_known, away, 0.0) / step), MISSING).astype("<i2")
    return {"step": step, "data": base64.b64encode(np.ascontiguousarray(whole).tobytes()).decode("ascii")}


def _topology(samples: Samples, nodes: slice, x: np.ndarray | None, atoms: Topology | None, has_box: bool) -> dict:
    """Elements, names and bonds of a system; x: [N, D] - its positions in a frame, None where nobody knows them."""
    count = nodes.stop - nodes.start
    numbers = samples.atomic_numbers[nodes].astype(int) if samples.is_molecule else None
    if atoms is not None:
        atoms = atoms.of(count, numbers)
    told = None if atoms is None else atoms.bonds
    orders = np.zeros(0, int) if told is None else told[:, 2]
    pairs = np.zeros((0, 2), int) if told is None else told[:, :2]
    if numbers is not None and x is not None and x.shape[1] == 3:
        # Topologies name the bonds of the residues that they know: a ligand has none there.
        whose = "of the topology"
        pairs = molecule.bonds(x, numbers) if told is None else complete_bonds("plot", x, numbers, pairs, whose=whose)
    bonds = np.column_stack([pairs, np.pad(orders, (0, len(pairs) - len(orders)))])
    bonded = np.zeros(count, int)
    bonded[pairs] = 1
    symbols = radii = None
    if numbers is not None:
        symbols = [SYMBOLS[z] if z else "?" for z in numbers]
        radii = np.nan_to_num(COVALENT_RADII[np.minimum(numbers, len(COVALENT_RADII) - 1)], nan=0.8).tolist()
    named = {} if atoms is None else atoms.named()
    return {
        "count": count,
        "numbers": None if numbers is None else numbers.tolist(),
        "symbols": symbols,
        "radii": radii,
        "bonds": bonds.ravel().tolist(),
        "bonded": bonded.tolist(),
        "molecules": fragments(count, pairs).tolist() if has_box else None,
        **named,
    }
