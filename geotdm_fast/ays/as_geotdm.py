"""A network of Align Your Structures behind the arguments of an `EGTN`, and its diffusion as a `GeoTDM`.

So training, samplers, shards, rollouts and scores, which know these two, have the models of Align Your Structures too.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.ays.given import remember_given
from geotdm_fast.ays.network import Network
from geotdm_fast.checkpoint import checked_diffusion
from geotdm_fast.conditioning import frames_of
from geotdm_fast.config.ays_tables import OUR_DIFFUSION
from geotdm_fast.data.chemistry.atom_graph import parts
from geotdm_fast.diffusion import GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.graphs import Graph
from geotdm_fast.runtime.tensor_cache import TensorCache

# Arguments of an `EGTN` that these networks do not have, and what would leave them out of the data.
_ABSENT = {"cell": "box: no", "conditions": "no conditions"}


class AtomNetwork(nn.Module):
    """Calls `module`, a network of Align Your Structures, with what a `Batch` of an `AtomGraph` has.

    forward(diffusion_t [N], x [N, 3, M], h [N, 1 + F], edge_index, edge_attr [E, 1], batch, cond_mask [1, 1, T] and
    x_given [N, 3, T] where frames are given, graph) -> (x_out, h_out), as `Network.forward`: h is the atomic number and
    the features, edge_attr the type of an edge, x_given the official `original_frames`.
    Raises TypeError for an argument that these networks do not have, and as `Network.forward` does.
    """

    def __init__(self, module: Network):
        super().__init__()
        self.module = module

    def forward(
        self,
        diffusion_t: Tensor,
        x: Tensor,
        h: Tensor,
        edge_index: Tensor | Graph | None,
        edge_attr: Tensor,
        batch: Tensor,
        cond_mask: Tensor | None = None,
        x_given: Tensor | None = None,
        graph: Graph | None = None,
        **more: Any,
    ) -> tuple[Tensor, Tensor]:
        about = {"h": h, "edge_index": edge_index, "edge_attr": edge_attr, "batch": batch}
        about |= {"cond_mask": cond_mask, "x_given": x_given, "graph": graph, **more}
        return self.module(diffusion_t, x, **self.kwargs_within(about))

    @staticmethod
    def kwargs_within(model_kwargs: Mapping) -> dict[str, Any]:
        """`model_kwargs` of this as `Network.forward` takes them, which documents both."""
        given = dict(model_kwargs)
        (z, f), c = _atoms(given.pop("h")), _types(given.pop("edge_attr"))
        told = {"h": z, "f": f, "edge_attr": c} | {
            name: given.pop(name, None) for name in ("edge_index", "batch", "graph")
        }
        cond_mask, x_given = given.pop("cond_mask", None), given.pop("x_given", None)
        for name, value in given.items():
            if value is not None:
                hint = f"; data for it have {_ABSENT[name]}" if name in _ABSENT else ""
                raise TypeError(f"a network of Align Your Structures takes no {name}{hint}")
        if cond_mask is None:
            return told
        return told | {"cond_mask": _flags(cond_mask), "original_frames": x_given}


class AysDiffusion(GeoTDM):
    """The diffusion of a network of Align Your Structures as a `GeoTDM` in mode `uncond`, with its own loss.

    Given frames enter the network as they are; x, noise and output have zero mean over the nodes and noisy frames of a
    graph. Everything that samples a `GeoTDM` samples it.

    network: bare; section: `diffusion` of a configuration; device: where sampling draws its noise
    task_mode: `cond` for a model that is asked with given frames, else `uncond`
    Raises as `checkpoint.checked_diffusion` does.
    """

    def __init__(self, network: Network, section: Mapping, device: torch.device | str, task_mode: str):
        section = checked_diffusion({"diffusion": section}, OUR_DIFFUSION)
        name, num_timesteps = section["beta_schedule_name"], section["num_timesteps"]
        mean_type = ModelMeanType[section["model_mean_type"].upper()]
        var_type = ModelVarType[section["model_var_type"].upper()]
        rescale = bool(section.get("rescale_timesteps", False))
        types = (mean_type, var_type, LossType.MSE)
        super().__init__(AtomNetwork(network), name, num_timesteps, *types, device, rescale, "uncond")
        aligned = bool(section.get("use_kabsch_alignment", False))
        self._official = OurDiffusion(name, num_timesteps, *types, rescale, aligned)
        self._task_mode = task_mode

    @property
    def task_mode(self) -> str:
        return self._task_mode

    @property
    def reads_graph(self) -> bool:
        """Always: `AtomNetwork` takes a graph."""
        return True

    def training_losses(
        self,
        x_start: Tensor,
        t: Tensor | None = None,
        model_kwargs: dict | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`OurDiffusion.training_losses` of the network: at an x_t turned onto x_0 where the section says so."""
        return self._official.training_losses(self.denoise_network, x_start, t, model_kwargs, noise)


def _atoms_of(h: Tensor) -> tuple[Tensor, Tensor]:
    z, f, _ = parts(h, h[:0])
    return z.clone(), f.clone()  # not views, which would keep h, and with it the entry


def _flags_of(mask: Tensor) -> Tensor:
    flags = mask.flatten() > 0
    with contextlib.suppress(ValueError):  # nothing is given, or all: what the network says of that
        remember_given(flags, frames_of(mask))
    return flags


# Kept as long as the batch is: a chain of steps asks for the same ones.
_atoms = TensorCache(_atoms_of)
_types = TensorCache(lambda edge_attr: parts(edge_attr[:0], edge_attr)[2].clone())
_flags = TensorCache(_flags_of)
