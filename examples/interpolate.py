# %% [markdown]
# # Fill the frames between given ones
#
# `train.cond_mask` names the given frames as ranges [first, last + 1]. Any set may be given, not the first frames
# alone. Jupyter and VS Code open the cells of this file.

# %%
from pathlib import Path

import geotdm_fast
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import nbody_dataset
from geotdm_fast.training import train

NUM_SYSTEMS = 500
NUM_FRAMES = 16
GIVEN = [[0, 4], [12, 16]]
NUM_STEPS = 400  # of training: half a minute on a core
OUT = Path("outputs/examples/interpolate")

# %%
section = {"kind": "nbody", "system": "springs", "num_frames": NUM_FRAMES}
num_given = sum(last - first for first, last in GIVEN)
config = normalise_config(
    {
        "data": {
            "train": {**section, "split": "train", "num_systems": NUM_SYSTEMS},
            "val": {**section, "split": "val", "num_systems": 64},
        },
        "denoise_model": {
            "n_layers": 2,
            "node_dim": 1,
            "edge_dim": 1,
            "hidden_dim": 32,
            "time_emb_dim": 16,
            "learn_ref_frame": True,
            "num_w": NUM_FRAMES - num_given,
        },
        "diffusion": {"num_timesteps": 100, "model_mean_type": "start_x"},
        "train": {
            "exp_name": "interpolate",
            "cond_mask": GIVEN,
            "num_steps": NUM_STEPS,
            "batch_size": 16,
            "optimizer": "muon",
            "lr": 3e-3,
            "schedule": "cosine",
        },
    }
)
train(config, output_dir=OUT / "run", resume=False, progress=False)

# %% [markdown]
# ## Draw
#
# Beside the scores stands `linear`, the straight line between the given frames around a gap.

# %%
model = geotdm_fast.load(OUT / "run")
data = nbody_dataset("springs", "test", num_systems=min(50, NUM_SYSTEMS), num_frames=NUM_FRAMES, progress=False)
samples = model.interpolate(data, num_samples=5, method="dpmpp_2m", steps=5)
scores = model.evaluate(samples)
print(f"interpolation: ADE {scores['forecast']['ade_mean']:.3f}")
print(f"straight line: ADE {scores['baselines']['linear']['ade']:.3f}")
