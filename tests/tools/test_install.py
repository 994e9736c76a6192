"""What an installation rests on: complete pins, package data that is named, a Makefile that explains itself."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from places import ROOT

import geotdm_fast
from geotdm_fast import doctor
from geotdm_fast.runtime import packages

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in CONSTRAINTS if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(python: str) -> dict[str, Requirement]:
    """The pins that hold on Linux for a version of Python."""
    place = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
    held = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate({**default_environment(), **place})]
    names = [spelled(pin.name) for pin in held]
    assert len(names) == len(set(names)), f"two pins of one package for Python {python}"
    return dict(zip(names, held, strict=True))


def make_venv():
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "tools" / "make_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_within_its_bounds(python):
    held = pins(python)
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["dev"] + extras["molecules"] + extras["docs"]
    place = {"python_full_version": f"{python}.5", "sys_platform": "linux"}
    for requirement in map(Requirement, wanted):
        if spelled(requirement.name) in ("torch", "triton", "geotdm-fast"):
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({**default_environment(), **place}):
            continue
        pin = held[spelled(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "==" and requirement.specifier.contains(exact.version), f"{requirement} and {pin}"


def test_pins_are_closed_under_dependencies():
    """`make` installs them without looking for more, so no pinned package may need one that is not pinned."""
    held = pins("{}.{}".format(*sys.version_info))
    for name in held:
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, needed):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert spelled(requirement.name) in held, f"{name} needs {requirement}"


def test_torch_is_not_pinned_and_setuptools_suits_every_torch():
    for python in PYTHONS:
        assert not [name for name in pins(python) if re.match("torch|triton|nvidia|cuda", name)]
        assert pins(python)["setuptools"].specifier.contains("81.0.0")


def test_version_is_said_once():
    assert importlib.metadata.version("geotdm-fast") == geotdm_fast.__version__
    version = re.escape(geotdm_fast.__version__)
    assert re.search(rf"^## {version}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)


def test_a_released_version_has_its_date_and_its_changes_in_order():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (date,) = re.findall(r'^date-released: "(.*)"$', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    assert newest.splitlines()[0] == f"{geotdm_fast.__version__} - {date}"
    assert re.findall(r"^### (.*)$", newest, re.MULTILINE) == ["Added", "Changed", "Fixed"]


def test_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="geotdm")
    assert callable(command.load())


def test_every_data_file_of_the_package_is_installed():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["geotdm_fast"]
    package = ROOT / "geotdm_fast"
    named = {path for pattern in patterns for path in package.glob(pattern)}
    passed_over = {".py", ".pyc", ".so"}
    present = {path for path in package.rglob("*") if path.is_file() and path.suffix not in passed_over}
    assert present <= named
    assert all((folder / "__init__.py").is_file() for folder in {path.parent for path in package.rglob("*.py")})


def test_make_alone_lists_every_target():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for target in targets:
        assert target == "help" or f"make {target} " in shown
    for variable in re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE):
        assert re.search(rf"^  {variable} ", shown, re.MULTILINE)


def test_make_lets_python_keep_what_it_compiled():
    rule = 'said: ; @echo "[$$PYTHONDONTWRITEBYTECODE]"'
    given = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["make", "-s", "--eval", rule, "said"], cwd=ROOT, env=given, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("version, expected", [("2.10.0", (2, 10)), ("2.13.0+cu130", (2, 13)), ("nightly", (0, 0))])
def test_release_of_a_version(version, expected):
    assert make_venv().release(version) == expected


def test_an_old_torch_is_not_used(tmp_path):
    """The interpreter's own torch is found; one below the bound, or broken, is as if there were none."""
    tool = make_venv()
    version, file = tool.find_torch(sys.executable)
    assert version.startswith("2.") and file.name == "__init__.py"

    def python_with(torch_source: str) -> pathlib.Path:
        (tmp_path / "torch.py").write_text(torch_source)
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        return python

    assert tool.find_torch(python_with("__version__ = '2.12.1'")) == ("2.12.1", tmp_path / "torch.py")
    assert tool.find_torch(python_with("__version__ = '2.9.1'")) == (None, None)
    assert tool.find_torch(python_with("raise ImportError('libcudart.so')")) == (None, None)


def test_doctor_knows_every_extra(monkeypatch):
    """The extras of users, each by packages that it installs, and how to get what is missing."""
    extras = {name: listed for name, listed in PROJECT["project"]["optional-dependencies"].items() if name != "dev"}
    assert {extra for *_, extra in doctor.EXTRAS} == set(packages.EXTRAS) == set(extras)
    for _, distribution, _, extra in doctor.EXTRAS:
        needed = {Requirement(line).name for line in extras[extra]}
        assert distribution in needed
        assert {Requirement(word).name for word in shlex.split(packages.EXTRAS[extra])} == needed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    rows = dict(doctor.optional())
    assert rows["rdkit"].startswith(f"not installed: {packages.how_to_install('chemistry')}  (SDF and MOL files")
    assert rows["mkdocs"].startswith(f"not installed: {packages.how_to_install('docs')}  (make docs")


@pytest.mark.parametrize("extra", packages.EXTRAS)
def test_an_extra_can_be_had_however_the_package_came(extra, monkeypatch):
    """pip finds an installed package by its name, from a wheel or from sources; sources that lie in a folder, never."""
    assert PROJECT["project"]["name"] == packages.PROJECT
    monkeypatch.setattr(packages, "PROJECT", "pytest")
    assert packages.how_to_install(extra) == f"pip install 'pytest[{extra}]'"
    monkeypatch.setattr(packages, "PROJECT", "a-package-that-is-not-installed")
    assert packages.how_to_install(extra) == f"pip install {packages.EXTRAS[extra]}"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"not installed: pip install {re.escape(packages.EXTRAS[extra])}$"):
        packages.require_package("this", "module", extra)
    assert all("geotdm-fast" not in value for _, value in doctor.optional())


@pytest.mark.parametrize(
    ("python", "status"), [("3.10.14", 0), ("3.11.4", 0), ("3.11.5", 0), ("3.13.0", 0), ("3.13.0", 3)]
)
def test_continuous_integration_builds_pages_where_mkdocs_can_be(tmp_path, python, status):
    """`.ci/run` with a `make` that writes what it is asked for, and whose pages fail where status says so."""
    for folder in (".ci", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    version = tuple(map(int, python.split(".")))
    code = f"import sys; sys.version_info = {version}; exec(sys.argv[1])"
    programs = {
        ".venv/bin/python": f'exec {shlex.quote(sys.executable)} -c "{code}" "$2"',
        "bin/make": f'echo "$1" >> asked; [ "$1" != docs ] || exit {status}',
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("PY", "VENV")}
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, env=environment, check=False)
    asked = (tmp_path / "asked").read_text().split()
    assert done.returncode == status, done.stderr
    with_pages = version >= (3, 11, 5)
    assert sorted(asked) == (["docs", "test", "venv"] if with_pages else ["test", "venv"])
    assert done.stdout == ("" if with_pages else "the pages are not built: mkdocs needs Python 3.11.5\n")
