"""Data sets by their section of a configuration: official keys as well as ours."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

from geotdm_fast.data.chemistry.keys import RATIO, taken_atom_keys, with_atom_keys
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.data.frames import NoFrames
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.data.lags import LAG, cut_at_lag, entries_told, lag_of
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.phases import PHASE, entries_phased
from geotdm_fast.data.replicas import chosen_files, leave_out_short, numbers_of_files
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.data.section_keys import CONDITIONS, GRAPH, LISTS, OF_MOLECULES, entries_of
from geotdm_fast.data.stretches import TooShort
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.shown import plain

# Kinds whose paths may be patterns, and may be split by file.
_FILES = ("npz", "file")
# The number of an entry of the lists of a section, in the section of each of its parts.
_NUMBER = "entry number"
_MOST_NAMES = 8  # of a data set of several files
# Characters of an error: libraries put whole lines of a file into theirs.
_LONGEST = 1500


def open_dataset(section: Mapping, where: str = "data", progress: bool = True) -> TrajectoryDataset:
    """The data set that a section of a configuration describes; see `normalise_section` for its keys.

    A list in the place of a path (or molecule_name) joins the data sets of its entries, see `join_datasets`.

    where: the section's name, for messages; progress: show what is read or simulated and how far it is
    """
    return open_datasets({where: section}, progress)[where]


def open_datasets(
    sections: Mapping[str, Mapping], progress: bool = True, file: OpenFile | None = None
) -> dict[str, TrajectoryDataset]:
    """The data sets of several sections, by the same names; the same as each by itself, see `open_dataset`.

    A file of molecules (kind file) is opened and looked through once for all sections, and where their frames follow
    each other, as those of train, val and test do, each frame is read once.

    sections: by their names, for messages, in the order of their frames; file: what has opened the file before, if it
        was
    Each data set knows how many trajectories every entry of its section has: `TrajectoryDataset.entry_sizes`.
    """
    entries: list[tuple[str, str, dict, dict]] = []
    first: dict[tuple, int] = {}
    has_lags: dict[str, bool] = {}
    numbers: list[int] = []  # of the entry that each part is of
    phases: list[int] = []  # of each part
    sizes: dict[str, list[int]] = {}
    for where, section in sections.items():
        section = normalise_section(section, where)
        kind = section.pop("kind")
        section.pop(GRAPH, None)  # the network's, which makes it of the positions
        section.pop(RATIO, None)  # the training's
        of_files = list(range(len(entries_of(where, kind, section))))
        sizes[where] = [0] * len(of_files)
        if kind in _FILES:
            section |= {_NUMBER: numbers_of_files(where, section["path"], len(of_files))}
            section = chosen_files(where, section, (*LISTS[kind], _NUMBER))
            of_files = section.pop(_NUMBER)
        told = section.pop(CONDITIONS, {})
        files = zip(entries_of(where, kind, section), of_files, strict=True)
        own = entries_phased(where, [entry | {_NUMBER: number} for entry, number in files])
        at_lags = entries_told(where, own, told)
        has_lags[where] = len(at_lags) > len(own)
        for entry, conditions in at_lags:
            entry = dict(entry)
            numbers.append(entry.pop(_NUMBER))
            phases.append(entry.pop(PHASE, 0))
            first.setdefault(_file_of(kind, entry), len(entries))
            entries.append((where, kind, entry, conditions))
    parts: dict[int, TrajectoryDataset] = {}
    too_short: dict[str, list[tuple[int, ValueError]]] = {}
    with OpenFile() if file is None else contextlib.nullcontext(file) as opened:
        # File by file, so that one is open at a time; the sort leaves the sections of a file in their order.
        for number, (where, kind, entry, conditions) in sorted(
            enumerate(entries), key=lambda each: first[_file_of(*each[1][1:3])]
        ):
            with _named(where):
                entry = cut_at_lag(kind, entry, conditions.get(LAG), opened)
                more = {"file": opened} if kind == "file" else {}
                atoms = taken_atom_keys(entry) if kind in OF_MOLECULES else None
                try:
                    part = _OPENERS[kind](dict(entry), where, progress, **more)
                    part = part if atoms is None else with_atom_keys(part, atoms, entry)
                except (TooShort, NoFrames) as error:
                    if isinstance(error, NoFrames) and not phases[number]:
                        raise
                    # A run of fewer frames than `every` has no window that begins so late.
                    too_short.setdefault(where, []).append((number, error))
                    continue
                if LAG in conditions:
                    conditions = conditions | {LAG: lag_of(kind, entry, conditions[LAG], part)}
                parts[number] = with_conditions(part, conditions, "conditions")
                sizes[where][numbers[number]] += len(part)
    opened_parts = {
        where: [parts[i] for i, e in enumerate(entries) if e[0] == where and i in parts] for where in sections
    }
    for where, errors in too_short.items():
        with _named(where):
            of_section = [(i, entry[2:]) for i, entry in enumerate(entries) if entry[0] == where]
            parts_of = {i: (numbers[i], *_part_of(*entry, has_lags[where])) for i, entry in of_section}
            leave_out_short(where, parts_of, dict(errors))
    datasets = {where: _joined(where, found) for where, found in opened_parts.items()}
    for where, dataset in datasets.items():
        dataset.entry_sizes = sizes[where]
    return datasets


def _file_of(kind: str, entry: Mapping) -> tuple:
    """What is opened for an entry."""
    return (kind, *(str(entry.get(key)) for key in ("path", "topology")))


def _part_of(entry: Mapping, conditions: Mapping, has_lags: bool) -> tuple[str, str]:
    """The file of an entry, and its lag where the section has several."""
    lag, every = conditions.get(LAG), entry.get("every")
    at = f"conditions.lag {lag:g}" if isinstance(lag, float) else f"every {every or 1}"
    return str(entry.get("path", entry.get("molecule_name"))), at if has_lags else ""


def _joined(where: str, parts: list[TrajectoryDataset]) -> TrajectoryDataset:
    with _named(where):
        if len(parts) == 1:
            return parts[0]
        names = list(dict.fromkeys(part.name for part in parts))
        of_many = f"{names[0]} + ... + {names[-1]} ({len(parts)} files)" if len(names) > _MOST_NAMES else None
        return join_datasets(parts, names[0] if len(names) == 1 else of_many)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors begin with the name of the section."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {plain(error, _LONGEST)}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {plain(error, _LONGEST)}") from error
    except TypeError as error:
        raise TypeError(f"{where}: {plain(error, _LONGEST)}") from error


def _open_nbody(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.nbody import NUM_SYSTEMS, nbody_dataset, official_files

    kind, split, root, suffix = section.pop("system"), section["split"], section.get("root"), section.get("suffix")
    if progress and not official_files(root, suffix, kind):
        number = section.get("num_systems") or NUM_SYSTEMS[split]
        number = min(number, section.get("spread") or number)
        absent = f" (no loc_{suffix}.npy in {root})" if root is not None and suffix is not None else ""
        seed = section.get("seed", 0)
        print(f"{where}: simulating {number} {kind} systems, split {split}, seed {seed}{absent}", file=sys.stderr)
    return nbody_dataset(kind, **section, progress=progress)


def _open_md17(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.md17 import md17_dataset, molecule_path

    root, molecule, path = section.pop("root", None), section.pop("molecule_name", None), section.pop("path", None)
    return md17_dataset(molecule_path(root, molecule) if path is None else path, **section)


def _open_pedestrian(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.pedestrian import pedestrian_dataset

    return pedestrian_dataset(scene=section.pop("dataset", None), **section)


def _open_npz(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.arrays import npz_dataset

    return npz_dataset(**section)


def _open_conformers(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.conformers import conformer_dataset

    return conformer_dataset(**section)


def _open_file(section: dict, where: str, progress: bool, file: OpenFile) -> TrajectoryDataset:
    from geotdm_fast.data.molecule_files import file_dataset

    return file_dataset(**section, progress=progress, file=file)


_OPENERS: dict[str, Callable[..., TrajectoryDataset]] = {
    "nbody": _open_nbody,
    "md17": _open_md17,
    "pedestrian": _open_pedestrian,
    "npz": _open_npz,
    "file": _open_file,
    "conformers": _open_conformers,
}
