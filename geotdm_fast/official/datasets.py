"""The official data sets: their constructors' arguments, and trajectories with their further fields.

Beside the fields of `Trajectory` these have `v`, with `return_index=True` `system_id` [1] float32, the place in the
data set, and pedestrians `select_index` and `num`. Nothing is cached on disk, so `force_reprocess` changes nothing.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.data.checks import SPLITS
from geotdm_fast.data.md17 import NUM_WINDOWS, md17_dataset, molecule_path
from geotdm_fast.data.nbody import nbody_dataset, official_files
from geotdm_fast.data.pedestrian import pedestrian_dataset
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike


def TrajData(
    h: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None = None,
    x: Tensor | Sequence[Tensor] | None = None,
    v: Tensor | Sequence[Tensor] | None = None,
    **fields: Any,
) -> Trajectory:
    """A `Trajectory` by the official arguments, for data sets of one's own: every node counts in the scores.

    x, v: [N, D, T], [N, D] for one frame, or a list of frames [N, D]; v may be None
    fields: further fields by name
    """
    if x is None:
        raise TypeError("TrajData: x must be given")
    positions = _with_frames(x)
    item = Trajectory(positions, h, edge_index, edge_attr, torch.arange(len(positions)))
    vars(item).update(({} if v is None else {"v": _with_frames(v)}) | fields)
    return item


def _with_frames(value: Tensor | Sequence[Tensor]) -> Tensor:
    value = value if isinstance(value, Tensor) else torch.stack(list(value), dim=-1)
    return value[..., None] if value.dim() == 2 else value


class _OfficialDataset(TrajectoryDataset):
    """The trajectories of `opened`, with their places where `return_index` is set."""

    def __init__(self, opened: TrajectoryDataset, return_index: bool):
        super().__init__(
            opened.items,
            name=opened.name,
            unit=opened.unit,
            scale=opened.scale,
            atomic_numbers=opened.atomic_numbers,
            experiment=opened.experiment,
            frame_time=opened.frame_time,
            h_is_made=opened.h_is_made,
        )
        self.return_index = return_index

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # officially no slices
        item = super().__getitem__(int(index))
        if self.return_index:
            item.system_id = torch.tensor([float(index)])
        return item


class NBody(_OfficialDataset):
    """N-body systems from the files of the official generator, or simulated where `root` has none (a line says so).

    root, suffix: where loc_, vel_, edges_ and charges_<suffix>.npy lie
    name: of what the systems are: `gravity` and `spring` in it or in suffix choose the system, else they are charged
    span: frames kept from the first on, None for all; force_length: at most so many systems
    project: subtract the mean over nodes and frames
    obs_noise_scale: must be 0
    Trajectories have `v` [N, 3, T], the velocities. Raises ValueError, FileNotFoundError as `nbody_dataset` does.
    """

    def __init__(
        self,
        root: PathLike,
        name: str,
        suffix: str,
        span: int | None,
        force_reprocess: bool = False,
        force_length: int | None = None,
        return_index: bool = False,
        obs_noise_scale: float = 0,
        project: bool = False,
    ):
        section: dict[str, Any] = {
            "kind": "nbody",
            "root": root,
            "name": name,
            "suffix": suffix,
            "span": span,
            "project": project,
        }
        section |= {"force_length": force_length, "obs_noise_scale": obs_noise_scale}
        if not any(word in text for text in (name, suffix) for word in ("charged", "spring", "gravity")):
            section["system"] = "charged"
        there = bool(official_files(root, suffix))
        if there and not any(split in text for text in (name, suffix) for split in ("train", "val", "test")):
            section["split"] = "train"  # of files it changes nothing
        section = normalise_section(section, "NBody")
        del section["kind"]
        if not there:
            what = f"{section.get('num_systems') or 'all'} {section['system']} systems, split {section['split']}"
            print(f"NBody: no loc_{suffix}.npy in {root}: simulating {what}", file=sys.stderr)
        system = section.pop("system")
        super().__init__(nbody_dataset(system, **section, velocities=True, progress=not there), return_index)


class MD17Traj(_OfficialDataset):
    """Windows of a molecule of MD17, from md17_<molecule_name>.npz or <molecule_name>.npz in `root`.

    with_h: keep hydrogen atoms; down_sample_every: keep one frame in so many; span: frames of a window
    mode: train, val or test; force_length: at most so many windows
    project: subtract the mean over nodes and frames
    Trajectories have `v` [N, 3, T]: how far the atoms move to the file's next frame. A subclass with `fc = True` has
    edges between all atoms. Raises ValueError, FileNotFoundError as `md17_dataset` does.
    """

    fc = False

    def __init__(
        self,
        root: PathLike,
        molecule_name: str,
        with_h: bool,
        down_sample_every: int,
        span: int,
        force_reprocess: bool = False,
        force_length: int | None = None,
        mode: str | None = None,
        return_index: bool = False,
        project: bool = False,
    ):
        check_choice("MD17Traj: mode", mode, SPLITS)
        section = normalise_section(
            {"kind": "md17", "root": root, "molecule_name": molecule_name, "mode": mode, "force_length": force_length},
            "MD17Traj",
        )
        opened = md17_dataset(
            molecule_path(root, molecule_name),
            section["split"],
            down_sample_every=down_sample_every,
            span=span,
            num_windows=section.get("num_windows", NUM_WINDOWS[section["split"]]),
            with_h=with_h,
            project=project,
            velocities=True,
            fully_connected=self.fc,
        )
        super().__init__(opened, return_index)


class ETHNew(_OfficialDataset):
    """Pedestrian windows of a scene, from the processed <dataset>_data_<phase>.npy files or the raw recordings.

    dataset: eth, hotel, univ, zara1 or zara2; phase: training, validation or testing
    past_frames, future_frames: given and later frames, 20 together; traj_scale: positions are metres / traj_scale
    root: where the files lie; the official code has them in data/eth
    Trajectories have `v` [N, 2, past_frames], the steps from the frames before, `select_index` [1], the person asked
    about, and `num`, how many people there are. Raises ValueError, FileNotFoundError as `pedestrian_dataset` does.
    """

    def __init__(
        self,
        dataset: str,
        past_frames: int,
        future_frames: int,
        traj_scale: float,
        phase: str,
        return_index: bool = False,
        root: PathLike = "data/eth",
    ):
        opened = pedestrian_dataset(
            root, dataset, phase, past_frames=past_frames, future_frames=future_frames, traj_scale=traj_scale
        )
        super().__init__(opened, return_index)
        self.past_frames = past_frames

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # officially no slices
        item = super().__getitem__(index)
        past = item.x[..., : self.past_frames]
        steps = past.diff(dim=-1)
        item.v = torch.cat([steps[..., :1], steps], dim=-1)
        item.select_index = item.scored
        item.num = torch.tensor(item.num_nodes)
        return item
