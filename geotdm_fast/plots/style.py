"""One look for every picture: colours, a figure without global state, saving."""

from typing import TYPE_CHECKING, Any, cast

from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.shown import plain

if TYPE_CHECKING:
    from matplotlib.layout_engine import ConstrainedLayoutEngine


# Okabe and Ito's colours, told apart with every kind of colour vision; yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
GIVEN, TRUTH, BROAD, FAINT = "#9AA0A6", "#202124", "#C4C7CC", "#DADCE0"
DPI = 150

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#BDC1C6",
    "axes.labelcolor": "#3C4043",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#EEF0F2",
    "grid.linewidth": 0.8,
    "xtick.color": "#80868B",
    "ytick.color": "#80868B",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def styled():
    """A context in which matplotlib draws in our look; the caller's settings come back afterwards."""
    import matplotlib

    return matplotlib.rc_context(_RC)


def panels(count: int, columns: int, size: float = 3.1, header: float = 0.9, dpi: float = DPI):
    """A figure of `count` square panels in rows of `columns`, with `header` inches kept free above them."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    height = rows * size + header
    # Two narrow columns would squeeze the title: keep a least width.
    figure = Figure(figsize=(max(columns * size, 6.2), height), dpi=dpi, layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(
        rect=(0, 0, 1, 1 - header / height), w_pad=0.06, h_pad=0.06
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, list(axes[:count])


def head(figure, title: str, subtitle: str, handles: list):
    """Title and subtitle at the top left of the figure, the legend below them. Returns the subtitle's text."""
    inch = 1 / figure.get_figheight()
    figure.text(0.012, 1 - 0.12 * inch, title, fontsize=12.5, fontweight="bold", color="#202124", va="top")
    below = figure.text(0.012, 1 - 0.36 * inch, subtitle, fontsize=9, color="#5F6368", va="top")
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.004, 1 - 0.5 * inch),
        ncols=len(handles),
        handlelength=2.2,
        columnspacing=1.6,
        fontsize=9,
    )
    return below


def line(colour: str, width: float, label: str, marker: str = "", alpha: float = 1.0):
    """A legend's entry for a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, lw=width, label=label, marker=marker, alpha=alpha, ms=6)


def save(figure, path: PathLike) -> None:
    """Write the figure, atomically; the format follows the file's suffix (.png, .pdf, .svg)."""
    from pathlib import Path

    known = (".png", ".pdf", ".svg")
    if Path(path).suffix.lower() not in known:
        raise ValueError(f"plot: the picture's file must end in {', '.join(known)}, got {path}")
    with atomic_path(path) as aside:
        figure.savefig(aside)


def with_unit(label: str, unit: str) -> str:
    """`label (unit)`, or the label alone for numbers without a unit."""
    return f"{label} ({'Å' if unit == 'angstrom' else literal(unit)})" if unit else label


def literal(text: str) -> str:
    """A text of the data for a picture, short, without what matplotlib takes for a formula or cannot draw."""
    return plain(text, 80).replace("$", r"\$")
