"""The commands of examples/ run, one after the other, on less."""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from places import ROOT
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.cli import main

# What makes a command small: by the words that it begins with, options in place of its own or behind it.
SMALL = {
    ("simulate", "md:argon"): {"--num-frames": "160", "--equilibrate": "0.5", "--engine": "own"},
    ("train",): {
        "--set": ("train.num_steps=2", "train.eval_graphs=1", "denoise_model.n_layers=1", "data.train.stride=20")
    },
    ("sample",): {"--num-graphs": "1", "--num-samples": "2", "--steps": "1"},
}


def write_molecule() -> None:
    """`run.xtc` and `run.pdb`: 240 frames of ethanol, an atom of which shakes by 0.02 angstrom, 0.5 ps apart."""
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("EOH", topology.add_chain())
    for i, number in enumerate(ETHANOL):
        element = mdtraj.element.Element.getByAtomicNumber(int(number))
        topology.add_atom(f"{element.symbol}{i}", element, residue)
    x = 0.1 * (ETHANOL_POSITIONS + 0.02 * np.random.default_rng(3).normal(size=(240, *ETHANOL_POSITIONS.shape)))
    run = mdtraj.Trajectory(x, topology, time=0.5 * np.arange(len(x)))
    run.save_xtc("run.xtc")
    run[0].save_pdb("run.pdb")


# What a reader of an example has before.
FILES = {"molecule.md": write_molecule}


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def smaller(words: list[str]) -> list[str]:
    for begin, options in SMALL.items():
        if tuple(words[: len(begin)]) != begin:
            continue
        for option, value in options.items():
            if isinstance(value, tuple):
                words = [*words, *(word for each in value for word in (option, each))]
            elif option in words:
                words[words.index(option) + 1] = value
            else:
                words = [*words, option, value]
    return words


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.md")), ids=lambda path: path.name)
def test_commands_of_an_example(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", "configs")
    FILES.get(path.name, lambda: None)()
    for program, *words in commands(path.read_text(encoding="utf-8")):
        assert program == "geotdm"
        assert main(smaller(words)) == 0, f"{words}: {capsys.readouterr().err}"
        written = words[words.index("--out") + 1] if "--out" in words else "."
        assert pathlib.Path(written).exists()
    assert list(pathlib.Path().glob("**/*.png"))
