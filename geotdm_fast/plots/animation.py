"""Moving pictures of samples: an animated GIF."""

import numpy as np

from geotdm_fast.plots import molecule, style
from geotdm_fast.plots.forecast import MAX_SAMPLES, spread
from geotdm_fast.plots.known import known_part
from geotdm_fast.plots.projection import principal_plane, project
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.samples.record import Samples

DPI = 84
MILLISECONDS, LAST_MILLISECONDS = 110, 1600


def animate(
    samples: Samples, path: PathLike, *, num_systems: int = 3, title: str | None = None, progress: bool = True
) -> None:
    """Write `num_systems` systems as an animated GIF: the given frames, then truth and samples side by side in time.

    Unconditional samples: the data in the upper row, generated trajectories below. Three dimensions are drawn in the
    plane in which the system's true trajectory varies most. Raises ValueError for num_systems < 1 and
    for samples whose truth nobody knows.
    """
    if num_systems < 1:
        raise ValueError(f"plot: num_systems must be at least 1, got {num_systems}")
    samples = known_part(samples)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from geotdm_fast.runtime.bars import progress_bar

    graphs = spread(samples.num_graphs, num_systems)
    with style.styled():
        figure, scenes, clock = _stage(samples, graphs, title)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        canvas.draw()  # the first pass knows the labels' sizes, the second puts square panels between them
        figure.set_layout_engine("none")  # laid out once: nothing may move but the trajectories
        images = []
        for t in progress_bar(range(len(samples.cond_mask)), desc="drawing", unit="frame", disable=not progress):
            for scene in scenes:
                scene.show(t)
            clock.set_text(_clock(samples, t))
            canvas.draw()
            images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    # One palette for all frames, from the last, which shows every line: colours do not flicker.
    palette = images[-1].quantize(128)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [MILLISECONDS] * (len(images) - 1) + [LAST_MILLISECONDS]
    with atomic_path(path) as aside:
        images[0].save(aside, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)


def _clock(samples: Samples, t: int) -> str:
    phase = "generated" if samples.mode == "uncond" else "given" if samples.cond_mask[t] else "forecast"
    return f"frame {t + 1} of {len(samples.cond_mask)}: {phase}"


def _stage(samples: Samples, graphs: list[int], title: str | None):
    """The figure, one scene per panel, and the text that tells the time."""
    truth, forecasts = samples.truth(), samples.forecasts()[:MAX_SAMPLES]
    generated = samples.mode == "uncond"
    figure, axes = style.panels(len(graphs) * (2 if generated else 1), columns=len(graphs), dpi=DPI)
    scenes = []
    for i, ax in enumerate(axes):
        graph = graphs[i % len(graphs)]
        nodes = samples.nodes(graph)
        if not generated:
            x, drawn, label = truth[nodes], forecasts[:, nodes], f"system {graph}"
        elif i < len(graphs):
            x, drawn, label = truth[nodes], forecasts[:0, nodes], f"data {graph}"
        else:
            x, drawn, label = forecasts[0, nodes], forecasts[:0, nodes], f"generated {graph}"
        scenes.append(_Scene(ax, samples, nodes, x, drawn))
        ax.set_title(label)
    sampled = f"{len(forecasts)} samples"
    if samples.is_molecule and not generated:
        handles = [style.line(style.BROAD, 5.0, "truth"), style.line(style.PALETTE[0], 1.1, sampled, alpha=0.7)]
    elif generated:
        one = style.line(style.PALETTE[0], 2.0, "one colour for each particle", marker="o")
        handles = [style.line(style.BROAD, 5.0, "bonds")] if samples.is_molecule else [one]
    else:
        handles = [
            style.line(style.GIVEN, 2.0, "given"),
            style.line(style.PALETTE[0], 2.0, "truth", marker="o"),
            style.line(style.PALETTE[0], 0.9, sampled, marker=".", alpha=0.6),
        ]
    what = "Generated trajectories" if generated else "Forecasts"
    # The subtitle's text is what changes: the clock.
    return (
        figure,
        scenes,
        style.head(figure, title or f"{what}: {style.literal(samples.name)}", _clock(samples, 0), handles),
    )


