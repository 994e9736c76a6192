"""Safetensors with texts beside the tensors: equal content gives equal bytes, and damage is noticed."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.runtime.digest import tensors_sha256
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.shown import plain

DIGEST_KEY = "geotdm_fast_sha256"


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and text metadata as safetensors, atomically, with a SHA-256 of both in the metadata."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory or are not contiguous.

    def copy(tensor: Tensor) -> Tensor:
        return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)

    whole = {name: copy(tensor) for name, tensor in tensors.items()}
    texts = {**metadata, DIGEST_KEY: tensors_sha256(whole, metadata)}
    # As bytes: safetensors' own writer makes files that only their owner can read, and hides the cause of a failure.
    written = save(whole, metadata=texts)
    end = 8 + int.from_bytes(written[:8], "little")
    with atomic_path(path) as aside, open(aside, "wb") as file:
        file.write(_in_order(written[8:end]))
        file.write(memoryview(written)[end:])


def _in_order(header: bytes) -> bytes:
    """The header, its length before it, with the metadata in the order of their names: safetensors has no order."""
    content = json.loads(header)
    texts = content.pop("__metadata__")
    content = {"__metadata__": dict(sorted(texts.items())), **content}
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and the metadata of a safetensors file.

    Raises FileNotFoundError, or ValueError for a file that is not whole or whose SHA-256 is not that of its content.
    Files of others and of earlier versions have none.
    """
    with _opened(path) as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    expected = metadata.pop(DIGEST_KEY, None)
    if expected is not None and tensors_sha256(tensors, metadata) != expected:
        raise ValueError(f"{path} is damaged: its SHA-256 is not that of what was written; take an earlier copy")
    return tensors, metadata


def read_metadata(path: PathLike) -> dict[str, str]:
    """The metadata of a safetensors file, whose tensors are not read or checked. Raises as `load_tensors` does."""
    with _opened(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[Any]:
    """The file, for safetensors' functions.

    FileNotFoundError, OSError for one that cannot be opened, ValueError for one that is not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb"):  # of a file that may not be read safetensors says that it is not there
            pass
        # On the CPU, whatever torch.set_default_device says.
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except PermissionError as error:
        raise PermissionError(error.errno, f"{path} cannot be read ({error.strerror})") from error
    except RuntimeError as error:
        if not str(error).startswith("unable to open file"):  # torch's, of a process with too many open files
            raise
        raise OSError(f"{path} cannot be read ({plain(error)})") from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a safetensors file, got a corrupt or foreign one ({plain(error)})") from error
