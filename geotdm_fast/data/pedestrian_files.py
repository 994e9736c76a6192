"""Where the recordings of pedestrians lie: the ETH and UCY scenes, Social-GAN's folders, scenes of one's own."""

import pathlib

from geotdm_fast.runtime.choices import nearest
from geotdm_fast.runtime.files import PathLike

SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
# Phase to what its files are called by.
PHASES = {"training": "train", "validation": "val", "testing": "test"}
# Where the whole recordings of a scene are: Social-STGCNN's folder, Social-GAN's.
_WHOLE = ("all_data", "test")


def recordings_of(where: str, root: PathLike, scene: str, phase: str) -> list[pathlib.Path]:
    """The recordings of a scene and phase.

    root: holds train/*_train.txt, val/*_val.txt and all_data/*.txt or test/*.txt, or a folder of the scene's name that
        does
    scene: eth, hotel, univ, zara1 or zara2, or the name of a recording, as of all_data/plaza.txt
    phase: training or validation: the *_train or *_val recordings of all other scenes, by name
        testing: the scene's own
    Raises FileNotFoundError for what is missing, ValueError for a scene that is neither.
    """
    check_scene(where, "scene", root, scene)
    root = _root(pathlib.Path(root), scene)
    names = SCENES.get(scene, (scene,))
    if phase == "testing":
        return [_whole(root, name) for name in names]
    split = PHASES[phase]
    paths = other_recordings(root, scene, split)
    if not paths:
        raise FileNotFoundError(f"{where}: {root / split} must hold recordings *_{split}.txt, got none")
    return paths


def check_scene(where: str, name: str, root: PathLike, scene: str) -> None:
    """Raise ValueError unless the scene is known, or the name of a recording; name: of the argument, for messages."""
    folder = _root(pathlib.Path(root), scene)
    if scene not in SCENES and not _known(folder, scene):
        raise ValueError(
            f"{where}: {name} must be one of {', '.join(SCENES)}, or the name of a recording in {folder / _WHOLE[0]}; "
            f"got '{scene}'{_did_you_mean(scene)}, or give recordings: [files]"
        )


def other_recordings(root: PathLike, scene: str, split: str) -> list[pathlib.Path]:
    """The recordings of a split that are not of the scene."""
    root = _root(pathlib.Path(root), scene)
    own = {f"{name}_{split}.txt" for name in SCENES.get(scene, (scene,))}
    return [path for path in sorted((root / split).glob(f"*_{split}.txt")) if path.name not in own]


def processed_path(root: PathLike, scene: str, phase: str) -> pathlib.Path:
    """The official processed file of a scene and phase."""
    return pathlib.Path(root) / f"{scene}_data_{PHASES[phase]}.npy"


def _root(root: pathlib.Path, scene: str) -> pathlib.Path:
    """The folder itself, or in Social-GAN's `datasets` that of the scene."""
    below = root / scene
    parts = (*PHASES.values(), *_WHOLE)
    return below if not any((root / part).is_dir() for part in parts) and below.is_dir() else root


def _whole(root: pathlib.Path, name: str) -> pathlib.Path:
    paths = [root / folder / f"{name}.txt" for folder in _WHOLE]
    return next((path for path in paths if path.is_file()), paths[0])


def _known(root: pathlib.Path, scene: str) -> bool:
    return _whole(root, scene).is_file() or any((root / s / f"{scene}_{s}.txt").is_file() for s in PHASES.values())


def _did_you_mean(scene: str) -> str:
    hint = nearest(scene, SCENES)
    return hint if "did you mean" in hint else ""
