"""Whether OpenMM and openmmtools are there, and what to install."""

import importlib.util
import logging
import warnings

EXTRA = "simulate-md"


def default_engine(system: str) -> str:
    """openmm; for argon own where OpenMM or openmmtools is not installed, with a warning."""
    missing = _missing()
    if system != "argon" or not missing:
        return "openmm"
    warnings.warn(
        f"simulate_md: {missing} is not installed, so argon is simulated by the package's own integrator (engine own); "
        f"for OpenMM: pip install 'geotdm-fast[{EXTRA}]'",
        stacklevel=4,
    )
    return "own"


def openmm_versions(where: str) -> dict[str, str]:
    """Import OpenMM and openmmtools, and say their versions.

    Raises ModuleNotFoundError that says what to install, where one is not there.
    """
    missing = _missing()
    if missing:
        raise ModuleNotFoundError(
            f"{where} needs {missing}, which is not installed: pip install 'geotdm-fast[{EXTRA}]'", name=missing
        )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # pymbar, which openmmtools imports, logs a page because JAX is not there
    try:
        import openmm
        import openmmtools
    finally:
        logging.disable(before)
    return {"openmm": openmm.Platform.getOpenMMVersion(), "openmmtools": openmmtools.__version__}


def _missing() -> str | None:
    return next((name for name in ("openmm", "openmmtools") if importlib.util.find_spec(name) is None), None)
