"""What `make docs` adds to the pages: help, keys, docstrings as Markdown; forms and hooks that are no code."""

import importlib.util
from types import SimpleNamespace

import pytest
import yaml
from places import ROOT

from geotdm_fast import cli
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


PAGE = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))


@pytest.mark.parametrize(
    "html",
    [
        '<link href="https://x/y.css" rel="stylesheet">',
        '<link rel="stylesheet" href="https://x/y.css">',
        "<script src='https://x'></script>",
        "<script async src=https://x/y.js></script>",
        '<SCRIPT\n  SRC = "HTTPS://x/y.js"></SCRIPT>',
        '<script src="//cdn/y.js"></script>',
        '<link rel="preconnect" href="https://x">',
        "<link rel=dns-prefetch href=//x>",
        '<link rel="icon" href="http://x/y.png">',
        '<link href="https://x/y.css">',
        '<img src="a.png" srcset="b.png 1x, https://x/c.png 2x">',
        '<iframe src="https://x"></iframe>',
        '<video poster="https://x/y.png"></video>',
        '<object data="https://x/y.svg"></object>',
        '<svg><image xlink:href="https://x/y.png"/></svg>',
        '<p style="background: url(https://x/y.png)">',
        "<style>@import '//x/y.css';</style>",
        "<style>p { background: url( 'https://x/y.png') }</style>",
    ],
)
def test_a_page_that_fetches_from_elsewhere_is_refused(html):
    with pytest.raises(ValueError, match=r"(?s)^page\.md: nothing must be fetched from elsewhere, got .*(x|cdn)"):
        docs_pages.on_post_page(f"<html><head></head><body><p>text</p>{html}</body></html>", PAGE)


def test_a_page_that_links_to_elsewhere_is_not():
    page = (
        '<link rel="canonical" href="https://x/"><link rel="stylesheet" href="base.css"><script src="../a.js"></script>'
        '<a href="https://x">x</a><p title="https://x">https://x</p><code>&lt;script src="https://x"&gt;</code>'
        '<img src="data:image/png;base64,//8="><style>p { color: red } /* https://x */</style><script>// x\n</script>'
    )
    assert docs_pages.on_post_page(page, PAGE) == page


def test_a_command_that_fails_or_prints_nothing_is_told(monkeypatch):
    with pytest.raises(ValueError, match="geotdm train --kyes: must print and end with status 0, ended with status 2"):
        docs_pages.printed(["train", "--kyes"])
    monkeypatch.setattr(cli, "main", lambda words: 1)
    with pytest.raises(ValueError, match="geotdm doctor: must print and end with status 0, ended with status 1"):
        docs_pages.printed(["doctor"])
    monkeypatch.setattr(cli, "main", lambda words: 0)
    with pytest.raises(ValueError, match="geotdm doctor: must print and end with status 0, printed nothing"):
        docs_pages.printed(["doctor"])


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
