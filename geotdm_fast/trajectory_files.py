"""Files of samples: `.npz` with all that scores and pictures need."""

import pathlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields

import numpy as np
import torch

from geotdm_fast.data.trajectory import Batch, TrajectoryDataset
from geotdm_fast.files import PathLike, read_npz, write_npz
from geotdm_fast.keys import check_choice
from geotdm_fast.samples_checks import check_dimensions, check_scalar, check_values
from geotdm_fast.shown import listed

FORMAT = "geotdm_fast samples 1"


@dataclass(frozen=True)
class Samples:
    """Samples of a set of graphs, with the truth beside them. Graphs lie side by side as in `Batch`.

    samples: [K, N, D, T_noisy] float32 - what the model drew
    target: [N, D, T_noisy] float32 - the same frames of the data; [N, D, 0] where they are unknown
    x_given: [N, D, T_given] float32 - the frames that were given (T_given = 0: an unconditional model)
    cond_mask: [T] bool - True where a frame was given
    batch: [N] int64 - the graph of every node, ascending
    scored: [M] int64 - the nodes that count in the scores
    h: [N, F] or [N, F, T] float32 - node features
    edge_index: [2, E] int64
    atomic_numbers: [N] int64 for molecules, else [0]
    scale: positions times `scale` are in `unit`
    name, mode, checkpoint: the data set, 'cond' or 'uncond', and the file that the model came from
    origin: [num_graphs, D] float64 or None - what is missing from all positions of a graph, which are far from 0; in a
        file only where there is one
    experiment: which of the paper's experiments these data are the test data of, '' if none is known
    """

    samples: np.ndarray
    target: np.ndarray
    x_given: np.ndarray
    cond_mask: np.ndarray
    batch: np.ndarray
    scored: np.ndarray
    h: np.ndarray
    edge_index: np.ndarray
    atomic_numbers: np.ndarray
    scale: float
    unit: str
    name: str
    mode: str
    seed: int
    checkpoint: str
    origin: np.ndarray | None = None
    experiment: str = ""

    @property
    def num_graphs(self) -> int:
        return int(self.batch[-1]) + 1

    @property
    def num_samples(self) -> int:
        return self.samples.shape[0]

    @property
    def is_molecule(self) -> bool:
        return len(self.atomic_numbers) > 0

    @property
    def has_target(self) -> bool:
        """Whether the frames that were drawn are known."""
        return self.target.shape[-1] == self.samples.shape[-1]

    def check_target(self, where: str) -> None:
        """Raise ValueError where the frames that were drawn are unknown: what `where` does needs them."""
        if not self.has_target:
            raise ValueError(f"{where}: there is no truth in these samples of {self.name}, which end with given frames")

    def nodes(self, graph: int) -> slice:
        """The nodes of a graph."""
        return slice(*np.searchsorted(self.batch, [graph, graph + 1]).tolist())

    def truth(self, absolute: bool = True) -> np.ndarray:
        """[N, D, T] float32 (unit) - given and target frames, each in its place; NaN where the target is unknown.

        absolute: with the origin, where there is one, in float64
        """
        unknown = np.full((*self.target.shape[:-1], self.samples.shape[-1]), np.nan, self.target.dtype)
        return self._merge(self.target if self.has_target else unknown, absolute)

    def forecasts(self, absolute: bool = True) -> np.ndarray:
        """[K, N, D, T] float32 (unit) - given and sampled frames, each in its place; absolute: as of `truth`."""
        return self._merge(self.samples, absolute)

    def _merge(self, noisy: np.ndarray, absolute: bool) -> np.ndarray:
        whole = np.empty((*noisy.shape[:-1], len(self.cond_mask)), noisy.dtype)
        whole[..., self.cond_mask] = self.x_given
        whole[..., ~self.cond_mask] = noisy
        if self.origin is None or not absolute:
            return whole * np.float32(self.scale)
        return (whole + self.origin[self.batch][:, :, None]) * self.scale


