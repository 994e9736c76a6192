"""Hook of mkdocs.yml: the help of every command and the keys of a configuration, as the package prints them.

A page that would fetch anything from another host is an error.
"""

import contextlib
import io
import os
import re

HELP, KEYS = "<!-- help -->", "<!-- keys -->"
COLUMNS = "100"


def on_page_markdown(markdown: str, **_) -> str:
    """The page with its marks replaced; called by MkDocs for every page."""
    if HELP in markdown:
        markdown = markdown.replace(HELP, "\n\n".join(f"## {name}\n\n{fenced(text)}" for name, text in help_texts()))
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, fenced(printed(["train", "--keys"])))
    return markdown


def on_post_page(output: str, page, **_) -> str:
    """The page as it is. Raises ValueError if a browser would fetch a script, a style or a picture elsewhere."""
    fetched = re.search(r"<(?:script|img|iframe)[^>]*src=\"?https?:|<link[^>]*stylesheet[^>]*https?:", output)
    if fetched:
        raise ValueError(f"{page.file.src_uri}: nothing must be fetched from elsewhere, got {fetched[0]}")
    return output


def fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def help_texts() -> list[tuple[str, str]]:
    """(`geotdm COMMAND`, its help) of the program and of every command."""
    import argparse

    from geotdm_fast.cli import build_parser

    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (" ".join(("geotdm", *words)), printed([*words, "--help"]))
        for words in ([], *([name] for name in commands.choices))
    ]


def printed(words: list[str]) -> str:
    """What `geotdm WORDS` prints, in lines of one width on every machine."""
    from geotdm_fast.cli import main

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main(words)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return text.getvalue()
