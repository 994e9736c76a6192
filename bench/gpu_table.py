"""The table of `bench.gpu_check`: its steps, what failed, and every time they measured."""

from bench import layer_speed
from bench.gpu_steps import Step
from bench.record import commit, now
from geotdm_fast.tables import text_table


def table(done: list[Step], rows: list[dict]) -> str:
    """The steps, what failed, and one table of every time."""
    parts = ["\n".join([*done[0].lines, f"commit {commit()}, {now()}"])]
    for step in done:
        if not step.ok:
            parts.append("\n".join([f"{step.name}: {step.status}", *(f"  {line}" for line in step.lines)]))
    layers = [row for row in rows if row["benchmark"] == "layer"]
    edges = [row for row in rows if row["benchmark"] == "edges"]
    if edges:
        parts.append(layer_speed.report_sweep(edges))
    calls = [step_cells(row) for row in rows if row["benchmark"] == "step" and "seconds" in row]
    if calls:
        columns = ["whole call", "mode", "dtype", "who", "ms", "x floor", "x best peer", "x official", "error"]
        parts.append(text_table(columns, calls))
    trained = [train_cells(row) for row in rows if row["benchmark"] == "train" and "seconds" in row]
    if trained:
        columns = ["training step", "precision", "who", "captured", "ms", "steps/s", "x best peer", "error"]
        parts.append(text_table(columns, trained))
    chains = [chain_cells(row) for row in rows if row["benchmark"] == "sample" and "seconds" in row]
    if chains:
        columns = [
            "sampling",
            "dtype",
            "who",
            "steps",
            "trajectories/s",
            "ms a step",
            "x best peer",
            "x official",
            "error",
        ]
        parts.append(text_table(columns, chains))
    parts.append("  ".join(f"{step.name} {step.seconds:.0f} s" for step in done))
    if layers:
        parts.append(layer_speed.report(layers))
    failed = [step.name for step in done if not step.ok]
    parts.append(f"NOT WELL: {', '.join(failed)}" if failed else "all was well")
    return "\n\n".join(parts)


def chain_cells(row: dict) -> list[str]:
    """A row of bench.sample for the table."""
    ratio = lambda key: f"{row[key]:.2f}" if key in row else ""
    return [
        f"W-{row['workload']}",
        row["dtype"],
        row["implementation"].replace("_", " "),
        str(row["steps"]),
        f"{row['trajectories_per_second']:.1f}",
        f"{row['ms_per_step']:.3f}",
        ratio("times_best_peer"),
        ratio("times_official"),
        f"{row['error']:.0e}",
    ]


def step_cells(row: dict) -> list[str]:
    """A row of bench.step for the table."""
    ratio = lambda key: f"{row[key]:.2f}" if key in row else ""
    return [
        f"W-{row['workload']}",
        row["mode"],
        row["dtype"],
        row["implementation"].replace("_", " "),
        f"{1e3 * row['seconds']:.3f}",
        f"{row['seconds'] / row['floor_seconds']:.2f}",
        ratio("times_best_peer"),
        ratio("times_official"),
        f"{row['error']:.0e}",
    ]


def train_cells(row: dict) -> list[str]:
    """A row of bench.train for the table."""
    return [
        f"W-{row['workload']}",
        row["precision"],
        row["implementation"].replace("_", " "),
        "yes" if row["captured"] else "",
        f"{1e3 * row['seconds']:.3f}",
        f"{row['steps_per_second']:.1f}",
        f"{row['times_best_peer']:.2f}" if "times_best_peer" in row else "",
        f"{row['error']:.0e}",
    ]
