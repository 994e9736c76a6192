"""YAML and JSON of unknown origin end in a value or a ValueError."""

import datetime

import pytest

from geotdm_fast.runtime.parsing import is_step, parse_json, parse_yaml


def test_plain_values():
    text = "a: [1, 2.5, x, null]\nb: 2001-01-02"
    assert parse_yaml(text) == {"a": [1, 2.5, "x", None], "b": datetime.date(2001, 1, 2)}
    assert parse_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("depth", [101, 600, 100_000])
def test_nested_too_deeply(depth):
    for parse in (parse_yaml, parse_json):
        with pytest.raises(ValueError, match="nested at most 100 deep"):
            parse("[" * depth + "]" * depth)


def test_nested_by_aliases():
    rows = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 2000)]
    with pytest.raises(ValueError, match="nested at most 100 deep"):
        parse_yaml("\n".join(rows))


def test_aliases_that_stand_for_billions():
    rows = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    with pytest.raises(ValueError, match="aliases must stand for at most 1000000 values, got 345679012357"):
        parse_yaml("\n".join(rows))
    with pytest.raises(ValueError, match="aliases must stand for"):
        parse_yaml("&a [*a]")


@pytest.mark.parametrize("text", ["!!int ''", "!!float x", "!!timestamp x", "2001-02-31", "9" * 5000, "!!bool x"])
def test_values_that_are_not_what_they_claim(text):
    with pytest.raises(ValueError, match="a value that is not what its tag or form says"):
        parse_yaml(f"a: {text}")


@pytest.mark.parametrize("text", ["a: [", "!!python/object:os.system x", "? {a: 1}\n: 2", "\x07"])
def test_what_is_no_yaml(text):
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert "\x07" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", b"\xff\xfe", "9" * 5000, ""])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_steps():
    assert is_step(0) and is_step(7)
    assert not any(map(is_step, (-1, 1.0, True, None, 2**60, "1")))
