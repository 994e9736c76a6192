"""Small random graphs and networks of the three domains, shared by the tests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from geotdm_fast import EGTN, GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.data.trajectory import Batch, Trajectory, collate

NUM_FRAMES = 7
NUM_STEPS = 25
# Ranges of given frames: a forecast, and two interpolations.
MASKS = {"prefix": [[0, 3]], "ends": [[0, 2], [6, 7]], "holes": [[1, 2], [3, 5]]}
DOMAINS = ("nbody", "molecule", "pedestrian")


@dataclass(frozen=True)
class Case:
    """Graphs of one domain and the sizes of a network for them."""

    graphs: list[Trajectory]
    node_dim: int
    edge_dim: int
    pre_norm: bool

    @property
    def batch(self) -> Batch:
        """All graphs in one batch; floating tensors in float64, integer features as they are."""
        return collate(self.graphs).to(dtype=torch.float64)

    def network(self, *, learned: bool = False, num_w: int = 1, dtype: torch.dtype = torch.float64, **changes) -> EGTN:
        """A network whose every term counts: its gates are ten times as wide as torch's initial ones."""
        sizes = {"n_layers": 2, "hidden_dim": 12, "time_emb_dim": 9, "act_fn": "silu", "n_layers_ref": 1}
        sizes |= {"node_dim": self.node_dim, "edge_dim": self.edge_dim, "pre_norm": self.pre_norm}
        torch.manual_seed(11)
        network = EGTN(**sizes | changes, learn_ref_frame=learned, num_w=num_w)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "coord_mlp.actions.2" in name or "x_mlp.actions.2" in name:
                    parameter.mul_(10)
                if name == "ws":
                    parameter.copy_(torch.linspace(0.5, 1.5, num_w))
        return network.to(dtype)

    def conditional(self, ranges, learned: bool = False) -> tuple[EGTN, Tensor, dict]:
        """A network, the frames to draw, and the keyword arguments for `GeoTDM`, for given frames in `ranges`."""
        batch, mask = self.batch, cond_mask(ranges, NUM_FRAMES)
        noisy = frames_of(mask).noisy
        model_kwargs = batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}
        return self.network(learned=learned, num_w=len(noisy)), batch.x[..., noisy].clone(), model_kwargs


def case(domain: str) -> Case:
    """`nbody`: 3-D, complete; `molecule`: sparse, integer features; `pedestrian`: 2-D, self-loops, h over time."""
    return {"nbody": nbody, "molecule": molecule, "pedestrian": pedestrian}[domain]()


def nbody() -> Case:
    """Two systems of charged particles: complete graphs, h = charge, edge_attr = product of charges."""
    graphs = []
    for seed, size in ((1, 5), (2, 4)):
        generator = torch.Generator().manual_seed(seed)
        charge = torch.randint(0, 2, (size, 1), generator=generator).double() * 2 - 1
        row, col = _complete(size)
        graphs.append(_trajectory(generator, size, 3, charge, torch.stack([row, col]), charge[row] * charge[col]))
    return Case(graphs, node_dim=1, edge_dim=1, pre_norm=False)


def molecule() -> Case:
    """Two molecules: bonds in both directions, one of them twice, an atom without bonds, integer one-hot features."""
    graphs = []
    for seed, size in ((3, 6), (4, 5)):
        generator = torch.Generator().manual_seed(seed)
        bonds = torch.tensor([[i, i + 1] for i in range(size - 2)]).T  # the last atom has none
        edge_index = torch.cat([bonds, bonds.flip(0), bonds[:, :1]], dim=1)
        edge_index = edge_index[:, torch.randperm(edge_index.shape[1], generator=generator)]
        element = torch.eye(3, dtype=torch.int64)[torch.arange(size) % 3]
        kind = torch.eye(2, dtype=torch.int64)[torch.arange(edge_index.shape[1]) % 2]
        graphs.append(_trajectory(generator, size, 3, element, edge_index, kind))
    return Case(graphs, node_dim=3, edge_dim=2, pre_norm=False)


