"""The picture of a training run: losses over steps, read from `log.jsonl`."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from geotdm_fast.plots import style
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.parsing import is_step, parse_json

if TYPE_CHECKING:
    from matplotlib.layout_engine import ConstrainedLayoutEngine


# Keys in the log; the NLL has its own scale, in a panel below.
_VALIDATION = ("val_loss", "val_nll")
# Beyond it the axes overflow.
_LARGEST = 1e100


def plot_loss(log: PathLike, path: PathLike, *, title: str | None = None) -> None:
    """Draw training loss (each record faint, their running mean full) and validation over steps.

    log: JSON lines, each an object with an integer `step` and numbers such as `loss`, `val_loss`, `val_nll`, `lr`
    path: .png, .pdf or .svg
    Raises FileNotFoundError for no log, ValueError for a file without a single record of a loss.
    """
    records = _read(log)
    loss = _column(records, "loss")
    validation = {key: column for key in _VALIDATION if (column := _column(records, key))[0]}
    if not loss[0] and not validation:
        raise ValueError(f"{log} must hold training records with a loss (log.jsonl of `geotdm train`); found none")
    with style.styled():
        style.save(
            _draw(loss, validation, title or f"Training: {style.literal(Path(log).resolve().parent.name)}"), path
        )


def _draw(loss: tuple, validation: dict[str, tuple], title: str):
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    rows = 2 if "val_nll" in validation else 1
    figure = Figure(figsize=(8, 2.4 + 2.2 * rows), dpi=style.DPI, layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(rect=(0, 0, 1, 1 - 0.85 / figure.get_figheight()))
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:rows])[:, 0]
    handles = []
    if loss[0]:
        steps, values = loss
        axes[0].plot(steps, values, color=style.PALETTE[0], lw=0.7, alpha=0.3)
        axes[0].plot(steps, running_mean(values), color=style.PALETTE[0], lw=1.8)
        handles += [style.line(style.PALETTE[0], 0.8, "training loss", alpha=0.4)]
        handles += [style.line(style.PALETTE[0], 1.8, "its running mean")]
    for key, (steps, values) in validation.items():
        ax = axes[-1] if key == "val_nll" else axes[0]
        ax.plot(steps, values, ".-", color=style.PALETTE[1], lw=1.4, ms=7)
        if key == "val_nll":
            ax.set_ylabel("NLL (nats per graph)")
    if validation:
        handles.append(style.line(style.PALETTE[1], 1.4, "validation", marker="."))
    shown = [v for line in axes[0].get_lines() for v in line.get_ydata()]
    if shown and min(shown) > 0:
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_formatter("{x:g}")
        if max(shown) < 30 * min(shown):  # a decade or less has too few labels of its own
            axes[0].yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            axes[0].yaxis.set_minor_formatter("{x:g}")
    axes[0].set_ylabel("noise error (mean square per coordinate)")
    axes[-1].set_xlabel("step")
    last = max(loss[0] or [0])
    about = f"{last} steps; lowest running mean {min(running_mean(loss[1])):.4g}" if loss[0] else "validation only"
    style.head(figure, title, about, handles)
    return figure


def _read(log: PathLike) -> list[dict]:
    path = Path(log)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue  # a line that a kill left half-written
        if isinstance(record, dict) and is_step(record.get("step")):
            records.append(record)
    return records


def _column(records: list[dict], key: str) -> tuple[list[int], list[float]]:

    def drawable(value):
        return isinstance(value, int | float) and abs(value) < _LARGEST

    rows = [(r["step"], float(r[key])) for r in records if drawable(r.get(key))]
    return [step for step, _ in rows], [value for _, value in rows]


def running_mean(values: list[float]) -> list[float]:
    """Mean over a window of a twentieth of the values (at least five) around each, cut off at both ends."""
    import numpy as np

    half = max(2, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    low, high = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return ((total[high] - total[low]) / (high - low)).tolist()
