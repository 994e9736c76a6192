"""Every setting of an official configuration of Align Your Structures: its kind, its default and what it means."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geotdm_fast.config.diffusion_rules import MEAN_TYPES
from geotdm_fast.config.settings import DIFFUSION as GEOTDM_DIFFUSION
from geotdm_fast.config.settings import MOST_STEPS, REQUIRED, Setting

TYPES = ("basic_es", "interpolator", "interpolator_simple", "stack", "egtn")
CONDITIONINGS = (
    "none",
    "forward",
    "interpolation",
    "unconditional_forward",
    "forward_uncond",
    "forward_autoreg",
    "unconditional_forward_autoreg",
)

DENOISER = {
    "type": Setting("str", REQUIRED, "the network, by its official name", choices=TYPES),
    "n_layers": Setting("int", REQUIRED, "blocks", least=1, most=1000),
    "node_dim": Setting("int", REQUIRED, "width of an atom's embedding", least=1, most=1_000_000),
    "ft_dim": Setting("int", REQUIRED, "features of an atom", least=0, most=1_000_000),
    "edge_dim": Setting("int", REQUIRED, "width of an edge's embedding", least=1, most=1_000_000),
    "hidden_dim": Setting("int", REQUIRED, "hidden width H", least=1, most=1_000_000),
    "time_emb_dim": Setting("int", REQUIRED, "width of the sinusoids", least=4, most=1_000_000),
    "act_fn": Setting("str", "silu", "activation", choices=("silu",)),
    "scale": Setting("float", 1.0, "positions are multiplied by this inside structure model and EGTN"),
    "pre_norm": Setting("bool", False, "distances instead of squared distances, coordinates not normalised"),
    "conditioning": Setting("str", "none", "which frames are given", choices=CONDITIONINGS),
    "set_zero": Setting("bool", False, "the structure model alone"),
    "use_mha": Setting("bool", True, "attention of several heads with rotary positions, as officially by default"),
    "num_heads": Setting("int", 8, "heads with use_mha", least=1),
    "use_kabsch": Setting("bool", False, "turn frames onto frame 0 within the network"),
    "use_extra": Setting("bool", False, "a second spatial layer in every block"),
    "use_double": Setting("bool", False, "a second temporal layer in every block"),
    "use_norm": Setting("bool", False, "layer norms"),
    "sigmoid_init": Setting("bool", False, "shares of the new layers start at a half"),
    "residual": Setting("bool", False, "shares are a half and not learned"),
    "pretrain_ckpt": Setting("str", None, "file of the structure model that training starts from"),
    "freeze_spatial": Setting("bool", False, "what that file holds does not learn"),
}

DIFFUSION = {
    "beta_schedule_name": Setting("str", "linear", "noise schedule, by name"),
    "num_timesteps": Setting("int", REQUIRED, "diffusion steps S", least=1, most=MOST_STEPS),
    "rescale_timesteps": Setting("bool", False, "tell the network steps on a scale of 1000"),
    "use_kabsch_alignment": Setting("bool", False, "turn noisy positions onto the data before the loss"),
}

# Of our configurations, with the settings of `geotdm_fast.config.settings.DIFFUSION` that these models have too: they
# are diffusions, no flows, and `mode` follows from the conditioning.
OUR_DIFFUSION = DIFFUSION | {
    "mode": GEOTDM_DIFFUSION["mode"],
    "model_mean_type": replace(
        GEOTDM_DIFFUSION["model_mean_type"],
        doc="what the network predicts (null: epsilon)",
        choices=MEAN_TYPES["gaussian"],
    ),
    "model_var_type": GEOTDM_DIFFUSION["model_var_type"],
}

OPTIM = {
    "lr": Setting("float", 1e-4, "learning rate", least=0),
    "weight_decay": Setting("float", 0.0, "weight decay of Adam", least=0),
}

TRAIN = {
    "max_epochs": Setting("int", 1000, "passes over the training data", least=1),
    "batch_size": Setting("int", REQUIRED, "molecules a step", least=1),
    "accum_grad": Setting("int", 1, "batches whose gradients add up to a step", least=1),
    "check_val_every_n_epoch": Setting("int", 2, "epochs from one validation to the next", least=1),
    "resume_from_checkpoint": Setting("str", None, "file of a training to go on from"),
}

# Read by the official scripts without a default: a file without one of them does not start there.
READ_ALWAYS = (("train", "accum_grad"), ("train", "check_val_every_n_epoch"), ("dataset", "subsample"))

DATASET = {
    "type": Setting(
        "str", REQUIRED, "what a sample is",
        choices=("conformer", "trajectory", "both", "both_trajectory", "tetrapeptide", "tetrapeptide_drugs"),
    ),
    "dataset": Setting("str", None, "name of the set"),
    "expected_time_dim": Setting("int", None, "frames T of a window", least=1),
    "num_frames": Setting("int", 1, "frames that a window spans", least=1),
    "frame_rate": Setting("int", 1, "every so many frames one is taken", least=1),
    "start_frame": Setting("int", None, "first frame of a window (null: see random_frame)", least=0),
    "random_frame": Setting("bool", False, "a window starts anywhere"),
    "frames_per_example_train": Setting("int", None, "frames of a trajectory", least=1),
    "frames_per_example_val": Setting("int", None, "the same for validation", least=1),
    "frames_per_example_test": Setting("int", None, "the same for tests", least=1),
    "remove_hs": Setting("bool", True, "hydrogens are left out"),
    "filter_data": Setting("bool", True, "molecules that cannot be read are left out"),
    "subsample": Setting("float", None, "share of the training data (null: all)", least=0),
    "subsample_drugs": Setting("float", None, "the same of the first of two sets", least=0),
    "subsample_qm9": Setting("float", None, "the same of the second", least=0),
    "drugs_subsample": Setting("float", None, "the same of GEOM-DRUGS beside tetrapeptides", least=0),
    "test_on_drugs": Setting("bool", False, "which of two sets is sampled"),
    "seed": Setting("int", 42, "of the choice of windows", least=0),
}  # fmt: skip


def without_empty(section: Any, table: Mapping[str, Setting]) -> Any:
    """The section without texts '' where the default is null: files write '' for nothing. What is no section stays."""
    if not isinstance(section, Mapping):
        return section
    is_empty = lambda key, value: value == "" and key in table and table[key].default is None
    return {key: value for key, value in section.items() if not is_empty(key, value)}
