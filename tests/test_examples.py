"""The scripts of examples/ run from end to end, on less: the numbers of their first cells are replaced."""

import pathlib
import re
import shutil
import subprocess

import pytest
import warm_python
from places import ROOT

from geotdm_fast.nn import temporal_layers

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
# What is asked of each number, where a script has it.
SMALL = {"NUM_SYSTEMS": 6, "NUM_TRAJECTORIES": 20, "NUM_SAMPLES": 2, "NUM_STEPS": 2, "NUM_GRAPHS": 4, "STEPS": 2}
# What a script leaves behind.
WRITTEN = {
    "forecast.py": ["forecast/forecast.png", "forecast/samples.npz"],
    "own_data.py": ["own_data/run/best.safetensors", "own_data/forecast.png"],
    "generate.py": ["generate/run/best.safetensors", "generate/trajectories.png"],
    "interpolate.py": ["interpolate/run/best.safetensors"],
    "scale_out.py": ["scale_out/run/best.safetensors", "scale_out/samples/manifest.json"],
    "custom_prior.py": [],
    "custom_temporal_layer.py": [],
}


def run_warm(words, check=False):
    """In place of `subprocess.run` of a command of torchrun: its processes are forks of one that has imported torch."""
    count = int(words[words.index("--nproc-per-node") + 1])
    for done in warm_python.run_together(count, *words[words.index("--nproc-per-node") + 2 :]):
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", run_warm)
    monkeypatch.setattr(temporal_layers, "TEMPORAL", dict(temporal_layers.TEMPORAL))  # a script adds to it
    shutil.copytree(ROOT / "configs", "configs")
    text = path.read_text(encoding="utf-8")
    for name, value in SMALL.items():
        text = re.sub(rf"^{name} = \d+", f"{name} = {value}", text, flags=re.MULTILINE)
    exec(compile(text, str(path), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
    for name in WRITTEN[path.name]:
        assert (pathlib.Path("outputs/examples") / name).exists(), name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_is_a_notebook(path):
    """Cells of code and of Markdown, as Jupyter reads the percent format; a title first."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert len(cells) > 3
    for cell in cells:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") or not line for line in cell.splitlines()[1:]), cell
