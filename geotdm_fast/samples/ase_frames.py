"""A trajectory of a molecule as `ase.Atoms`, for extended XYZ and for users of ASE."""

from typing import TYPE_CHECKING, Any

from geotdm_fast.samples.molecules import Molecule

if TYPE_CHECKING:
    import ase


def ase_frames(molecule: Molecule, before: int) -> "list[ase.Atoms]":
    """The T frames of a trajectory, each with its box; `info` says graph, sample, frame, given (T: from the data).

    before: frames of other trajectories before this one; `info["time"]` is (before + t) times the time between two
        frames, where that is known
    """
    from ase import Atoms

    frames = []
    for t, positions in enumerate(molecule.positions):
        about: dict[str, Any] = {
            "graph": molecule.graph,
            "sample": molecule.sample,
            "frame": t,
            "given": bool(molecule.given[t]),
        }
        if molecule.frame_time is not None:
            about["time"] = (before + t) * molecule.frame_time
        box = {} if molecule.cell is None else {"cell": molecule.cell[t], "pbc": molecule.pbc}
        frames.append(Atoms(molecule.atomic_numbers, positions, info=about, **box))
    return frames
