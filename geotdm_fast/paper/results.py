"""The file of rows, one JSON object a line, and the tables made of it."""

import fcntl
import json
import os
import pathlib
import textwrap
from collections.abc import Callable, Iterable

from geotdm_fast.data.pedestrian import SCENES
from geotdm_fast.paper.one_frame import molecule_of_one_frame
from geotdm_fast.paper.request import MOLECULE, SYSTEMS, TASKS, is_molecule
from geotdm_fast.paper.simulations import SIMULATIONS, is_simulation
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.parsing import parse_json
from geotdm_fast.scores.tables import cell_text, markdown_table

_HEAD = """\
# Results

What `geotdm reproduce` gave, beside the published figures; made from the JSON lines of
`bench/results/reproduce.jsonl` by `geotdm reproduce --table`, the newest row of every request. Lower is better, but
for classification. Each of our rows says how long it trained and where. What a row changes, it changes of the preset
as that was when it was made; until 2026-11-28 forecasts of bodies trained on the first window of each system, those
of five bodies by Adam.

`small` is a preset for two cores and half an hour, not the paper's setting: 4 layers of 64 for 6 of 128 (pedestrians:
the same), and a sixtieth to a twentieth of the paper's graphs pass by in training (charged particles: 640,000 for
12.3 million). That is why it seldom reaches the published model. Fewer threads than cores mean that another training
ran beside it.

The published code itself, trained beside ours with the same start weights, windows, order, steps and noise, by the
paper's settings for 10 epochs, ends in the same model (`bench/NOTES.md`). ADE / FDE of its best of 20 on 400 test
windows, which ours has to .0002: hotel .228 / .337, .230 / .315 and .225 / .365 (three seeds), zara2 .292 / .500,
where .13 / .21 and .16 / .30 are published; of 20 k-means representatives of 60 .233 / .316, .236 / .321, .230 / .344
and .283 / .445. After 20 epochs, on all 1197 windows of hotel (one seed), the published code has .2124 / .3185 and ours
.2122 / .3180; of representatives ours has .212 / .292. So what is missing there is not in our network, loss, optimiser
or data.

Liquids, the peptide and the protein are not the paper's. Beside ADE and FDE their rows have scores of molecules
(docs/scores.md): the mean difference of radial distribution functions, of mean squared displacements (relative), of
the distributions of bond lengths and torsions, and of RMSF (angstrom); in brackets the floor, true windows beside
others. They fall short of the truth: drawn argon moves too little and its structure is blurred, as a mean is. The
peptide beats standing still in ADE (the file of MDAnalysis: not) but never the mean of the given frames: frames 1 ps
apart hardly follow from one another. Its longer training has a higher ADE and is nearer to the truth in everything
else: torsions differ by .09 where standing still differs by .28, mean squared displacements by half where it differs
by all. The protein's alpha carbons, after 150 steps, beat the mean of the given frames but not standing still; all
its 1656 heavy atoms, after 200 steps, beat neither in ADE, and both in mean squared displacement.
"""
_ONE_FRAME = """\
Of molecules "from one frame" a model of Align Your Structures and one of GeoTDM have the steps of equal processor
time, about a quarter of an hour of one thread, both stages of the former together; "trained" is by the clock, beside
other work. Their tables have the Jensen-Shannon divergence of bond lengths, angles and torsions, and the share of
frames that are a valid molecule, whose floor is the share in the truth. In torsions Align Your Structures is nearer to
the truth for malonaldehyde and aspirin, GeoTDM for ethanol, salicylic acid and alanine dipeptide: one training and one
seed each.
"""
_NO_PAPER = "The preset `paper` wants a GPU (pedestrians: an hour or two of a CPU) and has no rows yet of: {}."
_NONE = "There are no rows yet.\n"
_SCORES = {
    "conditional": ("ade", "fde"),
    "interpolation": ("ade", "fde"),
    "unconditional": ("marginal", "classification", "prediction"),
}
_NAMES = {"ade": "ADE", "fde": "FDE", "ade_best": "best ADE", "fde_best": "best FDE"}
# Of these the floor stands beside the score: docs/scores.md.
_MD_NAMES = {
    "rdf": "RDF", "msd": "MSD", "rmsf": "RMSF", "bonds": "bonds", "angles": "angles", "torsions": "torsions",
    "validity": "valid frames",
}  # fmt: skip


