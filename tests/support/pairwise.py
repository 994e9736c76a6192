"""Some rows of a product of parameters, in which every two values of every two parameters meet.

What goes wrong by one value or by two that meet is found as by the whole product, at a fraction of its cost. For
parameters of which three have to meet the whole product is right.
"""

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(*parameters: Sequence[Any]) -> list[tuple]:
    """The rows, chosen greedily: the next one is the first of the product with the most pairs that have not met yet.

    parameters: the values of each; the same values give the same rows
    """
    pairs_of = {row: {*itertools.combinations(enumerate(row), 2)} for row in _product(parameters)}
    missing, rows = set().union(*pairs_of.values()), []
    while missing:
        row = max(pairs_of, key=lambda row: len(pairs_of[row] & missing))
        missing -= pairs_of.pop(row)
        rows.append(tuple(values[index] for values, index in zip(parameters, row, strict=True)))
    return rows


def _product(parameters: Sequence[Sequence[Any]]) -> itertools.product:
    return itertools.product(*(range(len(values)) for values in parameters))
