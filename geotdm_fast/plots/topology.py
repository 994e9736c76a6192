"""Names of atoms, residues, chains and bonds with their orders, from a file beside the samples."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from geotdm_fast.data.chemistry.names import MOLECULE_SUFFIXES
from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.runtime.files import PathLike, read_npz
from geotdm_fast.runtime.shown import plain

LONGEST_NAME = 24
AROMATIC = 4  # the order of a bond in an aromatic ring; 0 is one that nobody knows


class Topology(NamedTuple):
    """What a file says of its atoms.

    numbers: [N] int64 - atomic numbers, 0 where unknown
    names: [N] or None; residue, chain: [N] int64 or None - the residue and the chain of each atom, numbered from 0
    residues: the name of each residue with its number, as ALA 2; kinds: its name alone; chains: the name of each chain
    bonds: [M, 3] int64 or None - two atoms and the order: 1, 2, 3, 4 for aromatic, 0 where unknown
    path: the file, for messages
    """

    numbers: np.ndarray
    names: list[str] | None
    residue: np.ndarray | None
    residues: list[str]
    kinds: list[str]
    chain: np.ndarray | None
    chains: list[str]
    bonds: np.ndarray | None
    path: str

    def of(self, count: int, numbers: np.ndarray | None) -> "Topology":
        """The same for a system of `count` atoms: all atoms, or, where that is their number, those but hydrogen.

        Raises ValueError where the numbers of atoms or the elements differ.
        """
        kept = np.arange(len(self.numbers))
        if len(kept) != count:
            kept = np.flatnonzero(self.numbers != 1)
        if len(kept) != count:
            raise ValueError(
                f"plot: topology {self.path} must have the {count} atoms of a system, got {len(self.numbers)}, "
                f"{len(kept)} of them other than hydrogen"
            )
        if numbers is not None:
            wrong = np.flatnonzero((self.numbers[kept] > 0) & (numbers > 0) & (self.numbers[kept] != numbers))
            if len(wrong):
                i = int(wrong[0])
                raise ValueError(
                    f"plot: topology {self.path} must have the elements of the samples, {SYMBOLS[numbers[i]]} for atom "
                    f"{i}; got {SYMBOLS[self.numbers[kept][i]]}"
                )
        return self if len(kept) == len(self.numbers) else self.only(kept)

    def only(self, kept: np.ndarray) -> "Topology":
        """The same of the atoms `kept` [M] alone."""
        place = np.full(len(self.numbers), -1)
        place[kept] = np.arange(len(kept))
        bonds = self.bonds
        if bonds is not None:
            bonds = np.column_stack([place[bonds[:, :2]], bonds[:, 2]])
            bonds = bonds[(bonds >= 0).all(axis=1)]
        residue, residues, kinds = _cut(self.residue, kept, self.residues, self.kinds)
        chain, chains = _cut(self.chain, kept, self.chains)
        return self._replace(
            numbers=self.numbers[kept],
            names=None if self.names is None else [self.names[i] for i in kept],
            residue=residue,
            residues=residues,
            kinds=kinds,
            chain=chain,
            chains=chains,
            bonds=bonds,
        )

    def named(self) -> dict[str, Any]:
        """What the page writes beside atoms."""
        kinds = sorted(set(self.kinds))
        found: dict[str, Any] = {"names": self.names}
        if self.residue is not None:
            found |= {"residue": self.residue.tolist(), "residues": self.residues}
            if kinds != [""]:
                found |= {"kinds": [kinds.index(kind) for kind in self.kinds], "kind_names": kinds}
        if self.chain is not None:
            found |= {"chain": self.chain.tolist(), "chains": self.chains}
        return found


def read_topology(path: PathLike, selection: str | None = None) -> Topology:
    """What a file says of the atoms of a system.

    path: .npz with any of z [N] (atomic numbers), names [N], resid [N] (the number of each atom's residue), resnames
        [N], chains [N], bonds [M, 2] and orders [M]; .sdf and .mol, whose bonds have orders (RDKit); .pdb; and what
        MDTraj or MDAnalysis reads
        A molecule's atoms without a bond there get those by distance, whose orders are unknown, when it is drawn
    selection: the atoms to keep, in the selection language of MDTraj or MDAnalysis, of files that these read
    Raises FileNotFoundError, ValueError for a file that cannot be read, ModuleNotFoundError or ImportError naming what
    to install.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".npz", *MOLECULE_SUFFIXES):
        if selection is not None:
            raise ValueError(
                f"plot: topology {path}: selection must be None for a file of this kind, got {selection!r}"
            )
        return _from_arrays(path) if suffix == ".npz" else _from_molecule(path)
    from geotdm_fast.data.molecule_files.opening import named_atoms, select

    atoms = named_atoms("plot", path)
    bonds = None if atoms.bonds is None else _ordered(path, atoms.bonds, atoms.orders, len(atoms.names))
    numbers = atoms.resids
    if numbers is None and atoms.residue_of is not None:
        numbers = atoms.residue_of + 1  # residues that the file does not number are counted
    whole = _made(path, atoms.numbers, atoms.names, numbers, atoms.residues, atoms.chains, bonds)
    return whole if selection is None else whole.only(select(f"plot: topology {path}", atoms, selection))


