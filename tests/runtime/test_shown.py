"""Values and texts in messages are short, and nothing in them acts on the terminal."""

from geotdm_fast.runtime.shown import LONGEST, listed, plain, shown


def test_short_values_are_as_repr_writes_them():
    for value in (None, True, 3, 1e-4, "a text", [1, [2, "x"]], {"a": 1}, (1,)):
        assert shown(value) == repr(value)


def test_long_values_are_cut():
    nested = ["x", "x"]
    for _ in range(9):  # 2e9 texts when written out
        nested = [nested] * 10
    for value in (nested, "x" * 10**6, list(range(10**6)), {i: i for i in range(1000)}, 1 << 10**6, [[[[["x"]]]]]):
        assert 0 < len(shown(value)) <= LONGEST
    assert shown(1 << 10**6) == "int too long to show"


def test_control_characters_are_shown():
    assert plain("\x1b[7mreversed\x1b[0m\r\n\x00\u202e") == r"\x1b[7mreversed\x1b[0m\r\n\x00\u202e"
    assert plain("Å is a letter") == "Å is a letter"
    assert len(plain("\x00" * 1000)) <= LONGEST


def test_names():
    assert listed([]) == "nothing"
    assert listed(["a", 1, "\x07"]) == r"a, 1, \x07"
    assert listed(range(1000)).endswith(", 29, ... (1000 in all)")
