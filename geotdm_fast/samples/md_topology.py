"""The atoms of a molecule as MDTraj's topology."""

from typing import TYPE_CHECKING

from geotdm_fast.samples.atoms import AtomTable

if TYPE_CHECKING:
    import mdtraj


def md_topology(atoms: AtomTable) -> "mdtraj.Topology":
    """One chain with all residues, numbered from 1, and all bonds; element VS, a virtual site, for atomic number 0."""
    import mdtraj

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    residues = [topology.add_residue(name, chain, resSeq=i + 1) for i, name in enumerate(atoms.residues)]
    added = [
        topology.add_atom(name, mdtraj.element.Element.getByAtomicNumber(number), residues[residue])
        for name, number, residue in zip(atoms.names, atoms.numbers.tolist(), atoms.residue_of.tolist(), strict=True)
    ]
    for i, j in atoms.bonds.tolist():
        topology.add_bond(added[i], added[j])
    return topology
