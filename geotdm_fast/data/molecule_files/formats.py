"""Which reader knows which format."""

import pathlib
from collections.abc import Callable

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.packages import is_installed, require_package

READERS = ("auto", "ase", "mdtraj", "mdanalysis")
PACKAGES = {"ase": ("ase", "molecules"), "mdtraj": ("mdtraj", "md"), "mdanalysis": ("MDAnalysis", "md")}
NAMES = {"ase": "ASE", "mdtraj": "MDTraj", "mdanalysis": "MDAnalysis"}
# Formats that this package reads by itself, and their other suffixes. They name their own atoms.
OWN = {
    "xyz": "xyz",
    "extxyz": "xyz",
    "lammpstrj": "lammps",
    "lammpsdump": "lammps",
    "dump": "lammps",
    "pdb": "pdb",
    "ent": "pdb",
}
ASE = {
    "traj": "traj",
    "xsf": "xsf",
    "xdatcar": "vasp-xdatcar",
    "outcar": "vasp-out",
    "vasprun": "vasp-xml",
    "castep": "castep-castep",
    "geom": "castep-geom",
    "md": "castep-md",
}
_MDTRAJ_FRAMES = "xtc trr dcd nc netcdf ncdf h5 hdf5 lh5 mdcrd crd gro arc dtr stk rst7 restrt inpcrd ncrst"
_MDANALYSIS_FRAMES = "xtc trr dcd nc ncdf trj mdcrd crdbox h5md tng trz gsd gro coor namdbin inpcrd restrt history"
FRAMES = {"mdtraj": _MDTRAJ_FRAMES.split(), "mdanalysis": _MDANALYSIS_FRAMES.split()}
_MDTRAJ_TOPOLOGIES = "pdb h5 hdf5 lh5 prmtop parm7 prm7 psf mol2 hoomdxml gro arc pdbx cif mmcif"
_MDANALYSIS_TOPOLOGIES = (
    "pdb gro psf tpr prmtop parm7 top itp data gsd pqr pdbqt mol2 crd dms xml txyz arc mmtf history config in"
)
TOPOLOGIES = {"mdtraj": _MDTRAJ_TOPOLOGIES.split(), "mdanalysis": _MDANALYSIS_TOPOLOGIES.split()}
# Trajectories that name their atoms themselves: they are their own topology.
_COMPLETE = {"mdtraj": ("h5", "hdf5", "lh5", "gro", "arc"), "mdanalysis": ("gro", "gsd")}
_WHOLE_NAMES = {"xdatcar": "xdatcar", "outcar": "outcar", "vasprun.xml": "vasprun"}
_COMPRESSED = (".gz", ".bz2", ".xz")


def format_of(path: PathLike) -> str:
    """The format that a file's name says: its suffix in small letters, `xyz` for `a.XYZ.gz`, or VASP's whole names."""
    name = pathlib.Path(path).name.lower()
    name = next((name[: -len(end)] for end in _COMPRESSED if name.endswith(end)), name)
    if name in _WHOLE_NAMES:
        return _WHOLE_NAMES[name]
    suffix = pathlib.Path(name).suffix[1:]
    return "pdb" if suffix == "ent" else suffix


def check_format(where: str, given: str | None, path: PathLike) -> str:
    """The format of `path`, or the one that the user gives."""
    if given is None:
        return format_of(path)
    known = sorted({*OWN, *ASE, *FRAMES["mdtraj"], *FRAMES["mdanalysis"]})
    check_choice(f"{where}: format", given, known)
    return given


def installed(reader: str) -> bool:
    return is_installed(PACKAGES[reader][0])


def require(where: str | pathlib.Path, reader: str) -> None:
    """ModuleNotFoundError that says what to install, unless the package of `reader` is there."""
    require_package(where, *PACKAGES[reader])


def reads_frames(reader: str, file_format: str) -> bool:
    return file_format in (ASE if reader == "ase" else FRAMES[reader])


def reads_topology(reader: str, file_format: str) -> bool:
    return reader != "ase" and file_format in TOPOLOGIES[reader]


def is_complete(reader: str, file_format: str) -> bool:
    """Whether `reader` finds the atoms in the trajectory itself."""
    return reader == "ase" or file_format in _COMPLETE[reader]


def readers_of(where: str | pathlib.Path, reader: str, knows: Callable[[str], bool]) -> list[str]:
    """The installed readers for which `knows(reader)`, the preferred first; an error that names who would do.

    reader: the user's choice, or auto
    """
    if reader != "auto":
        require(where, reader)
        return [reader]
    able = [name for name in READERS[1:] if knows(name)]
    found = [name for name in able if installed(name)]
    if not found and able:
        require(where, able[0])
    return found