def pedestrian() -> Case:
    """Three scenes of one to three people: 2-D, complete with self-loops, features that change over time."""
    graphs = []
    for seed, size in ((5, 3), (6, 1), (7, 2)):
        generator = torch.Generator().manual_seed(seed)
        speed = torch.randn(size, 2, NUM_FRAMES, generator=generator, dtype=torch.float64)
        edge_index = torch.cartesian_prod(torch.arange(size), torch.arange(size)).reshape(-1, 2).T
        graphs.append(_trajectory(generator, size, 2, speed, edge_index, None))
    return Case(graphs, node_dim=2, edge_dim=0, pre_norm=True)


class Tamed(torch.nn.Module):
    """A network with random weights whose chain of `NUM_STEPS` steps stays finite: the right noise for positions
    N(0, 1) around an anchor, and the network's own output, bounded, on top. Equivariant as the network is.
    """

    def __init__(self, network: EGTN):
        super().__init__()
        self.network = network
        self.learn_ref_frame = network.learn_ref_frame
        betas = torch.linspace(1e-4, 2e-2, NUM_STEPS, dtype=torch.float64) * 1000 / NUM_STEPS
        self.register_buffer("noise_level", (1 - (1 - betas).cumprod(0)).sqrt())

    def forward(self, diffusion_t, x, batch, **model_kwargs):
        output = self.network(diffusion_t=diffusion_t, x=x, batch=batch, **model_kwargs)
        if model_kwargs.get("compute_ref", False):
            return output
        bounded = output[0] / (1 + output[0].norm(dim=1, keepdim=True))
        return self.noise_level[diffusion_t][:, None, None] * (x - self._anchor(x, batch, model_kwargs)) + bounded, None

    def _anchor(self, x, batch, model_kwargs):
        """The mean of each graph's last given frame, or of all frames when none is given."""
        frame = x.mean(dim=2)
        if "cond_mask" in model_kwargs:
            frame = model_kwargs["x_given"][..., model_kwargs["cond_mask"].reshape(-1).nonzero().max()]
        return torch.stack([frame[batch == graph].mean(dim=0) for graph in batch.unique()])[batch].unsqueeze(-1)


def diffusion(network: torch.nn.Module, mode: str = "cond", prior: str | None = None, **changes) -> GeoTDM:
    """A `GeoTDM` of `NUM_STEPS` steps; keywords replace its arguments."""
    arguments = {
        "beta_schedule_name": "linear",
        "num_timesteps": NUM_STEPS,
        "model_mean_type": ModelMeanType.EPSILON,
        "model_var_type": ModelVarType.FIXED_LARGE,
        "loss_type": LossType.MSE,
        "device": "cpu",
    }
    return GeoTDM(network, **arguments | changes, mode=mode, prior=prior)


def conditional(prior: str = "learned", mask: str = "prefix", domain: str = "nbody", **changes):
    """A tame conditional diffusion, x_start, model_kwargs; keywords as for `diffusion`."""
    network, x_start, model_kwargs = case(domain).conditional(MASKS[mask], learned=prior == "learned")
    return diffusion(Tamed(network), prior=prior, **changes), x_start, model_kwargs


def unconditional(domain: str = "nbody", **changes):
    """The same without given frames."""
    batch = case(domain).batch
    return diffusion(Tamed(case(domain).network()), "uncond", **changes), batch.x, batch.model_kwargs()


def other(x: Tensor, seed: int = 1) -> Tensor:
    """Noise in the shape of x."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def _complete(size: int) -> tuple[Tensor, Tensor]:
    return torch.ones(size, size).fill_diagonal_(0).nonzero().T.contiguous()


def _trajectory(generator, size: int, dim: int, h: Tensor, edge_index: Tensor, edge_attr) -> Trajectory:
    steps = torch.randn(size, dim, NUM_FRAMES, generator=generator, dtype=torch.float64)
    return Trajectory(steps.cumsum(-1), h, edge_index, edge_attr, torch.arange(size))
