"""Data sets by their section of a configuration: official keys as well as ours."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping

from geotdm_fast.data.checks import SPLITS, check_count
from geotdm_fast.data.chemistry.keys import (
    ATOM_KEYS,
    RATIO,
    check_atom_keys,
    check_ratio,
    taken_atom_keys,
    with_atom_keys,
)
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.data.frames import NoFrames
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.data.lags import LAG, check_section, cut_at_lag, entries_told, lag_of
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.phases import PHASE, PHASES, entries_phased
from geotdm_fast.data.replicas import check_split_by, chosen_files, leave_out_short, numbers_of_files
from geotdm_fast.data.stretches import TooShort
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.choices import check_choice, check_keys
from geotdm_fast.runtime.shown import plain, shown

_FRAME_KEYS = ("frames", "every")
# Which edges there are, for every kind: `geotdm_fast.graphs.GraphSpec`.
_GRAPH = "graph"
# Numbers that the network is told, for every kind: `geotdm_fast.data.lags`.
_CONDITIONS = "conditions"
# The number of an entry of the lists of a section, in the section of each of its parts.
_NUMBER = "entry number"
_MOLECULE_KEYS = ("span", "project", "cutoff", "max_hops", "fully_connected", "bonds", "num_types", "atom_types")
_BOX_KEYS = ("unwrap", "box", "remove_drift")
_OWN_KEYS = (
    *("path", "split", "split_by", "stride", "split_ratio", "unit", "name", "with_h"),
    *(*_BOX_KEYS, *_FRAME_KEYS, *_MOLECULE_KEYS, *ATOM_KEYS, RATIO, PHASES),
)
_FILE_KEYS = ("topology", "reader", "format", "selection", "elements", "types", "cache")
# The keys of the normal form, by kind; each kind's official keys are turned into these.
_KEYS = {
    "nbody": (
        "system",
        "split",
        "num_systems",
        "spread",
        "seed",
        "num_frames",
        "project",
        "root",
        "suffix",
        *_FRAME_KEYS,
    ),
    "md17": (
        *("path", "root", "molecule_name", "split", "down_sample_every", "num_windows", "with_h"),
        *(*_FRAME_KEYS, *_MOLECULE_KEYS, *ATOM_KEYS, RATIO),
    ),
    "pedestrian": (
        *("root", "dataset", "phase", "recordings", "past_frames", "future_frames", "traj_scale", "project"),
        *("num_slots", "frame_step", "columns", *_FRAME_KEYS),
    ),
    "npz": _OWN_KEYS,
    "file": (*_OWN_KEYS, *_FILE_KEYS),
    "conformers": (
        *("path", "split", "split_ratio", "with_h", "max_hops", "cutoff", "features", "project", "name", "unit"),
        RATIO,
    ),
}
_OFFICIAL_KEYS = {
    "nbody": ("name", "span", "force_length", "obs_noise_scale"),
    "md17": ("mode", "force_length"),
    "pedestrian": (),
    "npz": ("mode",),
    "file": ("mode",),
    "conformers": (),
}
# Keys that may be lists, of the same length: one data set for each entry, joined; what else is given is for all.
_LISTS = {
    "md17": ("path", "molecule_name", "molecule"),
    "npz": ("path", "name", "molecule"),
    "file": ("path", "topology", "name", "molecule"),
    "conformers": ("path", "name"),
}
# Kinds whose paths may be patterns, and may be split by file.
_FILES = ("npz", "file")
_MOST_NAMES = 8  # of a data set of several files
# Characters of an error: libraries put whole lines of a file into theirs.
_LONGEST = 1500
_OF_MOLECULES = ("md17", "npz", "file")
# What networks of Align Your Structures take.
ATOM_KINDS = (*_OF_MOLECULES, "conformers")
_WITHOUT_MEANING = ("return_index", "force_reprocess")
_SYSTEM_WORDS = {"charged": "charged", "spring": "springs", "gravity": "gravity"}
_SPLIT_WORDS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


def normalise_section(section: Mapping, where: str = "data") -> dict:
    """A data section with an explicit `kind` and our names for its keys; normalising twice changes nothing.

    The kind is inferred where the official sections leave it out: `suffix` means nbody, `molecule_name` md17,
    `dataset` pedestrian. Raises ValueError for an unknown key, naming the nearest, and for what is missing.
    """
    if not isinstance(section, Mapping):
        raise TypeError(f"{where} must be a section of keys and values, got {shown(section)}")
    kind = section.get("kind", infer_kind(section))
    if kind is None:
        raise ValueError(f"{where}: kind must be given: one of {', '.join(_KEYS)}")
    check_choice(f"{where}: kind", kind, _KEYS)
    _hint_at_frames(where, kind, section)
    check_keys(where, section, kind_keys(kind))
    given = {key: value for key, value in section.items() if key not in ("kind", *_WITHOUT_MEANING)}
    if "mode" in given:
        _rename(where, given, "mode", "split")
    graph, told = given.pop(_GRAPH, None), check_section(where, given)
    given.pop(_CONDITIONS, None)
    normalised = {"kind": kind, **_NORMALISERS[kind](given, where)}
    if told:
        normalised[_CONDITIONS] = told
    if graph is not None:
        normalised |= _with_graph(where, kind, normalised, graph)
    if kind in _OF_MOLECULES:
        check_atom_keys(where, normalised)
    check_ratio(where, normalised, _LISTS.get(kind, ()))
    _entries(where, kind, normalised)
    return normalised


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
        section.pop(_GRAPH, None)  # the network's, which makes it of the positions
        section.pop(RATIO, None)  # the training's
        of_files = list(range(len(_entries(where, kind, section))))
        sizes[where] = [0] * len(of_files)
        if kind in _FILES:
            section |= {_NUMBER: numbers_of_files(where, section["path"], len(of_files))}
            section = chosen_files(where, section, (*_LISTS[kind], _NUMBER))
            of_files = section.pop(_NUMBER)
        told = section.pop(_CONDITIONS, {})
        files = zip(_entries(where, kind, section), of_files, strict=True)
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
                atoms = taken_atom_keys(entry) if kind in _OF_MOLECULES else None
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


def _hint_at_frames(where: str, kind: str, section: Mapping) -> None:
    """ValueError for a word that others use for a choice of frames; the nearest key, stride, is between windows."""
    for key in ("start", "stop", "step", "skip", "down_sample_every"):
        if key in section and key not in (*_KEYS[kind], *_OFFICIAL_KEYS[kind]):
            raise ValueError(f"{where}: unknown key '{key}'; frames are chosen by frames: [start, stop, step] or every")


def _entries(where: str, kind: str, section: dict) -> list[dict]:
    """The sections of the entries of the lists in `section`; without lists, a copy of it alone."""
    lists = {key: section[key] for key in _LISTS.get(kind, ()) if isinstance(section.get(key), (list, tuple))}
    if not lists:
        return [dict(section)]
    for key, value in lists.items():
        if len(value) == 0 or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"{where}: {key} must be a text, or a list of some, got {shown(value)}")
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: {' and '.join(lengths)} must be lists of the same length, got {lengths}")
    return [section | dict(zip(lists, entries, strict=True)) for entries in zip(*lists.values(), strict=True)]


def infer_kind(section: Mapping) -> str | None:
    """The kind that a section without `kind` means, by its official keys; None where none tells."""
    for key, kind in (
        ("suffix", "nbody"),
        ("system", "nbody"),
        ("molecule_name", "md17"),
        ("dataset", "pedestrian"),
        ("recordings", "pedestrian"),
    ):
        if key in section:
            return kind
    return None


def _with_graph(where: str, kind: str, section: Mapping, graph: object) -> dict:
    """The key `graph`, and what it says of the data's own edges."""
    from geotdm_fast.graphs import GraphSpec

    GraphSpec.parse(graph, f"{where}: {_GRAPH}")
    hops = graph.get("bonds") if isinstance(graph, Mapping) else None
    own = {"fully_connected": True} if graph == "complete" else {}
    if hops is not None and not isinstance(hops, bool):
        own = {"max_hops": hops}
    if kind not in _OF_MOLECULES:
        if own.get("max_hops"):
            raise ValueError(f"{where}: {_GRAPH}: bonds must be true or false for data of kind {kind}, got {hops}")
        return {_GRAPH: graph}
    for key, value in own.items():
        if section.get(key, value) != value:
            raise ValueError(f"{where}: {key} must be {value} as {_GRAPH} says, got {shown(section[key])}")
    return {_GRAPH: graph} | own


