"""The shards in a folder: a file of samples for each block of graphs and samples."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from geotdm_fast.runtime.files import UNREADABLE, PathLike, read_npz
from geotdm_fast.samples.blocks import Block
from geotdm_fast.samples.manifest import Manifest, read_manifest
from geotdm_fast.samples.npz import samples_of, write_samples
from geotdm_fast.samples.record import Samples

_NAME = re.compile(r"shard-(\d{6,})\.npz")


class Shard(NamedTuple):
    """One shard of a folder of samples.

    block: which graphs and samples of the request it holds
    samples: these, numbered from 0
    """

    block: Block
    samples: Samples


def shard_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"shard-{number:06d}.npz"


def present_shards(folder: pathlib.Path) -> set[int]:
    """The numbers of the shards in the folder. A file of that name is whole: it was renamed when it was."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def write_shard(folder: pathlib.Path, manifest: Manifest, number: int, samples: Samples) -> None:
    """Write shard `number`, atomically: what `write_samples` writes, its place in the request, and whose it is.

    The file depends on its content alone: equal samples give equal bytes.
    """
    block = manifest.shards[number]
    about = {
        "shard_graphs": np.array([block.graphs.start, block.graphs.stop]),
        "shard_samples": np.array([block.samples.start, block.samples.stop]),
        "request_sha256": np.asarray(manifest.digest),
    }
    write_samples(shard_path(folder, number), samples, about)


def belongs(folder: pathlib.Path, manifest: Manifest, number: int) -> bool:
    """Whether shard `number` is whole, by its checksums, and of this request; False for a damaged file.

    ValueError for a shard of another request.
    """
    path = shard_path(folder, number)
    try:
        with np.load(path, allow_pickle=False) as archive:
            digest = str(archive["request_sha256"])
            if archive.zip.testzip() is not None:
                return False
    except (*UNREADABLE, KeyError):
        return False
    if digest != manifest.digest:
        raise ValueError(f"{path} must be a shard of the request in the manifest beside it, got one of another request")
    return True


def iterate_shards(folder: PathLike) -> Iterator[Shard]:
    """The shards of a finished folder, graph by graph and sample by sample, one in memory at a time.

    Raises ValueError for a folder that lacks shards or has one of another request, FileNotFoundError for none.
    """
    folder = pathlib.Path(folder)
    manifest = read_manifest(folder)
    present = present_shards(folder)
    # Before the list of all is made: the counts of a damaged manifest may be anything, and its digest is of no shard.
    for number in sorted(present)[:1]:
        belongs(folder, manifest, number)
    count = manifest.num_shards
    there = sum(number < count for number in present)
    if there < count:
        first = shard_path(folder, next(number for number in range(count) if number not in present)).name
        raise ValueError(
            f"{folder} must hold {count} shards, got {there}; the first that is missing is {first}; the same command "
            "goes on"
        )
    digest = manifest.digest
    for number, block in enumerate(manifest.shards):
        path = shard_path(folder, number)
        arrays = read_npz(path)
        samples = samples_of(path, arrays)
        if str(arrays.get("request_sha256")) != digest:
            raise ValueError(f"{path} must be a shard of the request in {folder}, got one of another request")
        if (samples.num_graphs, samples.num_samples) != (len(block.graphs), len(block.samples)):
            raise ValueError(
                f"{path} must hold {len(block.samples)} samples of {len(block.graphs)} graphs, got "
                f"{samples.num_samples} of {samples.num_graphs}"
            )
        yield Shard(block, samples)


def read_shards(folder: PathLike) -> Samples:
    """All shards of a finished folder as one `Samples`, as if they had been drawn into one file."""
    by_graphs: dict[range, list[Samples]] = {}
    for block, samples in iterate_shards(folder):
        by_graphs.setdefault(block.graphs, []).append(samples)
    drawn = [np.concatenate([part.samples for part in parts]) for parts in by_graphs.values()]
    firsts = [parts[0] for parts in by_graphs.values()]
    nodes = np.cumsum([0, *(len(part.batch) for part in firsts)])
    graphs = np.cumsum([0, *(part.num_graphs for part in firsts)])
    joined = lambda name: np.concatenate([getattr(part, name) for part in firsts])

    def shifted(name: str, by: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [getattr(part, name) + offset for part, offset in zip(firsts, by[:-1], strict=True)], axis=-1
        )

    return dataclasses.replace(
        firsts[0],
        samples=np.concatenate(drawn, axis=1),
        target=joined("target"),
        x_given=joined("x_given"),
        h=joined("h"),
        atomic_numbers=joined("atomic_numbers"),
        batch=shifted("batch", graphs),
        scored=shifted("scored", nodes),
        edge_index=shifted("edge_index", nodes),
        origin=None if firsts[0].origin is None else joined("origin"),
        cell=None if firsts[0].cell is None else joined("cell"),
        pbc=None if firsts[0].pbc is None else joined("pbc"),
        conditions=None if firsts[0].conditions is None else joined("conditions"),
    )
