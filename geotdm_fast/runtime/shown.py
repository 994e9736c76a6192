"""Values and texts in messages: short, and with control characters shown instead of sent to the terminal."""

import reprlib
from collections.abc import Iterable

# Characters of a value in a message. A list of lists of lists is cut at every level, before it is written out.
LONGEST = 200
_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = _repr.maxfrozenset = 12
_repr.maxstring = _repr.maxother = LONGEST
_repr.maxlong = 60


def shown(value: object) -> str:
    """`repr(value)` for a message, at most 200 characters. Short values are written as `repr` writes them."""
    try:
        text = _repr.repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        text = f"{type(value).__name__} too long to show"
    return plain(text)


def plain(text: object, longest: int = LONGEST) -> str:
    r"""`text` in a message: control characters as `\x1b`, and what is longer than `longest` cut in the middle."""
    text = _cut(str(text), longest)
    return _cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), longest)


def _cut(text: str, longest: int) -> str:
    half = (longest - 5) // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


def listed(names: Iterable[object], most: int = 30) -> str:
    """The names for a message, joined by commas; `nothing` for none."""
    names = list(names)
    more = [f"... ({len(names)} in all)"] if len(names) > most else []
    return ", ".join([plain(name, 80) for name in names[:most]] + more) or "nothing"
