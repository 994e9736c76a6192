"""Experiments of molecular dynamics that the paper has not: liquids in a box, a peptide, a protein's transition.

`one_frame.py` beside this file has those of Align Your Structures.
"""

from typing import Any

from geotdm_fast.paper.one_frame import one_frame_experiments
from geotdm_fast.paper.simulation import Simulation

# The section of a configuration, and the folder, of a structure model.
STRUCTURE = "structure"
_ALIGNED = "python -m tools.superpose_frames"
SIMULATIONS = {
    "argon": Simulation(
        about="108 atoms of liquid argon in a box, 0.05 ps a frame",
        made_by="geotdm simulate md:argon --num-frames 3000 --every 0.05 --ensemble nve --out argon.npz",
        given=10,
        drawn=20,
        stride=(1, 20),
        section={"atom_types": [18], "graph": {"radius": 5.5}},
        network={"n_layers": 3, "node_dim": 3, "edge_dim": 0, "cutoff": 5.5, "hidden_dim": 32, "n_layers_ref": 1},
        train={"num_steps": 12000, "batch_size": 1},
        scores=("rdf", "msd", "rmsf"),
    ),
    "water": Simulation(
        about="64 rigid molecules of water in a box, 0.02 ps a frame",
        made_by="geotdm simulate md:water --num-frames 2000 --every 0.02 --ensemble nve --out water.npz",
        given=10,
        drawn=20,
        stride=(1, 20),
        section={"atom_types": [1, 8], "graph": {"bonds": True, "radius": 3.5}},
        network={"n_layers": 3, "node_dim": 6, "edge_dim": 5, "hidden_dim": 32, "n_layers_ref": 1},
        train={"num_steps": 4000, "batch_size": 1},
        scores=("bonds", "rdf", "msd", "rmsf"),
        r_max=6.0,
    ),
    "alanine": Simulation(
        about="alanine dipeptide, frames superposed on the first, 1 ps a frame",
        made_by="geotdm simulate md:alanine-vacuum --num-frames 5000 --out vacuum.npz, then "
        f"{_ALIGNED} vacuum.npz alanine.npz",
        given=10,
        drawn=20,
        stride=(3, 20),
        section={},
        network={"n_layers": 3, "node_dim": 30, "edge_dim": 4, "hidden_dim": 64, "n_layers_ref": 1},
        train={"num_steps": 6000, "batch_size": 8},
        scores=("bonds", "torsions", "rdf", "msd", "rmsf"),
        num_graphs=100,
    ),
    "adenylate_kinase_ca": Simulation(
        about="214 alpha carbons of adenylate kinase on its way from closed to open",
        made_by=f"{_ALIGNED} adenylate_kinase.npz ca.npz --atoms ca",
        given=10,
        drawn=10,
        stride=(1, 1),
        section={"split_ratio": [0.5, 0.22, 0.28], "graph": {"radius": 10.0}},
        network={"n_layers": 3, "node_dim": 30, "edge_dim": 0, "cutoff": 10.0, "hidden_dim": 32, "n_layers_ref": 1},
        train={"num_steps": 3000, "batch_size": 1},
        scores=("rdf", "msd", "rmsf"),
    ),
    "adenylate_kinase_heavy": Simulation(
        about="1656 atoms of adenylate kinase but hydrogen, on its way from closed to open",
        made_by=f"{_ALIGNED} adenylate_kinase.npz heavy.npz",
        given=10,
        drawn=10,
        stride=(1, 1),
        section={
            "split_ratio": [0.5, 0.22, 0.28],
            "with_h": False,
            "atom_types": [6, 7, 8, 16],
            "graph": {"bonds": True, "radius": 4.5},
        },
        network={"n_layers": 2, "node_dim": 12, "edge_dim": 5, "hidden_dim": 32, "n_layers_ref": 1},
        train={"num_steps": 1000, "batch_size": 1},
        scores=("bonds", "rdf", "msd", "rmsf"),
        num_graphs=11,
    ),
    **one_frame_experiments(),
}


def is_simulation(experiment: str) -> bool:
    """Whether the experiment is one of `SIMULATIONS`."""
    return experiment in SIMULATIONS


def simulation_config(experiment: str, seed: int) -> dict[str, dict]:
    """The sections denoise_model, diffusion and train; of models of Align Your Structures `structure` too, these three
    of the structure model that is trained before, and whose file the network begins with.
    """
    known = SIMULATIONS[experiment]
    network: dict[str, Any] = {"time_emb_dim": 32}
    train = _train(experiment, seed)
    config = {
        "denoise_model": network | known.network,
        "diffusion": _diffusion("cond") | known.diffusion,
        "train": train | {"cond_mask": [[0, known.given]]} | known.train,
    }
    if known.structure is None:
        config["denoise_model"] = {"learn_ref_frame": True, "num_w": known.drawn} | config["denoise_model"]
        return config
    # Where the file will be is known to the pipeline.
    config["denoise_model"]["pretrain_ckpt"] = STRUCTURE
    config[STRUCTURE] = {
        "denoise_model": dict(known.structure["denoise_model"]),
        "diffusion": _diffusion("uncond") | known.structure["diffusion"],
        "train": train | {"exp_name": f"{train['exp_name']}_{STRUCTURE}"} | known.structure["train"],
    }
    return config


def _diffusion(mode: str) -> dict[str, Any]:
    return {"beta_schedule_name": "linear", "num_timesteps": 100, "mode": mode, "model_mean_type": "start_x"}


def _train(name: str, seed: int) -> dict[str, Any]:
    return {
        "exp_name": name.replace(":", "_"), "seed": seed, "optimizer": "muon", "lr": 3e-3, "schedule": "cosine",
        "lr_min": 1e-5, "warmup_steps": 50, "ema_decay": 0.99, "clip": 1.0, "eval_batch_size": 4, "eval_graphs": 16,
        "eval_every_step": 200, "log_every_step": 20, "checkpoint_every_minutes": 2.0,
    }  # fmt: skip


def simulation_sections(experiment: str, path: str) -> dict[str, dict]:
    """The data sections of the three splits, cut in time; raises ValueError without a path."""
    known = SIMULATIONS[experiment]
    section = {"kind": "npz", "path": path, "span": known.given + known.drawn, **known.section}
    train, held_out = known.stride
    strides = {"train": train, "val": held_out, "test": held_out}
    return {split: section | {"split": split, "stride": stride} for split, stride in strides.items()}
