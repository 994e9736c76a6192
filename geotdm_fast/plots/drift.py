"""The picture of a rollout's drift: scores over blocks."""

import itertools
from collections.abc import Mapping
from typing import Any

from geotdm_fast.plots import style
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.shown import shown

# Score, the same of the data, what the axis says, and what it is multiplied by.
_PANELS = (
    ("ade", "standing_still", "ADE", 1.0),
    ("speed", "speed_true", "speed (per frame)", 1.0),
    ("bond_error", "bond_error_true", "bond error (%)", 100.0),
    ("valid", "valid_true", "valid frames (%)", 100.0),
)


def plot_drift(
    result: dict[str, Any],
    path: PathLike,
    *,
    title: str | None = None,
    label: str = "rollout",
    beside: Mapping[str, dict[str, Any]] | None = None,
) -> None:
    """Draw what `scores.drift.drift` returned, a panel for each score; path: .png, .pdf or .svg.

    label: what the legend calls it; beside: further results of the same data, by what it calls them
    Raises ValueError where one of these is called `label` too.
    """
    if label in (beside or {}):
        raise ValueError(f"plot_drift: beside must not have the label {shown(label)}, which is the result's own")
    results = {label: result} | dict(beside or {})
    blocks = [block for one in results.values() for block in one["blocks"]]
    panels = [panel for panel in _PANELS if any(block[panel[0]] is not None for block in blocks)]
    with style.styled():
        figure, axes = style.panels(len(panels), columns=4, size=2.9)
        for ax, (score, other, name, factor) in zip(axes, panels, strict=True):
            _curve(ax, result, other, factor, style.TRUTH if score != "ade" else style.GIVEN)
            for one, colour in zip(results.values(), itertools.cycle(style.PALETTE)):
                _curve(ax, one, score, factor, colour)
            ax.set_ylim(bottom=0)
            ax.set_xlabel("block")
            ax.set_title(style.with_unit(name, result["unit"]) if score == "ade" else name)
        handles = [
            style.line(colour, 1.6, style.literal(text), marker=".")
            for text, colour in zip(results, itertools.cycle(style.PALETTE))
        ]
        handles.append(style.line(style.TRUTH, 1.6, "data", marker="."))
        handles.append(style.line(style.GIVEN, 1.6, "standing still (ADE)", marker="."))
        about = (
            f"{result['num_graphs']} graphs x {result['num_samples']} samples, {result['block_frames']} frames a block"
        )
        style.head(figure, title or f"Rollout: {style.literal(result['data'])}", about, handles)
        style.save(figure, path)


def _curve(ax, result: dict[str, Any], score: str, factor: float, colour: str) -> None:
    points = [(b["block"], factor * b[score]) for b in result["blocks"] if b[score] is not None]
    if points:
        ax.plot(*zip(*points, strict=True), ".-", color=colour, lw=1.6, ms=5)
