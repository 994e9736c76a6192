"""`pytest --recorded`: tests that passed with the same files and versions are skipped; any change runs them again."""

import json

import pytest
from recorded import GROUPS, Group, Recorded

TESTS = """
import pathlib, pytest
NUMBER = pathlib.Path("source", "number.txt")
@pytest.mark.recorded("numbers", always="one")
@pytest.mark.parametrize("name", ["one", "two"])
def test_number(name):
    if NUMBER.read_text() == "skip": pytest.skip("no compiler")
    assert NUMBER.read_text() == "1"
def test_of_no_group(): pass
"""
CONFIG = """\
[pytest]
testpaths = tests
addopts = -m "not slow and not wheels"
markers =
  recorded
  gpu
  slow
  wheels
pythonpath = tests
"""


class Project:
    """A tree with tests of one group, whose verdict depends on source/ and a version."""

    def __init__(self, root):
        self.root, self.version = root, "1.0"
        group = Group(("tests/test_*.py",), ("source/*",), (lambda: self.version,))
        self.groups, self.record = {"numbers": group}, root / "recorded.json"
        for name, text in {
            "tests/test_some.py": TESTS,
            "tests/conftest.py": "",
            "tests/support/empty.py": "",
            "source/number.txt": "1",
            "pytest.ini": CONFIG,
        }.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def run(self, mode: str, *words: str) -> dict[str, str]:
        """The outcome of each test, by its name."""

        class Outcomes(dict):
            def pytest_runtest_logreport(self, report):
                if report.when == "call" or report.skipped:
                    self[report.nodeid.partition("::")[2]] = report.outcome

        outcomes = Outcomes()
        plugins = [Recorded(mode, self.groups, self.record), outcomes]
        without = [word for name in ("cacheprovider", "xdist", "benchmark") for word in ("-p", f"no:{name}")]
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.root)
            words = ["-q", *without, "--import-mode=importlib", f"--rootdir={self.root}", *words]
            self.status = pytest.main([*words, "-c", str(self.root / "pytest.ini")], plugins=plugins)
        return dict(outcomes)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


ALL = {"test_number[one]": "passed", "test_number[two]": "passed", "test_of_no_group": "passed"}
SPARED = ALL | {"test_number[two]": "skipped"}


def test_what_passed_is_skipped_till_something_changes(project):
    assert project.run("skip") == ALL and not project.record.exists()
    assert project.run("write") == {name: how for name, how in ALL.items() if "number" in name}
    assert project.run("skip") == SPARED and project.run("run") == ALL
    (project.root / "source/new.txt").touch()
    assert project.run("skip") == ALL


def test_any_file_and_version_changes_the_digest(project):
    digest = lambda: project.groups["numbers"].digest(project.root)
    first = digest()
    names = ("source/number.txt", "source/new.txt", "tests/test_some.py", "tests/support/empty.py", "tests/conftest.py")
    for name in names:
        path = project.root / name
        before = path.read_text() if path.exists() else None
        path.write_text((before or "") + " ")
        assert digest() != first, name
        path.unlink() if before is None else path.write_text(before)
        assert digest() == first
    (project.root / "source/number.txt").rename(project.root / "source/other.txt")
    assert digest() != first
    (project.root / "source/other.txt").rename(project.root / "source/number.txt")
    (project.root / "unread.txt").touch()
    assert digest() == first
    project.version = "1.1"
    assert digest() != first


def test_a_group_with_a_test_that_fails_or_is_skipped_is_not_recorded(project, capsys):
    project.run("write")
    for text in ("2", "skip"):
        (project.root / "source/number.txt").write_text(text)
        project.run("write")
        assert json.loads(project.record.read_text()) == {}
    said = capsys.readouterr().out
    assert "numbers: 2 tests passed" in said
    assert "numbers is not recorded: tests/test_some.py::test_number[one]: failed" in said
    assert "numbers is not recorded: tests/test_some.py::test_number[one]: Skipped: no compiler" in said


def test_nothing_is_recorded_of_a_part_of_the_tests(project, capsys):
    one = ["--deselect", "tests/test_some.py::test_number[one]"]
    for words in (["-k", "two"], ["-m", "recorded"], one, ["tests/test_some.py"]):
        project.run("write", *words)
        assert "nothing is recorded of a part of the tests" in capsys.readouterr().out and not project.record.exists()


def test_a_run_that_ends_before_its_last_test_records_nothing(project, capsys, monkeypatch):
    monkeypatch.setattr(Recorded, "pytest_runtest_logstart", lambda self, nodeid: stop(nodeid), raising=False)

    def stop(nodeid):
        if nodeid.endswith("[two]"):
            raise KeyboardInterrupt

    project.run("write")
    assert "numbers is not recorded: not all its tests ran" in capsys.readouterr().out
    assert json.loads(project.record.read_text()) == {}


def test_a_test_that_is_not_in_the_digest_is_an_error(project, capsys):
    project.groups["numbers"] = project.groups["numbers"]._replace(tests=("tests/conftest.py",))
    assert project.run("skip") == {} and project.status == pytest.ExitCode.USAGE_ERROR
    assert "the group 'numbers' in tests/support/recorded.py has not its file" in capsys.readouterr().err


def test_a_pattern_of_no_file_is_an_error(project):
    group = project.groups["numbers"]._replace(files=("nowhere/*",))
    with pytest.raises(ValueError, match=r"recorded: no file is named nowhere/\*"):
        group.digest(project.root)


@pytest.mark.parametrize("name", GROUPS)
def test_the_digests_of_this_tree_can_be_made(name):
    assert len(GROUPS[name].digest()) == 64
