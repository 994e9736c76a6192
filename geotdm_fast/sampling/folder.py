"""Draw a request of any size into a folder of shards, on any number of processes, again and again until it is whole."""

import contextlib
import functools
import pathlib
from typing import NamedTuple

from geotdm_fast.data.trajectory import Batch, TrajectoryDataset
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.runtime.files import PathLike, remove_leftovers
from geotdm_fast.runtime.folder_lock import locked
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.samples.manifest import (
    NAME,
    Manifest,
    check_same_request,
    read_manifest,
    write_manifest,
)
from geotdm_fast.samples.record import make_samples
from geotdm_fast.samples.shards import belongs, present_shards, shard_path, write_shard
from geotdm_fast.sampling.batches import Drawer, check_counts
from geotdm_fast.sampling.description import describe
from geotdm_fast.sampling.progress import TrajectoryBar
from geotdm_fast.sampling.rollout import RolloutDrawer
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.sampling.writer import BackgroundWriter
from geotdm_fast.task import Task


class Outcome(NamedTuple):
    """What `sample_to_folder` did.

    shards: how many shards the folder holds
    drawn: how many of them are new, over all processes
    """

    shards: int
    drawn: int


def sample_to_folder(
    folder: PathLike,
    sampler: Sampler,
    batch: Batch,
    dataset: TrajectoryDataset,
    task: Task,
    *,
    num_samples: int,
    seed: int,
    checkpoint: str,
    rollout: Rollout | None = None,
    batch_size: int | None = None,
    shard_size: int | None = None,
    restart: bool = False,
    ours: Processes | None = None,
    progress: bool = True,
) -> Outcome:
    """Draw what `sample` draws, shard by shard, into `folder`; goes on where an earlier call was stopped or killed.

    rollout: draw what `roll_out` draws
    dataset: where `batch` is from, for name, unit and scale; checkpoint: the name of the model's file
    batch_size: as of `sample`; None: that of the folder, or a fitting one
    shard_size: most trajectories of a shard; None: that of the folder, or by the graphs' size
    restart: remove the samples that are there, of whatever request
    ours: the processes that share the work, shard by shard; each has the same arguments and its own device

    `manifest.json` is written once, then `shard-000000.npz`, ... each aside and renamed: a shard that is there is
    whole, and the request is done when all are. Which trajectories a shard holds depends on the request alone. So do
    its bytes on the CPU, for one batch size and number of threads: not on the number of processes, the order, or
    interruptions. Otherwise numbers differ by rounding alone.
    Raises ValueError when the folder holds another request, naming what differs; OSError when it cannot be written, or
    another call is writing to it; as `sample` besides.
    """
    check_counts("sample_to_folder", num_samples=num_samples, batch_size=batch_size, shard_size=shard_size, seed=seed)
    # JSON does not know whole numbers of NumPy.
    num_samples, seed = int(num_samples), int(seed)
    batch_size, shard_size = (None if size is None else int(size) for size in (batch_size, shard_size))
    folder = pathlib.Path(folder)
    drawer = Drawer(sampler, batch, task, seed)
    if rollout is not None:
        drawer = RolloutDrawer(sampler, batch, task, seed, rollout)
    ours = ours or Processes(0, 1, drawer.device)

    def begin() -> tuple[dict, int]:
        request = describe(
            sampler, batch, dataset, task, num_samples=num_samples, seed=seed, checkpoint=checkpoint, rollout=rollout
        )
        stack.enter_context(locked(folder, "drawing samples into"))
        default = drawer.default_shard_size()
        return _open(folder, request, shard_size, default, restart)

    with contextlib.ExitStack() as stack:
        request, known = ours.from_first(begin)
        size = batch_size or known
        if not size:
            # The smallest of what fits on each device.
            size = -ours.agree(-drawer.fitting_batch_size(Manifest(request, 1).shards[0]))[0]
        manifest = Manifest(request, size)
        if not known:
            ours.from_first(lambda: write_manifest(folder, manifest))
        drawer.batch_size = size
        missing = ours.from_first(lambda: _missing(folder, manifest))
        _draw(folder, manifest, missing, drawer, dataset, task, ours, progress)
        return Outcome(len(manifest.shards), len(missing))


def _draw(
    folder: pathlib.Path,
    manifest: Manifest,
    missing: list[int],
    drawer: Drawer,
    dataset: TrajectoryDataset,
    task: Task,
    ours: Processes,
    progress: bool,
) -> None:
    """Draw this process's share of the missing shards, and wait for the others."""
    shards, request = manifest.shards, manifest.request
    mine = missing[ours.rank :: ours.world_size]
    theirs = set(missing) - set(mine)
    done = manifest.whole.size - sum(shards[number].size for number in missing)
    finished = lambda: sum(shards[number].size for number in theirs & present_shards(folder))
    bar = TrajectoryBar(
        manifest.whole.size, done, elsewhere=finished if theirs else None, show=progress and ours.writes
    )
    with bar, BackgroundWriter() as writer:
        for number in mine:
            block = shards[number]
            drawn = drawer.draw(block, bar)
            samples = make_samples(
                drawn,
                drawer.record(block.graphs),
                dataset,
                task,
                seed=request["seed"],
                checkpoint=request["checkpoint"],
                method=request["method"],
                num_steps=request["num_steps"],
                first_graph=block.graphs.start,
            )
            drawer.tell(f"sample: {shard_path(folder, number)}", drawn)
            writer.put(functools.partial(write_shard, folder, manifest, number, samples))
        writer.finish()
        ours.wait_for_all(meanwhile=bar.show)
        bar.show(look=True)


def _open(folder: pathlib.Path, request: dict, shard_size: int | None, default: int, restart: bool) -> tuple[dict, int]:
    """The request with its shard size, and the batch size of one that was begun before, else 0."""
    remove_leftovers(folder, ("shard-*.npz", NAME))  # of killed processes: the lock says that none is alive
    if restart:
        # The manifest first: without it no shard counts.
        for path in [folder / NAME, *(shard_path(folder, number) for number in present_shards(folder))]:
            path.unlink(missing_ok=True)
    if not (folder / NAME).exists():
        stray = sorted(present_shards(folder))
        if stray:
            raise ValueError(
                f"{folder} must be empty or hold a {NAME}, got {shard_path(folder, stray[0]).name} without one; name "
                "another folder, or start anew (--restart)"
            )
        return request | {"shard_size": shard_size or default}, 0
    known = read_manifest(folder)
    request = request | {"shard_size": shard_size or known.request["shard_size"]}
    check_same_request(folder, known.request, request)
    return request, known.batch_size


def _missing(folder: pathlib.Path, manifest: Manifest) -> list[int]:
    """The shards that are not there, or damaged."""
    present = present_shards(folder)
    return [n for n in range(len(manifest.shards)) if n not in present or not belongs(folder, manifest, n)]
