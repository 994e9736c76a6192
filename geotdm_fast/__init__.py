"""Diffusion over geometric trajectories (GeoTDM, arXiv 2410.13027), fast."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geotdm_fast.diffusion import Flow, GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
    from geotdm_fast.model import Model, load
    from geotdm_fast.nn import EGTN, ESLayer, ETLayer
    from geotdm_fast.ops.backend import backend
    from geotdm_fast.ops.radius_graph import radius_graph
    from geotdm_fast.ops.radius_neighbours import radius_neighbors
    from geotdm_fast.ops.radius_neighbours import radius_neighbors as radius_neighbours
    from geotdm_fast.runtime.allocator import keep_freed_memory

__version__ = "0.2.0"
__all__ = [
    "EGTN",
    "ESLayer",
    "ETLayer",
    "Flow",
    "GeoTDM",
    "LossType",
    "Model",
    "ModelMeanType",
    "ModelVarType",
    "Sampler",
    "backend",
    "keep_freed_memory",
    "load",
    "radius_graph",
    "radius_neighbors",
    "radius_neighbours",
]

_MODULE_OF = {
    "EGTN": "nn",
    "ESLayer": "nn",
    "ETLayer": "nn",
    "Flow": "diffusion",
    "GeoTDM": "diffusion",
    "LossType": "diffusion",
    "Model": "model",
    "ModelMeanType": "diffusion",
    "ModelVarType": "diffusion",
    "Sampler": "diffusion",
    "backend": "ops",
    "keep_freed_memory": "runtime.allocator",
    "load": "model",
    "radius_graph": "ops",
    "radius_neighbors": "ops",
    "radius_neighbours": "ops",  # the name of before, the same function
}


if not TYPE_CHECKING:  # which would take every name for one of the package's

    def __getattr__(name: str):
        # Loaded on first use: `geotdm --help` should not wait seconds for torch.
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'geotdm_fast' has no attribute '{name}'")
        value = getattr(importlib.import_module(f"geotdm_fast.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
