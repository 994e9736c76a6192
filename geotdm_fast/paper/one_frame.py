"""Experiments with molecules of which one frame is given: Align Your Structures beside GeoTDM, trained equally long.

`ays:<molecule>` trains a structure model and then an interpolator around it, `geotdm:<molecule>` one network of GeoTDM.
Both see the same windows of 32 frames and draw frames 1 to 31 from frame 0. Their steps are those of a quarter of an
hour of one thread with AVX512_BF16, both stages of `ays` together.
"""

from typing import Any, NamedTuple

from geotdm_fast.paper.simulation import Simulation

AYS, GEOTDM = "ays", "geotdm"
_FRAMES = 32
# As models of Align Your Structures know frames: both then forecast the same.
_CENTRED = {"project": "frames"}
_LAYERS = {"n_layers": 4, "hidden_dim": 64, "time_emb_dim": 32}


class _Molecule(NamedTuple):
    """about: its data; made_by: where they come from; structure, interpolator, geotdm: steps of training;
    stride: frames from one window to the next, of train and of val and test.
    """

    about: str
    made_by: str
    structure: int
    interpolator: int
    geotdm: int
    stride: tuple[int, int] = (2, 32)


_SGDML = "dynamics of an sGDML force field as R [frames, atoms, 3] in angstrom and z [atoms]"
_OWN = "frames 5 fs apart at 500 K"
MOLECULES = {
    "ethanol": _Molecule(f"ethanol, {_OWN}", _SGDML, 2500, 3200, 7600),
    "malonaldehyde": _Molecule(f"malonaldehyde, {_OWN}", _SGDML, 2500, 3200, 7600),
    "aspirin": _Molecule(f"aspirin, {_OWN}", _SGDML, 2000, 1500, 4000),
    "salicylic": _Molecule(f"salicylic acid, {_OWN}", _SGDML, 2500, 2000, 5200),
    "alanine_dipeptide": _Molecule(
        "alanine dipeptide, frames 1 ps apart",
        "the trajectories of msmb_data as R [runs, frames, atoms, 3] in angstrom and z [atoms]",
        2000, 1350, 3600, (4, 64),
    ),
}  # fmt: skip


def one_frame_experiments() -> dict[str, Simulation]:
    """{ays:<molecule>, geotdm:<molecule>: what it is}."""
    return {
        f"{model}:{name}": (_ays if model == AYS else _geotdm)(molecule)
        for name, molecule in MOLECULES.items()
        for model in (AYS, GEOTDM)
    }


def molecule_of_one_frame(experiment: str) -> str | None:
    """The molecule of an experiment of this module; None for another."""
    model, _, molecule = experiment.partition(":")
    return molecule if model in (AYS, GEOTDM) else None


def _geotdm(molecule: _Molecule) -> Simulation:
    return Simulation(
        network={**_LAYERS, "node_dim": 30, "edge_dim": 4, "n_layers_ref": 2},
        section=_CENTRED,
        train=_train(molecule.geotdm, 16),
        **_shared(molecule),
    )


def _ays(molecule: _Molecule) -> Simulation:
    network = {**_LAYERS, "node_dim": 30, "ft_dim": 13, "edge_dim": 4}
    mixing = {"use_mha": False, "use_extra": True, "use_double": True, "use_norm": True, "sigmoid_init": True}
    return Simulation(
        network={**network, "type": "interpolator", "conditioning": "forward", "freeze_spatial": True, **mixing},
        section={"features": ["degree", "hydrogens"], **_CENTRED},
        train=_train(molecule.interpolator, 16),
        diffusion=_AYS_DIFFUSION,
        structure={
            "denoise_model": {**network, "type": "basic_es"},
            "diffusion": _AYS_DIFFUSION,
            "train": {**_train(molecule.structure, 128), "eval_batch_size": 256, "eval_graphs": 512},
        },
        **_shared(molecule),
    )


_AYS_DIFFUSION = {"num_timesteps": 1000, "use_kabsch_alignment": True}


def _shared(molecule: _Molecule) -> dict[str, Any]:
    return {
        "about": molecule.about,
        "made_by": molecule.made_by,
        "given": 1,
        "drawn": _FRAMES - 1,
        "stride": molecule.stride,
        "scores": ("bonds", "angles", "torsions", "rmsf", "validity"),
        "num_graphs": 100,
        "num_samples": 2,
        "steps": 20,
    }


def _train(num_steps: int, batch_size: int) -> dict[str, Any]:
    return {
        "num_steps": num_steps, "batch_size": batch_size, "eval_batch_size": 64, "eval_graphs": 128,
        "eval_every_step": 500, "precision": "bf16", "ema_decay": 0.999, "warmup_steps": 100,
    }  # fmt: skip
