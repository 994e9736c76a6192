"""tests/support/pairwise.py: every two values meet, in few rows."""

import itertools

import pytest
from pairwise import pairwise


@pytest.mark.parametrize(
    ("sizes", "fewest"), [((3, 5, 2), 15), ((2, 2, 2), 4), ((3, 3, 3, 3), 9), ((1, 4), 4), ((2, 7, 3, 2), 21)]
)
def test_every_two_values_meet_in_few_rows(sizes, fewest):
    parameters = [[(number, value) for value in range(size)] for number, size in enumerate(sizes)]
    rows = pairwise(*parameters)
    for one, other in itertools.combinations(range(len(sizes)), 2):
        met = {(row[one], row[other]) for row in rows}
        assert met == {*itertools.product(parameters[one], parameters[other])}
    assert fewest <= len(rows) <= fewest + 2 and len({*rows}) == len(rows)


def test_values_may_be_anything_and_rows_are_the_same_in_every_run():
    values = [{}, {"a": 1}], [[1], [2]], [None, 2.0]
    assert pairwise(*values) == pairwise(*values)
    assert pairwise(*values)[0] == ({}, [1], None)
