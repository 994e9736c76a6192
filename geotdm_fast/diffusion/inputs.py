"""What `GeoTDM` checks and draws before it computes; errors name the method and the argument."""

from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast.conditioning import frames_of
from geotdm_fast.reference.row_sums import num_graphs
from geotdm_fast.runtime.checks import (
    check_finite,
    check_graph_values,
    check_index,
    check_same_device,
    check_shape,
    check_tensor,
    is_trusted,
)

# What a call of the network needs in model_kwargs, and what it needs besides in mode `cond`.
GRAPH_KEYS = ("h", "edge_index", "edge_attr", "batch")
CONDITION_KEYS = ("cond_mask", "x_given")


def check_model_kwargs(where: str, mode: str, model_kwargs: dict | None) -> dict:
    """`model_kwargs`, or ValueError unless it holds what the network needs in `mode`.

    edge_attr may be None, and edge_index be missing where there is `graph`.
    """
    given = model_kwargs or {}
    needed = GRAPH_KEYS + (CONDITION_KEYS if mode == "cond" else ())
    if given.get("graph") is not None:
        needed = tuple(name for name in needed if name not in ("edge_index", "edge_attr"))
    missing = [name for name in needed if name not in given or (given[name] is None and name != "edge_attr")]
    if missing:
        expected = f"{', '.join(needed)} in mode '{mode}'"
        raise ValueError(f"{where}: model_kwargs must hold {expected}, got no {', '.join(missing)}")
    return given


def check_loop(where: str, mode: str, name: str, shape: Sequence[int], model_kwargs: dict | None) -> dict:
    """What every loop checks once: values too, since one wait for the device costs nothing there; none if `trusted`.

    Returns model_kwargs.
    shape: of the positions called `name`, which must be [N, D, T_noisy]
    """
    model_kwargs = check_model_kwargs(where, mode, model_kwargs)
    batch, edge_index = model_kwargs["batch"], model_kwargs.get("edge_index")
    check_tensor(where, "batch", batch, ("N",), integer=True)
    if model_kwargs.get("graph") is None or edge_index is not None:
        check_tensor(where, "edge_index", edge_index, (2, "E"), integer=True)
    num_nodes = batch.shape[0]
    expected: tuple[int | str, ...] = (num_nodes, "D", "T")
    if mode == "cond":
        x_given, mask = model_kwargs["x_given"], model_kwargs["cond_mask"]
        check_same_device(where, batch=batch, edge_index=edge_index, x_given=x_given, cond_mask=mask)
        frames = frames_of(mask)
        check_tensor(where, "x_given", x_given, (num_nodes, "D", len(frames.given) + len(frames.noisy)))
        if not is_trusted():
            check_finite(where, "the given frames of x_given", frames.given_of(x_given, 2))
        expected = (num_nodes, x_given.shape[1], len(frames.noisy))
    check_shape(where, name, shape, expected)
    if not is_trusted():
        check_graph_values(where, num_nodes, edge_index, batch)
        if model_kwargs.get("conditions") is not None:
            conditions = check_tensor(where, "conditions", model_kwargs["conditions"], ("graphs", "C"), integer=False)
            check_finite(where, "conditions", conditions)
    return model_kwargs


def check_start(where: str, mode: str, x_start: Tensor, model_kwargs: dict | None, noise: Tensor | None = None) -> dict:
    """The same for a method that begins with data, and its noise if it is given."""
    check_tensor(where, "x_start", x_start, ("N", "D", "T_noisy"), integer=False)
    model_kwargs = check_loop(where, mode, "x_start", x_start.shape, model_kwargs)
    if not is_trusted():
        check_finite(where, "x_start", x_start)
    if noise is not None:
        check_tensor(where, "noise", noise, tuple(x_start.shape), integer=False)
    return model_kwargs


def loss_draws(
    x_start: Tensor, t: Tensor | None, noise: Tensor | None, batch: Tensor, num_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise like x_start and steps t [N] of `training_losses`: as given, else drawn in this order, a step a graph."""
    if noise is None:
        noise = torch.randn_like(x_start)
    if t is None:
        return noise, torch.randint(0, num_timesteps, size=(num_graphs(batch),)).to(x_start.device)[batch]
    check_tensor("training_losses", "t", t, (x_start.shape[0],), integer=True)
    if not is_trusted():
        check_index("training_losses", "t", t, num_timesteps)
    return noise, t


def check_ref_frame(where: str, mode: str, x_ref: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless x_ref is [N, D, 1 or T_noisy], for positions of `shape`, and the mode has one."""
    if mode != "cond":
        raise ValueError(f"{where}: x_ref is of mode 'cond' alone, got one in mode '{mode}'")
    num_frames = 1 if x_ref.dim() == 3 and x_ref.shape[2] == 1 else shape[2]
    check_tensor(where, "x_ref", x_ref, (*shape[:2], num_frames), integer=False)
    if not is_trusted():
        check_finite(where, "x_ref", x_ref)
