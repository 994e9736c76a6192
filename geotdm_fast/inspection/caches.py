"""What a folder of caches holds."""

import pathlib
from collections.abc import Mapping

from geotdm_fast.data.cache.folder import POSITIONS, caches_in, check_arrays, read_about
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.runtime.shown import plain


def inspect_caches(root: pathlib.Path) -> Findings:
    """A line for each cache in `root`: of which file, which split, how large, and whether it is whole."""
    found = Findings()
    folders = caches_in(root)
    found.add("kind", f"{len(folders)} caches of frames, made by the key cache or --cache")
    for folder in folders:
        try:
            about = read_about(folder)
            check_arrays(folder, about)
            found.add(folder.name, _in_words(about))
        except (ValueError, FileNotFoundError) as error:
            found.add(folder.name, f"damaged: {plain(error)}")
    return found


def _in_words(about: Mapping) -> str:
    of, how = about["where"].removeprefix("file_dataset: "), about["source"].get("how", {})
    frames, atoms = about["arrays"][POSITIONS]["shape"][:2]
    size = sum(array["bytes"] for array in about["arrays"].values())
    split = "" if how.get("split") is None else f", split {plain(how['split'])}"
    return f"{frames} frames of {atoms} atoms of {plain(of)}{split}, {size / 2**30:.3g} GiB"
