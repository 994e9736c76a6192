"""Set up the virtual environment that the Makefile uses: `python tools/make_venv.py VENV/STAMP`.

Every version comes from constraints.txt. A torch that this interpreter already has is used as it is, so a GPU build
stays; otherwise one is installed. STAMP is written last: a folder without it is half made and starts over, one with
it is brought up to date.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 10)
TORCH_PLACE = """
import sys
try:
    import torch
except Exception:
    sys.exit(0)
print(torch.__version__, torch.__file__, sep="\\n")
"""


def find_torch(python):
    """(version, file) of the torch that `python` imports; (None, None) where there is none or it is too old."""
    # cwd keeps the current folder, which is on the path of `python -c`, from offering a torch of its own
    done = subprocess.run([str(python), "-c", TORCH_PLACE], capture_output=True, cwd="/", check=True, text=True)
    version, _, file = done.stdout.strip().partition("\n")
    if not file or release(version) < OLDEST_TORCH:
        return None, None
    return version, Path(file)


def release(version):
    """(2, 11) of '2.11.0+cu130'; (0, 0) where it does not begin with two numbers."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def create(folder):
    """A new, empty environment in `folder`, which sees the torch of this interpreter where there is one."""
    torch_version, torch_file = find_torch(sys.executable)
    say(f"Setting up {folder.name} with Python {sys.version.split()[0]}. This happens once and takes a minute or two.")
    flags = ["--system-site-packages"] if torch_version else []
    subprocess.run([sys.executable, "-m", "venv", "--clear", *flags, str(folder)], check=True)
    if torch_version and find_torch(python_of(folder)) != (torch_version, torch_file):
        # this interpreter is itself in a virtual environment: the new one sees the base installation, not that torch
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "borrowed_torch.pth").write_text(f"{torch_file.parent.parent}\n")


def install(folder, torch, torch_args, triton, pip_args):
    """All pinned packages, torch where none is borrowed, triton where torch brings none, and this package, editable."""
    # --isolated is not used: the user's pip settings (proxy, index) hold
    # --no-compile: of ten thousand files a tenth is ever imported, and Python compiles these then
    pip = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    pip += shlex.split(pip_args)
    # constraints.txt is closed under dependencies (tests/tools/test_install.py), so nothing is left for pip to choose
    subprocess.run([*pip, "-q", "--no-deps", "-r", str(ROOT / "constraints.txt")], check=True)
    version, file = find_torch(python_of(folder))
    if version and folder.resolve() not in file.resolve().parents:
        say(f"PyTorch {version} is installed already and is used: {file.parent}")
    else:
        if not version and sys.platform == "linux" and not torch_args and not Path("/dev/nvidiactl").exists():
            say(
                "No NVIDIA GPU is in sight. If pip now begins to fetch gigabytes of CUDA libraries, stop it and name\n"
                "the index of PyTorch's CPU builds (its install page has the URL): make TORCH_ARGS='--index-url URL'"
            )
        subprocess.run([*pip, *([] if not version else ["-q"]), *shlex.split(torch_args), torch], check=True)
    # setuptools explains at length what an editable install is
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", **which_modules(folder)}
    editable = [*pip, "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    if sys.platform == "linux" and not has_triton(folder):
        # beside what is compiled, which needs no triton
        with subprocess.Popen([*pip, "-q", "--no-deps", triton]) as beside:
            subprocess.run(editable, check=True, env=environment)
        if beside.returncode:
            raise subprocess.CalledProcessError(beside.returncode, beside.args)
    else:
        subprocess.run(editable, check=True, env=environment)


def has_triton(folder):
    """Whether there is a triton: builds of torch for GPUs bring the one that they need."""
    code = "import importlib.util as u; print(u.find_spec('triton') is not None)"
    done = subprocess.run([python_of(folder), "-c", code], stdout=subprocess.PIPE, cwd="/", check=True, text=True)
    return done.stdout.strip() == "True"


MODULES = """
import json
from tools import cpu_module, cuda_module
cuda = cuda_module.what_is_missing() if cuda_module.torch_has_cuda() else ""
print(json.dumps({"GEOTDM_BUILD": cpu_module.what_is_missing(), "GEOTDM_CUDA": cuda}))
"""
WITHOUT = {
    "GEOTDM_BUILD": "no C++ module, so the CPU runs the reference in PyTorch, which is slower",
    "GEOTDM_CUDA": "no CUDA module, so a GPU runs temporal attention in plain PyTorch, which is slower",
}


def which_modules(folder):
    """GEOTDM_BUILD and GEOTDM_CUDA for the installation: a module for which everything is there has to compile."""
    done = subprocess.run([python_of(folder), "-c", MODULES], stdout=subprocess.PIPE, cwd=ROOT, check=True, text=True)
    wanted = {}
    for variable, missing in json.loads(done.stdout).items():
        given = os.environ.get(variable, "")
        wanted[variable] = given or ("1" if missing is None else "0")
        if missing and not given:
            # said here because pip shows nothing of a build that succeeds
            say(f"Warning: {WITHOUT[variable]}: {missing}")
    if "1" in wanted.values():
        say("Compiling what has changed of the compiled modules.")
    return wanted


def python_of(folder):
    return folder / "bin" / "python"


def say(text):
    print(text, flush=True)


def main():
    if sys.version_info < (3, 10):  # noqa: UP036 - make runs this file with any python3
        sys.exit(
            f"Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}. "
            "Name another one: make PYTHON=python3.12 test"
        )
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stamp", type=Path, help="file to write last; its folder is the environment")
    parser.add_argument("--torch", default="torch", help="requirement to install where this interpreter has no torch")
    parser.add_argument("--torch-args", default="", help="options of that pip install alone")
    parser.add_argument("--triton", default="triton", help="requirement to install where torch brings no triton")
    parser.add_argument("--pip-args", default="", help="options of every pip install")
    args = parser.parse_args()
    folder = args.stamp.absolute().parent
    try:
        if args.stamp.exists():
            say(f"Bringing {folder.name} up to date.")
            args.stamp.unlink()
        else:
            create(folder)
        install(folder, args.torch, args.torch_args, args.triton, args.pip_args)
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"{folder.name} could not be set up: {shlex.join(map(str, error.cmd))} failed. The next make starts over."
        )
    args.stamp.touch()
    say(f"{folder.name} is ready.")


if __name__ == "__main__":
    main()
