# %% [markdown]
# # Forecast with a model that comes with the package
#
# Five charged particles: 10 frames are given, 20 are drawn. The data are simulated, so the truth is known. Jupyter
# and VS Code open the cells of this file; `python examples/forecast.py` runs it.

# %%
from pathlib import Path

import geotdm_fast
from geotdm_fast.data import nbody_dataset
from geotdm_fast.plots.forecast import plot_forecast
from geotdm_fast.samples.npz import write_samples

NUM_SYSTEMS = 20
NUM_SAMPLES = 5
OUT = Path("outputs/examples/forecast")

# %%
model = geotdm_fast.load("nbody_charged_small")
data = nbody_dataset("charged", "test", num_systems=NUM_SYSTEMS, num_frames=model.num_frames, progress=False)
print(model)

# %% [markdown]
# ## Draw
#
# `samples.samples` is `[K, N, D, T_noisy]`: K forecasts of N nodes, 20 drawn frames. The same seed draws the same
# ones. The model recommends how it is drawn, in 5 calls of the network (`draws` above); `method=` and `steps=` ask for
# something else.

# %%
samples = model.forecast(data, NUM_SAMPLES, seed=0)
print(samples.samples.shape)

# %% [markdown]
# ## Score
#
# ADE is the mean distance from the truth, FDE that in the last frame; beside them stand simple predictions.

# %%
scores = model.evaluate(samples)
print(f"forecast: ADE {scores['forecast']['ade_mean']:.3f}, FDE {scores['forecast']['fde_mean']:.3f}")
for name, errors in scores["baselines"].items():
    print(f"{name}: ADE {errors['ade']:.3f}, FDE {errors['fde']:.3f}")

# %% [markdown]
# ## Look and keep
#
# `geotdm plot` and `geotdm evaluate` read the file of samples.

# %%
OUT.mkdir(parents=True, exist_ok=True)
plot_forecast(samples, OUT / "forecast.png", num_systems=min(6, NUM_SYSTEMS))
write_samples(OUT / "samples.npz", samples)

# %% [markdown]
# ## Go on beyond the window
#
# A rollout draws block by block: the last frames of a block are the given ones of the next.

# %%
longer = model.rollout(data, 60)
print(longer.samples.shape)
