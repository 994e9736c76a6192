"""Optional packages: whether one is installed, and the error that says how to install it."""

import importlib.metadata
import importlib.util

PROJECT = "geotdm-fast"
# What the extras of pyproject.toml bring, as pip takes it.
EXTRAS = {
    "chemistry": "rdkit",
    "docs": "mkdocs mkdocs-material 'mkdocstrings[python]'",
    "md": "mdtraj MDAnalysis",
    "molecules": "ase",
    "simulate-md": "openmm openmmtools",
    "tables": "pandas",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
}


def is_installed(module: str) -> bool:
    """Whether a module of that import name is found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def how_to_install(extra: str) -> str:
    """The pip command that brings an extra of this package.

    pip knows the extras of a package that is installed, from a wheel or from sources. Sources that are run as they lie
    are none: by their name pip would ask its index for somebody else's package, so that theirs are named one by one.
    """
    try:
        importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return f"pip install {EXTRAS[extra]}"
    return f"pip install '{PROJECT}[{extra}]'"


def require_package(where: object, module: str, extra: str) -> None:
    """ModuleNotFoundError that says how to install the extra of this package that brings a module, unless it is there.

    where: what needs it, for the message; module: its import name
    """
    if not is_installed(module):
        raise ModuleNotFoundError(
            f"{where} needs {module}, which is not installed: {how_to_install(extra)}", name=module
        )
