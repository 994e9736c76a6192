"""What is installed, what the machine can do, and which implementation each op uses, as aligned text."""

import importlib.metadata
import os
import platform
import sys

from geotdm_fast.runtime.packages import how_to_install, is_installed

# What needs each optional package: (import name, distribution, what it is for, extra).
EXTRAS = (
    ("ase", "ase", "extended XYZ, molecule files", "molecules"),
    ("mdtraj", "mdtraj", "molecular dynamics files", "md"),
    ("MDAnalysis", "MDAnalysis", "molecular dynamics files", "md"),
    ("pandas", "pandas", "Samples.to_frame", "tables"),
    ("tensorboard", "tensorboard", "train.logger: tensorboard", "tensorboard"),
    ("wandb", "wandb", "train.logger: wandb", "wandb"),
    ("openmm", "openmm", "geotdm simulate md:...", "simulate-md"),
    ("openmmtools", "openmmtools", "geotdm simulate md:...", "simulate-md"),
    ("rdkit", "rdkit", "SDF and MOL files, atoms and bonds of geotdm_fast.ays", "chemistry"),
    ("mkdocs", "mkdocs", "make docs in a clone, from Python 3.11.5 on", "docs"),
)


def report() -> str:
    """The whole report as text."""
    sections = {
        "versions": versions(),
        "processor": processor(),
        "devices": devices(),
        "optional": optional(),
        "operations": operations(),
    }
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    lines = []
    for title, rows in sections.items():
        lines += [title, *(f"  {name.ljust(width)}  {value}".rstrip() for name, value in rows), ""]
    return "\n".join(lines).rstrip()


def versions() -> list[tuple[str, str]]:
    """Versions of the package, Python and the libraries under it."""
    import numpy
    import torch

    import geotdm_fast
    from geotdm_fast.ops import cuda_native, native

    info = native.build_info()
    built = cuda_native.found()
    module = (
        str(native.missing) if info is None else f"compiled with torch {info['torch']}, compiler {info['compiler']}"
    )
    return [
        ("geotdm_fast", f"{geotdm_fast.__version__}  ({os.path.dirname(geotdm_fast.__file__)})"),
        ("geotdm_fast._C", module),
        ("geotdm_fast._C_cuda", built if isinstance(built, str) else f"for {built.architectures}, CUDA {built.cuda}"),
        ("python", f"{platform.python_version()}  ({sys.executable}, {platform.platform()})"),
        ("torch", f"{torch.__version__}  (CUDA {torch.version.cuda})" if torch.version.cuda else torch.__version__),
        ("triton", _version("triton") or "not installed"),
        ("numpy", numpy.__version__),
    ]


def processor() -> list[tuple[str, str]]:
    """Vector instructions that torch uses, and threads."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        ("vector instructions", capability),
        ("cores for this process", str(cores)),
        ("threads", f"{torch.get_num_threads()}  (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})"),
    ]


def devices() -> list[tuple[str, str]]:
    """The GPUs, or why there is none."""
    import torch

    if not torch.cuda.is_available():
        why = "this build of torch is for the CPU" if torch.version.cuda is None else "torch finds no usable GPU"
        return [("CUDA", f"none: {why}")]
    rows = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        about = f"{found.name}, compute capability {found.major}.{found.minor}, {memory:.0f} GiB"
        rows.append((f"cuda:{index}", f"{about}, {found.multi_processor_count} multiprocessors"))
    return rows


def optional() -> list[tuple[str, str]]:
    """Optional packages: their version, or how to get them."""
    rows = []
    for module, distribution, purpose, extra in EXTRAS:
        missing = f"not installed: {how_to_install(extra)}"
        rows.append(
            (distribution, f"{(_version(distribution) or 'present') if is_installed(module) else missing}  ({purpose})")
        )
    return rows


def operations() -> list[tuple[str, str]]:
    """For each op the implementation that runs, and why not a faster one."""
    from geotdm_fast import ops

    return [(op, f"{active}  ({reason})" if reason else active) for op, active, reason in ops.status()]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
