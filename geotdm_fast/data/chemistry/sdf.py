"""Molecules of SDF and MOL files, by RDKit."""

import pathlib
import warnings
from typing import TYPE_CHECKING, Any

from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.packages import how_to_install

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def rdkit_chem(where: str) -> Any:
    """RDKit's module `Chem`. ImportError that says what to install."""
    try:
        from rdkit import Chem
    except ImportError as error:
        raise ImportError(f"{where} needs RDKit: {how_to_install('chemistry')}") from error
    return Chem


def read_molecules(where: str, path: PathLike) -> "list[tuple[int, Mol]]":
    """The molecules of an SDF or MOL file with a conformer each, hydrogens included as far as the file has them.

    Each with its number in the file, from 0.

    Molecules that RDKit refuses are left out, with one warning that counts them. Raises FileNotFoundError, ImportError
    without RDKit, ValueError for a file without a molecule.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{where}: {path}: no such file")
    chem = rdkit_chem(where)
    from rdkit import RDLogger

    # RDKit prints what it refuses; here it is counted.
    RDLogger.DisableLog("rdApp.*")
    try:
        found = list(chem.SDMolSupplier(str(path), removeHs=False))
    except OSError as error:
        raise ValueError(f"{where}: {path} must be an SDF or MOL file, got one that RDKit cannot read") from error
    finally:
        RDLogger.EnableLog("rdApp.*")
    kept = [(i, mol) for i, mol in enumerate(found) if mol is not None and mol.GetNumAtoms() and mol.GetNumConformers()]
    if not kept:
        raise ValueError(f"{where}: {path} must hold a molecule with positions, got {len(found)} unreadable ones")
    if len(kept) < len(found):
        warnings.warn(f"{where}: {path}: RDKit reads {len(kept)} of {len(found)} molecules", stacklevel=3)
    return kept


def one_molecule(where: str, path: PathLike) -> "Mol":
    """The first molecule of a file, whose positions are not looked at."""
    return read_molecules(where, path)[0][1]