def _cut(of: np.ndarray | None, kept: np.ndarray, *tables: list[str]) -> tuple[Any, ...]:
    """Which part each of the atoms `kept` is of, numbered from 0 again, and of each table the rows of these parts."""
    if of is None:
        return None, *tables
    parts, of = np.unique(of[kept], return_inverse=True)
    return of, *([table[part] for part in parts.tolist()] for table in tables)


def _from_arrays(path: pathlib.Path) -> Topology:
    arrays = read_npz(path)
    known = {"z", "names", "resid", "resnames", "chains"} & arrays.keys()
    if not known:
        raise ValueError(f"plot: topology {path} must hold z, names, resid, resnames or chains, got {sorted(arrays)}")
    count = arrays[min(known)].size
    for name in sorted(known):
        kinds = "iu" if name == "z" else "iuU"
        if arrays[name].shape != (count,) or arrays[name].dtype.kind not in kinds:
            raise ValueError(
                f"plot: topology {path}: {name} must be [{count}], {'whole numbers' if name == 'z' else 'texts'}, got "
                f"{arrays[name].dtype} {list(arrays[name].shape)}"
            )
    z = arrays["z"].astype(np.int64) if "z" in known else np.zeros(count, np.int64)
    if len(z) and not 0 <= int(z.min()) <= int(z.max()) < len(SYMBOLS):
        raise ValueError(f"plot: topology {path}: z must be atomic numbers, got {int(z.min())}..{int(z.max())}")
    texts = lambda name: [str(text) for text in arrays[name].tolist()] if name in known else None
    resid = arrays["resid"] if "resid" in known else None
    bonds = _ordered(path, arrays["bonds"], arrays.get("orders"), count) if "bonds" in arrays else None
    return _made(path, z, texts("names"), resid, texts("resnames"), texts("chains"), bonds)


def _from_molecule(path: pathlib.Path) -> Topology:
    from geotdm_fast.data.chemistry.sdf import one_molecule

    mol = one_molecule("plot: topology", path)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    orders = [AROMATIC if bond.GetIsAromatic() else int(bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()]
    pairs = np.array(bonds, np.int64).reshape(-1, 2)
    return _made(path, numbers, None, None, None, None, _ordered(path, pairs, np.array(orders, np.int64), len(numbers)))


def _ordered(path: pathlib.Path, bonds: np.ndarray, orders: np.ndarray | None, count: int) -> np.ndarray:
    """[M, 3] - each bond once, in the order of its atoms, with its order, or 0 for one that is not 1, 2, 3 or 4."""
    bonds = np.asarray(bonds)
    if bonds.ndim != 2 or bonds.shape[1] != 2 or bonds.dtype.kind not in "iu":
        raise ValueError(f"plot: topology {path}: bonds must be [M, 2], whole numbers; got {list(bonds.shape)}")
    if bonds.size and not 0 <= int(bonds.min()) <= int(bonds.max()) < count:
        raise ValueError(f"plot: topology {path}: bonds must be in 0..{count - 1}, got {bonds.min()}..{bonds.max()}")
    orders = np.zeros(len(bonds), np.int64) if orders is None else np.asarray(orders)
    if orders.shape != (len(bonds),) or orders.dtype.kind not in "iu":
        raise ValueError(f"plot: topology {path}: orders must be [{len(bonds)}], whole numbers; got {orders.shape}")
    orders = np.where((orders >= 1) & (orders <= AROMATIC), orders, 0)
    table = np.column_stack([np.sort(bonds.astype(np.int64), axis=1), orders])
    table = table[table[:, 0] != table[:, 1]]
    _, first = np.unique(table[:, :2], axis=0, return_index=True)
    return table[first]


def _made(
    path: pathlib.Path,
    numbers: np.ndarray,
    names: Sequence[str] | None,
    residue: np.ndarray | None,
    residue_names: Sequence[str] | None,
    chain_names: Sequence[str] | None,
    bonds: np.ndarray | None,
) -> Topology:
    """Residues and chains numbered from 0 in the order in which they come. A residue is a run of atoms of one number,
    name and chain."""
    count = len(numbers)
    chain, chains = None, []
    if chain_names is not None and any(chain_names):
        chains = list(dict.fromkeys(chain_names))
        chain = np.array([chains.index(name) for name in chain_names])
    own, kinds, residues = None, [], []
    if residue is not None or residue_names is not None:
        # Without numbers atoms of one name side by side are one residue.
        number = [0] * count if residue is None else residue.tolist()
        told = [""] * count if residue_names is None else list(residue_names)
        keys = list(zip(number, told, [0] * count if chain is None else chain.tolist(), strict=True))
        starts = [i == 0 or keys[i] != keys[i - 1] for i in range(count)]
        own = np.cumsum(starts) - 1
        firsts = np.flatnonzero(starts).tolist()
        kinds = [plain(told[i], LONGEST_NAME) for i in firsts]
        shown = range(1, len(firsts) + 1) if residue is None else [number[i] for i in firsts]
        residues = [plain(f"{kind} {n}".strip(), LONGEST_NAME) for kind, n in zip(kinds, shown, strict=True)]
    short = None if names is None else [plain(name, LONGEST_NAME) for name in names]
    return Topology(
        np.asarray(numbers, np.int64), short, own, residues, kinds, chain, [plain(c, LONGEST_NAME) for c in chains],
        bonds, str(path),
    )  # fmt: skip
