"""How often the sets of a mixture are drawn."""

from collections.abc import Mapping

from geotdm_fast.data.trajectory import TrajectoryDataset


def shares_of(section: Mapping, dataset: TrajectoryDataset) -> list[tuple[int, float]] | None:
    """The size of each entry of the list of paths, and how often it is drawn; None where that is by size.

    dataset: as `open_datasets` opened the section
    A pattern is one entry, whatever the number of its files, and so is a file at all its lags. Raises ValueError where
    an entry has no trajectory, and for a data set that was not opened from a section.
    """
    ratio, sizes = section.get("ratio"), dataset.entry_sizes
    if ratio is None:
        return None
    if sizes is None:
        raise ValueError(f"data.train: ratio needs data that were opened from their section, got {dataset.name}")
    if 0 in sizes:
        have = sum(size > 0 for size in sizes)
        raise ValueError(
            f"data.train: ratio needs windows of all {len(sizes)} entries of the list, of which {have} have some"
        )
    return list(zip(sizes, ratio, strict=True))
