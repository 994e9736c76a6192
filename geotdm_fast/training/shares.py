"""How often the sets of a mixture are drawn."""

import itertools
from collections.abc import Mapping

from geotdm_fast.data.replicas import expanded_paths
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.data.windows import Joined


def shares_of(section: Mapping, dataset: TrajectoryDataset) -> list[tuple[int, float]] | None:
    """The size of each entry of the list of paths, and how often it is drawn; None where that is by size.

    A pattern is one entry, whatever the number of its files. Raises ValueError where files were left out.
    """
    ratio, items = section.get("ratio"), dataset.items
    if ratio is None:
        return None
    sizes = [len(part) for part in items.parts] if isinstance(items, Joined) else [len(items)]
    entries = section.get("path") or section["molecule_name"]
    each = section["every"] if section.get("phases") else 1
    counts = [each * len(expanded_paths("data.train", [entry])) for entry in entries]
    if len(sizes) != sum(counts):
        raise ValueError(
            f"data.train: ratio needs all {sum(counts)} files of the list, of which {len(sizes)} have windows"
        )
    ends = list(itertools.accumulate(counts))
    grouped = [sum(sizes[end - count : end]) for end, count in zip(ends, counts, strict=True)]
    return list(zip(grouped, ratio, strict=True))