def _rename(where: str, given: dict, old: str, new: str) -> None:
    value = given.pop(old)
    if given.setdefault(new, value) != value:
        raise ValueError(f"{where}: {old} and {new} must agree, got {shown(value)} and {shown(given[new])}")


def _required(where: str, given: dict, key: str) -> object:
    if given.get(key) is None:
        raise ValueError(f"{where}: {key} must be given")
    return given[key]


def _word(words: dict[str, str], *texts: object) -> str | None:
    """The meaning of the first word found in the first text that has one."""
    for text in texts:
        found = re.search("|".join(words), str(text or ""))
        if found:
            return words[found.group()]
    return None


def _cap(where: str, given: dict, number: str, default: int | None) -> None:
    """Turn `force_length`, at most so many, into `number`."""
    limit = given.pop("force_length", None)
    if limit is not None:
        limit = check_count(where, "force_length", limit)
        present = given.get(number) or default
        given[number] = limit if present is None else min(limit, present)


def _normalise_nbody(given: dict, where: str) -> dict:
    if given.pop("obs_noise_scale", 0) != 0:
        raise ValueError(f"{where}: obs_noise_scale must be 0, noisy observations are not supported")
    if "span" in given:
        _rename(where, given, "span", "num_frames")
    name = given.pop("name", None)
    system = given.setdefault("system", _word(_SYSTEM_WORDS, given.get("suffix"), name))
    if system is None:
        raise ValueError(f"{where}: system must be charged, springs or gravity, or be named in suffix")
    check_choice(f"{where}: system", system, _SYSTEM_WORDS.values())
    split = given.setdefault("split", _word(_SPLIT_WORDS, given.get("suffix"), name))
    if split is None:
        raise ValueError(f"{where}: split must be train, val or test, or be named in suffix")
    check_choice(f"{where}: split", split, SPLITS)
    _cap(where, given, "num_systems", None)
    if given.get("num_systems") is not None:
        given["num_systems"] = check_count(where, "num_systems", given["num_systems"])
    return given


