"""How geotdm_fast._C_cuda, the kernels for NVIDIA GPUs, is compiled: by nvcc, no GPU needed.

It is written against torch's stable ABI, so one file runs beside every torch from 2.10 on and any Python.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

from tools import ninja_build, older_symbols

ROOT = Path(__file__).resolve().parent.parent
IN_SOURCE = ROOT / "geotdm_fast" / "_C_cuda.so"
FOLDER = ROOT / "csrc" / "cuda"
OLDEST_CUDA, FIRST_WITH_SM_100 = (12, 4), (12, 8)
# mma.sync with bfloat16 and tf32, cp.async: compute capability 8.0.
OLDEST_ARCHITECTURE = 80
# 8.0 runs on 8.6 and 8.9 too, the last one's PTX on everything newer.
ARCHITECTURES, ARCHITECTURES_BEFORE_12_8 = "8.0 9.0a 10.0+PTX", "8.0+PTX 9.0a"

RUNTIME = "libcudart_static.a"
# Before glibc 2.34 what the runtime asks of the system was in files of their own: the module says that it needs them.
SYSTEM = ("libpthread.so.0", "libdl.so.2", "librt.so.1")
HOST_FLAGS = "-fPIC -fvisibility=hidden -Wall -Wextra"
FLAGS = f"-std=c++20 -O3 -lineinfo -Xcompiler {HOST_FLAGS.replace(' ', ',')}"


def sources() -> list[Path]:
    """The kernels, a file for each part that is worth compiling on its own."""
    return sorted(FOLDER.rglob("*.cu"))


def nvcc() -> str | None:
    """The compiler: of CUDA_HOME, on PATH, or where CUDA is installed by default; None without one."""
    home = os.environ.get("CUDA_HOME")
    if home:
        return shutil.which("nvcc", path=os.path.join(home, "bin"))
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuda_version(program: str) -> tuple[int, int] | None:
    """(13, 0) of nvcc 13.0; None where it does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def what_is_missing() -> str | None:
    """What the module cannot be compiled without and this machine lacks, or None."""
    program = nvcc()
    if program is None:
        where = f"in CUDA_HOME={os.environ['CUDA_HOME']}" if os.environ.get("CUDA_HOME") else "on PATH"
        return f"no nvcc {where} (install the CUDA toolkit, or name its folder in CUDA_HOME)"
    version = cuda_version(program)
    if version is None or version < OLDEST_CUDA:
        said = "one that says no version" if version is None else "{}.{}".format(*version)
        return f"{program} must be of CUDA {OLDEST_CUDA[0]}.{OLDEST_CUDA[1]} or newer, and is {said}"
    return ninja_build.what_is_missing()


def torch_has_cuda() -> bool:
    """Whether the installed torch is a build for CUDA; it is not imported, and no GPU is asked."""
    folder = ninja_build.torch_folder()
    about = folder / "version.py" if folder else None
    return bool(about and about.is_file() and runpy.run_path(str(about)).get("cuda"))


def architectures(version: tuple[int, int]) -> list[str]:
    """As in TORCH_CUDA_ARCH_LIST, or the default: `8.0`, `9.0a`, `10.0+PTX`.

    Those below 8.0 in the list are left out, as the kernels need more. Raises ValueError where nothing is left, or for
    what is no architecture.
    """
    default = ARCHITECTURES if version >= FIRST_WITH_SM_100 else ARCHITECTURES_BEFORE_12_8
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    for name in given:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise ValueError(f"TORCH_CUDA_ARCH_LIST must be as in '{ARCHITECTURES}', got {name}")
    wanted = [name for name in given or default.split() if number(name) >= OLDEST_ARCHITECTURE]
    if not wanted:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST must have one of 8.0 or newer, got {' '.join(given)}")
    return list(dict.fromkeys(wanted))


def number(architecture: str) -> int:
    """90 of `9.0a+PTX`."""
    major, minor = re.match(r"(\d+)\.(\d)", architecture).groups()
    return 10 * int(major) + int(minor)