class _Scene:
    """The artists of one panel, made once; `show(t)` moves them to frame t."""

    def __init__(self, ax, samples: Samples, nodes: slice, x: np.ndarray, drawn: np.ndarray):
        plane = principal_plane(np.moveaxis(x, 1, 2).reshape(-1, x.shape[1]))
        self.x, self.drawn = project(x, *plane), project(drawn, *plane)  # [N, 2, T], [K, N, 2, T]
        self.first = int(np.argmin(samples.cond_mask))  # the first frame that was not given
        self.given = samples.mode != "uncond"
        self.counted = np.isin(np.arange(nodes.start, nodes.stop), samples.scored)
        numbers = samples.atomic_numbers[nodes] if samples.is_molecule else None
        self._limits(ax, samples.unit, x.shape[1])
        if numbers is None:
            self.bonds = None
            self._particles(ax)
        else:
            self.bonds = molecule.bonds(samples.truth()[nodes][..., 0], numbers)
            self._molecule(ax, numbers)

    def _limits(self, ax, unit: str, dims: int) -> None:
        # Samples may fly far away: the truth and nine tenths of the samples decide what is seen.
        low, high = self.x.min((0, 2)), self.x.max((0, 2))
        if len(self.drawn):
            points = np.moveaxis(self.drawn, 2, 0).reshape(2, -1)
            low = np.minimum(low, np.nanpercentile(points, 5, axis=1))
            high = np.maximum(high, np.nanpercentile(points, 95, axis=1))
        centre, half = (low + high) / 2, max(0.57 * float((high - low).max()), 1e-6)
        ax.set_xlim(centre[0] - half, centre[0] + half)
        ax.set_ylim(centre[1] - half, centre[1] + half)
        ax.set_aspect("equal", adjustable="box")
        names = ("first axis", "second axis") if dims == 3 else ("x", "y")
        if ax.get_subplotspec().is_last_row():
            ax.set_xlabel(style.with_unit(names[0], unit))
        if ax.get_subplotspec().is_first_col():
            ax.set_ylabel(style.with_unit(names[1], unit))

    def _particles(self, ax) -> None:
        self.past, self.future, self.heads, self.lines = [], [], [], []
        for i in range(len(self.x)):
            colour = style.PALETTE[i % len(style.PALETTE)] if self.counted[i] else style.FAINT
            visible = bool(self.x[i].any())  # an empty place in a scene with few people stays unseen
            grey = style.GIVEN if self.counted[i] else style.FAINT

            def make(zorder, show=visible, **look):
                return ax.plot([], [], zorder=zorder, visible=show, **look)[0]

            self.past.append(make(3, color=grey, lw=2.0))
            self.future.append(make(3, color=colour, lw=2.0))
            self.heads.append(make(5, color=colour, marker="o", ms=7, mec="white", mew=1.0))
            samples = len(self.drawn) if self.counted[i] else 0
            look = {"color": colour, "lw": 0.9, "alpha": 0.5, "marker": ".", "ms": 6, "mew": 0}
            self.lines.append([make(2, markevery=[-1], **look) for _ in range(samples)])

    def _molecule(self, ax, numbers: np.ndarray) -> None:
        from matplotlib.collections import LineCollection

        def make(colour, width, alpha, zorder):
            return ax.add_collection(
                LineCollection([], colors=colour, linewidths=width, alpha=alpha, zorder=zorder, capstyle="round")
            )

        large = len(numbers) > 100
        self.skeleton = make(style.BROAD, 1.2 if large else 5.0, 1.0, 2)
        self.sketches = [make(style.PALETTE[0], 0.6 if large else 1.1, 0.6, 3) for _ in self.drawn]
        colours = [molecule.COLOURS.get(int(z), molecule.OTHER) for z in numbers]
        sizes = np.zeros(len(numbers)) if large else np.where(numbers == 1, 20, 48)
        self.atoms = ax.scatter(*self.x[..., 0].T, s=sizes, c=colours, edgecolors=style.TRUTH, linewidths=0.7, zorder=4)

    def show(self, t: int) -> None:
        drawn_from = max(self.first - 1, 0)
        forecasting = t >= self.first
        if self.bonds is not None:
            self.skeleton.set_segments(self.x[..., t][self.bonds])
            self.atoms.set_offsets(self.x[..., t])
            for sketch, points in zip(self.sketches, self.drawn[..., t], strict=True):
                sketch.set_segments(points[self.bonds] if forecasting else [])
            return
        for i, path in enumerate(self.x):
            if self.given:
                self.past[i].set_data(*path[:, : min(t + 1, self.first)])
            self.future[i].set_data(*path[:, drawn_from : t + 1] if forecasting else ([], []))
            self.heads[i].set_data(*path[:, t : t + 1])
            for line, sampled in zip(self.lines[i], self.drawn[:, i], strict=False):
                line.set_data(*sampled[:, drawn_from : t + 1] if forecasting else ([], []))
