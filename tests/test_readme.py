"""Everything that the README shows is true: its Python runs, its commands parse, its paths and variables exist."""

import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from places import ROOT

from geotdm_fast.cli import build_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the bash blocks, without comments."""
    lines = "\n".join(blocks("bash")).splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def test_the_first_screen_is_one_screen():
    assert len(README[: README.index("\n## ")].splitlines()) <= 40
    assert README.index("make demo") < README.index("```python") < README.index("docs/forecast.png")
    first = [line for line in blocks("python")[0].splitlines() if line and "import" not in line]
    assert len(first) <= 10


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    first, *others = blocks("python")
    exec(compile(first, "README.md, first block", "exec"), names)
    assert names["samples"].samples.shape == (5, 40, 3, 20)
    weights = "geotdm_fast/checkpoints/nbody_charged_small.safetensors"
    parts = next(block for block in others if weights in block)
    exec(compile(parts.replace(weights, str(ROOT / weights)), "README.md, official parts", "exec"), names)
    others.remove(parts)
    network, batch = names["network"], names["batch"]
    assert batch.x.shape == (40, 3, 30)
    assert names["forecast"].shape == (40, 3, 20)
    future = batch.x[..., 10:]
    assert (names["forecast"] - future).norm(dim=1).mean() < 0.75 * (batch.x[..., 9:10] - future).norm(dim=1).mean()
    assert network.input_linear.weight.grad.abs().sum() > 0

    official = {f"module.{name}": torch.full_like(value, 0.01) for name, value in network.state_dict().items()}
    torch.save(official, "ckpt_best.pt")
    for number, block in enumerate(others, start=2):
        exec(compile(block, f"README.md, block {number}", "exec"), names)
    assert all((value == 0.01).all() for value in network.state_dict().values())
    assert pathlib.Path("mine.safetensors").stat().st_size > 4 * sum(p.numel() for p in network.parameters())
    assert len(names["mine"]) == 30  # 60 % of 50 trajectories
    assert names["batch_of_mine"].x.shape == (120, 2, 30)
    first_walk = np.asarray(names["walks"][0], dtype=np.float32).transpose(1, 2, 0)  # [4, 2, 30]
    np.testing.assert_array_equal(names["batch_of_mine"].x[:4].numpy(), first_walk)
    first_frame = names["of_every_frame"][:, names["frame"] == 0] // 30
    assert torch.equal(first_frame, names["edge_index"]) and 0 < first_frame.shape[1] < 40 * 4
    assert names["losses"].shape == (40,)
    assert network.precision == "bf16"


@pytest.mark.parametrize("words", [w for w in commands() if w[0] in ("geotdm", "torchrun")], ids=" ".join)
def test_commands_parse_and_name_files_that_exist(words):
    if words[0] == "torchrun":
        words = ["geotdm", *words[words.index("geotdm_fast") + 1 :]]
    args = build_parser().parse_args(words[1:])
    assert callable(args.run)
    config = getattr(args, "config", None) or ""
    if config.startswith("configs/"):
        assert (ROOT / config).is_file()


def test_make_commands_are_targets():
    shown = {words[1] for words in commands() if words[0] == "make"}
    assert {"demo", "test"} <= shown
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in shown:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_configuration_is_listed():
    table = README[README.index("| file in `configs/`") :].split("\n\n")[0]
    assert set(re.findall(r"[a-z_0-9]+\.yaml", table)) == {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_every_environment_variable_is_in_the_table():
    table = README[README.index("## Environment variables") : README.index("## Files")]
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", table))
    pattern = re.compile(r"""(?:environ(?:\.get)?|getenv)\s*[\[(]\s*["']([A-Z_0-9]+)""")
    sources = [*(ROOT / "geotdm_fast").rglob("*.py"), *(ROOT / "csrc").rglob("*.c*"), *(ROOT / "csrc").rglob("*.h")]
    read = {name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8"))}
    assert read, "the pattern finds no variable at all"
    assert read <= listed


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


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
