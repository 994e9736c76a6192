"""Small networks of Align Your Structures, and batches of molecules for them."""

import torch
from torch import Tensor, nn

from geotdm_fast import ays

CONFIG = {"node_dim": 6, "ft_dim": 5, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8, "act_fn": "silu"}
INTERPOLATOR = CONFIG | {"use_mha": False, "use_extra": True, "use_double": True, "use_norm": True}
INTERPOLATOR |= {"sigmoid_init": True}
NETWORKS = {
    "structure": (ays.BasicES, CONFIG),
    "interpolator": (ays.EGInterpolator, INTERPOLATOR),
    "heads": (ays.EGInterpolator, INTERPOLATOR | {"use_mha": True, "num_heads": 4}),
    "residual": (ays.EGInterpolator, INTERPOLATOR | {"residual": True}),
    "simple": (ays.EGInterpolatorSimple, INTERPOLATOR),
    "stack": (ays.EGStack, CONFIG | {"use_norm": True}),
    "egtn": (ays.EGTN, CONFIG),
}
FRAMES = 6
# Given frames of T = 6 by conditioning.
GIVEN = {"none": (), "forward": (0,), "interpolation": (0, FRAMES - 1)}


def network(name: str, conditioning: str = "none", n_layers: int = 2, **more) -> nn.Module:
    """A network with weights that a training could have made: none is zero or one."""
    torch.manual_seed(0)
    made, config = NETWORKS[name]
    model = made(n_layers, **(config | more | {"conditioning": conditioning}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def molecules(sizes=(5, 1, 4), given=(), num_frames: int = FRAMES, seed: int = 1) -> tuple[Tensor, dict]:
    """x [N, 3, M] and the rest of a call: chains with pairs up to 2 bonds apart; an atom alone has no edge."""
    generator = torch.Generator().manual_seed(seed)
    row, col, kinds, start = [], [], [], 0
    for size in sizes:
        for i in range(size):
            for j in range(size):
                if 0 < abs(i - j) <= 2:
                    row.append(start + i), col.append(start + j), kinds.append(2 if abs(i - j) == 1 else 23)
        start += size
    frames = torch.randn(start, 3, num_frames, generator=generator)
    mask = torch.zeros(num_frames, dtype=torch.bool)
    mask[list(given)] = True
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    about = {
        "diffusion_t": torch.tensor([3, 700, 40, 999])[batch],
        "h": torch.randint(1, 10, (start,), generator=generator),
        "f": torch.rand(start, 5, generator=generator),
        "edge_index": torch.tensor([row, col]).reshape(2, -1),
        "edge_attr": torch.tensor(kinds, dtype=torch.int64),
        "batch": batch,
        "cond_mask": mask,
        "original_frames": frames,
    }
    return frames[..., ~mask].clone(), about


def in_float64(about: dict) -> dict:
    """The same call in float64."""
    wide = lambda v: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
    return {key: wide(value) for key, value in about.items()}
