"""The type hints that users get: marked as there by `py.typed`, and right in a script of theirs.

`make lint` runs mypy on the whole package.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geotdm_fast

PACKAGE = Path(geotdm_fast.__file__).parent
# What a checker must say of each expression.
EXPRESSIONS = {
    'geotdm_fast.load("x")': "geotdm_fast.model.Model",
    'geotdm_fast.load("x").forecast(data)': "geotdm_fast.samples.record.Samples",
    "geotdm_fast.load": "def (source: str | os.PathLike[Any], *",
    "array_dataset(positions)[0]": "geotdm_fast.data.trajectory.Trajectory",
    "array_dataset(positions)[:2]": "geotdm_fast.data.trajectory.TrajectoryDataset",
    "array_dataset(positions)[0].to('cpu')": "geotdm_fast.data.trajectory.Trajectory",
    "geotdm_fast.Sampler(geotdm_fast.load('x').diffusion)": "geotdm_fast.diffusion.sampler.Sampler",
    "geotdm_fast.EGTN": "def (n_layers: int,",
}
SCRIPT = """\
import numpy as np
import geotdm_fast
from geotdm_fast.data import array_dataset
positions = np.zeros((40, 5, 3))
data = array_dataset(positions)
"""
# torch and numpy left out, whose own hints take half a minute to read.
CONFIG = """\
[mypy]
ignore_missing_imports = True
[mypy-torch.*,numpy.*,matplotlib.*]
follow_imports = skip
"""
WRONG = {
    "geotdm_fast.Modell": 'Module has no attribute "Modell"',
    'geotdm_fast.load("x", precision=16)': 'Argument "precision"',
}


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_a_script_of_a_user_is_checked_with_our_types(tmp_path):
    script = tmp_path / "script.py"
    shown = [f"reveal_type({expression})" for expression in EXPRESSIONS]
    script.write_text(SCRIPT + "\n".join([*shown, *WRONG]) + "\n")
    config = tmp_path / "mypy.ini"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    # Found as an installed package is, whose hints count only with py.typed; checkers do not see an editable one.
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run([*command, str(script)], capture_output=True, text=True, cwd=tmp_path, env=env)
    told = {int(line): text for line, text in re.findall(r"^script\.py:(\d+): (.*)$", run.stdout, re.MULTILINE)}
    first = SCRIPT.count("\n") + 1
    for line, (expression, expected) in enumerate(EXPRESSIONS.items(), first):
        assert f'Revealed type is "{expected}' in told.get(line, run.stdout + run.stderr), expression
    for line, (expression, expected) in enumerate(WRONG.items(), first + len(EXPRESSIONS)):
        assert expected in told.get(line, run.stdout + run.stderr), expression
    assert "Found 2 errors in 1 file" in run.stdout, run.stdout
