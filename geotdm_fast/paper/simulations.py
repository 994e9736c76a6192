"""Experiments of molecular dynamics that the paper has not: liquids in a box, a peptide, a protein's transition."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Simulation:
    """What one experiment forecasts, by which network, and what of it is scored.

    about: what the data are; made_by: the command that makes their file
    given, drawn: frames of a window; stride: frames from one window to the next, of train and of val and test
    section: keys of all data sections; network, diffusion, train: what differs from the `small` preset
    scores: scores of molecules beside ADE and FDE; r_max: where radial distribution functions end (angstrom)
    num_graphs: test windows at most
    """

    about: str
    made_by: str
    given: int
    drawn: int
    stride: tuple[int, int]
    section: dict[str, Any]
    network: dict[str, Any]
    train: dict[str, Any]
    scores: tuple[str, ...]
    r_max: float = 8.0
    num_graphs: int = 20
    diffusion: dict[str, Any] = field(default_factory=dict)


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
}


def is_simulation(experiment: str) -> bool:
    """Whether the experiment is one of `SIMULATIONS`."""
    return experiment in SIMULATIONS


def simulation_config(experiment: str, seed: int) -> dict[str, dict]:
    """The sections denoise_model, diffusion and train."""
    known = SIMULATIONS[experiment]
    network = {
        "time_emb_dim": 32,
        "learn_ref_frame": True,
        "num_w": known.drawn,
    }
    diffusion = {"beta_schedule_name": "linear", "num_timesteps": 100, "mode": "cond", "model_mean_type": "start_x"}
    train = {
        "exp_name": experiment, "seed": seed, "cond_mask": [[0, known.given]], "optimizer": "muon", "lr": 3e-3,
        "schedule": "cosine", "lr_min": 1e-5, "warmup_steps": 50, "ema_decay": 0.99, "clip": 1.0, "eval_batch_size": 4,
        "eval_graphs": 16, "eval_every_step": 200, "log_every_step": 20, "checkpoint_every_minutes": 2.0,
    }  # fmt: skip
    return {
        "denoise_model": network | known.network,
        "diffusion": diffusion | known.diffusion,
        "train": train | known.train,
    }


def simulation_sections(experiment: str, path: str) -> dict[str, dict]:
    """The data sections of the three splits, cut in time; raises ValueError without a path."""
    known = SIMULATIONS[experiment]
    section = {"kind": "npz", "path": path, "span": known.given + known.drawn, **known.section}
    train, held_out = known.stride
    strides = {"train": train, "val": held_out, "test": held_out}
    return {split: section | {"split": split, "stride": stride} for split, stride in strides.items()}
