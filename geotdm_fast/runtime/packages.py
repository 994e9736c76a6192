"""Optional packages: whether one is installed, and the error that says how to install it."""

import importlib.util


def is_installed(module: str) -> bool:
    """Whether a module of that import name is found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def require_package(where: object, module: str, extra: str) -> None:
    """ModuleNotFoundError that names the package and the extra of this one that brings it, unless it is installed.

    where: what needs it, for the message; module: its import name
    """
    if not is_installed(module):
        raise ModuleNotFoundError(
            f"{where} needs {module}, which is not installed: pip install 'geotdm-fast[{extra}]'", name=module
        )
