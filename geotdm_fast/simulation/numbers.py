"""Checks of the numbers among the settings. `where` names the caller in the message."""

import math

from geotdm_fast.runtime.shown import shown

# Steps of 0.002 in 0.1 are 50.000000000000004 in float64.
_ROUNDING = 1e-6


def check_whole(where: str, name: str, value: object, least: int) -> int:
    """`value`, or TypeError/ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where}: {name} must be a whole number, got {shown(value)}")
    if value < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {shown(value)}")
    return value


def check_number(where: str, name: str, value: object, zero: bool = False) -> float:
    """`value` as a float, or TypeError/ValueError unless it is finite and positive. zero: 0 will do too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{where}: {name} must be a number, got {shown(value)}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        expected = "at least 0" if zero else "positive"
        raise ValueError(f"{where}: {name} must be finite and {expected}, got {shown(value)}")
    return float(value)


def check_multiple(where: str, every: float, timestep: float) -> None:
    """ValueError unless `every` is a whole number of steps of `timestep`, naming what would do."""
    steps = every / timestep
    if round(steps) >= 1 and abs(steps - round(steps)) < _ROUNDING * steps:
        return
    near = sorted({max(1, math.floor(steps)), max(1, math.ceil(steps))})
    would_do = " or ".join(f"{number * timestep:.6g}" for number in near)
    raise ValueError(
        f"{where}: every must be a multiple of timestep, {timestep:g} ps, got {every:g} ps; {would_do} would do"
    )
