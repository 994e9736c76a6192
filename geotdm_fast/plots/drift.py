"""The picture of a rollout's drift: scores over blocks."""

from typing import Any

from geotdm_fast.plots import style
from geotdm_fast.runtime.files import PathLike

# Score, the same of the data, what the axis says, and what it is multiplied by.
_PANELS = (
    ("ade", "standing_still", "ADE", 1.0),
    ("speed", "speed_true", "speed (per frame)", 1.0),
    ("bond_error", "bond_error_true", "bond error (%)", 100.0),
    ("valid", "valid_true", "valid frames (%)", 100.0),
)


def plot_drift(result: dict[str, Any], path: PathLike, *, title: str | None = None) -> None:
    """Draw what `scores.drift.drift` returned, a panel for each score; path: .png, .pdf or .svg."""
    blocks = result["blocks"]
    panels = [panel for panel in _PANELS if any(block[panel[0]] is not None for block in blocks)]
    with style.styled():
        figure, axes = style.panels(len(panels), columns=4, size=2.9)
        for ax, (score, other, label, factor) in zip(axes, panels, strict=True):
            for name, colour in ((other, style.TRUTH if score != "ade" else style.GIVEN), (score, style.PALETTE[0])):
                points = [(b["block"], factor * b[name]) for b in blocks if b[name] is not None]
                if points:
                    ax.plot(*zip(*points, strict=True), ".-", color=colour, lw=1.6, ms=5)
            ax.set_ylim(bottom=0)
            ax.set_xlabel("block")
            ax.set_title(style.with_unit(label, result["unit"]) if score == "ade" else label)
        handles = [
            style.line(style.PALETTE[0], 1.6, "rollout", marker="."),
            style.line(style.TRUTH, 1.6, "data", marker="."),
            style.line(style.GIVEN, 1.6, "standing still (ADE)", marker="."),
        ]
        about = (
            f"{result['num_graphs']} graphs x {result['num_samples']} samples, {result['block_frames']} frames a block"
        )
        style.head(figure, title or f"Rollout: {style.literal(result['data'])}", about, handles)
        style.save(figure, path)