def append_row(path: PathLike, row: dict) -> bool:
    """Append `row` unless one with its `id` is there; whether it was appended.

    A line that a kill left half-written is cut away first. Two processes take turns (a lock on the file).
    Raises OSError naming the file.
    """
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if any(known.get("id") == row["id"] for known in _parsed(content[:whole].decode(), path)):
                return False
            file.truncate(whole)
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            return True
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path} ({error.strerror or error})") from error


def read_results(path: PathLike) -> list[dict]:
    """The rows of a file; a last line without an end, which a kill left, is passed over.

    Raises FileNotFoundError, ValueError naming the line.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_text(encoding="utf-8")
    return _parsed(content[: content.rfind("\n") + 1], path)


def _parsed(content: str, path: pathlib.Path) -> list[dict]:
    rows = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} must be a JSON object ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number} must be a JSON object, got {type(row).__name__}")
        rows.append(row)
    return rows


def results_table(rows: Iterable[dict]) -> str:
    """Markdown: one table for each experiment and task, ours first, then forecasts without a model, then published.

    The two models of a molecule of which one frame is given share a table.
    Of rows that asked for the same of the same data, the last; the presets as they are come before those with changes.
    """

    def asked(row):
        return (row["experiment"], row["task"], row["preset"], row["data"], _data_sha256(row))

    newest = {(*asked(row), *row["changes"]): row for row in rows}
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(newest.values(), key=lambda row: (*_place(row), len(row["changes"]) > 0)):
        groups.setdefault((_title(row["experiment"]), row["task"]), []).append(row)
    if not groups:
        return f"{_HEAD}\n{_NONE}"
    sections = (_section(*key, found) for key, found in groups.items())
    of_one_frame = any(molecule_of_one_frame(rows[0]["experiment"]) is not None for rows in groups.values())
    return "\n".join([_HEAD, *[_ONE_FRAME] * of_one_frame, *_without_paper_rows(groups), *sections])


def _title(experiment: str) -> str:
    molecule = molecule_of_one_frame(experiment)
    return experiment if molecule is None else f"{molecule} from one frame"


def _data_sha256(row: dict) -> str | None:
    # Rows from before there were digests have none.
    return row.get("data_sha256")


def _without_paper_rows(groups: dict[tuple[str, str], list[dict]]) -> list[str]:
    """A paragraph that names what has no row of the preset `paper`; none where everything has one."""
    of_paper = {key: rows for key, rows in groups.items() if not is_simulation(rows[0]["experiment"])}
    without = [" ".join(key) for key, rows in of_paper.items() if all(row["preset"] != "paper" for row in rows)]
    return [textwrap.fill(_NO_PAPER.format(", ".join(without)), width=120) + "\n"] if without else []


def _place(row: dict) -> tuple[int, str, int]:
    """Where a row's section stands: N-body systems, molecules, pedestrians, simulations; of each, the tasks."""
    known = (*SYSTEMS, MOLECULE, *SCENES, *SIMULATIONS)
    kind = MOLECULE if is_molecule(row["experiment"]) else row["experiment"]
    return known.index(kind), row["experiment"], TASKS.index(row["task"])


def _section(title: str, task: str, rows: list[dict]) -> str:
    scores = _SCORES[task]
    if is_simulation(rows[0]["experiment"]):
        return _simulation_section(title, task, rows)
    unit = rows[0]["unit"]
    names = [_NAMES.get(score, score) + (f" ({unit})" if unit and score in _NAMES else "") for score in scores]
    header = ["", *names, "graphs", "trained", "sampled", "hardware"]
    lines = _lines(rows, lambda values: [_number(values.get(score)) for score in scores])
    for published in rows[-1]["paper"]:
        numbers = ["" if score not in published else f"{published[score]:g}" for score in scores]
        lines.append([f"{published['method']}, published ({published['protocol']})", *numbers, "", "", "", ""])
    return f"## {title}, {task}\n\n{markdown_table(header, lines)}\n{_all_beaten(rows)}"


