"""State dicts as people save them: in a dict of other entries, with the prefixes of what wrapped the network."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from geotdm_fast.nn.plain import WRAPPERS
from geotdm_fast.runtime.files import PathLike

# Under which training scripts keep the state dict beside the optimiser's state, the epoch, ...
ENTRIES = ("state_dict", "model", "model_state_dict", "network", "ema")


def plain_state_dict(saved: Any, source: PathLike) -> dict[str, Tensor]:
    """The names and tensors of a network in what a training saved.

    saved: names to tensors, or a dict with one such under one of `ENTRIES`
    Wrappers' prefixes are removed, wherever in a name they are.
    Raises ValueError naming `source`, what was expected and what came.
    """
    state = saved
    if isinstance(saved, Mapping) and not _is_state_dict(saved):
        entries = [name for name in ENTRIES if _is_state_dict(saved.get(name))]
        if len(entries) > 1:
            raise ValueError(
                f"{source} must hold one state_dict, got {' and '.join(entries)}; save the one that is meant"
            )
        state = saved[entries[0]] if entries else saved
    if not _is_state_dict(state):
        came = type(state).__name__
        if isinstance(state, Mapping):
            came += f" with {', '.join(map(str, list(state)[:5])) or 'nothing'}"
        expected = f"a state_dict (names to tensors), or one under {', '.join(ENTRIES)}"
        raise ValueError(f"{source} must hold {expected}; got {came}")
    plain = {}
    for name, value in state.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare in plain:
            raise ValueError(f"{source} must hold every tensor once, got {bare} twice, one of them as {name}")
        plain[bare] = value
    return plain


def check_is_geotdm(names: Iterable[str], source: PathLike) -> None:
    """Raise ValueError for tensors of a model of Align Your Structures, whose layers have some of the same names."""
    if any(name.startswith(("embedding.", "denoiser.")) for name in names):
        raise ValueError(
            f"{source}: this is a checkpoint of Align Your Structures, whose layers compute something else; its "
            "configuration has denoise_model.type, or is an official file with the section denoiser"
        )


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def is_safetensors(path: PathLike) -> bool:
    """Whether a file is safetensors: by its first bytes, or where they cannot tell, by its suffix.

    Raises FileNotFoundError.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError:
        return True
    # The length of a JSON object, and its first brace; a zip archive or a pickle, as torch.save writes them.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") < size:
        return True
    return str(path).endswith(".safetensors") and not head.startswith((b"PK", b"\x80"))
