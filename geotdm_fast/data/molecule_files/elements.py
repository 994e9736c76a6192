"""The elements of atoms: stated by the file, by `elements`, or by names that can mean one thing only.

An element that nobody stated is never guessed in silence: names of atoms that leave no doubt are taken with a warning,
all others are an error that lists what each would have become.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms

_SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts "
    "Og"
)
SYMBOLS = tuple(_SYMBOLS.split())
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number} | {"D": 1, "T": 1}
# A name of one of these and digits alone, C12 or CL1, means that element in every naming of atoms.
_PLAIN = re.compile(r"(H|C|N|O|F|P|S|I|CL|BR)\d*")
# How the Protein Data Bank names atoms of amino acids and nucleotides: the element, its remoteness, a number.
_IN_POLYMERS = re.compile(
    r"\d?(?:(?P<hcno>[HCNO])(?:[ABGDEZH]\d{0,2}|[NT]\d?|[HO]\d{0,2})?\d{0,2}['*]{0,2}\d?|(?P<s>S)[GD]|P|OXT|OCT?[12]"
    # Hydrogens named after their oxygen or nitrogen, the ends of chains, and thymine's methyl group.
    r"|H[NO][DEGZ]\d?|HOP\d?|OP\d|O\dP|[HO][35]T|CA[YT]|[CO]Y|HY\d|HNT|[CH]5M)"
)
_POLYMERS = (
    "ALA ARG ASN ASP ASH CYS CYX CYM GLN GLU GLH GLY HIS HID HIE HIP HSD HSE HSP ILE LEU LYS LYN MET PHE PRO SER THR "
    "TRP TYR VAL ACE NME NMA NH2 A C G U DA DC DG DT DA5 DC5 DG5 DT5 DA3 DC3 DG3 DT3 RA RC RG RU"
)
_WATERS = "HOH WAT SOL H2O TIP TIP3 TP3 SPC SPCE TIP3P DOD"
_WATER_NAME = re.compile(r"(?P<hcno>[HO])W?\d?|OH2")


def formula(numbers: Iterable[int]) -> str:
    """`C2 H6 O`: carbon, hydrogen, then by the alphabet; what is no element here by its number, as [0]."""
    symbols = [SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"[{z}]" for z in numbers]
    order = sorted(set(symbols), key=lambda s: ({"C": 0, "H": 1}.get(s, 2), s))
    return " ".join(f"{s}{symbols.count(s) if symbols.count(s) > 1 else ''}" for s in order)


def elements_of(
    where: str, atoms: Atoms, chosen: np.ndarray, elements: Sequence | Mapping | None, per_type: bool = False
) -> np.ndarray:
    """The atomic numbers [N] of all atoms, known for those `chosen`.

    elements: the user's: symbols or atomic numbers, one for each atom of the file, or by name {CA: C}
    per_type: a list has one for each type of atom, in the order of their numbers
    Raises ValueError/TypeError for elements that are none or too few, and for atoms whose element nobody states.
    """
    numbers = atoms.numbers.copy()
    if elements is not None:
        _state(where, atoms, numbers, elements, per_type)
    unknown = chosen[numbers[chosen] == 0]
    if len(unknown) == 0:
        return numbers
    found = {
        i: _by_name(atoms.names[i], None if atoms.residues is None else atoms.residues[i]) for i in unknown.tolist()
    }
    for i, number in found.items():
        numbers[i] = number
    doubtful = [i for i in unknown.tolist() if found[i] == 0]
    if doubtful:
        raise ValueError(_refusal(where, atoms, doubtful))
    said = dict.fromkeys(f"{atoms.names[i]} -> {SYMBOLS[numbers[i]]}" for i in unknown.tolist())
    warnings.warn(
        f"{where}: the elements of {len(unknown)} atoms are taken from their {atoms.called}s, {atoms.path} states "
        f"none: {_some(list(said))}; elements: {{{atoms.called}: symbol, ...}} says otherwise",
        stacklevel=3,
    )
    return numbers


def stated(symbol: str) -> int:
    """The atomic number of an element's symbol as it is written, Ca or CA; 0 for anything else."""
    return NUMBERS.get(symbol, NUMBERS.get(symbol.capitalize(), 0))


