"""Pedestrians of the ETH and UCY recordings: windows of 20 frames around each person."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.checks import check_array, check_count, check_number, check_positions, check_shape
from geotdm_fast.data.npy import read_npy
from geotdm_fast.data.sequences import complete_edges
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.files import PathLike
from geotdm_fast.keys import check_choice

SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
# Phase to what its files are called by.
PHASES = {"training": "train", "validation": "val", "testing": "test"}
NUM_FRAMES = 20

_NUM_SLOTS = {"eth": 1, "hotel": 1, "univ": 2, "zara1": 3, "zara2": 1}
_FRAME_STEP = 10  # the recordings number every tenth video frame
_PRESENT = 7  # the window's eighth frame, where neighbours are chosen
_NEAR = 5.0  # metres


def pedestrian_windows(root: PathLike, scene: str, phase: str) -> tuple[np.ndarray, np.ndarray]:
    """Cut raw recordings into one window of 20 frames (0.4 s apart) per person and moment.

    For every moment t, the A people present in all of t-7 .. t+12 each give a window of N slots: N is 2 for univ, 3 for
    zara1, 1 else. Slot 0 is the person; when A < N, the others follow in the recording's order; otherwise those nearer
    than 5 m at t follow by distance, at most N in all. Empty slots are zero.

    root: holds train/*_train.txt, val/*_val.txt and all_data/*.txt, lines of frame, person, x, y in metres
    scene: eth, hotel, univ, zara1 or zara2
    phase: training or validation (the *_train or *_val recordings of all other scenes, by name; other parts of the same
        recordings), or testing (the whole recordings of the scene)
    Returns data [B, N, 20, 2] float64 (m) and num [B] int64, how many slots are people.
    Raises FileNotFoundError for a missing recording, ValueError for one that cannot be read.
    """
    where = "pedestrian_windows"
    check_choice(f"{where}: scene", scene, SCENES)
    check_choice(f"{where}: phase", phase, PHASES)
    num_slots = _NUM_SLOTS[scene]
    parts = [_windows(_read_recording(path), num_slots) for path in _recordings(pathlib.Path(root), scene, phase)]
    data, num = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(data) == 0:
        raise ValueError(f"{where}: {root} must have a person in {NUM_FRAMES} successive frames, got none")
    return data, num


def pedestrian_dataset(
    root: PathLike,
    scene: str,
    phase: str,
    *,
    past_frames: int = 8,
    future_frames: int = 12,
    traj_scale: float = 1.0,
) -> TrajectoryDataset:
    """Pedestrian windows as trajectories: the complete graph with self-loops, no edge features, only slot 0 scored.

    x [N, 2, 20] is metres / traj_scale; h [N, 2, 20] is 1 on given frames and 0 after, and the speed (distance to the
    frame before, in the unit of x; the first frame takes the second's, later frames the last given one's).

    root: raw recordings as for `pedestrian_windows`, or processed <scene>_data_train.npy and <scene>_num_train.npy
        (_val for validation, _test for testing), which are preferred when there
    past_frames, future_frames: given and later frames, 20 together, at least 2 given
    Raises ValueError/TypeError for a bad argument, FileNotFoundError for missing files.
    """
    where = "pedestrian_dataset"
    check_choice(f"{where}: scene", scene, SCENES)
    check_choice(f"{where}: phase", phase, PHASES)
    past_frames = check_count(where, "past_frames", past_frames, minimum=2)
    future_frames = check_count(where, "future_frames", future_frames, minimum=0)
    traj_scale = check_number(where, "traj_scale", traj_scale)
    if past_frames + future_frames != NUM_FRAMES:
        raise ValueError(
            f"{where}: past_frames + future_frames must be {NUM_FRAMES}, got {past_frames} + {future_frames}"
        )
    processed = _processed(root, scene, phase)
    data, num = _read_processed(processed) if processed.is_file() else pedestrian_windows(root, scene, phase)
    x = torch.from_numpy(data.astype(np.float32) / np.float32(traj_scale)).transpose(2, 3)  # [B, N, 2, T]
    people = _People(x.contiguous(), _features(x, past_frames), torch.from_numpy(num))
    return TrajectoryDataset(people, name=f"pedestrians {scene}", unit="m", scale=traj_scale)


def has_validation(root: PathLike, scene: str) -> bool:
    """Whether `root` holds recordings to validate on, raw or processed, as for `pedestrian_dataset`."""
    return _processed(root, scene, "validation").is_file() or bool(_others(pathlib.Path(root), scene, "val"))


class _People(Sequence):
    """Windows with empty slots left out: x [B, N, 2, T], h [B, N, 2, T], num [B]."""

    def __init__(self, x: Tensor, h: Tensor, num: Tensor):
        self.x = x
        self.h = h
        self.num = num.tolist()
        self.edges = [complete_edges(n, self_loops=True) for n in range(x.shape[1] + 1)]
        self.scored = torch.zeros(1, dtype=torch.int64, device="cpu")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Trajectory:
        n = self.num[index]
        return Trajectory(self.x[index, :n], self.h[index, :n], self.edges[n], None, self.scored)


def _features(x: Tensor, past_frames: int) -> Tensor:
    h = torch.zeros_like(x)
    h[:, :, 0, :past_frames] = 1.0
    speed = (x[..., 1:past_frames] - x[..., : past_frames - 1]).norm(dim=2)  # [B, N, past - 1]
    h[:, :, 1, 1:past_frames] = speed
    h[:, :, 1, 0] = speed[..., 0]
    h[:, :, 1, past_frames:] = speed[..., -1:]
    return h


def _processed(root: PathLike, scene: str, phase: str) -> pathlib.Path:
    return pathlib.Path(root) / f"{scene}_data_{PHASES[phase]}.npy"


def _recordings(root: pathlib.Path, scene: str, phase: str) -> list[pathlib.Path]:
    if phase == "testing":
        return [root / "all_data" / f"{name}.txt" for name in SCENES[scene]]
    split = PHASES[phase]
    paths = _others(root, scene, split)
    if not paths:
        raise FileNotFoundError(f"pedestrian_windows: {root / split} must hold recordings *_{split}.txt, got none")
    return paths


def _others(root: pathlib.Path, scene: str, split: str) -> list[pathlib.Path]:
    """The recordings of a split that are not of the scene."""
    own = {f"{name}_{split}.txt" for name in SCENES[scene]}
    return [path for path in sorted((root / split).glob(f"*_{split}.txt")) if path.name not in own]


def _read_recording(path: pathlib.Path) -> np.ndarray:
    """Rows of frame / 10, person, x, y in the file's order: [rows, 4] float64."""
    if not path.is_file():
        raise FileNotFoundError(f"pedestrian_windows: {path}: no such recording")
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"pedestrian_windows: {path} must hold lines of frame, person, x, y ({error})") from error
    rows = check_positions("pedestrian_windows", str(path), rows, "rows, 4").copy()
    rows[:, 0] /= _FRAME_STEP
    if (rows[:, 0] != np.round(rows[:, 0])).any():
        raise ValueError(f"pedestrian_windows: {path} must number frames in steps of {_FRAME_STEP}")
    moments, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    if (counts > 1).any():
        frame, person = moments[np.argmax(counts)]
        came = f"person {person:g} twice in frame {frame * _FRAME_STEP:g}"
        raise ValueError(f"pedestrian_windows: {path} must have a person once in a frame, got {came}")
    return rows


def _windows(rows: np.ndarray, num_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """data [B, num_slots, 20, 2] and num [B] of one recording."""
    by_person = np.lexsort((rows[:, 0], rows[:, 1]))
    frame, person, place = rows[by_person, 0], rows[by_person, 1], rows[by_person, 2:]
    last = NUM_FRAMES - 1
    # A person is once in a frame, so 20 rows whose ends are 19 frames apart miss none in between.
    starts = np.flatnonzero((person[last:] == person[:-last]) & (frame[last:] - frame[:-last] == last))
    present = starts + _PRESENT
    starts = starts[np.lexsort((by_person[present], frame[present]))]
    tracks = place[starts[:, None] + np.arange(NUM_FRAMES)]  # [B, 20, 2]
    moments = frame[starts + _PRESENT]

    data = np.zeros((len(starts), num_slots, NUM_FRAMES, 2))
    num = np.zeros(len(starts), dtype=np.int64)
    edges = np.flatnonzero(np.diff(moments, prepend=-np.inf, append=np.inf))
    for a, b in itertools.pairwise(edges):
        order, num[a:b] = _neighbours(tracks[a:b, _PRESENT], num_slots)
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