def _normalise_md17(given: dict, where: str) -> dict:
    from geotdm_fast.data.md17 import NUM_WINDOWS

    if given.get("path") is None:
        _required(where, given, "root")
        _required(where, given, "molecule_name")
    check_choice(f"{where}: split", _required(where, given, "split"), SPLITS)
    _cap(where, given, "num_windows", NUM_WINDOWS[given["split"]])
    return given


def _normalise_pedestrian(given: dict, where: str) -> dict:
    from geotdm_fast.data.pedestrian_files import PHASES, check_scene, processed_path

    if given.get("recordings") is None:
        given.setdefault("root", "data/eth")
        _required(where, given, "dataset")
        _required(where, given, "phase")
    if given.get("phase") is not None:
        check_choice(f"{where}: phase", given["phase"], PHASES)
    if (
        given.get("recordings") is None
        and not processed_path(given["root"], given["dataset"], given["phase"]).is_file()
    ):
        check_scene(where, "dataset", given["root"], given["dataset"])
    return given


def _normalise_own(given: dict, where: str) -> dict:
    _required(where, given, "path")
    if "split_by" in given:
        check_split_by(where, given["split_by"])
    if given.get("split") is not None:
        check_choice(f"{where}: split", given["split"], SPLITS)
    return given


def _open_nbody(section: dict, where: str, progress: bool) -> TrajectoryDataset:
    from geotdm_fast.data.nbody import NUM_SYSTEMS, has_official_files, nbody_dataset

    kind, split, root, suffix = section.pop("system"), section["split"], section.get("root"), section.get("suffix")
    if progress and not has_official_files(root, suffix):
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


_NORMALISERS = {
    "nbody": _normalise_nbody,
    "md17": _normalise_md17,
    "pedestrian": _normalise_pedestrian,
    "npz": _normalise_own,
    "file": _normalise_own,
    "conformers": _normalise_own,
}
_OPENERS: dict[str, Callable[..., TrajectoryDataset]] = {
    "nbody": _open_nbody,
    "md17": _open_md17,
    "pedestrian": _open_pedestrian,
    "npz": _open_npz,
    "file": _open_file,
    "conformers": _open_conformers,
}


def kind_keys(kind: str) -> tuple[str, ...]:
    """The keys that a section of this kind may have, the official ones among them."""
    return ("kind", _GRAPH, _CONDITIONS, *_KEYS[kind], *_OFFICIAL_KEYS[kind], *_WITHOUT_MEANING)


def list_keys(kind: str | None) -> tuple[str, ...]:
    """The keys that may be lists in a section of this kind, one entry for each of its files."""
    return _LISTS.get(kind or "", ())
