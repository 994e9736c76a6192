# %% [markdown]
# # A layer over time of your own
#
# A layer has parameters, and a `NamedTuple` of what a call reads of them: a chain of diffusion steps makes the tuple
# once and runs it often, and a CUDA graph holds its tensors. This layer pulls a frame towards a weighted mean of the
# others:
#
#     w_ts = 1 / (1 + |t - s|), its rows divided by their sums
#     h_t' = h_t + W sum_s w_ts h_s
#     x_t' = x_t + tanh(g . h_t) (sum_s w_ts x_s - x_t)
#
# Positions enter by their differences alone, so the model stays equivariant. `CONTRIBUTING.md` has the recipe for one
# that stays in the package, where it is also a key of configurations.

# %%
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast import EGTN, GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
from geotdm_fast.conditioning import cond_mask
from geotdm_fast.data import collate, nbody_dataset
from geotdm_fast.nn.layers import TemporalLayer
from geotdm_fast.nn.temporal_layers import TEMPORAL

NUM_SYSTEMS = 100
NUM_FRAMES = 12
NUM_GIVEN = 4
NUM_STEPS = 100  # of training: a quarter of a minute on a core


# %%
class PreparedPull(NamedTuple):
    """`PullLayer` as a call reads it."""

    weight: Tensor
    gate: Tensor

    def run(self, x: Tensor, h: Tensor, frames=None) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        t = torch.arange(x.shape[1], device=x.device) if frames is None else torch.tensor(frames, device=x.device)
        near = 1 / (1 + (t[:, None] - t).abs()).to(x)
        near = near / near.sum(1, keepdim=True)  # [T, T]
        return x + torch.tanh(h @ self.gate)[..., None] * (near @ x - x), h + near @ h @ self.weight.T


class PullLayer(TemporalLayer):
    """The layer above; hidden_dim: H."""

    def __init__(self, hidden_dim: int):
        super().__init__(hidden_dim)
        self.mix = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(hidden_dim))

    @property
    def prepared(self) -> PreparedPull:
        """The parameters as they are now, and what is computed with them."""
        return PreparedPull(self.mix.weight, self.gate)


TEMPORAL["pull"] = lambda options: PullLayer(options.hidden_dim)

# %% [markdown]
# ## In a network

# %%
torch.manual_seed(0)
network = EGTN(
    n_layers=2, node_dim=1, edge_dim=1, hidden_dim=32, time_emb_dim=16, act_fn="silu", learn_ref_frame=True,
    n_layers_ref=1, num_w=NUM_FRAMES - NUM_GIVEN, temporal="pull",
)  # fmt: skip
kinds = ModelMeanType.START_X, ModelVarType.FIXED_LARGE, LossType.MSE
diffusion = GeoTDM(network, "linear", 100, *kinds, "cpu")

# %% [markdown]
# ## Train and draw

# %%
batch = collate(nbody_dataset("springs", "train", num_systems=NUM_SYSTEMS, num_frames=NUM_FRAMES, progress=False))
model_kwargs = batch.model_kwargs() | {"cond_mask": cond_mask([[0, NUM_GIVEN]], NUM_FRAMES), "x_given": batch.x}
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
losses = []
for _ in range(NUM_STEPS):
    loss = diffusion.training_losses(batch.x[..., NUM_GIVEN:], model_kwargs=model_kwargs)["loss"].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"loss {losses[0]:.3f} in the beginning, {losses[-1]:.3f} in the end")
drawn = Sampler(diffusion, "dpmpp_2m", 5).draw(batch.x[..., NUM_GIVEN:].shape, model_kwargs)
print(drawn.shape)

# %% [markdown]
# ## Is it equivariant?
#
# The output of the network for a turned input is the turned output.

# %%
turn = torch.linalg.qr(torch.randn(3, 3))[0]
x_t, t = torch.randn(batch.x[..., NUM_GIVEN:].shape), torch.zeros(len(batch.x))
turned = model_kwargs | {"x_given": torch.einsum("ij,njt->nit", turn, batch.x)}
with torch.no_grad():
    once = torch.einsum("ij,njt->nit", turn, network(t, x_t, **model_kwargs)[0])
    other = network(t, torch.einsum("ij,njt->nit", turn, x_t), **turned)[0]
print(f"difference {float((once - other).abs().max()):.1e} of {float(once.abs().max()):.1e}")
