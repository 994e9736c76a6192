# %% [markdown]
# # Several processes under torchrun
#
# torchrun starts the same command in several processes: one for each GPU, or several on a CPU as here. `geotdm train`
# splits every batch among them, `geotdm sample` the shards. Stopped or killed, the same commands go on.

# %%
import subprocess
import sys
from pathlib import Path

from geotdm_fast.samples.npz import read_samples
from geotdm_fast.samples.shards import iterate_shards

NUM_PROCESSES = 2
NUM_SYSTEMS = 500
NUM_STEPS = 200
NUM_GRAPHS = 200
NUM_SAMPLES = 5
OUT = Path("outputs/examples/scale_out")
CONFIG = Path("configs/nbody_charged_small.yaml")


# %%
def torchrun(*words: str) -> None:
    """`torchrun --nproc-per-node N -m geotdm_fast WORDS`, by this Python."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_PROCESSES)]
    subprocess.run([*launcher, "-m", "geotdm_fast", *words], check=True)


# %% [markdown]
# ## Train
#
# `batch_size` counts all processes together, so the run is the same function of its configuration as with one
# process, but for how sums round.

# %%
torchrun(
    *("train", str(CONFIG), "--out", str(OUT / "run"), "--quiet"),
    *("--set", f"train.num_steps={NUM_STEPS}", "--set", f"data.train.num_systems={NUM_SYSTEMS}"),
    *("--set", f"data.val.num_systems={min(64, NUM_SYSTEMS)}"),
)

# %% [markdown]
# ## Sample into shards
#
# A name without a suffix is a folder. `manifest.json` in it says what was asked for.

# %%
torchrun(
    *("sample", str(OUT / "run"), "--out", str(OUT / "samples"), "--quiet"),
    *("--num-graphs", str(NUM_GRAPHS), "--num-samples", str(NUM_SAMPLES), "--method", "dpmpp_2m", "--steps", "5"),
)

# %% [markdown]
# ## Read
#
# All shards at once, or one after the other where they are larger than memory.

# %%
samples = read_samples(OUT / "samples")
print(samples.samples.shape)
print(sum(1 for _ in iterate_shards(OUT / "samples")), "shards")