def _simulation_section(title: str, task: str, rows: list[dict]) -> str:
    """ADE and FDE, also the best of the samples, and each score of molecules with its floor in brackets."""
    unit = f" ({rows[0]['unit']})" if rows[0]["unit"] else ""
    names = [_NAMES[score] + unit for score in _NAMES]
    scored = [name for name in _MD_NAMES if name in next(iter(rows[0]["scores"].values()))["md"]]
    floors = (f"{_MD_NAMES[name]} (floor)" for name in scored)
    header = ["", *names, *floors, "windows", "trained", "sampled", "hardware"]

    def numbers(values: dict) -> list[str]:
        found = [_number(values.get(score)) for score in _NAMES]
        return [*found, *(_with_floor(values.get("md", {}).get(name)) for name in scored)]

    lines = _lines(rows, numbers)
    return f"## {title}, {task}\n\n{markdown_table(header, lines)}\n{_all_beaten(rows)}"


def _lines(rows: list[dict], numbers: Callable[[dict], list[str]]) -> list[list]:
    """A line for each protocol of ours, and behind those that share them the lines of forecasts without a model.

    Rows of other data have others. numbers: the cells of some scores
    """
    found: dict[tuple, list[list]] = {}
    for row in rows:
        of_others = row["baselines"].items()
        plain = [(name.replace("_", " "), *numbers(errors), "", "", "", "") for name, errors in of_others]
        ours = found.setdefault(tuple(plain), [])
        for protocol, values in row["scores"].items():
            name = f"**ours**, {_about(row)}; {protocol}"
            ours.append([name, *numbers(values), values["num_graphs"], *_cost(row, values)])
    return [line for plain, ours in found.items() for line in (*ours, *map(list, plain))]


def _with_floor(score: dict | None) -> str:
    return "" if score is None else f"{_number(score['drawn'])} ({_number(score['floor'])})"


def _all_beaten(rows: list[dict]) -> str:
    """A sentence for each row that is a preset as it is; where they are of several experiments, these are named."""
    several = len({row["experiment"] for row in rows}) > 1
    return "".join(_beaten(row, several) for row in rows if not row["changes"])


def _beaten(row: dict, with_name: bool) -> str:
    """What the ADE of a row's first protocol is below and what not, in a sentence."""
    if not row["beats"]:
        return ""
    of = f"{row['experiment']}, " if with_name else ""
    name = lambda other: other.replace("_", " ")
    won = [name(other) for other, better in row["beats"].items() if better]
    lost = [name(other) for other, better in row["beats"].items() if not better]
    parts = [f"below {', '.join(won)}"] * bool(won) + [f"not below {', '.join(lost)}"] * bool(lost)
    return f"\nThe ADE of {of}preset {row['preset']} ({next(iter(row['scores']))}) is {' and '.join(parts)}.\n"


def _number(value: float | None) -> str:
    return cell_text(None if value is None else float(f"{value:.4g}"))


def _about(row: dict) -> str:
    network, diffusion = row["settings"]["denoise_model"], row["settings"]["diffusion"]
    # Rows from before there was a choice are of Adam.
    optimizer = row["settings"]["train"].get("optimizer", "adam")
    family = "" if molecule_of_one_frame(row["experiment"]) is None else "GeoTDM, "
    family = "Align Your Structures, " if network.get("type") else family
    size = f"{family}{network['n_layers']} layers of {network['hidden_dim']}, {optimizer}"
    if row["experiment"] in SYSTEMS and row["settings"]["data"]["train"].get("stride") == 1:
        size += ", all windows"
    digest = _data_sha256(row)
    data = row["data"] if digest is None else f"{row['data']}, SHA-256 {digest[:8]}"
    about = f"preset {row['preset']} ({data}; {size}, {diffusion['num_timesteps']} steps, {_sampling(row)})"
    return f"{about}, {', '.join(f'`{change}`' for change in row['changes'])}" if row["changes"] else about


def _sampling(row: dict) -> str:
    sampling = row["sampling"]
    # Rows from before there was a choice are of evenly spaced steps.
    spacing = sampling.get("spacing", "uniform")
    return f"{sampling['method']} {sampling['steps']}" + (f" by {spacing}" if spacing != "uniform" else "")


def _cost(row: dict, values: dict) -> list[str]:
    training = row["training"]
    stages = [training["structure"], training] if "structure" in training else [training]
    steps = " + ".join(str(stage["steps"]) for stage in stages)
    machines = [call["machine"] for call in row["calls"]]
    hardware = "; ".join(dict.fromkeys(m.get("gpu") or f"{m['cpu']}, threads: {m['threads']}" for m in machines))
    trained = f"{steps} steps, {_time(sum(stage['seconds'] for stage in stages))}"
    return [trained, _time(values["seconds"]), hardware]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
