"""The keys of a section of `data`, by its kind: ours, the official ones, and those that may be lists."""

from collections.abc import Mapping

from geotdm_fast.data.chemistry.keys import ATOM_KEYS, RATIO
from geotdm_fast.data.phases import PHASES
from geotdm_fast.runtime.shown import shown

_FRAME_KEYS = ("frames", "every")
# Which edges there are, for every kind: `geotdm_fast.graphs.GraphSpec`.
GRAPH = "graph"
# Numbers that the network is told, for every kind: `geotdm_fast.data.lags`.
CONDITIONS = "conditions"
_MOLECULE_KEYS = ("span", "project", "cutoff", "max_hops", "fully_connected", "bonds", "num_types", "atom_types")
_BOX_KEYS = ("unwrap", "box", "remove_drift")
_OWN_KEYS = (
    *("path", "split", "split_by", "stride", "split_ratio", "unit", "name", "with_h"),
    *(*_BOX_KEYS, *_FRAME_KEYS, *_MOLECULE_KEYS, *ATOM_KEYS, RATIO, PHASES),
)
_FILE_KEYS = ("topology", "reader", "format", "selection", "elements", "types", "cache")
# The keys of the normal form, by kind; each kind's official keys are turned into these.
KEYS = {
    "nbody": (
        "system",
        "split",
        "num_systems",
        "spread",
        "seed",
        "num_frames",
        "stride",
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
OFFICIAL_KEYS = {
    "nbody": ("name", "span", "force_length", "obs_noise_scale"),
    "md17": ("mode", "force_length"),
    "pedestrian": (),
    "npz": ("mode",),
    "file": ("mode",),
    "conformers": (),
}
# Keys that may be lists, of the same length: one data set for each entry, joined; what else is given is for all.
LISTS = {
    "md17": ("path", "molecule_name", "molecule"),
    "npz": ("path", "name", "molecule"),
    "file": ("path", "topology", "name", "molecule"),
    "conformers": ("path", "name"),
}
OF_MOLECULES = ("md17", "npz", "file")
# What networks of Align Your Structures take.
ATOM_KINDS = (*OF_MOLECULES, "conformers")
WITHOUT_MEANING = ("return_index", "force_reprocess")


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


def kind_keys(kind: str) -> tuple[str, ...]:
    """The keys that a section of this kind may have, the official ones among them."""
    return ("kind", GRAPH, CONDITIONS, *KEYS[kind], *OFFICIAL_KEYS[kind], *WITHOUT_MEANING)


def list_keys(kind: str | None) -> tuple[str, ...]:
    """The keys that may be lists in a section of this kind, one entry for each of its files."""
    return LISTS.get(kind or "", ())


def entries_of(where: str, kind: str, section: dict) -> list[dict]:
    """The sections of the entries of the lists in `section`; without lists, a copy of it alone."""
    lists = {key: section[key] for key in LISTS.get(kind, ()) if isinstance(section.get(key), (list, tuple))}
    if not lists:
        return [dict(section)]
    for key, value in lists.items():
        if len(value) == 0 or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"{where}: {key} must be a text, or a list of some, got {shown(value)}")
    lengths = {key: len(value) for key, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: {' and '.join(lengths)} must be lists of the same length, got {lengths}")
    return [section | dict(zip(lists, entries, strict=True)) for entries in zip(*lists.values(), strict=True)]
