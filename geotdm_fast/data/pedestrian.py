"""Pedestrians of the ETH and UCY recordings, and of others: windows of 20 frames around each person."""

import hashlib
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.checks import check_array, check_count, check_flag, check_number, check_positions, check_shape
from geotdm_fast.data.motion import check_motion
from geotdm_fast.data.npy import read_npy
from geotdm_fast.data.pedestrian_files import PHASES, SCENES, other_recordings, processed_path, recordings_of
from geotdm_fast.data.positions import origins_of
from geotdm_fast.data.recordings import Recording, read_recording
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import centred, complete_edges
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike

NUM_FRAMES = 20

NUM_SLOTS = {"eth": 1, "hotel": 1, "univ": 2, "zara1": 3, "zara2": 1}
# Of the windows of the recordings that all papers score on: positions as float32, then how many people are in each.
_TEST_SHA256 = {
    "eth": "c31d444d54aa31a217043ed21ae81b5aa1c2b9ecc3082da0a1b9483cac8cfe71",
    "hotel": "945709b23af9f3966a406608db7796d324fb5c20819778ceb310bd32ab303b3c",
    "univ": "4dc46ee5e083ef583ce705a7c948d6edb3cfd358073e1aa6d6b9a28961a958bd",
    "zara1": "f8c6ceea0141124e6e8d7e5ea02cab769c86ed2653c9266fc26fd8340ad062a6",
    "zara2": "5e17e764204d1abe686a569d77ffb9d9bad1be97e2a5fd3166353073b261abef",
}
_PRESENT = 7  # the window's eighth frame, where neighbours are chosen
_NEAR = 5.0  # metres

__all__ = ["NUM_FRAMES", "PHASES", "SCENES", "has_validation", "pedestrian_dataset", "pedestrian_windows"]


