"""Extension of griffe for mkdocs.yml: docstrings as Markdown, a line `name: meaning` as an item of a list."""

import re
from collections.abc import Collection

import griffe

ITEM = re.compile(r"^(\w+(?:, \w+)*): (.*)$")


class Docstrings(griffe.Extension):
    """Rewrites the docstring of every object that is read."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Called by griffe for each module, class, function and attribute, once all are read."""
        if obj.docstring is not None:
            names = [parameter.name for parameter in getattr(obj, "parameters", ())]
            obj.docstring.value = as_markdown(obj.docstring.value, names)


def as_markdown(text: str, names: Collection[str] = ()) -> str:
    """A docstring of the house with its arguments as a list; formulas, indented behind a blank line, stay code.

    names: of the arguments; `x: one; y: two` is two items where y is an argument
    """
    lines: list[str] = []
    kind = "blank"
    for line in text.split("\n"):
        bare = line.strip()
        indent, item = len(line) - len(line.lstrip()), ITEM.match(bare)
        if not bare:
            now = "blank"
        elif (kind in ("item", "continued") and indent >= 4) or (kind == "listed" and indent >= 8):
            now = "continued"
        elif indent >= 4 and kind in ("blank", "formula"):
            now = "formula"
        elif item and indent == 0 and lines:  # the first line is a sentence
            now = "item"
        elif item and kind in ("prose", "listed"):
            now = "listed"  # what is indented below `Returns`
        else:
            now = "prose"
        in_list, was_in_list = now in ("item", "listed", "continued"), kind in ("item", "listed", "continued")
        if lines and lines[-1] and bare and in_list != was_in_list:
            lines.append("")
        if item and now in ("item", "listed"):
            lines += [f"- `{name}`: {meaning}" for name, meaning in split(item[1], item[2], names)]
        elif now == "continued":
            lines.append(f"    {bare}")
        else:
            lines.append(line if now == "formula" else bare)
        kind = "listed" if now == "continued" and kind == "listed" else now
    return "\n".join(lines)


def split(name: str, meaning: str, names: Collection[str]) -> list[tuple[str, str]]:
    """`one; y: two` of an argument as [(name, "one"), ("y", "two")], where y is among `names`."""
    parts = [(name, "")]
    for part in meaning.split("; "):
        other, colon, rest = part.partition(": ")
        if colon and other in names:
            parts.append((other, rest))
        else:
            first, before = parts[-1]
            parts[-1] = (first, f"{before}; {part}" if before else part)
    return parts
