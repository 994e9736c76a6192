"""A small picture of a trajectory as an SVG element of some kilobytes, on a light or a dark page."""

from collections.abc import Callable, Sequence

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.plots.frame_runs import runs, with_neighbours
from geotdm_fast.plots.projection import principal_plane, project

WIDTH, HEIGHT, _MARGIN = 220, 160, 8
# Of middling brightness, to be seen on white and on black; what is grey has the colour of the page's text.
_COLOURS = ("#3f8fdc", "#e0732b", "#22a67c", "#c26fb0", "#8d7fe6", "#c79a26", "#d9534f")
_MOST_NODES, _MOST_POINTS, _MOST_RUNS, _MOST_BONDS = 12, 40, 8, 400
MOST_SAMPLES = 4
# Of a graph of more numbers (a quarter of a second) no picture is drawn.
MOST_NUMBERS = 20_000_000
# So many points say how the picture is turned.
_FOR_PLANE = 20_000


def picture(
    x: np.ndarray,
    given: np.ndarray,
    drawn: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
    first: Sequence[int] = (),
) -> str:
    """An SVG element; the empty text where no number is finite.

    x: [N, D, T] - the truth, NaN where it is unknown; given: [T] bool - its given frames, grey
    drawn: [K, N, D, T] - samples, thin lines (at most 4)
    numbers: [N] - atomic numbers of a molecule, whose last frame is drawn, with its bonds; None: paths of (12) nodes
    first: nodes to draw rather than others

    Three dimensions are drawn in the plane in which the trajectory varies most. At most 40 points of a path, in at most
    8 stretches of given and 8 of drawn frames, and 400 bonds are drawn: the element has less than 60 kB.
    """
    drawn = np.zeros((0, *x.shape), x.dtype) if drawn is None else drawn[:MOST_SAMPLES]
    points = _finite_points(x[None])
    points = points if len(points) else _finite_points(drawn)
    if not len(points):
        return ""
    plane = principal_plane(points[_some(np.arange(len(points)), _FOR_PLANE)].astype(np.float64))
    flat = project(x.astype(np.float64), *plane)  # [N, 2, T]
    samples = project(drawn.astype(np.float64), *plane)  # [K, N, 2, T]
    if numbers is None:
        parts = _paths(flat, given, samples, first)
        grey = "; grey: given frames" if given.any() else ""
        label = f"Paths of the first graph{grey}"
    else:
        parts = _molecule(x, drawn, flat, samples, numbers)
        grey = "; grey: the last that is known" if _known(x).any() else ""
        label = f"The last frame of the first graph{grey}"
    label += "; thin: samples" if len(samples) else ""
    return (
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" fill="none" '
        f'stroke-linecap="round" stroke-linejoin="round" style="flex:none"><title>{label}</title>{"".join(parts)}</svg>'
    )


def _paths(flat: np.ndarray, given: np.ndarray, samples: np.ndarray, first: Sequence[int]) -> list[str]:
    wanted = np.asarray(first, np.int64)[:_MOST_NODES]
    nodes = np.concatenate([wanted, np.setdiff1d(np.arange(len(flat)), wanted)])[:_MOST_NODES]
    place = _placed(np.concatenate([flat[nodes][None], samples[:, nodes]]))
    num_frames = len(given)
    known = _thinned(runs(given))
    future = _thinned([with_neighbours(run, num_frames) for run in runs(~given)])
    parts = []
    for n, i in enumerate(nodes):
        colour = _COLOURS[n % len(_COLOURS)]
        for path in samples[:, i]:
            parts.append(_lines([place(path[:, run]) for run in future], colour, 1.0, 0.55))
        parts.append(_lines([place(flat[i][:, run]) for run in known], "currentColor", 2.0, 0.45))
        parts.append(_lines([place(flat[i][:, run]) for run in future], colour, 2.0, 1.0))
        parts.append(_dots(place(flat[i][:, -1:]), 3.0, colour))
    return parts


