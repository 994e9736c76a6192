"""A few damaged files of every kind; `python -m tools.fuzz_files` reads two hundred of each."""

import pytest

from tools.fuzz_cases import make_cases
from tools.fuzz_files import fuzz

# What draws a picture or trains takes a second a file.
SLOW = ("log.jsonl", "log.jsonl at a resume", "state without checksum", "samples .npz in a picture")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    pytest.importorskip("mdtraj")
    pytest.importorskip("ase")
    return make_cases(tmp_path_factory.mktemp("whole"))


def test_damaged_files_are_read_or_refused_in_a_line(cases, tmp_path):
    for name, case in cases.items():
        outcomes = fuzz(name, case, 1 if name in SLOW else 5, seed=7, folder=tmp_path / "damaged")
        failed = [outcome for outcome in outcomes if outcome[0] not in ("read", "refused")]
        assert not failed, f"{name}: {failed}"


def test_what_fails_is_told(cases, tmp_path):
    case = cases["data .npz"]

    def read(path):
        number = len(list(tmp_path.glob("seen-*")))
        (tmp_path / f"seen-{number}").write_text("")
        if number == 1:
            raise KeyError("x")
        if number == 2:
            bytearray(10 * 2**30)
        if number == 3:
            raise ValueError("two\x1b")
        if number == 4:
            import os

            os._exit(3)

    outcomes = fuzz("told", case._replace(read=read), 6, seed=0, folder=tmp_path / "damaged")
    assert [word for word, _ in outcomes] == ["traceback", "memory", "message", "crash", "read", "read"]
    assert outcomes[0][1].startswith("KeyError: 'x'") and outcomes[3][1] == "exit status 3"
