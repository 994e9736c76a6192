"""What stands above every number: machine, versions, commit, date; and the JSON lines that keep them."""

import json
import pathlib
import sys

from geotdm_fast.provenance import ROOT, commit, context, machine, now

__all__ = ["RESULTS", "ROOT", "append", "commit", "context", "describe", "fail", "machine", "now"]

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"
# One-minute load above which a CPU is not idle.
BUSY = 0.3


def describe(found: dict) -> str:
    """The lines above a table: machine, versions, commit, date; and a warning when the machine is not idle."""
    place, version = found["machine"], found["versions"]
    hardware = f"{place['cpu']}, {place['isa']}, {place['threads']} of {place['cores']} cores"
    lines = [
        place.get("gpu", hardware),
        "  ".join(f"{op}: {active}" for op, active in place["ops"].items()),
        f"torch {version['torch']}, Python {version['python']}, commit {found['commit']}, {found['date']}",
    ]
    if place["load"] is not None and place["load"] > BUSY:
        lines.append(f"warning: the machine is not idle (load {place['load']}): not for the record")
    return "\n".join(lines)


def append(path: pathlib.Path, rows: list[dict]) -> None:
    """Add `rows` to the JSON lines of `path`; what is there stays. Raises OSError naming the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def replace_rows(path: pathlib.Path, rows: list[dict], about: dict) -> None:
    """A JSON file of one row for each `what`: these replace those of the same name, the rest stays."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = {found["what"]: found for found in known} | {found["what"]: found for found in rows}
    write_rows(path, list(kept.values()), about)


def write_rows(path: pathlib.Path, rows: list[dict], about: dict) -> None:
    """A JSON file of these rows alone, sorted by `what`, after a line `about` them."""
    lines = ",\n".join(json.dumps(found) for found in sorted(rows, key=lambda found: found["what"]))
    head = json.dumps({**about, "commit": commit(), "date": now()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"about": {head}, "rows": [\n{lines}\n]}}\n')


def fail(program: str, error: Exception) -> int:
    """Print a user's error as one line; the exit status."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