def _molecule(
    x: np.ndarray, drawn: np.ndarray, flat: np.ndarray, samples: np.ndarray, numbers: np.ndarray
) -> list[str]:
    """The last known frame in grey, and the last frames of samples, with the bonds of the first known frame.

    Where none is known, the bonds are those of the last frame of the first sample all of whose numbers are finite.
    """
    known, atoms = np.flatnonzero(_known(x)), _some(np.arange(len(numbers)), 400)
    if len(known):
        bonds, truth = _bonds_of(x[..., known[0]], numbers), flat[..., known[-1]]
        shown, colour = truth, "currentColor"
    elif len(drawn):
        best = int(np.isfinite(drawn[..., -1]).all(axis=(1, 2)).argmax())
        bonds, truth = _bonds_of(drawn[best, ..., -1], numbers), np.full(flat.shape[:2], np.nan)
        shown, colour = samples[best, ..., -1], _COLOURS[0]
    else:
        return [_dots(_placed(flat[None])(flat[atoms, :, -1].T), 2.2, "currentColor", 0.6)]
    if len(bonds) > _MOST_BONDS:
        bonds = bonds[(numbers[bonds] != 1).all(axis=1)][:_MOST_BONDS]
        samples = samples[:1]
    ends = samples[..., -1]
    place = _placed(np.concatenate([truth[None], ends])[..., None])
    parts = [_bonds(place(truth.T), bonds, "currentColor", 4.0 if len(bonds) < 100 else 2.0, 0.3)]
    parts += [_bonds(place(end.T), bonds, _COLOURS[0], 1.2, 0.8) for end in ends]
    alone = ~np.isin(np.arange(len(numbers)), bonds)
    if len(numbers) <= 200 or alone.all():
        parts.append(_dots(place(shown[atoms].T), 2.2, colour, 0.6))
    return parts


def _known(x: np.ndarray) -> np.ndarray:
    """[T] bool - the frames of [N, D, T] all of whose numbers are finite."""
    return np.isfinite(x).all(axis=(0, 1))


def _bonds_of(frame: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """[M, 2] - the bonds of a frame [N, 3] by distance, i < j; none where a number is not finite."""
    if not np.isfinite(frame).all():
        return np.zeros((0, 2), np.int64)
    bonds = bonds_by_distance(frame.astype(np.float64), numbers)
    return bonds[bonds[:, 0] < bonds[:, 1]]


def _finite_points(x: np.ndarray) -> np.ndarray:
    """[M, D] - the points of [K, N, D, T] all of whose coordinates are finite."""
    points = np.moveaxis(x, 2, 3).reshape(-1, x.shape[2])
    return points[np.isfinite(points).all(axis=1)]


def _placed(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from points [2, M] to places in the picture, that has room for all [K, N, 2, T] that are finite."""
    rows = np.moveaxis(points, 2, 3).reshape(-1, 2)
    rows = rows[np.isfinite(rows).all(axis=1)]
    low, high = (rows.min(0), rows.max(0)) if len(rows) else (np.zeros(2), np.ones(2))
    room = np.array([WIDTH, HEIGHT]) - 2 * _MARGIN
    extent = np.maximum(high - low, 1e-12)
    scale = float((room / extent).min())
    centre = (low + high) / 2

    def place(path: np.ndarray) -> np.ndarray:
        x, y = scale * (path - centre[:, None])
        return np.stack([WIDTH / 2 + x, HEIGHT / 2 - y], axis=1)  # [M, 2], y upwards

    return place


def _some(frames: np.ndarray, most: int = _MOST_POINTS) -> np.ndarray:
    """At most so many of the frames, the first and the last among them."""
    if len(frames) <= most:
        return frames
    return frames[np.linspace(0, len(frames) - 1, most).round().astype(int)]


def _thinned(stretches: list[np.ndarray]) -> list[np.ndarray]:
    """Some of the stretches of frames, and of each some frames: a line through all of them has at most 40 points."""
    kept = _some(np.arange(len(stretches)), _MOST_RUNS)
    return [_some(stretches[i], _MOST_POINTS // len(kept)) for i in kept.tolist()]


def _lines(stretches: list[np.ndarray], colour: str, width: float, opacity: float) -> str:
    """Lines through stretches of points [M, 2] each, as one path."""
    text = ""
    for points in stretches:
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) > 1:
            text += "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{text}" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>' if text else ""


def _bonds(points: np.ndarray, bonds: np.ndarray, colour: str, width: float, opacity: float) -> str:
    ends = points[bonds]  # [M, 2, 2]
    ends = ends[np.isfinite(ends).all(axis=(1, 2))]
    text = "".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in ends)
    return f'<path d="{text}" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>' if text else ""


def _dots(points: np.ndarray, radius: float, colour: str, opacity: float = 1.0) -> str:
    points = points[np.isfinite(points).all(axis=1)]
    # A line of no length with round ends is a dot, and a path of many is short.
    text = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{text}" stroke="{colour}" stroke-width="{2 * radius}" opacity="{opacity}"/>' if text else ""
