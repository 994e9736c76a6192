# %% [markdown]
# # A prior of your own
#
# A conditional model diffuses around a reference frame x_ref, which its prior makes of the given frames. Here x_ref
# is where constant velocity leads:
#
#     x_ref_s = x_last + (s - last) (x_last - x_before)
#
# It turns and shifts with the given frames, so the model stays equivariant. Jupyter and VS Code open the cells of
# this file.

# %%
import torch

from geotdm_fast import EGTN, GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.data import collate, nbody_dataset
from geotdm_fast.metrics import baseline_forecast, displacement_errors

NUM_SYSTEMS = 200
NUM_FRAMES = 16
NUM_GIVEN = 6
NUM_STEPS = 200  # of training: half a minute on a core


# %%
class ConstantVelocityGeoTDM(GeoTDM):
    """`GeoTDM` whose noise lies around a forecast by constant velocity."""

    def get_ref_frame(self, model_kwargs: dict | None = None) -> torch.Tensor:
        """x_ref [N, D, T_noisy]: one place for each drawn frame."""
        frames = frames_of(model_kwargs["cond_mask"])
        before, last = frames.given[-2:]
        x = model_kwargs["x_given"]
        velocity = (x[..., last] - x[..., before]) / (last - before)
        ahead = torch.tensor([s - last for s in frames.noisy], dtype=x.dtype, device=x.device)
        return x[..., last, None] + velocity[..., None] * ahead


# %%
torch.manual_seed(0)
network = EGTN(
    n_layers=2, node_dim=1, edge_dim=1, hidden_dim=32, time_emb_dim=16, act_fn="silu", learn_ref_frame=False,
    n_layers_ref=0, num_w=NUM_FRAMES - NUM_GIVEN,
)  # fmt: skip
kinds = ModelMeanType.START_X, ModelVarType.FIXED_LARGE, LossType.MSE
diffusion = ConstantVelocityGeoTDM(network, "linear", 100, *kinds, "cpu")


def batch_of(split: str, count: int):
    """`count` systems of a split, and what the diffusion reads of them."""
    data = nbody_dataset("charged", split, num_systems=count, num_frames=NUM_FRAMES, progress=False)
    batch = collate(data)
    given = {"cond_mask": cond_mask([[0, NUM_GIVEN]], NUM_FRAMES), "x_given": batch.x}
    return batch, batch.model_kwargs() | given


# %% [markdown]
# ## Train

# %%
batch, model_kwargs = batch_of("train", NUM_SYSTEMS)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
for step in range(NUM_STEPS):
    loss = diffusion.training_losses(batch.x[..., NUM_GIVEN:], model_kwargs=model_kwargs)["loss"].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(step, loss.item())

# %% [markdown]
# ## Draw, beside constant velocity itself

# %%
test, test_kwargs = batch_of("test", max(2, NUM_SYSTEMS // 5))
target = test.x[..., NUM_GIVEN:]
drawn = Sampler(diffusion, "dpmpp_2m", 5).draw(target.shape, test_kwargs)
baseline = baseline_forecast("constant_velocity", test.x, torch.arange(NUM_FRAMES) < NUM_GIVEN)
for name, forecast in (("model", drawn), ("constant velocity", baseline)):
    ade, fde = displacement_errors(forecast[None], target, test.batch)
    print(f"{name}: ADE {float(ade.mean()):.3f}, FDE {float(fde.mean()):.3f}")
