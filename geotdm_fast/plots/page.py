"""Samples as one HTML page that needs nothing else: play, step through time, turn in three dimensions."""

import json

import numpy as np

from geotdm_fast.plots import molecule, style
from geotdm_fast.plots.forecast import spread
from geotdm_fast.plots.known import known_part
from geotdm_fast.plots.page_template import PAGE
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.shown import plain
from geotdm_fast.samples.record import Samples

MAX_SAMPLES = 20


def write_page(samples: Samples, path: PathLike, *, num_systems: int = 12, title: str | None = None) -> None:
    """Write `num_systems` systems with all their samples (at most 20 each) into a self-contained HTML page.

    Positions are rounded to a thousandth of the largest extent of their system. Raises ValueError for num_systems < 1,
    and for samples whose truth nobody knows.
    """
    if num_systems < 1:
        raise ValueError(f"plot: num_systems must be at least 1, got {num_systems}")
    samples = known_part(samples)
    truth, forecasts = samples.truth(), samples.forecasts()[:MAX_SAMPLES]
    generated = samples.mode == "uncond"
    what = "Generated trajectories" if generated else "Forecasts"
    content = {
        "title": title or f"{what}: {plain(samples.name)}",
        "unit": plain(samples.unit),
        "generated": generated,
        "given": samples.cond_mask.astype(int).tolist(),
        "systems": [_system(samples, graph, truth, forecasts) for graph in spread(samples.num_graphs, num_systems)],
    }
    # `<` never reaches the page as such: a name in the data cannot end the script.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    with atomic_path(path) as aside:
        aside.write_text(PAGE.replace("__CONTENT__", text), encoding="utf-8")


def _system(samples: Samples, graph: int, truth: np.ndarray, forecasts: np.ndarray) -> dict:
    nodes = samples.nodes(graph)
    x, drawn = np.nan_to_num(truth[nodes]), np.nan_to_num(forecasts[:, nodes])
    count = len(x)
    numbers = samples.atomic_numbers[nodes] if samples.is_molecule else None
    counted = np.isin(np.arange(nodes.start, nodes.stop), samples.scored)
    if numbers is None:
        pairs = np.zeros((0, 2), int)
        colours = [style.PALETTE[i % len(style.PALETTE)] if counted[i] else style.GIVEN for i in range(count)]
        sizes = [5.0 if present else 0.0 for present in np.asarray(x.any((1, 2)))]
    else:
        pairs = molecule.bonds(x[..., 0], numbers)
        colours = [molecule.COLOURS.get(int(z), molecule.OTHER) for z in numbers]
        sizes = [3.5 if z == 1 else 6.0 for z in numbers]
    centre = x.mean((0, 2), keepdims=True)
    extent = float(np.abs(x - centre).max()) or 1.0
    digits = max(0, 3 - int(np.floor(np.log10(extent))))

    def rounded(y):
        return np.round((y - centre).astype(float), digits).tolist()

    return {
        "name": f"system {graph}",
        "truth": rounded(x),  # [N, D, T]
        "samples": [rounded(y) for y in drawn],  # K x [N, D, T]
        "counted": counted.astype(int).tolist(),
        "colours": colours,
        "sizes": sizes,
        "bonds": pairs.tolist(),
        "extent": extent,
    }
