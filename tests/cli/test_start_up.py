"""What is imported when: counted in modules, not in seconds."""

import os
import subprocess
import sys

import pytest

NETWORK = """
import geotdm_fast, sys, torch
network = geotdm_fast.EGTN(1, 1, 0, 16, 8, "silu", True, 1, 3)
edges = torch.tensor([[0, 1, 2], [1, 2, 0]])
model = geotdm_fast.GeoTDM(network, "linear", 25, geotdm_fast.ModelMeanType.START_X,
                           geotdm_fast.ModelVarType.FIXED_LARGE, geotdm_fast.LossType.MSE, "cpu")
x, given = torch.randn(3, 3, 6), torch.ones(1, 1, 6)
given[..., 3:] = 0
kwargs = {"h": torch.ones(3, 1), "edge_index": edges, "edge_attr": None, "batch": torch.zeros(3, dtype=torch.long),
          "cond_mask": given, "x_given": x}
model.training_losses(x[..., 3:], model_kwargs=kwargs)["loss"].mean().backward()
model.p_sample_loop((3, 3, 3), model_kwargs=kwargs)
"""
TRAINING = """
import sys
from geotdm_fast.training.optimizer import Optimizer
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast import EGTN
import torch
network = EGTN(1, 1, 0, 16, 8, "silu", True, 1, 3)
weights = FlatWeights(network)
weights.backward(sum(parameter.square().sum() for parameter in network.parameters()))
Optimizer("muon", weights).update(torch.tensor([1e-3, 0.0]), 1.0, None)
"""


LOADERS = ["geotdm_fast.data", "yaml"]
COMPILER = ["torch._dynamo", "torch._inductor", "sympy", "triton", "matplotlib"]


def fresh(code: str) -> str:
    """What a fresh interpreter prints that runs `code`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def loaded_by():
    """What a fresh interpreter has loaded of the modules asked about after each of three pieces of code, in turn."""
    report = "\nprint('loaded:', *[name for name in NAMES if name in sys.modules])\n"
    parts = {"import": "import geotdm_fast, sys; geotdm_fast.EGTN, geotdm_fast.GeoTDM"}
    parts |= {"network": NETWORK, "training": TRAINING}
    said = fresh(f"NAMES = {LOADERS + COMPILER}" + "\n" + "".join(part + report for part in parts.values()))
    lines = [line.split()[1:] for line in said.splitlines() if line.startswith("loaded:")]
    return dict(zip(parts, lines, strict=True))


def test_the_network_needs_no_data_loaders(loaded_by):
    assert not {*LOADERS} & {*loaded_by["import"]}


@pytest.mark.parametrize("code", ["network", "training"])
def test_the_compiler_is_not_imported_on_the_cpu(loaded_by, code):
    # torch._dynamo and what it brings cost as much CPU time as torch itself, at every start and every end.
    assert not {*COMPILER} & {*loaded_by[code]}


def test_missing_files_are_told_without_torch(tmp_path):
    commands = [
        ["train", "none.yaml"],
        ["train", "here.yaml", "--data", "none.npz"],
        ["train", "here.yaml", "--data", "here.npz", "--topology", "none.pdb"],
        ["sample", "none.safetensors", "--out", "s.npz"],
        ["sample", "nbody_charged_smal", "--out", "s.npz"],
        ["sample", "nbody_charged_small", "--data", "none.npz", "--out", "s.npz"],
        ["sample", "nbody_charged_small", "--data-config", "none.yaml", "--out", "s.npz"],
        ["evaluate", "none.npz"],
        ["evaluate", "none.safetensors"],
        ["distill", "none.safetensors", "--out", "student"],
        ["distill", "nbody_charged_small", "--data", "none.npz", "--out", "student"],
        ["drift", "none.npz"],
        ["drift", "none.safetensors"],
        ["check-equivariance", "none.safetensors"],
        ["plot", "none.npz", "--out", "p.png"],
        ["reproduce", "md:ethanol", "--data", "none.npz"],
    ]
    (tmp_path / "here.yaml").write_text("data: {}\n")
    (tmp_path / "here.npz").touch()
    code = f"""
import os
os.chdir({str(tmp_path)!r})
from geotdm_fast.cli import main
for words in {commands!r}:
    assert main(words) == 2, words
"""
    assert fresh(f"{code}import sys; print('torch' in sys.modules)").splitlines()[-1] == "False"
