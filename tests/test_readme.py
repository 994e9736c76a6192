"""The README is one screen of what and why. What it shows is run by tests/docs/test_documents.py."""

import re
import subprocess
import sys

from documents import blocks, commands_of
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_short_and_in_this_order():
    assert len(README.splitlines()) <= 150
    assert len(README[: README.index("\n## ")].splitlines()) <= 40
    assert README.index("make demo") < README.index("```python") < README.index("docs/forecast.png")
    python = [block.text for block in blocks(README) if block.language == "python"]
    assert len([line for line in python[0].splitlines() if line and "import" not in line]) <= 10
    assert {"demo", "test"} <= {words[1] for words in commands_of(README) if words[0] == "make"}


def test_speeds_are_those_of_the_results():
    """Every figure of the table, and of the H100, is a row of bench/results."""
    import json

    def rows(name: str, **of: str) -> list[dict]:
        lines = (ROOT / "bench" / "results" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [row for row in map(json.loads, lines) if all(row.get(key) == value for key, value in of.items())]

    table = re.findall(r"^\| .*?: (?:inference|.*) \| (\d+) ms \| (\d+) ms \| (\d+) ms \|$", README, re.MULTILINE)
    table += re.findall(r"^\| the same, .* \| (\d+) ms \| (\d+) ms \| (\d+) ms \|$", README, re.MULTILINE)
    expected = set()
    for workload in ("nbody", "md"):
        for mode in ("inference", "training"):
            found = [
                row
                for row in rows("step", workload=workload, mode=mode, dtype="float32")
                if row["commit"].startswith("696004b") and "seconds" in row
            ]
            seconds = {row["implementation"]: row["seconds"] for row in found}
            best = min(value for name, value in seconds.items() if name != "ours")
            expected.add(tuple(f"{1e3 * value:.0f}" for value in (seconds["ours"], best, seconds["official"])))
    assert set(table) == expected

    def fastest(name: str, commit: str) -> float:
        return min(
            row["seconds"] / row.get("steps", 1)
            for row in rows(name, workload="nbody", implementation="ours", commit=commit)
            if "H100" in row["machine"].get("gpu", "")
        )

    sampling, training = fastest("sample", "c26cae4170"), fastest("train", "463c66d83a")
    assert f"{1e3 * sampling:.2f} ms in sampling and {1e3 * training:.1f} ms in training" in " ".join(README.split())


def test_import_is_light():
    heavy = "matplotlib ase mdtraj MDAnalysis sklearn scipy PIL yaml tqdm"
    # torch itself may bring some of them
    code = f"""
import sys, torch
loaded = lambda: {{name for name in {heavy.split()!r} if name in sys.modules}}
before = loaded()
import geotdm_fast
print(*loaded() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
