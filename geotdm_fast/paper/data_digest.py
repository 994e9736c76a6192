"""The digest of the files that an experiment reads: its pieces and its row are of these data alone."""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping

from geotdm_fast.data.nbody import official_files
from geotdm_fast.data.pedestrian import files_of


def data_digest(sections: Mapping[str, Mapping]) -> str | None:
    """SHA-256 of the names and contents of all files of data sections in normal form; None where there are none.

    Folders do not count: data that were moved are the same data. Raises FileNotFoundError for a file that is not there.
    """
    paths = dict.fromkeys(path for section in sections.values() for path in _files(section))
    if not paths:
        return None
    sha = hashlib.sha256()
    for path in paths:
        sha.update(f"{path.name} {_content(path)}\n".encode())
    return sha.hexdigest()


def _content(path: pathlib.Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def _files(section: Mapping) -> Iterator[pathlib.Path]:
    if section["kind"] == "nbody":
        yield from official_files(section.get("root"), section.get("suffix"), section["system"]).values()
    elif section["kind"] == "pedestrian":
        if section.get("recordings") is None:
            yield from files_of(section["root"], section["dataset"], section["phase"])
        yield from _listed(section, "recordings")
    else:
        yield from _listed(section, "path")
        yield from _listed(section, "topology")


def _listed(section: Mapping, key: str) -> list[pathlib.Path]:
    """The paths under a key, which may be one, a list or nothing."""
    found = section.get(key) or []
    return [pathlib.Path(path) for path in ([found] if isinstance(found, str) else found)]