def code_options(wanted: list[str]) -> list[str]:
    """The options of nvcc for a list of architectures."""
    options = []
    for name in wanted:
        short = name.removesuffix("+PTX").replace(".", "")
        options.append(f"-gencode=arch=compute_{short},code=sm_{short}")
        if name.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{short},code=compute_{short}")
    return options


def compile_module(folder: Path) -> Path:
    """Compile what has changed since the last time in `folder`.

    Raises CalledProcessError where it does not compile, ValueError where TORCH_CUDA_ARCH_LIST is wrong.
    """
    torch, version = ninja_build.torch_folder(), cuda_version(nvcc())
    wanted = architectures(version)
    about = {"VERSION": "{}.{}".format(*version), "ARCHITECTURES": " ".join(wanted)}
    defined = [f'-DGEOTDM_CUDA_{name}="{text}"' for name, text in about.items()]
    binding = shlex.join([ninja_build.STABLE_ABI, *defined, "-isystem", str(torch / "include")])
    kernels, kernel_objects = ninja_build.objects(folder, dict.fromkeys(sources(), ""))
    ops, ops_objects = ninja_build.objects(
        folder, {FOLDER / "ops.cpp": binding, FOLDER.parent / f"{ninja_build.OLDER_SYSTEMS}.cpp": ""}, "compile_host"
    )
    # libtorch leads to libtorch_cpu and, in a build for CUDA, to libtorch_cuda, whose names the binding looks for; it
    # has none of its own, so the linker would leave it out. No device code is left to link.
    link = f"-shared -cudart none --no-device-link $in -o $out -L {shlex.quote(str(torch / 'lib'))}"
    system = shlex.join(f"-l:{name}" for name in SYSTEM if ninja_build.finds(name))
    carried = runtime(folder)
    libraries = f"{shlex.quote(str(carried.resolve()))} -Xlinker --no-as-needed {system} -ltorch -ltorch_cpu"
    cxx, options = shlex.join(ninja_build.compiler()), " ".join(code_options(wanted))
    lines = [
        *ninja_build.rule("compile", f"{command()} {FLAGS} {threads(wanted)}{options} -MD -MF $out.d -c $in -o $out"),
        *ninja_build.rule("compile_host", f"{cxx} -std=c++20 -O2 {HOST_FLAGS} $more -MD -MF $out.d -c $in -o $out"),
        *ninja_build.rule("link", f"{command()} {link} {libraries}"),
        *kernels,
        *ops,
        *ninja_build.edge(IN_SOURCE.name, "link", [*ops_objects, *kernel_objects], also=[carried.resolve()]),
    ]
    ninja_build.build(folder, lines)
    return folder / IN_SOURCE.name


def runtime(folder: Path) -> Path:
    """The CUDA runtime that the module carries, made in `folder` so that it runs on older systems than this one."""
    said = subprocess.run([nvcc(), "--dryrun", "-shared", "x.o", "-o", "x.so"], capture_output=True, text=True).stderr
    folders = re.findall(r'"-L([^"]+)"', said)
    found = next((path for path in (Path(name) / RUNTIME for name in folders) if path.is_file()), None)
    if found is None:
        raise ValueError(f"no {RUNTIME} in any of {', '.join(folders) or 'the folders of nvcc, which names none'}")
    return older_symbols.with_older_symbols(found.resolve(), folder, ninja_build.compiler())


def command() -> str:
    """nvcc, with the C++ compiler of CXX where that is one program."""
    cxx = shlex.split(os.environ.get("CXX", ""))
    return shlex.join([nvcc(), *(["-ccbin", *cxx] if len(cxx) == 1 else [])])


def threads(wanted: list[str]) -> str:
    """The option to compile a file for all architectures at once, unless MAX_JOBS says how many compilers may run."""
    return "" if os.environ.get("MAX_JOBS") else f"--threads {len(wanted)} "
