"""Chronological splits."""

from collections.abc import Sequence

from geotdm_fast.data.checks import SPLITS, check_number
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown

SPLIT_RATIO = (0.6, 0.2, 0.2)


def check_ratio(where: str, ratio: Sequence[float]) -> tuple[float, float, float]:
    """`ratio` as the three shares of train, val and test, together at most 1; a share may be 0."""
    if not isinstance(ratio, Sequence) or len(ratio) != len(SPLITS):
        raise ValueError(f"{where}: split_ratio must be three numbers, got {shown(ratio)}")
    train, val, test = (0.0 if share == 0 else check_number(where, "split_ratio", share) for share in ratio)
    shares = (train, val, test)
    if sum(shares) > 1 + 1e-9:
        raise ValueError(f"{where}: split_ratio must add up to at most 1, got {shown(list(ratio))}")
    return shares


def split_range(where: str, total: int, split: str, ratio: Sequence[float] = SPLIT_RATIO) -> range:
    """The part of 0 .. total - 1 that belongs to `split`, in order: train first, then val, then test."""
    check_choice(f"{where}: split", split, SPLITS)
    place = SPLITS.index(split)
    # Left to right, as the official loader adds them: int() of the sum decides the boundary.
    return range(int(total * sum(ratio[:place])), min(total, int(total * sum(ratio[: place + 1]))))
