"""Hook of mkdocs.yml: the help of every command and the keys of a configuration, as the package prints them.

A page that would fetch anything from another host is an error.
"""

import contextlib
import html.parser
import io
import os
import re

HELP, KEYS = "<!-- help -->", "<!-- keys -->"
COLUMNS = "100"
# Attributes whose address a browser fetches by itself, whatever the element.
FETCHED = ("src", "poster", "data", "background")
# Elements whose `href` it fetches, and relations of a <link> that only say where something is.
FETCHED_BY_HREF = ("link", "image", "use", "feimage")
SAID_ALONE = {"canonical", "alternate", "next", "prev", "author", "license", "help", "search", "me", "edit"}
ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
IN_A_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//[^\s\"')]*", re.IGNORECASE)


def on_page_markdown(markdown: str, **_) -> str:
    """The page with its marks replaced; called by MkDocs for every page."""
    if HELP in markdown:
        markdown = markdown.replace(HELP, "\n\n".join(f"## {name}\n\n{fenced(text)}" for name, text in help_texts()))
    if KEYS in markdown:
        markdown = markdown.replace(KEYS, fenced(printed(["train", "--keys"])))
    return markdown


def on_post_page(output: str, page, **_) -> str:
    """The page as it is. Raises ValueError if a browser would fetch a script, a style or a picture elsewhere."""
    found = Fetches()
    found.feed(output)
    found.close()
    if found.elsewhere:
        raise ValueError(f"{page.file.src_uri}: nothing must be fetched from elsewhere, got {found.elsewhere[0]}")
    return output


class Fetches(html.parser.HTMLParser):
    """Reads a page; elsewhere: what a browser would fetch from another host, or connect to, as it is written there."""

    def __init__(self):
        super().__init__()
        self.elsewhere: list[str] = []
        self._is_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_style = tag == "style"
        values = {name: value or "" for name, value in attrs}
        addresses = [values[name] for name in FETCHED if name in values]
        addresses += [part for name in ("srcset", "imagesrcset") for part in values.get(name, "").split(",")]
        relations = set(values.get("rel", "").lower().split())
        if tag in FETCHED_BY_HREF and not (tag == "link" and relations and relations <= SAID_ALONE):
            addresses += [values.get("href", ""), values.get("xlink:href", "")]
        if any(ELSEWHERE.match(address) for address in addresses) or IN_A_STYLE.search(values.get("style", "")):
            self.elsewhere.append(self.get_starttag_text() or tag)

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self.elsewhere += IN_A_STYLE.findall(data)


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
    """What `geotdm WORDS` prints, in lines of one width on every machine.

    Raises ValueError where the command fails or prints nothing.
    """
    from geotdm_fast.cli import main

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            status = main(words)
    except SystemExit as end:  # as --help ends
        status = 0 if end.code is None else end.code
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    if status != 0 or not text.getvalue().strip():
        said = "printed nothing" if status == 0 else f"ended with status {status}"
        raise ValueError(f"geotdm {' '.join(words)}: must print and end with status 0, {said}")
    return text.getvalue()
