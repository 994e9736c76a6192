"""The documents as their readers use them: the blocks of a page, and every command on less than it says."""

import contextlib
import io
import pathlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import warm_python
import yaml
from places import ROOT

from geotdm_fast.cli import main
from geotdm_fast.config.settings import DENOISE_MODEL, DIFFUSION, TRAIN
from geotdm_fast.runtime.choices import check_keys

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Fences that nothing runs: formulas, what a program prints, a citation.
TEXTS = ("text", "bibtex")

# What makes a command small: by its first words, options in place of its own or behind it. A tuple is repeated.
NBODY = tuple(f"data.{split}.num_systems=4" for split in ("train", "val", "test"))
TINY = ("train.num_steps=1", "train.batch_size=2", "train.eval_graphs=1", "denoise_model.n_layers=1")
LEARNED = ("train.num_steps=1", "train.batch_size=2", "train.eval_graphs=1")  # of a network that stays as it is
SAMPLING = {"--num-graphs": "1", "--num-samples": "2", "--steps": "1"}
SMALL: dict[tuple[str, ...], dict[str, str | tuple[str, ...]]] = {
    ("simulate", "md:argon"): {"--num-frames": "160", "--equilibrate": "0.5", "--engine": "own"},
    ("simulate",): {"--num-systems": "2"},
    ("train", "configs/nbody"): {"--set": (*TINY, *NBODY)},
    ("train", "nbody"): {"--set": (*TINY, "data.train.num_systems=4")},
    ("train",): {"--set": (*TINY, "data.train.stride=20")},
    ("distill", "nbody"): {"--pairs": "3", "--set": (*LEARNED, *NBODY)},
    ("distill",): {"--pairs": "3", "--set": LEARNED},
    ("sample",): SAMPLING,
    ("evaluate", "CHECKPOINT"): SAMPLING,
    ("drift", "CHECKPOINT"): {"--num-graphs": "1", "--steps": "1", "--blocks": "2"},
    ("plot",): {"--num-systems": "1"},
    ("check-equivariance",): {"--kind": "molecule", "--precision": "fp32", "--num-graphs": "2", "--steps": "1"},
    ("reproduce", "EXPERIMENT"): {
        "--num-graphs": "2", "--num-samples": "1", "--steps": "1", "--results": "results.jsonl",
        "--out": "outputs/reproduce/{0}_conditional_small",
        "--set": (*TINY, *NBODY, "train.warmup_steps=0"),
    },
}  # fmt: skip
# Frames of a long rollout, and of the data that are its truth.
SHORTER = {
    "400": "40",
    "5000": "40",
    "data.num_frames=410": "data.num_frames=50",
    "data.num_systems=128": "data.num_systems=4",
}
# Commands whose data, minutes or packages are not to be had here; they are parsed. Each is run on less by the test that
# it names.
PARSED = {
    "reproduce md:ethanol": "tests/paper/test_reproduce.py",
    "reproduce zara1": "tests/paper/test_reproduce.py",
    "reproduce argon": "tests/paper/test_simulations.py",
    "reproduce ays:ethanol": "tests/paper/test_one_frame.py",
    "reproduce geotdm:alanine_dipeptide": "tests/paper/test_one_frame.py",
    "reproduce charged --preset small --set": "tests/paper/test_reproduce.py",
    "train configs/nbody_charged_small.yaml --set train.logger=": "tests/training/test_loggers.py",
}


class Block(NamedTuple):
    """A fenced block of a page: its language, its text and the line that it begins in."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Every fenced block, in order."""
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text[: match.start()].count("\n") + 1) for match in found]


