"""Whether OpenMM and openmmtools are there, and what to install."""

import logging
import warnings

from geotdm_fast.runtime.packages import how_to_install, is_installed, require_package

EXTRA = "simulate-md"
_NEEDED = ("openmm", "openmmtools")


def default_engine(system: str) -> str:
    """openmm; for argon own where OpenMM or openmmtools is not installed, with a warning."""
    missing = next((name for name in _NEEDED if not is_installed(name)), None)
    if system != "argon" or not missing:
        return "openmm"
    warnings.warn(
        f"simulate_md: {missing} is not installed, so argon is simulated by the package's own integrator (engine own); "
        f"for OpenMM: {how_to_install(EXTRA)}",
        stacklevel=4,
    )
    return "own"


def openmm_versions(where: str) -> dict[str, str]:
    """Import OpenMM and openmmtools, and say their versions.

    Raises ModuleNotFoundError that says what to install, where one is not there.
    """
    for name in _NEEDED:
        require_package(where, name, EXTRA)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # pymbar, which openmmtools imports, logs a page because JAX is not there
    try:
        import openmm
        import openmmtools
    finally:
        logging.disable(before)
    return {"openmm": openmm.Platform.getOpenMMVersion(), "openmmtools": openmmtools.__version__}
