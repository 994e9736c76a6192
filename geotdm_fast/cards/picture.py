"""A small picture of a trajectory as an SVG element of some kilobytes, on a light or a dark page."""

from collections.abc import Callable, Sequence

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.plots.projection import principal_plane, project

WIDTH, HEIGHT, _MARGIN = 220, 160, 8
# Of middling brightness, to be seen on white and on black; what is grey has the colour of the page's text.
_COLOURS = ("#3f8fdc", "#e0732b", "#22a67c", "#c26fb0", "#8d7fe6", "#c79a26", "#d9534f")
_MOST_NODES, _MOST_SAMPLES, _MOST_POINTS, _MOST_BONDS = 12, 4, 40, 400


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

    Three dimensions are drawn in the plane in which the trajectory varies most. At most 40 points of a path and 400
    bonds are drawn: the element has less than 60 kB.
    """
    points = np.moveaxis(x, 1, 2).reshape(-1, x.shape[1])
    if not np.isfinite(points).all(axis=1).any():
        if drawn is None or not np.isfinite(drawn).any():
            return ""
        points = np.moveaxis(drawn[0], 1, 2).reshape(-1, x.shape[1])
    plane = principal_plane(points.astype(np.float64))
    flat = project(x.astype(np.float64), *plane)  # [N, 2, T]
    samples = np.zeros((0, *flat.shape)) if drawn is None else project(drawn[:_MOST_SAMPLES].astype(np.float64), *plane)
    if numbers is None:
        parts = _paths(flat, given, samples, first)
        grey = "; grey: given frames" if given.any() else ""
        label = f"Paths of the first graph{grey}"
    else:
        parts = _molecule(x, flat, samples, numbers)
        label = "The last frame of the first graph; grey: the last that is known"
    label += "; thin: samples" if len(samples) else ""
    return (
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" fill="none" '
        f'stroke-linecap="round" stroke-linejoin="round" style="flex:none"><title>{label}</title>{"".join(parts)}</svg>'
    )


def _paths(flat: np.ndarray, given: np.ndarray, samples: np.ndarray, first: Sequence[int]) -> list[str]:
    others = [i for i in range(len(flat)) if i not in set(first)]
    nodes = [*first, *others][:_MOST_NODES]
    place = _placed(np.concatenate([flat[nodes][None], samples[:, nodes]]))
    frames = np.flatnonzero(given)
    last = frames[-1] if len(frames) else 0
    known, future = _some(frames), _some(np.arange(last, len(given)))
    parts = []
    for n, i in enumerate(nodes):
        colour = _COLOURS[n % len(_COLOURS)]
        for path in samples[:, i]:
            parts.append(_line(place(path[:, future]), colour, 1.0, 0.55))
        if len(known) > 1:
            parts.append(_line(place(flat[i][:, known]), "currentColor", 2.0, 0.45))
        parts.append(_line(place(flat[i][:, future]), colour, 2.0, 1.0))
        parts.append(_dots(place(flat[i][:, -1:]), 3.0, colour))
    return parts


def _molecule(x: np.ndarray, flat: np.ndarray, samples: np.ndarray, numbers: np.ndarray) -> list[str]:
    known = np.flatnonzero(np.isfinite(x).all(axis=(0, 1)))
    if len(known) == 0:
        return [_dots(_placed(samples[:1, :, :, -1:])(samples[0, :, :, -1].T), 2.0, _COLOURS[0])]
    bonds = bonds_by_distance(x[..., known[0]].astype(np.float64), numbers)
    bonds = bonds[bonds[:, 0] < bonds[:, 1]]
    if len(bonds) > _MOST_BONDS:
        bonds = bonds[(numbers[bonds] != 1).all(axis=1)][:_MOST_BONDS]
        samples = samples[:1]
    truth, ends = flat[..., known[-1]], samples[..., -1]
    place = _placed(np.concatenate([truth[None], ends])[..., None])
    parts = [_bonds(place(truth.T), bonds, "currentColor", 4.0 if len(bonds) < 100 else 2.0, 0.3)]
    parts += [_bonds(place(end.T), bonds, _COLOURS[0], 1.2, 0.8) for end in ends]
    alone = ~np.isin(np.arange(len(numbers)), bonds)
    if len(numbers) <= 200 or alone.all():
        parts.append(_dots(place(truth[_some(np.arange(len(numbers)), 400)].T), 2.2, "currentColor", 0.6))
    return parts


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


def _line(points: np.ndarray, colour: str, width: float, opacity: float) -> str:
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return ""
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


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
