"""The picture of a run's losses."""

import math

from geotdm_fast.files import PathLike, atomic_path
from geotdm_fast.training.log import read_log


def draw_curve(log: PathLike, path: PathLike) -> None:
    """Draw training loss and validation over steps, and the learning rate, from `log.jsonl` into a PNG.

    Does nothing while the log is empty.
    """
    records = read_log(log)
    if not records:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, losses = _column(records, "loss")
    axes.plot(steps, losses, color="tab:blue", linewidth=0.8, alpha=0.4, label="training loss")
    axes.plot(steps, _smoothed(losses), color="tab:blue", label="training loss, smoothed")
    axes.set(xlabel="step", ylabel="mean squared error of the noise, per coordinate")
    if losses and min(losses) > 0:
        axes.set_yscale("log")
    for key, other in (("val_loss", axes), ("val_nll", None)):
        steps, values = _column(records, key)
        if values:
            other = other or axes.twinx()
            other.plot(steps, values, "o-", color="tab:orange", markersize=3, label=key.replace("_", " "))
            other.set_ylabel(axes.get_ylabel() if other is axes else "validation NLL (nats per graph)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png")


def _column(records: list[dict], key: str) -> tuple[list[int], list[float]]:
    rows = [(record["step"], record[key]) for record in records if isinstance(record.get(key), (int, float))]
    rows = [(step, value) for step, value in rows if math.isfinite(value)]
    return [step for step, _ in rows], [value for _, value in rows]


def _smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, its start corrected."""
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed
