"""What a `Model` shows of itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geotdm_fast.cards.card import Card, counted
from geotdm_fast.nn.plain import bare
from geotdm_fast.ops.backend import OPS, current_backend, status

if TYPE_CHECKING:
    from geotdm_fast.model import Model

# What says which data a section is of, and how much of them; the rest is how they are read.
_DATA = ("kind", "system", "name", "molecule", "scene", "path", "root", "num_systems", "num_frames", "span", "stride")


def model_card(model: "Model", does: str) -> Card:
    """Task, network, diffusion, how it is drawn by default, conditions, device with precision and implementations, data
    and length of the training.

    does: what the model does, in words
    """
    card = Card(f"Model {model.name}")
    card.add("task", does)
    network = bare(model.network)
    sizes, diffusion, train = (model.config.get(name, {}) for name in ("denoise_model", "diffusion", "train"))
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    layers, width = sizes.get("n_layers"), sizes.get("hidden_dim")
    shape = f", {counted(layers, 'layer')} of width {width}" if layers and width else ""
    card.add("network", f"{sizes.get('type', type(network).__name__)}{shape}, {counted(parameters, 'parameter')}")
    is_flow = diffusion.get("kind") == "flow"
    kind = "flow matching" if is_flow else f"{diffusion.get('beta_schedule_name', 'linear')} schedule"
    calls = model.diffusion.calls
    student = "" if calls is None else f", a student that draws in {counted(calls, 'call')}"
    steps = counted(model.diffusion.num_timesteps, "step")
    card.add("diffusion", f"{kind}, {steps}, prior {model.diffusion.prior}{student}")
    if calls is None:
        card.add("draws", _draws(model))
    if model.conditions is not None:
        ranges = model.conditions.as_config().items()
        card.add("conditions", "; ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges))
    card.add("runs", f"{network.precision} on {model.device}; {_implementations(model.device.type)}")
    card.add("data", ", ".join(f"{name} {model.data[name]}" for name in _DATA if _is_told(model.data, name)))
    if train.get("num_steps") and train.get("batch_size"):
        graphs = counted(train["batch_size"], "graph")
        card.add(
            "training", f"at most {counted(train['num_steps'], 'step')} of {graphs}, learning rate {train.get('lr')}"
        )
    return card


def _draws(model: "Model") -> str:
    """The method and the steps of a draw that asks for none."""
    method, total = model.diffusion.methods[0], model.diffusion.num_timesteps
    if (recommended := model.recommended) is None:
        return f"{method} in {counted(total, 'step')}"
    steps, spacing = recommended["steps"] or total, recommended["spacing"]
    by = "" if spacing == "uniform" else f" by {spacing}"
    alone = f"{method} in {total:,} by itself"
    return f"{recommended['method']} in {counted(steps, 'step')}{by} (recommended; {alone})"


def _is_told(section: Mapping, name: str) -> bool:
    return section.get(name) is not None and not isinstance(section[name], (list, dict))


def _implementations(device: str) -> str:
    """What runs for the ops of a layer on a device of this kind."""
    if current_backend() == "reference":
        return "by the reference"
    rows = status()  # those of the CPU, then those of CUDA
    active = {row.op: row.active for row in (rows if device == "cuda" else reversed(rows))}
    return ", ".join(f"{op} by {active[op]}" for op in OPS)
