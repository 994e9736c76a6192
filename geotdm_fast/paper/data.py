"""The data of each experiment: the sections of the three splits, and what the data are."""

import pathlib

from geotdm_fast.data.md17 import molecule_path
from geotdm_fast.data.nbody import official_files
from geotdm_fast.data.pedestrian import PHASES, has_validation, is_papers_test_set
from geotdm_fast.paper.request import MOLECULE, Request, is_molecule, is_pedestrian, trains_on_windows
from geotdm_fast.paper.simulations import SIMULATIONS, is_simulation, simulation_sections
from geotdm_fast.scores.published import UNCONDITIONAL

_NUM_SYSTEMS = {"train": 3000, "val": 256, "test": 2000}
# The official generator's names of splits, and the rest of its suffixes.
_OFFICIAL_SPLIT = {"train": "train", "val": "valid", "test": "test"}
_OFFICIAL_SYSTEM = {
    "charged": "charged5_initvel1",
    "springs": "springs5_initvel1",
    "gravity": "gravity10_initvel1",
}
# What the official code multiplies the scene's metres by before it scores ("the same as EqMotion").
_TEST_SCALE = {"eth": 1.4}


def data_of(request: Request) -> tuple[dict, str]:
    """The data sections of all splits, and what the data are."""
    project = {"project": True} if request.task == UNCONDITIONAL else {}
    num_frames = 20 if request.task == UNCONDITIONAL else 30
    if is_pedestrian(request.experiment):
        return _pedestrian_data(request)
    if is_simulation(request.experiment):
        return _simulation_data(request)
    if is_molecule(request.experiment):
        return _molecule_data(request, {"span": num_frames, **project})
    return _nbody_data(request, {"num_frames": num_frames, **project})


def _nbody_data(request: Request, about: dict) -> tuple[dict, str]:
    sections = {}
    for split, num_systems in _NUM_SYSTEMS.items():
        section = {"kind": "nbody", "system": request.experiment, "split": split, "num_systems": num_systems, **about}
        if request.data is not None:
            suffix = f"{_OFFICIAL_SPLIT[split]}_{_OFFICIAL_SYSTEM[request.experiment]}"
            if not official_files(request.data, suffix, request.experiment):
                raise FileNotFoundError(
                    f"reproduce: {request.data} must hold loc_{suffix}.npy; without data the systems are simulated"
                )
            section |= {"root": request.data, "suffix": suffix}
        sections[split] = section
    if trains_on_windows(request):
        sections["train"]["stride"] = 1
    return sections, "simulated" if request.data is None else "files of the official generator"


def _molecule_data(request: Request, about: dict) -> tuple[dict, str]:
    molecule = request.experiment.removeprefix(MOLECULE)
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: a folder with md17_{molecule}.npz, or an .npz")
    path = pathlib.Path(request.data)
    if path.suffix != ".npz":
        path = molecule_path(path, molecule)
    is_md17 = path.name.startswith("md17_")
    every = request.every or (10 if is_md17 else 1)
    section = {"kind": "md17", "path": path.as_posix(), "down_sample_every": every, **about}
    # As the official code does, 256 windows tell which weights are the best.
    sections = {split: section | {"split": split} for split in ("train", "val", "test")}
    sections["val"] |= {"num_windows": 256}
    return sections, f"{path.name}, by its name MD17" if is_md17 else f"{path.name}, not MD17"


def _simulation_data(request: Request) -> tuple[dict, str]:
    known = SIMULATIONS[request.experiment]
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: an .npz: {known.made_by}")
    path = pathlib.Path(request.data)
    return simulation_sections(request.experiment, path.as_posix()), f"{path.name}: {known.about}"


def _pedestrian_data(request: Request) -> tuple[dict, str]:
    if request.data is None:
        raise ValueError(f"reproduce: {request.experiment} needs data: the folder of the recordings (train, all_data)")
    root = pathlib.Path(request.data)
    scene = {"kind": "pedestrian", "root": root.as_posix(), "dataset": request.experiment, "traj_scale": 1.0}
    sections = {split: scene | {"phase": phase} for phase, split in PHASES.items()}
    sections["test"]["traj_scale"] = _TEST_SCALE.get(request.experiment, 1.0)
    # The best weights are chosen on other scenes, so the test scene stays unseen; on training windows if need be.
    if not has_validation(root, request.experiment):
        del sections["val"]
    known = is_papers_test_set(root, request.experiment)
    return sections, "ETH/UCY recordings" if known else f"recordings in {root.name}, not those of ETH/UCY"
