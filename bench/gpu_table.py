"""The table of `bench.gpu_check`: its steps, what failed, and every time they measured."""

from bench.common.record import commit, now
from bench.gpu_steps import MORE_TO_DO, Step
from bench.network import ays
from bench.ops import layer_speed
from geotdm_fast.scores.tables import text_table


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
    trained = [train_cells(row) for row in rows if row["benchmark"] == "train" and "seconds" in row]
    if trained:
        columns = ["training step", "precision", "who", "captured", "ms", "steps/s", "x best peer", "error"]
        parts.append(text_table(columns, trained))
    mixed = [mixed_cells(row) for row in rows if row["benchmark"] == "mixed"]
    if mixed:
        parts.append(text_table(["step on mixed molecules", "precision", "who", "captures", "ms"], mixed))
    molecules = [row for row in rows if row["benchmark"] == "ays" and "inference_seconds" in row]
    if molecules:
        parts.append(f"Align Your Structures: {ays.report(ays.Sizes(**molecules[-1]['sizes']), molecules)}")
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
    parts += ["\n".join([step.name, *step.lines]) for step in done if step.ok and step.name.startswith("charged")]
    parts.append("  ".join(f"{step.name} {step.seconds:.0f} s" for step in done))
    if layers:
        parts.append(layer_speed.report(layers))
    decided = decisions(rows)
    if decided:
        parts.append(text_table(["aimed at on an H100, bf16, 128 graphs", "aim", "came", ""], decided))
    failed = [step.name for step in done if not step.ok] + uncaptured(rows)
    unfinished = [f"{step.name}: {step.status}" for step in done if step.status == MORE_TO_DO]
    parts.append("\n".join([*unfinished, f"NOT WELL: {', '.join(failed)}" if failed else "all was well"]))
    return "\n\n".join(parts)


def uncaptured(rows: list[dict]) -> list[str]:
    """Rows of ours on a GPU that should be CUDA graphs and are none: launched one by one they say nothing of us."""
    return [
        f"{row['benchmark']} W-{row['workload']} is no CUDA graph"
        for row in rows
        if row["implementation"] == "ours" and row.get("captured") is False and "gpu" in row["machine"]
    ]


# By workload: milliseconds of a sampling step and of a training step.
SAMPLING_MS, TRAINING_MS = {"nbody": 0.25, "md": 2.0}, {"nbody": 1.0, "md": 8.0}
# Share of the floor that a forward layer reaches; times the official structure in sampling, eager and compiled.
OF_FLOOR, TIMES_OFFICIAL = {"spatial": 0.45, "temporal": 0.40}, {"official": 25, "official_compiled": 5}


def decisions(rows: list[dict]) -> list[list[str]]:
    """What was aimed at, what came, and whether that is it; what was not measured is not there."""
    found = []

    def add(what: str, aim: float, came: float, unit: str, most: bool) -> None:
        verdict = "met" if (came <= aim if most else came >= aim) else "missed"
        found.append([what, f"{'<=' if most else '>='} {aim:g}{unit}", f"{came:.3g}{unit}", verdict])

    last = {}  # of rows about the same, the last
    for row in rows:
        precision = row.get("precision") or {"mixed": "bf16"}.get(row.get("dtype"))
        if "seconds" in row and precision == "bf16" and row["implementation"] == "ours":
            last[row["benchmark"], row["workload"], row.get("layer"), row.get("direction")] = row
    for (benchmark, workload, layer, direction), row in last.items():
        if benchmark == "train" and workload in TRAINING_MS:
            add(f"W-{workload}, a training step", TRAINING_MS[workload], 1e3 * row["seconds"], " ms", True)
        elif benchmark == "sample" and workload in SAMPLING_MS:
            add(f"W-{workload}, a sampling step", SAMPLING_MS[workload], row["ms_per_step"], " ms", True)
            for peer, times in TIMES_OFFICIAL.items():
                if peer in row.get("times", {}):
                    add(f"W-{workload}, sampling, times {peer.replace('_', ' ')}", times, row["times"][peer], "", False)
        elif benchmark == "layer" and direction == "forward" and workload in SAMPLING_MS:
            share = 100 * row["floor_seconds"] / row["seconds"]
            add(f"W-{workload}, {layer} layer, forward, of its floor", 100 * OF_FLOOR[layer], share, " %", False)
    return found


def chain_cells(row: dict) -> list[str]:
    """A row of bench.sampling.sample for the table."""

    def ratio(key):
        return f"{row[key]:.2f}" if key in row else ""

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


def train_cells(row: dict) -> list[str]:
    """A row of bench.training.train for the table."""
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


def mixed_cells(row: dict) -> list[str]:
    """A row of bench.training.mixed for the table."""
    captures = str(row["captures"]) if row["captured"] else ""
    return [f"W-{row['workload']}", row["precision"], row["implementation"], captures, f"{1e3 * row['seconds']:.3f}"]
