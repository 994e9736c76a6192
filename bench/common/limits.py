"""Limits of compiled kernels, kept in files: general ones, and exceptions for what is named, each with its reason."""

from collections.abc import Callable


def limit(limits: dict, name: str, is_about: Callable[[dict], bool]) -> float:
    """The limit `name`: that of the last exception whose `where` is about the kernel and has one, else the general one.

    limits: {name: number, "exceptions": [{"where": {...}, name: number, "why": text}]}
    """
    about = [limits, *(exception for exception in limits["exceptions"] if is_about(exception["where"]))]
    return next(found[name] for found in reversed(about) if name in found)