def make_samples(
    samples: torch.Tensor,
    batch: Batch,
    dataset: TrajectoryDataset,
    train_config: dict,
    *,
    mode: str,
    seed: int,
    checkpoint: str,
) -> Samples:
    """Put what `sampling.sample` drew for `batch` together with the truth and the data set's metadata."""
    if mode == "cond":
        from geotdm_fast.conditioning import cond_mask

        given = cond_mask(train_config["cond_mask"], batch.x.shape[-1]).flatten().bool().cpu().numpy()
    else:
        given = np.zeros(samples.shape[-1], bool)
    x = batch.x.cpu().numpy().astype(np.float32)[..., : len(given)]
    numbers = [dataset.numbers_of(i) for i in range(batch.num_graphs)] if dataset.atomic_numbers is not None else []
    return Samples(
        samples=samples.cpu().numpy().astype(np.float32),
        target=x[..., ~given] if batch.has_target else x[..., :0],
        x_given=x[..., given],
        cond_mask=given,
        batch=batch.batch.cpu().numpy(),
        scored=batch.scored.cpu().numpy(),
        h=batch.h.cpu().numpy().astype(np.float32),
        edge_index=batch.edge_index.cpu().numpy(),
        atomic_numbers=np.concatenate([np.zeros(0, np.int64), *map(np.asarray, numbers)]),
        scale=float(dataset.scale),
        unit=dataset.unit,
        name=dataset.name,
        mode=mode,
        seed=int(seed),
        checkpoint=checkpoint,
        origin=None if batch.origin is None else batch.origin.cpu().numpy(),
        experiment=dataset.experiment or "",
    )


def write_samples(path: PathLike, samples: Samples, about: Mapping[str, np.ndarray] | None = None) -> None:
    """Write every field of `samples`, and `format`, to an `.npz`, atomically; about: further arrays beside them."""
    values = {field.name: getattr(samples, field.name) for field in fields(samples)}
    arrays = {name: np.asarray(value) for name, value in values.items() if value is not None}
    write_npz(path, format=np.asarray(FORMAT), **arrays, **(about or {}))


def read_samples(path: PathLike) -> Samples:
    """Read what `write_samples` wrote, or all shards of a folder of `geotdm sample`.

    ValueError for any other file and for a folder that lacks shards, FileNotFoundError for none.
    """
    if pathlib.Path(path).is_dir():
        from geotdm_fast.sampling.shards import read_shards

        return read_shards(path)
    return samples_of(path, read_npz(path))


def samples_of(path: PathLike, arrays: Mapping[str, np.ndarray]) -> Samples:
    """The samples among the arrays of a file; path: for messages. ValueError where they are no samples."""
    names = [field.name for field in fields(Samples) if field.default is MISSING or field.name in arrays]
    missing = [name for name in ["format", *names] if name not in arrays]
    if missing or str(arrays["format"]) != FORMAT:
        lacks = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "") or f"the format '{FORMAT}'"
        raise ValueError(
            f"{path} must be a file of samples as written by `geotdm sample`; "
            f"it holds {listed(arrays)} and lacks {lacks}"
        )
    convert = {"scale": float, "seed": int, "unit": str, "name": str, "mode": str, "checkpoint": str}
    convert["experiment"] = str
    for name in convert.keys() & arrays.keys():
        check_scalar(path, name, arrays[name])
    check_dimensions(path, arrays)
    samples = Samples(**{name: convert.get(name, np.asarray)(arrays[name]) for name in names})
    check_samples(path, samples)
    check_values(path, samples)
    return samples


def check_samples(path: PathLike, s: Samples) -> None:
    """ValueError naming `path` and the field, unless shapes, the graphs of the nodes and the mode fit together."""
    check_choice(f"{path}: mode", s.mode, ("cond", "uncond"))
    if s.samples.ndim != 4 or s.samples.size == 0:
        raise ValueError(f"{path}: samples must be [K, N, D, T], not empty; got {list(s.samples.shape)}")
    _, num_nodes, dims, num_noisy = s.samples.shape
    num_given = int(s.cond_mask.sum())
    expected = {
        "target": (num_nodes, dims, num_noisy if s.has_target else 0),
        "x_given": (num_nodes, dims, num_given),
        "cond_mask": (num_given + num_noisy,),
        "batch": (num_nodes,),
    }
    if s.origin is not None:
        expected["origin"] = (s.num_graphs, dims)
    if s.is_molecule:
        expected["atomic_numbers"] = (num_nodes,)
    for name, shape in expected.items():
        if getattr(s, name).shape != shape:
            raise ValueError(f"{path}: {name} must be {list(shape)}, got {list(getattr(s, name).shape)}")
    _check_graphs(path, s.batch)


def _check_graphs(path: PathLike, batch: np.ndarray) -> None:
    """`nodes` and `num_graphs` hold for graphs whose nodes lie together, numbered 0, 1, 2, ... without a gap."""
    if not np.issubdtype(batch.dtype, np.integer):
        raise ValueError(f"{path}: batch must hold whole numbers, the graph of each node; got {batch.dtype}")
    first = np.concatenate([[-1], batch[:-1]])
    wrong = np.flatnonzero((batch != first) & (batch != first + 1)) if batch[0] == 0 else [0]
    if len(wrong):
        node = int(wrong[0])
        behind = f" behind {first[node]}" if node else ""
        raise ValueError(
            f"{path}: batch must ascend from 0 without a gap, the nodes of a graph side by side; "
            f"got {batch[node]}{behind} at node {node}"
        )