def _by_name(name: str, residue: str | None) -> int:
    """The atomic number that the name of an atom means beyond doubt, else 0."""
    name = name.upper()
    known = (residue or "").upper()
    pattern = _WATER_NAME if known in _WATERS.split() else _IN_POLYMERS if known in _POLYMERS.split() else None
    match = None if pattern is None else pattern.fullmatch(name)
    if match:
        groups = match.groupdict()
        return NUMBERS[groups.get("hcno") or groups.get("s") or name.lstrip("0123456789")[0]]
    match = None if pattern else _PLAIN.fullmatch(name)
    return NUMBERS[match[1].capitalize()] if match else 0


def _nearest(name: str) -> str:
    """What a reader that takes the first letters would make of a name."""
    letters = "".join(re.findall("[A-Za-z]", name))
    return next((word for word in (letters[:2].capitalize(), letters[:1].upper()) if word in NUMBERS), "?")


def _state(where: str, atoms: Atoms, numbers: np.ndarray, elements: Sequence | Mapping, per_type: bool) -> None:
    """Write the user's `elements` into `numbers`."""
    if isinstance(elements, Mapping):
        names = np.array(atoms.names)
        for name, element in elements.items():
            here = names == str(name)
            if not here.any():
                known = _some(list(dict.fromkeys(atoms.names)))
                raise ValueError(f"{where}: elements must name {atoms.called}s of the file, {known}; got '{name}'")
            numbers[here] = _number(where, element)
        return
    if isinstance(elements, str) or not isinstance(elements, (Sequence, np.ndarray)):
        raise TypeError(f"{where}: elements must be a list, or a mapping of names to elements, got {elements!r}")
    given = [_number(where, element) for element in elements]
    if per_type and all(name.isdigit() for name in atoms.names):
        types = np.array([int(name) for name in atoms.names])
        if len(given) < types.max() or types.min() < 1:
            raise ValueError(f"{where}: elements must have one for each of {types.max()} types, got {len(given)}")
        numbers[:] = np.array(given)[types - 1]
        return
    if len(given) != len(numbers):
        raise ValueError(f"{where}: elements must have one for each of {len(numbers)} atoms, got {len(given)}")
    numbers[:] = given


def _number(where: str, element: str | int) -> int:
    if isinstance(element, str) and element in NUMBERS:
        return NUMBERS[element]
    if isinstance(element, (int, np.integer)) and not isinstance(element, bool) and 1 <= element < len(SYMBOLS):
        return int(element)
    raise ValueError(f"{where}: elements must be symbols such as Cl, or atomic numbers, got {element!r}")


def _refusal(where: str, atoms: Atoms, doubtful: list[int]) -> str:
    names = list(dict.fromkeys(atoms.names[i] for i in doubtful))
    line = "" if atoms.first_line is None else f" (line {atoms.first_line + doubtful[0]}: '{atoms.names[doubtful[0]]}')"
    wanted = "elements: {" + ", ".join(f"{name}: ..." for name in names[:3]) + ("}" if len(names) <= 3 else ", ...}")
    if all(name.isdigit() for name in names):
        return (
            f"{where}: the element of every atom must be stated, got the types {_some(names)} alone{line}; say which "
            f"elements they are, {wanted}, give a topology, or write the file with an element column"
        )
    guesses = [f"{name} -> {_nearest(name)}" for name in names]
    return (
        f"{where}: the element of every atom must be stated, but {atoms.path} has only {atoms.called}s, which would "
        f"have become {_some(guesses)}{line}. Say which elements they are, {wanted}, or give a topology with an "
        "element column; beads of a coarse-grained model are told apart by types: name"
    )


def _some(texts: list[str], count: int = 12) -> str:
    return ", ".join(texts[:count]) + (f" and {len(texts) - count} more" if len(texts) > count else "")
