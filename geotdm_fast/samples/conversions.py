"""Samples as the objects of other libraries: pandas, MDTraj, MDAnalysis and ASE."""

from typing import TYPE_CHECKING, cast

from geotdm_fast.runtime.files import PathLike

if TYPE_CHECKING:
    import ase
    import MDAnalysis
    import mdtraj
    import pandas

    from geotdm_fast.samples.record import Samples


class Convertible:
    """The part of `Samples` that hands them to other libraries, none of which is imported before it is asked for."""

    def to_frame(
        self,
        graph: int | None = None,
        sample: int | None = None,
        *,
        truth: bool = False,
        topology: PathLike | None = None,
        selection: str | None = None,
    ) -> "pandas.DataFrame":
        """A table with a row for each node in each frame, graph by graph, sample by sample, frame by frame.

            samples.to_frame().groupby(["graph", "sample", "frame"])[["x", "y", "z"]].mean()

        graph, sample: of this graph and this sample alone; None: of all
        truth: with the columns x_true, y_true, z_true: the data, NaN where nobody knows them
        topology: a file that names the atoms of a graph in their order (.pdb, .gro, ...), with their residues;
            selection: which of its atoms these are, in the language of MDTraj or MDAnalysis

        Columns:
            graph, sample, frame, node: int64 - numbered from 0, a node within its graph
            time: float64 - where `frame_time` is known, from 0 in the first frame, in its unit
            given: bool - whether the frame is from the data, not drawn
            element: category - the symbol, of molecules
            resid, resname: int64 and category - the residue, numbered from 1, with a topology
            x, y, z: float32 (unit) - as `forecasts`, float64 where there is an origin; in two dimensions no z

        `attrs` has name and unit. Needs pandas (extra `tables`): ModuleNotFoundError without it. Raises ValueError for
        numbers out of range and a topology of other atoms.
        """
        from geotdm_fast.samples.tables import data_frame

        return data_frame(cast("Samples", self), graph, sample, truth, topology, selection)

    def to_mdtraj(
        self,
        graph: int | None = None,
        sample: int | None = None,
        *,
        wrap: str = "no",
        topology: PathLike | None = None,
        selection: str | None = None,
    ) -> "mdtraj.Trajectory":
        """Molecules as an `mdtraj.Trajectory` (nm): all frames of graph 0, sample 0, then of sample 1, ...

        graph, sample: of this graph and this sample alone; None: of all, which must be the same molecule
        wrap: no, atoms or molecules, see `export_molecules`
        topology, selection: as for `to_frame`; names, residues and bonds are of it. Without one names are C1, C2, H3,
            bonds are found by distance in the first frame of the data (where nobody knows it, of the first sample),
            and what they join is a residue MOL

        Positions are float32(x) / float32(10), within 1 part in 10^7 of x. A box that MDTraj cannot have is turned or
        left out with a warning, as in .xtc. Times are those of .xtc: they go on from one trajectory to the next,
        in the unit of `frame_time`, which MDTraj takes for ps; 1 from frame to frame where it is not known.
        Needs MDTraj (extra `md`): ModuleNotFoundError without it. Raises ValueError for samples that are no molecules
        in three dimensions, graphs of other elements than the first, graphs that lack one of its bonds (where bonds are
        by distance), positions that are not finite, and numbers out of range.
        """
        from geotdm_fast.samples.universes import mdtraj_trajectory

        return mdtraj_trajectory(cast("Samples", self), graph, sample, wrap, topology, selection)

    def to_mdanalysis(
        self,
        graph: int | None = None,
        sample: int | None = None,
        *,
        wrap: str = "no",
        topology: PathLike | None = None,
        selection: str | None = None,
    ) -> "MDAnalysis.Universe":
        """Molecules as an `MDAnalysis.Universe` in memory (angstrom), with the frames in the order of `to_mdtraj`.

        Positions are exactly these in float32; `dimensions` has the boxes, and `ts.time` the times. Atoms have names,
        elements, types (the elements), masses, residues and bonds. Arguments, boxes, and errors as of `to_mdtraj`.
        Needs MDAnalysis (extra `md`).
        """
        from geotdm_fast.samples.universes import mdanalysis_universe

        return mdanalysis_universe(cast("Samples", self), graph, sample, wrap, topology, selection)

    def to_ase(
        self,
        graph: int | None = None,
        sample: int | None = None,
        *,
        wrap: str = "no",
        topology: PathLike | None = None,
        selection: str | None = None,
    ) -> "list[ase.Atoms]":
        """Molecules as `ase.Atoms` (angstrom), one for each frame, in the order of `to_mdtraj`; graphs may differ.

        Positions and cells are exactly these, in float64; `pbc` is as in the data. `info` has graph, sample, frame,
        given (whether the frame is from the data) and, where it is known, time. ASE has no bonds. With a topology the
        arrays `atomtypes`, `residuenames` and `residuenumbers` have its names. Arguments and errors as of `to_mdtraj`.
        Needs ASE (extra `molecules`).
        """
        from geotdm_fast.samples.universes import ase_atoms

        return ase_atoms(cast("Samples", self), graph, sample, wrap, topology, selection)
