"""The rows of `bench.sampling.steps` as a table, a verdict and a picture."""

import pathlib
import statistics
from collections.abc import Sequence

from geotdm_fast.plots import style
from geotdm_fast.scores.tables import cell_text, text_table

# Lower is better, but for `variety`, the distance between samples, where the full chain's own is.
SCORES = {
    "ade_mean": "ADE, mean",
    "fde_mean": "FDE, mean",
    "ade_best": "ADE, best",
    "fde_best": "FDE, best",
    "marginal": "marginal",
    "variety": "variety",
}
# A score within so many standard deviations of the full chain's mean could be another seed of the full chain.
WIDTH = 2.0

# (method, steps, spacing, precision)
Key = tuple[str, int, str, str]


def scores_of(rows: Sequence[dict]) -> list[str]:
    """The scores that all rows have."""
    return [name for name in SCORES if all(name in row for row in rows)]


def by_setting(rows: Sequence[dict]) -> dict[Key, list[dict]]:
    """The rows of every setting, one for each seed, in the order in which they came; the full chain is the first."""
    groups: dict[Key, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["steps"], row["spacing"], row["precision"]), []).append(row)
    return groups


def mean(rows: Sequence[dict], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def spread(rows: Sequence[dict], name: str) -> float:
    """Standard deviation from seed to seed."""
    return statistics.stdev(row[name] for row in rows)


def full_chain(groups: dict[Key, list[dict]]) -> list[dict]:
    """The rows of ddpm with all steps in fp32."""
    total = next(iter(groups.values()))[0]["total_steps"]
    return groups["ddpm", total, "uniform", "fp32"]


def excess(rows: Sequence[dict], full: Sequence[dict], name: str) -> float:
    """How much worse the mean of a score is than the full chain's, in the full chain's standard deviations."""
    by = mean(rows, name) - mean(full, name)
    by = abs(by) if name == "variety" else by
    width = spread(full, name)
    return by / width if width else (0.0 if by <= 0 else float("inf"))


def costs_nothing(rows: Sequence[dict], full: Sequence[dict]) -> bool:
    """Whether no score is more than `WIDTH` standard deviations worse than the full chain's."""
    return all(excess(rows, full, name) <= WIDTH for name in scores_of([*rows, *full]))


def report(rows: Sequence[dict], nll: dict) -> str:
    """What was drawn, and the table: mean +- standard deviation over the seeds."""
    first, groups, names = rows[0], by_setting(rows), scores_of(rows)
    full = full_chain(groups)
    unit = f", {first['unit']}" if first["unit"] else ""
    drawn = f"{first['num_graphs']} graphs x {first['num_samples']} samples, {len(full)} seeds"
    head = f"{first['checkpoint']} on {first['data']}{unit}: {drawn} (mean +- standard deviation)"
    table = []
    for (method, steps, spacing, precision), group in groups.items():
        cells = [f"{mean(group, name):.4f} +- {spread(group, name):.4f}" for name in names]
        seconds = mean(group, "seconds")
        speed = [1000 * seconds, mean(full, "seconds") / seconds]
        table.append([method, steps, spacing, precision, *cells, *speed, "yes" if costs_nothing(group, full) else "no"])
    header = ["method", "steps", "spacing", "precision", *(SCORES[name] for name in names)]
    header += ["ms a trajectory", "times as fast", "as good"]
    error = nll["nll_standard_error"]
    bound = f"NLL at most {cell_text(nll['nll'])}" + (f" +- {cell_text(error)} (standard error)" if error else "")
    return (
        f"{head}\n\n{text_table(header, table)}\n\n{bound} nats per graph, by the chain of {first['total_steps']} steps"
    )


def chains_of(groups: dict[Key, list[dict]]) -> dict[str, dict[int, list[dict]]]:
    """For each method, spacing and precision, by name: the rows of every number of steps, rising.

    All steps are the same steps by any spacing, and drawn once.
    """
    found: dict[str, dict[int, list[dict]]] = {}
    for method, _, spacing, precision in groups:
        chain = {
            steps: rows
            for (other, steps, by, rounded), rows in groups.items()
            if (other, rounded) == (method, precision) and (by == spacing or steps == rows[0]["total_steps"])
        }
        found[f"{method} {spacing} {precision}"] = dict(sorted(chain.items()))
    return found


def verdict(rows: Sequence[dict]) -> str:
    """How few steps cost nothing, for each method, spacing and precision; then the fastest of all."""
    groups = by_setting(rows)
    full = full_chain(groups)
    lines = [f"How few steps cost nothing (no score {WIDTH:g} standard deviations worse than the full chain's)?"]
    for name, chain in chains_of(groups).items():
        fewest = next((str(steps) for steps, group in chain.items() if costs_nothing(group, full)), None)
        lines.append(f"  {name}: {fewest or 'none of ' + ', '.join(map(str, chain))}")
    good = {key: group for key, group in groups.items() if costs_nothing(group, full)}
    method, steps, spacing, precision = best = min(good, key=lambda key: mean(good[key], "seconds"))
    times = mean(full, "seconds") / mean(good[best], "seconds")
    lines.append(f"Fastest of them: {method} with {steps} steps ({spacing}, {precision}), {times:.1f} times as fast")
    return "\n".join(lines)


def write_plot(rows: Sequence[dict], path: pathlib.Path) -> None:
    """Each score over the number of steps, the full chain's spread as a band. Raises as `style.save` does."""
    groups, names = by_setting(rows), scores_of(rows)
    full, first, chains = full_chain(groups), rows[0], chains_of(groups)
    ticks = sorted({row["steps"] for row in rows})
    with style.styled():
        figure, axes = style.panels(len(names), 3, header=1.1)
        for ax, name in zip(axes, names, strict=True):
            middle, width = mean(full, name), WIDTH * spread(full, name)
            ax.axhspan(middle - width, middle + width, color=style.BROAD, alpha=0.5, lw=0)
            for i, chain in enumerate(chains.values()):
                values, bars = zip(*((mean(group, name), spread(group, name)) for group in chain.values()), strict=True)
                ax.errorbar(list(chain), values, bars, marker="o", ms=3, lw=1.2, color=_colour(i), ls=_dash(i))
            ax.set_xscale("log")
            ax.set_xticks(ticks, labels=list(map(str, ticks)))
            ax.set_xticks([], minor=True)
            ax.set_xlabel("steps")
            ax.set_title(SCORES[name])
        handles = [style.line(_colour(i), 1.4, name) for i, name in enumerate(chains)]
        band = f"band: the full chain, {WIDTH:g} standard deviations; lower is better, but for variety"
        style.head(figure, f"{first['checkpoint']}: quality against steps", f"{first['data']}; {band}", [])
        below = (0.004, 1 - 0.5 / figure.get_figheight())
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=below, ncols=4)
        style.save(figure, path)


def _colour(i: int) -> str:
    return style.PALETTE[i % len(style.PALETTE)]


def _dash(i: int) -> str:
    return "-" if i < len(style.PALETTE) else "--"
