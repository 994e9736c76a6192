"""Pictures of forecasts: given frames, truth and samples, one panel per system."""

from typing import Any

import numpy as np

from geotdm_fast.plots import molecule, style
from geotdm_fast.plots.frame_runs import runs, with_neighbours
from geotdm_fast.plots.projection import principal_plane, project
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.samples.record import Samples

MAX_SAMPLES = 12  # more lines than that hide one another


def plot_forecast(samples: Samples, path: PathLike, *, num_systems: int = 6, title: str | None = None) -> None:
    """Draw `num_systems` systems as a grid of panels into `path` (.png, .pdf or .svg).

    Conditional samples of particles and people: given frames grey, truth a full line, samples thin lines in the colour
    of their particle. Molecules: the last frame, a broad skeleton for the truth and thin ones for the samples. Where
    nobody knows the truth (of the last frame) it is left out, and the broad skeleton is the last given frame.
    Unconditional samples: the data in the upper row, generated trajectories below. Positions in three dimensions are
    drawn in the plane in which the system's true trajectory varies most. Raises ValueError for num_systems < 1.
    """
    if num_systems < 1:
        raise ValueError(f"plot: num_systems must be at least 1, got {num_systems}")
    graphs = spread(samples.num_graphs, num_systems)
    with style.styled():
        draw = _unconditional if samples.mode == "uncond" else _conditional
        style.save(draw(samples, graphs, title), path)


def spread(available: int, wanted: int) -> list[int]:
    """`wanted` indices (fewer when there are not as many) at equal spacing out of `available`."""
    wanted = min(wanted, available)
    return [i * available // wanted for i in range(wanted)]


def _conditional(samples: Samples, graphs: list[int], title: str | None):
    figure, axes = style.panels(len(graphs), columns=3)
    truth, forecasts = samples.truth(), samples.forecasts()[:MAX_SAMPLES]
    for ax, graph in zip(axes, graphs, strict=True):
        nodes = samples.nodes(graph)
        x, drawn = truth[nodes], forecasts[:, nodes]
        if samples.is_molecule:
            _molecule_panel(ax, samples, nodes, x, drawn)
        else:
            _particle_panel(ax, samples, nodes, x, drawn)
        _finish(ax, samples, f"system {graph}")
    about = _about(samples, graphs)
    if samples.is_molecule:
        handles = [
            style.line(style.BROAD, 5.0, "truth, last frame" if _ends_known(samples) else "given, last frame"),
            style.line(style.PALETTE[0], 1.1, f"{len(forecasts)} samples, last frame", alpha=0.7),
        ]
        handles += _element_handles(samples.atomic_numbers)
    else:
        handles = [
            style.line(style.GIVEN, 2.2, f"given ({int(samples.cond_mask.sum())} frames)", marker="."),
            style.line(style.PALETTE[0], 2.2, f"truth ({samples.num_known} frames)", marker="o"),
            style.line(style.PALETTE[0], 0.9, f"{len(forecasts)} samples", alpha=0.6),
        ]
        if not samples.has_target:
            del handles[1]
        if len(samples.scored) < len(samples.batch):
            handles.append(style.line(style.FAINT, 2.0, "neighbours"))
    style.head(figure, title or f"Forecasts: {style.literal(samples.name)}", about, handles)
    return figure


def _ends_known(samples: Samples) -> bool:
    """Whether the last frame is known in the data."""
    return samples.num_known == samples.samples.shape[-1]


def _about(samples: Samples, graphs: list[int]) -> str:
    colours = "" if samples.is_molecule else ", one colour for each particle"
    plane = "" if samples.samples.shape[2] == 2 else "; drawn in the plane of each system's largest spread"
    return f"{len(graphs)} of {samples.num_graphs} systems{colours}{plane}"


def _particle_panel(ax, samples: Samples, nodes: slice, x: np.ndarray, drawn: np.ndarray) -> None:
    """x [N, D, T], drawn [K, N, D, T]: each particle in its colour."""
    given = samples.cond_mask
    plane = principal_plane(np.moveaxis(x, 1, 2).reshape(-1, x.shape[1]))
    x, drawn = project(x, *plane), project(drawn, *plane)
    counted = np.isin(np.arange(nodes.start, nodes.stop), samples.scored)
    frames = np.arange(len(given))
    for i in range(len(x)):
        if not x[i].any():  # an empty place in a scene with few people
            continue
        colour = style.PALETTE[i % len(style.PALETTE)] if counted[i] else style.FAINT
        for run in runs(~given):
            line = with_neighbours(run, len(frames))
            if counted[i]:
                for path in drawn[:, i]:
                    ax.plot(*path[:, line], color=colour, lw=0.8, alpha=0.45, zorder=2)
                    if run[-1] == frames[-1]:
                        ax.plot(*path[:, -1:], ".", color=colour, ms=4, alpha=0.6, zorder=2, mew=0)
            ax.plot(*x[i][:, line], color=colour, lw=2.0, zorder=3, solid_capstyle="round")
        for run in runs(given):
            past = style.GIVEN if counted[i] else style.FAINT
            ax.plot(*x[i][:, run], ".-", color=past, lw=2.0, ms=4, mew=0, zorder=4)
        ax.plot(*x[i][:, -1:], "o", color=colour, ms=6, mec="white", mew=1.0, zorder=5)


def _molecule_panel(ax, samples: Samples, nodes: slice, x: np.ndarray, drawn: np.ndarray) -> None:
    """The last frame's skeletons: samples behind, truth before them, or the last given frame where nobody knows it."""
    numbers = samples.atomic_numbers[nodes]
    if not _ends_known(samples):
        x = x[..., samples.cond_mask]
    pairs = molecule.bonds(x[..., 0], numbers)
    plane = principal_plane(x[..., -1])

    def flat(y):
        return project(y[..., -1:], *plane)[..., 0]  # [..., N, 2]

    points = flat(x)
    large = len(points) > 100  # the atoms of a protein would hide its bonds
    _skeleton(ax, points, pairs, colour=style.BROAD, width=1.2 if large else 5.0, zorder=2)
    for drawn_points in flat(drawn):
        _skeleton(ax, drawn_points, pairs, colour=style.PALETTE[0], width=0.6 if large else 1.1, alpha=0.6, zorder=3)
    if not large:
        _atoms(ax, points, numbers)


def _atoms(ax, points: np.ndarray, numbers: np.ndarray) -> None:
    colours = [molecule.COLOURS.get(int(z), molecule.OTHER) for z in numbers]
    sizes = np.where(numbers == 1, 20, 48)
    ax.scatter(*points.T, s=sizes, c=colours, edgecolors=style.TRUTH, linewidths=0.7, zorder=4)


def _skeleton(
    ax, points: np.ndarray, pairs: np.ndarray, *, colour: str, width: float, zorder: int, alpha: float = 1.0
) -> None:
    """Bonds `pairs` [P, 2] between `points` [N, 2]."""
    from matplotlib.collections import LineCollection

    look: dict[str, Any] = {
        "colors": colour,
        "linewidths": width,
        "alpha": alpha,
        "zorder": zorder,
        "capstyle": "round",
    }
    ax.add_collection(LineCollection(points[pairs], **look), autolim=True)
    ax.autoscale_view()


def _unconditional(samples: Samples, graphs: list[int], title: str | None):
    """Upper row: data; lower row: generated. The two have nothing to do with one another but their distribution."""
    columns = graphs[:4]
    figure, axes = style.panels(2 * len(columns), columns=len(columns))
    truth, drawn = samples.truth(), samples.forecasts()[0]
    for i, (ax, x) in enumerate(zip(axes, [truth] * len(columns) + [drawn] * len(columns), strict=True)):
        graph = columns[i % len(columns)]
        nodes = samples.nodes(graph)
        generated = i >= len(columns)
        if samples.is_molecule:
            _overlaid_frames(ax, x[nodes], samples.atomic_numbers[nodes], truth[nodes])
        else:
            _path_panel(ax, x[nodes])
        _finish(ax, samples, f"{'generated' if generated else 'data'} {graph}")
    if samples.is_molecule:
        handles = [
            style.line(style.PALETTE[0], 0.9, f"{len(samples.cond_mask)} frames"),
            style.line(style.TRUTH, 2.0, "the last"),
        ]
        handles += _element_handles(samples.atomic_numbers)
    else:
        handles = [style.line(style.PALETTE[0], 1.8, f"{len(samples.cond_mask)} frames from faint to full", marker="o")]
    style.head(
        figure, title or f"Generated trajectories: {style.literal(samples.name)}", _about(samples, columns), handles
    )
    return figure


def _path_panel(ax, x: np.ndarray) -> None:
    plane = principal_plane(np.moveaxis(x, 1, 2).reshape(-1, x.shape[1]))
    x = project(x, *plane)
    num_frames = x.shape[-1]

    def fade(t):
        return 0.25 + 0.75 * (t + 1) / num_frames

    for i, path in enumerate(x):
        colour = style.PALETTE[i % len(style.PALETTE)]
        for t in range(num_frames - 1):
            ax.plot(*path[:, t : t + 2], color=colour, lw=1.8, alpha=fade(t), solid_capstyle="butt")
        ax.plot(*path[:, -1:], "o", color=colour, ms=6, mec="white", mew=1.0, zorder=3)


def _overlaid_frames(ax, x: np.ndarray, numbers: np.ndarray, reference: np.ndarray) -> None:
    pairs = molecule.bonds(reference[..., 0], numbers)
    plane = principal_plane(x[..., -1])
    num_frames = x.shape[-1]
    for t in range(num_frames):
        points = project(x[..., t : t + 1], *plane)[..., 0]
        last = t == num_frames - 1
        colour = style.TRUTH if last else style.PALETTE[0]
        _skeleton(ax, points, pairs, colour=colour, width=2.0 if last else 0.9, alpha=0.9 if last else 0.25, zorder=2)
    _atoms(ax, points, numbers)


def _finish(ax, samples: Samples, title: str) -> None:
    ax.set_title(title)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    three = samples.samples.shape[2] == 3
    place = ax.get_subplotspec()
    if place.is_last_row():
        ax.set_xlabel(style.with_unit("first axis" if three else "x", samples.unit))
    if place.is_first_col():
        ax.set_ylabel(style.with_unit("second axis" if three else "y", samples.unit))


def _element_handles(numbers: np.ndarray) -> list:
    from matplotlib.lines import Line2D

    handles = []
    for z in np.unique(numbers)[:6].tolist():
        colour = molecule.COLOURS.get(z, molecule.OTHER)
        label = molecule.SYMBOLS.get(z, str(z))
        handles.append(Line2D([], [], ls="", marker="o", ms=7, color=colour, mec=style.TRUTH, mew=0.7, label=label))
    return handles
