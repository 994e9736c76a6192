# %% [markdown]
# # Train on your own arrays, and look
#
# The arrays here are rings of beads on springs, in two dimensions. Put yours in their place: `x [B, frames, N, D]`,
# many trajectories, or one long `[frames, N, D]`. Jupyter and VS Code open the cells of this file.

# %%
from pathlib import Path

import numpy as np

import geotdm_fast
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import npz_dataset
from geotdm_fast.plots.forecast import plot_forecast
from geotdm_fast.training import train

NUM_TRAJECTORIES = 400
NUM_FRAMES = 16
NUM_GIVEN = 6
NUM_STEPS = 400  # of training: half a minute on a core
OUT = Path("outputs/examples/own_data")


# %%
def rings(count: int, frames: int, beads: int = 5) -> np.ndarray:
    """[count, frames, beads, 2]: beads on a ring of springs, which turn and stretch."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(beads) / beads + rng.uniform(0, 2 * np.pi, (count, 1))
    x = np.stack([np.cos(angle), np.sin(angle)], axis=-1) + 0.1 * rng.normal(size=(count, beads, 2))
    v = 0.5 * rng.normal(size=(count, beads, 2))
    kept = []
    for step in range(10 * frames):
        force = np.roll(x, 1, axis=1) + np.roll(x, -1, axis=1) - 2 * x + 0.5 * x
        v += 0.02 * force
        x = x + 0.02 * v
        if step % 10 == 0:
            kept.append(x)
    return np.stack(kept, axis=1)


x = rings(NUM_TRAJECTORIES, NUM_FRAMES)
print(x.shape)

# %% [markdown]
# ## A file
#
# A training reads files, so that it can go on after a stop. Who acts on whom is `edge_index`, receivers first;
# without it every pair does.

# %%
OUT.mkdir(parents=True, exist_ok=True)
bead = np.arange(x.shape[2])
neighbour = np.concatenate([np.roll(bead, 1), np.roll(bead, -1)])
np.savez(OUT / "rings.npz", x=x, edge_index=np.stack([np.tile(bead, 2), neighbour]))

# %% [markdown]
# ## A configuration
#
# `geotdm train --keys` lists every key. `num_w` is the number of drawn frames; `node_dim` and `edge_dim` are the
# features of nodes and edges: 1 and 0 where the data have none.

# %%
section = {"kind": "npz", "path": str(OUT / "rings.npz")}
config = normalise_config(
    {
        "data": {split: {**section, "split": split} for split in ("train", "val", "test")},
        "denoise_model": {
            "n_layers": 2,
            "node_dim": 1,
            "edge_dim": 0,
            "hidden_dim": 32,
            "time_emb_dim": 16,
            "learn_ref_frame": True,
            "num_w": NUM_FRAMES - NUM_GIVEN,
        },
        "diffusion": {"num_timesteps": 100, "model_mean_type": "start_x"},
        "train": {
            "exp_name": "rings",
            "cond_mask": [[0, NUM_GIVEN]],
            "num_steps": NUM_STEPS,
            "batch_size": 32,
            "optimizer": "muon",
            "lr": 3e-3,
            "schedule": "cosine",
            "warmup_steps": NUM_STEPS // 10,
            "ema_decay": 0.99,
        },
    }
)
train(config, output_dir=OUT / "run", resume=False, progress=False)

# %% [markdown]
# ## Look
#
# The curves are in `run/loss.png`. Forecasts of trajectories that the model has not seen:

# %%
model = geotdm_fast.load(OUT / "run")
unseen = npz_dataset(OUT / "rings.npz", "test")
samples = model.forecast(unseen, num_samples=5, method="dpmpp_2m", steps=5)
scores = model.evaluate(samples)
print(f"forecast: ADE {scores['forecast']['ade_mean']:.3f}")
for name, errors in scores["baselines"].items():
    print(f"{name}: ADE {errors['ade']:.3f}")
plot_forecast(samples, OUT / "forecast.png")
