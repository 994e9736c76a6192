"""Whether a model is asked for molecules that it was not trained on, or without what it knew of them."""

import contextlib
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from geotdm_fast.runtime.shown import shown


def warn_of_other_molecules(train: Mapping, sampled: Mapping, dataset) -> None:
    """Warn where a model of molecules is to draw others than those of its training, as far as that can be known.

    train, sampled: the data section of the training, and the one that is opened; dataset: what it holds
    A training file that is still there, or its topology, tells its elements; otherwise the names of the files are
    compared.
    """
    from geotdm_fast.inspection.trajectories import formula

    numbers = dataset.atomic_numbers
    if numbers is None or not _names(train) or _names(sampled) <= _names(train):
        return
    ours = {formula(sorted(z.tolist())) for z in ([numbers] if isinstance(numbers, Tensor) else numbers)}
    theirs = {formula(sorted(z.tolist())) for z in _numbers_in(train)}
    if theirs and ours <= theirs:
        return
    trained = ", ".join(sorted(_names(train)))
    known = f" ({', '.join(sorted(theirs))})" if theirs else ""
    warnings.warn(
        f"the model was trained on {trained}{known}, the data are {', '.join(sorted(_names(sampled)))} "
        f"({', '.join(sorted(ours - theirs)[:4])}): a model knows the molecules that it was trained on",
        stacklevel=3,
    )


def check_bond_orders(train: Mapping, sampled: Mapping, where: str) -> None:
    """Raise ValueError for data without the bond orders that the model's training had: every bond would be single.

    train, sampled: as for `warn_of_other_molecules`; where: the section that is opened
    """
    from geotdm_fast.data.chemistry.keys import knows_bond_orders

    if not knows_bond_orders(train) or knows_bond_orders(sampled) or _has_edge_types(sampled):
        return
    own = train.get("molecule") if train.get("molecule") is not None else train.get("path")
    raise ValueError(
        f"{where}: the model was trained with bond orders, of {shown(own)}, and {shown(sampled.get('path'))} has none: "
        f"every bond would be single; --set data.molecule=FILE.sdf names an SDF or MOL file of its atoms (with "
        "data.kind npz or file), and conformers are read from SDF"
    )


def _has_edge_types(section: Mapping) -> bool:
    """Whether conformers of a section are an .npz that has the types of its edges."""
    values = section.get("path") or ()
    if section.get("kind") != "conformers":
        return False
    for path in [values] if isinstance(values, str) else values:
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as archive:
            if "edge_attr" in archive.files:
                return True
    return False


def _names(section: Mapping) -> set[str]:
    """What the molecules of a section are called: their names, or those of their files."""
    values: Any = section.get("path") if section.get("path") is not None else section.get("molecule_name", ())
    return {pathlib.PurePath(value).stem for value in ([values] if isinstance(values, str) else values)}


def _numbers_in(section: Mapping) -> list[np.ndarray]:
    """The atomic numbers that a section takes of every .npz or topology of its own; none where one does not tell."""
    values: Any = section.get("topology") or section.get("path") or ()
    values = [values] if isinstance(values, str) else values
    found = []
    for path in values:
        with contextlib.suppress(Exception):
            numbers = _numbers_of(section, pathlib.Path(path))
            found.append(numbers if section.get("with_h", True) else numbers[numbers > 1])
    return found if len(found) == len(values) else []


def _numbers_of(section: Mapping, path: pathlib.Path) -> np.ndarray:
    """The atomic numbers of a file that tells them without its frames. Raises anything where it does not."""
    if section.get("topology") is None:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive["z"])
    from geotdm_fast.data.molecule_files.elements import elements_of
    from geotdm_fast.data.molecule_files.opening import named_atoms, select

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training has told what it took from names
        atoms = named_atoms(str(path), path)
        chosen = select(str(path), atoms, section.get("selection"))
        return elements_of(str(path), atoms, chosen, section.get("elements"))[chosen]
