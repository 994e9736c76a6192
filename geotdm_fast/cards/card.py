"""A card: a title and facts by name, as lines of text or as HTML that needs nothing else."""

import html
from dataclasses import dataclass, field

from geotdm_fast.runtime.shown import LONGEST, plain

# The colours of text and rules are those of the page, so that light and dark themes both are right.
_CARD = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:10px 14px;margin:4px 0;max-width:52em;"
_CARD += "display:flex;flex-wrap:wrap;gap:8px 20px;font:13px/1.5 system-ui,sans-serif;color:inherit;text-align:left"
_FACTS = "display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 14px"
_NAME, _VALUE = "opacity:.65;white-space:nowrap", "overflow-wrap:anywhere"


@dataclass
class Card:
    """title: what it is; facts: (name, value), in the order in which they are shown.

    Texts may come from files: control characters are shown and not sent, and HTML is escaped.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, value: object, longest: int = LONGEST) -> None:
        """Note a fact, of at most so many characters; nothing for None and the empty text."""
        if value is not None and value != "":
            self.facts.append((name, plain(value, longest)))

    def as_text(self) -> str:
        """The title, and a line for each fact."""
        width = max((len(name) for name, _ in self.facts), default=0)
        return "\n".join([plain(self.title), *(f"  {name.ljust(width)}  {value}" for name, value in self.facts)])

    def as_html(self, picture: str = "") -> str:
        """The same as HTML without scripts, style sheets and links; picture: an SVG element, beside the facts."""
        rows = "".join(
            f'<div style="{_NAME}">{html.escape(name)}</div><div style="{_VALUE}">{html.escape(value)}</div>'
            for name, value in self.facts
        )
        title = f'<div style="font-weight:600;margin-bottom:4px;{_VALUE}">{html.escape(plain(self.title))}</div>'
        return (
            f'<div style="{_CARD}"><div style="flex:1 1 24em;min-width:0">{title}<div style="{_FACTS}">{rows}</div>'
            f"</div>{picture}</div>"
        )


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 graph`, `3 graphs`, `12,000 graphs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sizes(values: list[int], one: str) -> str:
    """`15 nodes, 5 in each graph`, or `15 nodes, 3 to 9 in a graph`."""
    total = counted(sum(values), one)
    if len(values) == 1:
        return total
    least, most = min(values), max(values)
    return f"{total}, {least:,} in each graph" if least == most else f"{total}, {least:,} to {most:,} in a graph"
