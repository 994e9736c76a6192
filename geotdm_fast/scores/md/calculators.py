"""ASE calculators by name: the energies and forces of what was drawn."""

import importlib
import re
from typing import Any

import numpy as np

NAMES = ("emt", "lj", "tblite")
# Argon: Rahman, Phys. Rev. 136, A405 (1964): 119.8 K and 3.405 angstrom.
_ARGON = {"sigma": 3.405, "epsilon": 0.010324, "rc": 10.0, "smooth": True}
_SPELLING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def make_calculator(name: str) -> Any:
    """The ASE calculator that `name` means.

    emt: ASE's effective medium theory, of some metals and, roughly, of H, C, N and O; lj: Lennard-Jones for argon;
    tblite: GFN2-xTB of the package tblite; module:function: what the function, called without arguments, returns. That
    runs code of the module, which the caller names: names never come from a data file.
    Raises ValueError for any other name and what is no calculator, ImportError naming the module that is missing.
    """
    where = "evaluate: md: calculator"
    if name not in NAMES and not _SPELLING.fullmatch(name):
        raise ValueError(f"{where} must be emt, lj, tblite or module:function, got '{name}'")
    try:
        if name == "emt":
            from ase.calculators.emt import EMT

            return EMT()
        if name == "lj":
            from ase.calculators.lj import LennardJones

            return LennardJones(**_ARGON)
        if name == "tblite":
            from tblite.ase import TBLite

            return TBLite(method="GFN2-xTB", verbosity=0)
        module_name, _, function_name = name.partition(":")
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(f"{where} '{name}' cannot be imported: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{where} '{name}': module {module_name} has no function {function_name}")
    made = function()
    if not hasattr(made, "get_potential_energy"):
        raise ValueError(f"{where} '{name}' must return an ASE calculator, got {type(made).__name__}")
    return made


def energies_and_forces(
    calculator: Any, numbers: np.ndarray, frames: np.ndarray, cells: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Energies [S] (eV) and forces [S, N, 3] (eV/angstrom), None where the calculator has none, of frames [S, N, 3].

    cells: [S, 3, 3] of periodic boxes, or None. Raises ValueError naming the frame that the calculator refuses.
    """
    from ase import Atoms
    from ase.calculators.calculator import PropertyNotImplementedError

    atoms = Atoms(numbers=numbers, positions=frames[0], cell=None if cells is None else cells[0], pbc=cells is not None)
    atoms.calc = calculator
    energies, forces = np.empty(len(frames)), np.empty(frames.shape)
    has_forces = True
    for number, frame in enumerate(frames):
        atoms.positions[:] = frame
        if cells is not None:
            atoms.set_cell(cells[number])
        try:
            energies[number] = atoms.get_potential_energy()
            if has_forces:
                forces[number] = atoms.get_forces()
        except PropertyNotImplementedError:
            has_forces = False
        except Exception as error:
            raise ValueError(
                f"evaluate: md: calculator {type(calculator).__name__} refused frame {number} of those it got: "
                f"{type(error).__name__}: {error}"
            ) from error
    return energies, forces if has_forces else None
