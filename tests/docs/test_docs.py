"""What `make docs` adds to the pages: help, keys, docstrings as Markdown; forms and hooks that are no code."""

import importlib.util

import pytest
import yaml
from places import ROOT

from tools import docs_pages


def test_help_and_keys_stand_where_their_marks_were():
    page = docs_pages.on_page_markdown((ROOT / "docs" / "command_line.md").read_text(encoding="utf-8"))
    assert docs_pages.HELP not in page
    for command in ("simulate", "train", "sample", "check-equivariance"):
        assert f"## geotdm {command}\n\n```text\nusage: geotdm {command} " in page
    assert max(map(len, page.splitlines())) <= 121
    keys = docs_pages.on_page_markdown((ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))
    assert docs_pages.KEYS not in keys and "\ndenoise_model:\n" in keys
    assert docs_pages.on_page_markdown("text") == "text"


def test_docstrings_become_lists_and_formulas_stay():
    pytest.importorskip("griffe", reason="the extra docs needs Python 3.11.5")
    path = ROOT / "tools" / "docs_docstrings.py"
    spec = importlib.util.spec_from_file_location("docs_docstrings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = """A sentence: with a colon.

    y = x + 1

x, y: [N] float - two
    and more of it
z: the last
Raises ValueError: never.
Returns
    a: one
        of two
    b: two"""
    assert module.as_markdown(text) == (
        "A sentence: with a colon.\n\n    y = x + 1\n\n"
        "- `x, y`: [N] float - two\n    and more of it\n- `z`: the last\n\n"
        "Raises ValueError: never.\nReturns\n\n- `a`: one\n    of two\n- `b`: two"
    )
    together = module.as_markdown("A sentence.\n\nx: one; None: all; y: two", ["x", "y"])
    assert together == "A sentence.\n\n- `x`: one; None: all\n- `y`: two"


def test_forms_and_hooks_are_whole():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) > 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form)
        assert all(part["type"] in ("textarea", "checkboxes") and part["attributes"]["label"] for part in form["body"])
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for hook in repository["hooks"]:
        program = "mypy" if "mypy" in hook["entry"] else hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert f"\n{program}==" in pins
