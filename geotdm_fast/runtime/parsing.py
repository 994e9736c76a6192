"""YAML and JSON of unknown origin: plain values, or a ValueError in a line."""

import json
from typing import Any

from geotdm_fast.runtime.shown import plain, shown

# Values in a YAML text, each alias counted as what it stands for: a few lines of aliases of aliases stand for billions.
MOST_VALUES = 1_000_000
# Lists within lists: deeper ones cannot be copied, compared or written as JSON.
DEEPEST = 100


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Nothing is executed. ValueError that says what is wrong, and in which line."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"lists and sections must be nested at most {DEEPEST} deep") from None
    except yaml.YAMLError as error:
        raise ValueError(plain(" ".join(str(error).split()), 400)) from error
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # A tagged value that is none: `!!int x`, `!!timestamp x`, the 31st of February.
        raise ValueError(f"a value that is not what its tag or form says: {plain(error)}") from error
    _check_size(value)
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError that says what is wrong."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"lists and objects must be nested at most {DEEPEST} deep") from None
    except ValueError as error:
        raise ValueError(plain(error)) from error
    _check_size(value)
    return value


def _check_size(value: Any) -> None:
    """ValueError for a value that is nested too deeply or stands for too many."""
    known: dict[int, tuple[int, int]] = {}

    def measure(part: Any, depth: int) -> tuple[int, int]:
        """How many values `part` stands for, and how deep it is nested."""
        if not isinstance(part, (dict, list, tuple, set)):
            return 1, 0
        if id(part) not in known:
            known[id(part)] = MOST_VALUES + 1, 0  # of one that holds itself
            parts = [*part.keys(), *part.values()] if isinstance(part, dict) else part
            below = [measure(inner, depth + 1) for inner in parts] if depth < DEEPEST else [(0, DEEPEST)]
            known[id(part)] = 1 + sum(size for size, _ in below), 1 + max((height for _, height in below), default=0)
        return known[id(part)]

    whole, height = measure(value, 0)
    if height > DEEPEST:
        raise ValueError(f"lists and sections must be nested at most {DEEPEST} deep")
    if whole > MOST_VALUES:
        raise ValueError(f"aliases must stand for at most {MOST_VALUES} values, got {shown(whole)} or more")


def is_step(value: Any) -> bool:
    """Whether a record of a log has this as its step."""
    return type(value) is int and 0 <= value < 2**53
