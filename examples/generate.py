# %% [markdown]
# # Draw trajectories from nothing
#
# A model without given frames (`mode: uncond`) makes whole trajectories. It works at zero mean over nodes and frames,
# so the data are projected there. Jupyter and VS Code open the cells of this file.

# %%
from pathlib import Path

import geotdm_fast
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import nbody_dataset
from geotdm_fast.plots.forecast import plot_forecast
from geotdm_fast.training import train

NUM_SYSTEMS = 1000
NUM_FRAMES = 20
NUM_STEPS = 500  # of training: half a minute on a core; good trajectories need some thousand
STEPS = 100  # of sampling
OUT = Path("outputs/examples/generate")

# %%
section = {"kind": "nbody", "system": "charged", "num_frames": NUM_FRAMES, "project": True}
config = normalise_config(
    {
        "data": {
            "train": {**section, "split": "train", "num_systems": NUM_SYSTEMS},
            "val": {**section, "split": "val", "num_systems": 64},
        },
        "denoise_model": {
            "n_layers": 3,
            "node_dim": 1,
            "edge_dim": 1,
            "hidden_dim": 32,
            "time_emb_dim": 32,
            "learn_ref_frame": False,
            "num_w": 1,
        },
        # What predicts x_0 cannot run away after a short training; after a long one `epsilon`, the noise, draws better.
        "diffusion": {"num_timesteps": 100, "mode": "uncond", "model_mean_type": "start_x"},
        "train": {
            "exp_name": "generate",
            "tot_len": NUM_FRAMES,
            "num_steps": NUM_STEPS,
            "batch_size": 16,
            "optimizer": "muon",
            "lr": 3e-3,
            "schedule": "cosine",
            "ema_decay": 0.99,
        },
    }
)
train(config, output_dir=OUT / "run", resume=False, progress=False)

# %% [markdown]
# ## Draw
#
# `generate` takes a data set for its graphs: how many particles, with which charges. Its positions are looked at by
# scores alone.

# %%
model = geotdm_fast.load(OUT / "run")
graphs = nbody_dataset("charged", "test", num_systems=min(50, NUM_SYSTEMS), num_frames=NUM_FRAMES, project=True,
                       progress=False)  # fmt: skip
samples = model.generate(graphs, method="dpmpp_2m_sde", steps=STEPS)
print(samples.samples.shape)
print("marginal score, lower is better:", model.evaluate(samples, "marginal")["marginal"])

# %%
plot_forecast(samples, OUT / "trajectories.png")
