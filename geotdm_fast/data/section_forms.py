"""The normal form of a section of `data`: an explicit kind, and our names for the official keys."""

import re
from collections.abc import Mapping

from geotdm_fast.data.checks import SPLITS, check_count
from geotdm_fast.data.chemistry.keys import check_atom_keys, check_ratio
from geotdm_fast.data.lags import check_section
from geotdm_fast.data.replicas import check_split_by
from geotdm_fast.data.section_keys import (
    CONDITIONS,
    GRAPH,
    KEYS,
    LISTS,
    OF_MOLECULES,
    OFFICIAL_KEYS,
    WITHOUT_MEANING,
    entries_of,
    infer_kind,
    kind_keys,
)
from geotdm_fast.runtime.choices import check_choice, check_keys
from geotdm_fast.runtime.shown import shown

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
        raise ValueError(f"{where}: kind must be given: one of {', '.join(KEYS)}")
    check_choice(f"{where}: kind", kind, KEYS)
    _hint_at_frames(where, kind, section)
    check_keys(where, section, kind_keys(kind))
    given = {key: value for key, value in section.items() if key not in ("kind", *WITHOUT_MEANING)}
    if "mode" in given:
        _rename(where, given, "mode", "split")
    graph, told = given.pop(GRAPH, None), check_section(where, given)
    given.pop(CONDITIONS, None)
    normalised = {"kind": kind, **_NORMALISERS[kind](given, where)}
    if told:
        normalised[CONDITIONS] = told
    if graph is not None:
        normalised |= _with_graph(where, kind, normalised, graph)
    if kind in OF_MOLECULES:
        check_atom_keys(where, normalised)
    check_ratio(where, normalised, LISTS.get(kind, ()))
    entries_of(where, kind, normalised)
    return normalised


def _hint_at_frames(where: str, kind: str, section: Mapping) -> None:
    """ValueError for a word that others use for a choice of frames; the nearest key, stride, is between windows."""
    for key in ("start", "stop", "step", "skip", "down_sample_every"):
        if key in section and key not in (*KEYS[kind], *OFFICIAL_KEYS[kind]):
            raise ValueError(f"{where}: unknown key '{key}'; frames are chosen by frames: [start, stop, step] or every")


def _with_graph(where: str, kind: str, section: Mapping, graph: object) -> dict:
    """The key `graph`, and what it says of the data's own edges."""
    from geotdm_fast.graphs import GraphSpec

    GraphSpec.parse(graph, f"{where}: {GRAPH}")
    hops = graph.get("bonds") if isinstance(graph, Mapping) else None
    own = {"fully_connected": True} if graph == "complete" else {}
    if hops is not None and not isinstance(hops, bool):
        own = {"max_hops": hops}
    if kind not in OF_MOLECULES:
        if own.get("max_hops"):
            raise ValueError(f"{where}: {GRAPH}: bonds must be true or false for data of kind {kind}, got {hops}")
        return {GRAPH: graph}
    for key, value in own.items():
        if section.get(key, value) != value:
            raise ValueError(f"{where}: {key} must be {value} as {GRAPH} says, got {shown(section[key])}")
    return {GRAPH: graph} | own


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


_NORMALISERS = {
    "nbody": _normalise_nbody,
    "md17": _normalise_md17,
    "pedestrian": _normalise_pedestrian,
    "npz": _normalise_own,
    "file": _normalise_own,
    "conformers": _normalise_own,
}