def pedestrian_windows(
    root: PathLike | None = None,
    scene: str | None = None,
    phase: str | None = None,
    *,
    recordings: Sequence[PathLike] | PathLike | None = None,
    num_slots: int | None = None,
    num_frames: int = NUM_FRAMES,
    frame_step: float | None = None,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    columns: Sequence[int] | None = None,
    last: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut raw recordings into one window of 20 frames (0.4 s apart) per person and moment.

    For every moment t, the A people present in all of t-7 .. t+12 each give a window of N slots. Slot 0 is the person;
    when A < N, the others follow in the recording's order; otherwise those nearer than 5 m at t follow by distance, at
    most N in all. Empty slots are zero.

    root, scene, phase: training, validation or testing; which recordings, see `recordings_of`; x and y are in metres
    recordings: files instead
    num_slots: N, by default 2 for univ, 3 for zara1, 1 else
    num_frames: of a window, instead of 20; with fewer than eight, neighbours are chosen in the last
    frame_step, frames, every, columns: of the recordings, see `read_recording`
    last: only the windows that end with the recording
    Returns data [B, N, 20, 2] float64 (m) and num [B] int64, how many slots are people.
    Raises FileNotFoundError for a missing recording, ValueError for one that cannot be read, naming the line.
    """
    where = "pedestrian_windows"
    if recordings is not None:
        paths = [recordings] if isinstance(recordings, PathLike) else list(recordings)
        if not paths or not all(isinstance(path, PathLike) for path in paths):
            raise ValueError(f"{where}: recordings must be a list of files, got {recordings!r}")
        if phase is not None:
            check_choice(f"{where}: phase", phase, PHASES)
    else:
        if root is None or scene is None or phase is None:
            raise ValueError(f"{where}: root, scene and phase must be given, or recordings: [files]")
        check_choice(f"{where}: phase", phase, PHASES)
        paths = recordings_of(where, root, scene, phase)
    num_slots = NUM_SLOTS.get(scene or "", 1) if num_slots is None else check_count(where, "num_slots", num_slots)
    parts = []
    for path in paths:
        people = read_recording(path, frame_step=frame_step, frames=frames, every=every, columns=columns)
        parts.append(_windows(people, num_slots, check_count(where, "num_frames", num_frames), last))
    data, num = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(data) == 0:
        came = root if recordings is None else ", ".join(map(str, paths[:3]))
        frames_there = f"the last {num_frames} frames" if last else f"{num_frames} successive frames"
        raise ValueError(f"{where}: {came} must have a person in {frames_there}, got none")
    return data, num


def pedestrian_dataset(
    root: PathLike | None = None,
    scene: str | None = None,
    phase: str | None = None,
    *,
    recordings: Sequence[PathLike] | PathLike | None = None,
    past_frames: int = 8,
    future_frames: int = 12,
    traj_scale: float = 1.0,
    project: bool = False,
    num_slots: int | None = None,
    frame_step: float | None = None,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    columns: Sequence[int] | None = None,
) -> TrajectoryDataset:
    """Pedestrian windows as trajectories: the complete graph with self-loops, no edge features, only slot 0 scored.

    x [N, 2, 20] is metres / traj_scale; h [N, 2, 20] is 1 on given frames and 0 after, and the speed (distance to the
    frame before, in the unit of x; the first frame takes the second's, later frames the last given one's).

    root, scene, phase, recordings, num_slots, frame_step, frames, every, columns: as for `pedestrian_windows`; root may
        hold processed <scene>_data_train.npy and <scene>_num_train.npy instead (_val for validation, _test for
        testing), which are preferred when there
    past_frames, future_frames: given and later frames, 20 together, at least 2 given
    project: subtract the mean over people and frames, as the unconditional model wants it
    Positions far from 0 are kept relative to the person's first, see `Trajectory.origin`. Warns of steps out of all
    proportion. Raises ValueError/TypeError for a bad argument, FileNotFoundError for missing files.
    """
    where = "pedestrian_dataset"
    past_frames = check_count(where, "past_frames", past_frames, minimum=2)
    future_frames = check_count(where, "future_frames", future_frames, minimum=0)
    traj_scale = check_number(where, "traj_scale", traj_scale)
    project = check_flag(where, "project", project)
    if past_frames + future_frames != NUM_FRAMES:
        raise ValueError(
            f"{where}: past_frames + future_frames must be {NUM_FRAMES}, got {past_frames} + {future_frames}"
        )
    how: dict[str, Any] = {
        "num_slots": num_slots,
        "frame_step": frame_step,
        "frames": frames,
        "every": every,
        "columns": columns,
    }
    processed = None
    if recordings is None and root is not None and scene is not None and phase is not None:
        check_choice(f"{where}: phase", phase, PHASES)
        processed = processed_path(root, scene, phase)
    if processed is not None and processed.is_file():
        given = [key for key, value in how.items() if value is not None]
        if given:
            raise ValueError(f"{where}: {given[0]} must not be given for the processed {processed}")
        data, num = _read_processed(processed)
    else:
        data, num = pedestrian_windows(root, scene, phase, recordings=recordings, **how)
    known = scene if recordings is None and phase == "testing" and _is_papers(scene, data, num) else None
    return as_people(where, data, num, past_frames, traj_scale, scene, recordings, known, project)


def as_people(
    where: str,
    data: np.ndarray,
    num: np.ndarray,
    past_frames: int,
    traj_scale: float,
    scene: str | None,
    recordings: Sequence[PathLike] | PathLike | None,
    experiment: str | None = None,
    project: bool = False,
) -> TrajectoryDataset:
    """Windows data [B, N, T, 2] (m), num [B] as trajectories; the other arguments as in `pedestrian_dataset`."""
    first = recordings if recordings is None or isinstance(recordings, PathLike) else recordings[0]
    name = f"pedestrians {scene or pathlib.Path(cast(PathLike, first)).stem}"
    # One decision for all windows: in one alone everybody may stand still.
    origin = None
    if origins_of(data[:, 0].reshape(1, -1, 1, 2)).any():
        origin = data[:, 0, 0].copy()
        data = data - origin[:, None, None]
        origin = torch.from_numpy(origin / traj_scale)
    x = torch.from_numpy(data.astype(np.float32) / np.float32(traj_scale)).transpose(2, 3)  # [B, N, 2, T]
    check_motion(where, x[:, :1].contiguous(), origin=origin, repeats=False)
    people = _People(
        x.contiguous(), people_features(x[..., :past_frames], x.shape[-1]), torch.from_numpy(num), origin, project
    )
    return TrajectoryDataset(people, name=name, unit="m", scale=traj_scale, experiment=experiment)


def files_of(root: PathLike, scene: str, phase: str) -> list[pathlib.Path]:
    """The files that `pedestrian_dataset` reads. Raises FileNotFoundError where there are no recordings."""
    processed = processed_path(root, scene, phase)
    if processed.is_file():
        return [processed, processed.with_name(processed.name.replace("_data_", "_num_"))]
    return recordings_of("pedestrian_dataset", root, scene, phase)


def is_papers_test_set(root: PathLike, scene: str) -> bool:
    """Whether the test windows of a scene in `root` are those that the paper is scored on, by their digest.

    False where there are none. Raises ValueError for files that cannot be read.
    """
    processed = processed_path(root, scene, "testing")
    try:
        windows = _read_processed(processed) if processed.is_file() else pedestrian_windows(root, scene, "testing")
    except FileNotFoundError:
        return False
    return _is_papers(scene, *windows)


def _is_papers(scene: str | None, data: np.ndarray, num: np.ndarray) -> bool:
    sha = hashlib.sha256(data.astype("<f4").tobytes())
    sha.update(num.astype("<i8").tobytes())
    return sha.hexdigest() == _TEST_SHA256.get(scene or "")


def has_validation(root: PathLike, scene: str) -> bool:
    """Whether `root` holds recordings to validate on, raw or processed, as for `pedestrian_dataset`."""
    return processed_path(root, scene, "validation").is_file() or bool(other_recordings(root, scene, "val"))


class _People(Sequence[Trajectory]):
    """Windows with empty slots left out: x [B, N, 2, T], h [B, N, 2, T], num [B], origin [B, 2] or None.

    project: subtract the mean over people and frames of each, which leaves no origin
    """

    def __init__(self, x: Tensor, h: Tensor, num: Tensor, origin: Tensor | None = None, project: bool = False):
        self.x = x
        self.h = h
        self.num = num.tolist()
        self.project = project
        self.origin = None if project else origin
        self.edges = [complete_edges(n, self_loops=True) for n in range(x.shape[1] + 1)]
        self.scored = torch.zeros(1, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        n = self.num[index]
        origin = None if self.origin is None else self.origin[index]
        x = centred(self.x[index, :n]) if self.project else self.x[index, :n]
        return Trajectory(x, self.h[index, :n], self.edges[n], None, self.scored, origin)


def people_features(given: Tensor, num_frames: int) -> Tensor:
    """h [..., 2, num_frames], as `pedestrian_dataset` says, of given frames [..., 2, G], G >= 2."""
    past = given.shape[-1]
    h = given.new_zeros(*given.shape[:-1], num_frames)
    h[..., 0, :past] = 1.0
    speed = (given[..., 1:] - given[..., :-1]).norm(dim=-2)  # [..., G - 1]
    h[..., 1, 1:past] = speed
    h[..., 1, 0] = speed[..., 0]
    h[..., 1, past:] = speed[..., -1:]
    return h


def _windows(people: Recording, num_slots: int, num_frames: int, only_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """data [B, num_slots, num_frames, 2] and num [B] of one recording; only_last: the windows that end with it."""
    by_person = np.lexsort((people.frame, people.person))
    frame, person, place = people.frame[by_person], people.person[by_person], people.place[by_person]
    last = num_frames - 1
    # A person is once in a frame, so 20 rows whose ends are 19 frames apart miss none in between.
    starts = np.arange(0, max(len(frame) - last, 0))
    starts = starts[(person[starts + last] == person[starts]) & (frame[starts + last] - frame[starts] == last)]
    if only_last:
        starts = starts[frame[starts + last] == frame.max(initial=0)]
    now = min(_PRESENT, last)
    present = starts + now
    starts = starts[np.lexsort((by_person[present], frame[present]))]
    tracks = place[starts[:, None] + np.arange(num_frames)]  # [B, num_frames, 2]
    moments = frame[starts + now]

    data = np.zeros((len(starts), num_slots, num_frames, 2))
    num = np.zeros(len(starts), dtype=np.int64)
    edges = np.flatnonzero(np.diff(moments, prepend=-1, append=-1)) if len(moments) else np.zeros(0, np.int64)
    for a, b in itertools.pairwise(edges):
        order, num[a:b] = _neighbours(tracks[a:b, now], num_slots)
        filled = np.arange(order.shape[1]) < num[a:b, None]
        data[a:b, : order.shape[1]] = tracks[a:b][order] * filled[..., None, None]
    return data, num


def _neighbours(place: np.ndarray, num_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Of A people at `place [A, 2]`: whom each one's slots hold [A, min(A, num_slots)], and how many count [A]."""
    num_people = len(place)
    if num_people < num_slots:
        key = np.tile(np.arange(float(num_people)), (num_people, 1))
        num = np.full(num_people, num_people)
    else:
        key = np.linalg.norm(place[:, None] - place[None], axis=-1)
        num = np.minimum((key < _NEAR).sum(axis=1), num_slots)
    np.fill_diagonal(key, -1.0)
    return np.argsort(key, axis=1, kind="stable")[:, :num_slots], num


def _read_processed(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    where = "pedestrian_dataset"
    data = check_positions(where, str(path), read_npy(path), f"B, N, {NUM_FRAMES}, 2")
    num_path = path.with_name(path.name.replace("_data_", "_num_"))
    num = check_array(where, str(num_path), read_npy(num_path), "B")
    check_shape(where, str(num_path), num, (len(data),))
    if num.min() < 1 or num.max() > data.shape[1]:
        raise ValueError(
            f"{where}: {num_path} must hold numbers from 1 to {data.shape[1]}, got {num.min()}..{num.max()}"
        )
    return data, num.astype(np.int64)
