"""Where a number comes from: machine, versions, commit, date."""

import datetime
import os
import pathlib
import platform
import subprocess

import torch

from geotdm_fast import ops

ROOT = pathlib.Path(__file__).resolve().parent.parent


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
    first: dict[str, str] = {}
    for key, value in fields:
        first.setdefault(key, value)
    name = first.get("model name", platform.machine())
    # Virtual machines shorten the name; family and model still tell one generation from another.
    family = [f"{key} {first[key]}" for key in ("cpu family", "model") if key in first]
    return f"{name} ({', '.join(family)})" if family else name


def commit() -> str:
    """GEOTDM_COMMIT; without it the commit of the package's tree, with `+changes` when tracked files differ from it;
    `unknown` outside its own git."""
    if os.environ.get("GEOTDM_COMMIT"):
        return os.environ["GEOTDM_COMMIT"]

    def run(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    try:
        # Installed into a folder of somebody else's repository, the package has no commit.
        if pathlib.Path(run("rev-parse", "--show-toplevel").strip()).resolve() != ROOT:
            return "unknown"
        changed = run("status", "--porcelain", "--untracked-files=no").strip()
        return run("rev-parse", "--short=10", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
