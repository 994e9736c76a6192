"""What a reader of the documents has before: data, folders of trainings, official files; all of them tiny."""

import pathlib
import shutil

import numpy as np
import pytest
import torch
import yaml
from official_data import SUFFIX, write_md17, write_nbody
from places import ROOT
from tiny_models import ETHANOL, ETHANOL_POSITIONS, made_samples, tame_network, write_checkpoint, write_ethanol

from geotdm_fast.config.files import load_config, normalise_config
from geotdm_fast.samples.npz import write_samples

SIZES = ("denoise_model.n_layers=1", "denoise_model.hidden_dim=16", "denoise_model.time_emb_dim=8",
         "denoise_model.n_layers_ref=1", "denoise_model.pre_norm=true", "diffusion.num_timesteps=21")  # fmt: skip
SYSTEMS = tuple(f"data.{split}.num_systems=4" for split in ("train", "val", "test"))
# The networks of docs/official.md: those of its Python, and of a sampling file.
OFFICIAL_SIZES = {
    "n_layers": 4, "node_dim": 1, "edge_dim": 1, "hidden_dim": 64, "time_emb_dim": 32, "act_fn": "silu",
    "learn_ref_frame": True, "n_layers_ref": 2, "num_w": 20,
}  # fmt: skip


def write_files(folder: pathlib.Path) -> None:
    """All of it, into an empty folder."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "bench" / "results").mkdir(parents=True)
    shutil.copy(ROOT / "bench" / "results" / "reproduce.jsonl", folder / "bench" / "results")
    shipped = folder / "geotdm_fast" / "checkpoints"
    shipped.parent.mkdir()
    shipped.symlink_to(ROOT / "geotdm_fast" / "checkpoints")
    for name in ("my_molecule", "ethanol", "aspirin"):
        write_ethanol(folder / f"{name}.npz")
    np.savez(folder / "last_frames.npz", R=np.load(folder / "my_molecule.npz")["R"][-10:], z=ETHANOL)
    for name in ("samples", "liquid"):
        write_samples(folder / f"{name}.npz", made_samples(graphs=8, nodes=9, frames=20, num_samples=2))
    write_trajectories(folder)
    write_trainings(folder)
    write_official(folder)


def write_trajectories(folder: pathlib.Path) -> None:
    """`run.xtc`, `run.pdb`: 240 frames of ethanol, an atom of which shakes by 0.02 angstrom, 0.5 ps apart; `runs/`."""
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("EOH", topology.add_chain())
    for i, number in enumerate(ETHANOL):
        element = mdtraj.element.Element.getByAtomicNumber(int(number))
        topology.add_atom(f"{element.symbol}{i}", element, residue)
    x = 0.1 * (ETHANOL_POSITIONS + 0.02 * np.random.default_rng(3).normal(size=(240, *ETHANOL_POSITIONS.shape)))
    run = mdtraj.Trajectory(x, topology, time=0.5 * np.arange(len(x)))
    run.save_xtc(str(folder / "run.xtc"))
    run[0].save_pdb(str(folder / "run.pdb"))
    for name in ("1", "2"):
        (folder / "runs" / name).mkdir(parents=True)
        shutil.copy(folder / "run.xtc", folder / "runs" / name / "traj.xtc")


def write_trainings(folder: pathlib.Path) -> None:
    """Folders of trainings, with weights that are small enough not to run away."""
    data = [f"data.{split}.path={folder / 'my_molecule.npz'}" for split in ("train", "val", "test")]
    for name, config, overrides in (
        ("nbody_charged_small", "nbody_charged_small", SYSTEMS),
        ("nbody_charged", "nbody_charged", SYSTEMS),
        ("noise", "nbody_charged_small", SYSTEMS),
        ("my_molecule", "md_small", data),
    ):
        run = folder / "outputs" / name
        run.mkdir(parents=True)
        path = folder / "configs" / f"{config}.yaml"
        write_checkpoint(run / "best.safetensors", load_config(path, [*SIZES, *overrides]))
        shutil.copy(run / "best.safetensors", run / "last.safetensors")
        shutil.copy(ROOT / "geotdm_fast" / "checkpoints" / "nbody_charged_small.jsonl", run / "log.jsonl")


def write_official(folder: pathlib.Path) -> None:
    """`ckpt_best.pt`, `nbody_train_cond.yaml` and `md17_sampling.yaml` with the run that it names."""
    write_nbody(folder / "datagen", "train", 4, frames=30)
    write_md17(folder / "md17")
    section = {"root": "datagen", "name": "nbody", "suffix": f"train_{SUFFIX}", "span": 30, "return_index": True}
    train = {"exp_name": "nbody_GeoTDM", "num_epochs": 1, "K": 5, "final_test": True, "cond_mask": [[0, 10]]}
    config = {
        "data": {split: dict(section) for split in ("train", "val", "test")},
        "denoise_model": OFFICIAL_SIZES,
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 100},
        "train": train,
    }
    (folder / "nbody_train_cond.yaml").write_text(yaml.safe_dump(config))
    save_official(folder / "ckpt_best.pt", config)

    molecule = {"root": "md17", "molecule_name": "ethanol", "down_sample_every": 2, "with_h": True, "span": 10,
                "mode": "test", "force_length": 4, "return_index": True}  # fmt: skip
    sizes = {"n_layers": 1, "hidden_dim": 16, "time_emb_dim": 8, "n_layers_ref": 1, "num_w": 6, "pre_norm": True}
    config |= {
        "data": {"train": molecule},
        "denoise_model": {**sizes, "node_dim": 30, "edge_dim": 4, "learn_ref_frame": True},
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 21},
        "train": train | {"exp_name": "md17", "cond_mask": [[0, 4]]},
    }
    run = folder / "outputs" / "md17"
    run.mkdir(parents=True)
    (run / "md17_train.yaml").write_text(yaml.safe_dump(config))
    save_official(run / "ckpt_best.pt", config)
    request = {"train_exp_name": "md17", "model_ckpt": "best", "eval_exp_name": None, "output_base_path": "outputs/",
               "cond_mask": None, "seed": 100, "model": "GeoTDM", "batch_size": 128, "sampling_timesteps": 21,
               "cond": True}  # fmt: skip
    (folder / "md17_sampling.yaml").write_text(yaml.safe_dump({"data": molecule, "eval": request}))


def save_official(path: pathlib.Path, config: dict) -> None:
    """Weights as the official trainer leaves those of a wrapped network."""
    state = tame_network(normalise_config(config)).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