def commands(text: str) -> list[list[str]]:
    """The commands of bash blocks, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def commands_of(page: str) -> list[list[str]]:
    return [words for block in blocks(page) if block.language == "bash" for words in commands(block.text)]


def smaller(words: Sequence[str]) -> list[str]:
    """A command of `geotdm` on less: fewer steps, systems, graphs and samples."""
    words = [SHORTER.get(word, word) for word in words]
    kinds = [words[:2], [words[0], _kind(words)]] if len(words) > 1 else [words]
    for begin, options in SMALL.items():
        fits = any(len(kind) >= len(begin) and all(map(str.startswith, kind, begin)) for kind in kinds)
        if not fits:
            continue
        for option, value in options.items():
            if isinstance(value, str):
                value = value.format(words[1])
            if isinstance(value, tuple):
                # Weights to begin with want the network that they are of.
                fixed = any(word.startswith("train.start_from=") for word in words)
                sizes = [each for each in value if not (fixed and each.startswith("denoise_model."))]
                words = [*words, *(word for each in sizes for word in (option, each))]
            elif option in words:
                words[words.index(option) + 1] = value
            else:
                words = [*words, option, value]
        break
    return words


def _kind(words: Sequence[str]) -> str:
    """What a command is about, where its small options depend on it."""
    if words[0] == "reproduce":
        return "EXPERIMENT" if not words[1].startswith("-") else ""
    path = pathlib.Path(words[1])
    samples = path.suffix == ".npz" or (path / "manifest.json").is_file()
    return "SAMPLES" if samples else "CHECKPOINT"


def run_page(text: str, name: str) -> dict:
    """Run every block in order, in the current folder; the names that the page's Python has in the end."""
    names: dict = {"__name__": "page"}
    for block in blocks(text):
        where = f"{name}, line {block.line}"
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, where, "exec"), names)
        elif block.language == "bash":
            for words in commands(block.text):
                run_command(words, where)
        elif block.language == "yaml":
            check_yaml(block.text, where)
        else:
            assert block.language in TEXTS, f"{where}: a block must be python, bash, yaml or one of {TEXTS}"
    return names


def run_command(words: Sequence[str], where: str) -> None:
    """Run a command of a page on less, or look whether what it names is there."""
    words = list(words)
    while "=" in words[0] and words[0].partition("=")[0].isupper():
        words = words[1:]  # a variable
    program, *rest = words
    if program == "geotdm":
        run_geotdm(rest, where)
    elif program == "torchrun":
        small = smaller(rest[rest.index("geotdm_fast") + 1 :])
        for done in warm_python.run_together(2, "-m", "geotdm_fast", *small):
            assert done.returncode == 0, f"{where}: {words}: {done.stderr}"
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{rest[0]}:", makefile, re.MULTILINE), f"{where}: no target {rest[0]}"
    elif program == "python":
        check_program(rest, where)
    elif program == "pip":
        extras = [extra for word in rest for extra in re.findall(r"^\.\[(.*)\]$", word)]
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras), f"{where}: {extras}"
    else:
        raise AssertionError(f"{where}: no test knows the program {program}")


def run_geotdm(words: list[str], where: str) -> None:
    """Run a command of `geotdm` on less; a written file or folder must be there then."""
    from geotdm_fast.cli import build_parser

    if any(" ".join(words).startswith(begin) for begin in PARSED):
        assert callable(build_parser().parse_args(words).run)
        return
    small = smaller(words)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(small)
    assert code == 0, f"{where}: {small}: {said.getvalue()}"
    for option in ("--out", "--json", "--xyz", "--xtc", "--dcd", "--pictures"):
        if option in small:
            assert pathlib.Path(small[small.index(option) + 1]).exists(), f"{where}: {small} wrote no {option}"


def check_program(words: Sequence[str], where: str) -> None:
    """`python FILE` is a file of the tree; `python -m MODULE OPTIONS` has these options."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), f"{where}: {words[0]}"
        return
    _, module, *options = words
    assert find_spec(module), f"{where}: no module {module}"
    if module == "pytest":
        return
    shown = io.StringIO()
    before, sys.argv = sys.argv, [module, "--help"]
    try:
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before
    for option in (word for word in options if word.startswith("--")):
        assert option in shown.getvalue(), f"{where}: {module} has no {option}"


def check_yaml(text: str, where: str) -> None:
    """The block is YAML, and its keys are those of a configuration."""
    from geotdm_fast.data import normalise_section

    content = yaml.safe_load(text)
    for name, table in (("denoise_model", DENOISE_MODEL), ("diffusion", DIFFUSION), ("train", TRAIN)):
        check_keys(f"{where}: {name}", content.get(name, {}), table)
    for section in content.get("data", {}).values():
        normalise_section(section)


def quoted_headings(text: str) -> Iterator[str]:
    """The messages that headings quote."""
    for line in re.findall(r"^### (.*)$", text, re.MULTILINE):
        yield from re.findall(r'"([^"]+)"', line)
