"""Everything that README and docs/ show is true: their Python and commands run, on less; links and messages exist."""

import re
import shutil

import numpy as np
import pytest
import torch
import warm_python
import yaml
from documents import PAGES, commands_of, quoted_headings, run_page
from places import ROOT
from reader_files import write_files

DOCS = ROOT / "docs"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """What a reader has before, made once."""
    folder = tmp_path_factory.mktemp("reader")
    write_files(folder)
    # What is forked imports the package where it starts: in a reader's folder geotdm_fast/ has the checkpoints alone.
    assert warm_python.run("-c", "pass").returncode == 0
    return folder


def check_official(names: dict) -> None:
    network, batch, forecast = names["network"], names["batch"], names["forecast"]
    future = batch.x[..., 10:]
    assert batch.x.shape == (40, 3, 30) and forecast.shape == (40, 3, 20)
    assert (forecast - future).norm(dim=1).mean() < 0.75 * (batch.x[..., 9:10] - future).norm(dim=1).mean()
    assert network.input_linear.weight.grad.abs().sum() > 0
    loaded = torch.load("ckpt_best.pt", weights_only=True)
    assert all(torch.equal(loaded[f"module.{name}"], value) for name, value in network.state_dict().items())


def check_data(names: dict) -> None:
    assert len(names["mine"]) == 30  # 60 % of 50 trajectories
    assert names["batch_of_mine"].x.shape == (120, 2, 30)
    first_walk = np.asarray(names["walks"][0], dtype=np.float32).transpose(1, 2, 0)  # [4, 2, 30]
    np.testing.assert_array_equal(names["batch_of_mine"].x[:4].numpy(), first_walk)


def check_graphs(names: dict) -> None:
    first_frame = names["of_every_frame"][:, names["frame"] == 0] // 30
    assert torch.equal(first_frame, names["edge_index"]) and 0 < first_frame.shape[1] < 40 * 4
    assert names["sample"].shape == names["output"].shape == (40, 3, 20)


def check_forecast(names: dict) -> None:
    assert names["samples"].samples.shape == (5, 40, 3, 20)


def check_precision(names: dict) -> None:
    assert 0 < names["difference"] < 0.03  # bfloat16 is 2^-8 of positions that reach 6


# Of pages whose Python leaves something to look at.
CHECKS = {
    "README.md": check_forecast,
    "index.md": check_forecast,
    "official.md": check_official,
    "data.md": check_data,
    "graphs.md": check_graphs,
    "performance.md": check_precision,
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_runs(path, files, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    if "\n```" not in text:
        return
    folder = tmp_path / "reader"
    shutil.copytree(files, folder, symlinks=True)
    monkeypatch.chdir(folder)
    names = run_page(text, path.name)
    CHECKS.get(path.name, lambda _: None)(names)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """A link to a heading too, whose anchor is made as the site makes it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{path.name}: {link}"


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """YAML whose tags of MkDocs are passed over."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)

    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(config["nav"])
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_nothing_is_fetched_when_a_page_is_read():
    """No font, script or picture of another host in what the site adds."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config and "extra_javascript" not in config and "http" not in config
    for path in [*DOCS.glob("*.css"), *DOCS.glob("*.md")]:
        assert not re.search(r"@import|<script|src=[\"']http|!\[[^]]*\]\(http", path.read_text(encoding="utf-8")), path


def test_messages_that_questions_quote_are_in_the_code():
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "geotdm_fast").rglob("*.py")))
    # texts over several lines are joined as Python joins them
    joined = re.sub(r"\"\s*\n\s*f?\"", "", sources)
    quoted = list(quoted_headings((DOCS / "faq.md").read_text(encoding="utf-8")))
    assert len(quoted) > 10
    assert not [text for text in quoted if text not in joined]


def test_every_configuration_is_listed():
    text = (DOCS / "train.md").read_text(encoding="utf-8")
    table = text[text.index("| file in `configs/`") :].split("\n\n")[0]
    assert set(re.findall(r"[a-z_0-9]+\.yaml", table)) == {path.name for path in (ROOT / "configs").glob("*.yaml")}


def test_every_environment_variable_is_in_the_table():
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", text[text.index("## Environment variables") :]))
    pattern = re.compile(r"""(?:environ(?:\.get)?|getenv)\s*[\[(]\s*["']([A-Z_0-9]+)""")
    sources = [*(ROOT / "geotdm_fast").rglob("*.py"), *(ROOT / "csrc").rglob("*.c*"), *(ROOT / "csrc").rglob("*.h")]
    read = {name for source in sources for name in pattern.findall(source.read_text(encoding="utf-8"))}
    assert read, "the pattern finds no variable at all"
    assert read <= listed


def test_every_script_is_in_the_recipes():
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`examples/(\w+\.py)`", text)) == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_what_scripts_and_pages_import_is_in_the_api():
    """The names of functions, classes and tables; those of a package that pages call by its own name are in it."""
    api = set(
        re.findall(r"^::: geotdm_fast\.[\w.]*?(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    # of the page's modules, which are listed whole
    api |= {"LossType", "ModelMeanType", "ModelVarType"}
    sources = [path.read_text(encoding="utf-8") for path in [*PAGES, *sorted((ROOT / "examples").glob("*.py"))]]
    imports = r"^from geotdm_fast(?:\.[\w.]+)? import ([\w, ]+)$"
    used = {name for text in sources for names in re.findall(imports, text, re.MULTILINE) for name in names.split(", ")}
    assert len(used) > 20
    assert used - api <= {"ays"}


def test_every_command_of_geotdm_is_shown():
    shown = {
        words[1] for path in PAGES for words in commands_of(path.read_text(encoding="utf-8")) if words[0] == "geotdm"
    }
    commands = {"simulate", "inspect", "train", "distill", "sample", "evaluate", "drift", "plot", "reproduce", "doctor"}
    assert commands <= shown
