"""What stands above every number: machine, versions, commit, date; and the JSON lines that keep them."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

import torch

from geotdm_fast import ops

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = pathlib.Path(__file__).resolve().parent / "results"
# One-minute load above which a CPU is not idle.
BUSY = 0.3


def context(device: torch.device | str = "cpu") -> dict:
    """Machine, versions, commit and date of a run, as every line of the results carries them."""
    return {"machine": machine(device), "versions": versions(), "commit": commit(), "date": now()}


def machine(device: torch.device | str = "cpu") -> dict:
    """Processor, cores of this process, threads, vector instructions, load when asked, and the GPU if it is used."""
    found = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "ops": {status.op: status.active for status in ops.status()},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict:
    """Of the package, Python, torch and what torch was built for."""
    import geotdm_fast

    return {
        "geotdm_fast": geotdm_fast.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def cpu_model() -> str:
    """The processor by name; its architecture where the system does not say."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = [tuple(part.strip() for part in line.partition(":")[::2]) for line in lines]
    first = {}
    for key, value in fields:
        first.setdefault(key, value)
    name = first.get("model name", platform.machine())
    # Virtual machines shorten the name; family and model still tell one generation from another.
    family = [f"{key} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{name} ({', '.join(family)})" if family else name


def commit() -> str:
    """Of the package's tree, with `+changes` when tracked files differ from it; `unknown` outside git."""
    run = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    try:
        changed = run("status", "--porcelain", "--untracked-files=no").strip()
        return run("rev-parse", "--short=10", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


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
    lines = ",\n".join(json.dumps(found) for found in sorted(kept.values(), key=lambda found: found["what"]))
    head = json.dumps({**about, "commit": commit(), "date": now()})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"about": {head}, "rows": [\n{lines}\n]}}\n')


def fail(program: str, error: Exception) -> int:
    """Print a user's error as one line; the exit status."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
