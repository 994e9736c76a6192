"""Checks of named settings: an unknown key is an error that names the nearest known one."""

import difflib
from collections.abc import Iterable, Mapping

from geotdm_fast.runtime.shown import listed, plain


def check_keys(where: str, given: Mapping, known: Iterable[str]) -> None:
    """Raise ValueError for the first key of `given` that is not in `known`, naming the nearest known key.

    where: what is being read, for the message (`config section data.train`).
    """
    known = list(known)
    for key in given:
        if key not in known:
            raise ValueError(f"{where}: unknown key '{plain(key)}'{nearest(key, known)}")


def require_sections(where: str, config: Mapping, *names: str) -> None:
    """Raise ValueError for the first of the sections `names` that the configuration has not, naming those it has.

    where: whose configuration it is, for the message (`the configuration of best.safetensors`).
    """
    for name in names:
        if name not in config:
            raise ValueError(f"{where} must have a section '{name}', got {listed(config)}")


def check_choice(where: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError if `value` is not one of `choices`, naming the nearest one."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{where} must be one of {', '.join(choices)}; got '{plain(value)}'{meant(value, choices)}")


def nearest(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or the list of all when none is near."""
    known = list(known)
    return meant(word, known) or f"; known: {', '.join(known)}"


def meant(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing when none is near."""
    close = difflib.get_close_matches(plain(word, 80), list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
