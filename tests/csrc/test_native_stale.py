"""A compiled module that was built from other sources than the package: said, with what helps, and not used."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from native_cases import needs_native

import geotdm_fast
from geotdm_fast.ops import fakes, native

pytestmark = needs_native
# What `import geotdm_fast.ops` ends with, and that the reference runs.
USE = """
import torch
from geotdm_fast import ops, radius_graph
print(ops.status()[0].active, "|", ops.status()[0].reason)
print(radius_graph(torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), 2.0).tolist())
"""


def test_all_ops_of_the_module_fit():
    assert fakes.other_op() is None
    assert len(fakes.FAKES) == 17


@pytest.mark.parametrize(
    ("name", "fake", "said"),
    [
        ("rotate", lambda x: x, "it has no op rotate"),
        (
            "radius_graph",
            lambda x, batch, cutoff: x,
            "the arguments of its op radius_graph must be x, batch, cutoff, got x, batch, cutoff, loop",
        ),
    ],
)
def test_an_op_that_the_module_lacks_or_has_otherwise_is_named(monkeypatch, name, fake, said):
    monkeypatch.setitem(fakes.FAKES, name, fake)
    assert fakes.other_op() == said


def test_a_stale_module_is_a_warning_with_what_helps_and_the_reference_runs(tmp_path):
    package = pathlib.Path(geotdm_fast.__file__).parent
    shutil.copytree(package, tmp_path / "geotdm_fast", ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
    module = tmp_path / "geotdm_fast" / native._C.path.name
    content = module.read_bytes()
    assert content.count(b"radius_graph_periodic(Tensor") == 1
    # As from sources in which the op had another name.
    module.write_bytes(content.replace(b"radius_graph_periodic\0", b"radius_graph_in_boxes\0").replace(
        b"radius_graph_periodic(Tensor", b"radius_graph_in_boxes(Tensor"))  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told, edges = done.stdout.splitlines()
    assert told == (
        "reference | geotdm_fast._C is built from other sources than this package: it has no op radius_graph_periodic "
        "(anew, with torch, ninja and a C++ compiler at hand: pip install --no-build-isolation . in the sources, "
        "or make venv in a clone)"
    )
    assert edges == "[[0, 1], [1, 0]]"
