"""`manifest.json` of a folder of shards: what was asked for, and so which shards there are."""

import functools
import hashlib
import json
import pathlib
from dataclasses import dataclass

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch, TrajectoryDataset
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.digest import tensors_sha256
from geotdm_fast.files import write_json
from geotdm_fast.nn.plain import bare
from geotdm_fast.parsing import parse_json
from geotdm_fast.sampling.blocks import Block
from geotdm_fast.shown import plain, shown

FORMAT = "geotdm_fast shards 1"
NAME = "manifest.json"
_COUNTS = ("num_graphs", "num_samples", "shard_size")


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds or will hold. Written once, before the first shard.

    request: everything that the samples depend on, from `describe`; and `shard_size`, the most trajectories of a shard
    batch_size: most trajectories at once; other batches give the same samples but for rounding
    """

    request: dict
    batch_size: int

    @property
    def whole(self) -> Block:
        """All graphs and samples."""
        return Block(range(self.request["num_graphs"]), range(self.request["num_samples"]))

    @property
    def num_shards(self) -> int:
        """How many shards there are, without making them: the counts may come from a damaged file."""
        return self.whole.count(self.request["shard_size"])

    @functools.cached_property
    def shards(self) -> list[Block]:
        """The block of every shard, by its number. Depends on the request alone."""
        return self.whole.split(self.request["shard_size"])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the request, which every shard carries."""
        return hashlib.sha256(json.dumps(self.request, sort_keys=True).encode()).hexdigest()


def describe(
    sampler: Sampler,
    batch: Batch,
    dataset: TrajectoryDataset,
    train_config: dict,
    *,
    num_samples: int,
    seed: int,
    checkpoint: str,
) -> dict:
    """Everything that samples depend on, but for the machine's rounding, as plain values; tensors by their SHA-256."""
    diffusion = sampler.diffusion
    network = bare(diffusion.denoise_network)
    weights = network.state_dict()
    tables = {"alphas_cumprod": torch.from_numpy(diffusion.alphas_cumprod)}
    fields = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    conditioning = train_config["cond_mask"] if diffusion.mode == "cond" else train_config.get("tot_len")
    request = {
        "checkpoint": checkpoint,
        "weights_sha256": tensors_sha256(weights),
        "diffusion_sha256": tensors_sha256(tables),
        "mode": diffusion.mode,
        "prior": diffusion.prior,
        "model_mean_type": diffusion.model_mean_type.name.lower(),
        "model_var_type": diffusion.model_var_type.name.lower(),
        "rescale_timesteps": bool(diffusion.rescale_timesteps),
        "dtype": str(diffusion.dtype).removeprefix("torch."),
        "precision": network.precision,
        "data": dataset.name,
        "data_sha256": tensors_sha256(fields),
        "scale": float(dataset.scale),
        "cond_mask" if diffusion.mode == "cond" else "tot_len": conditioning,
        "num_graphs": batch.num_graphs,
        "num_samples": num_samples,
        "seed": seed,
        "method": sampler.method,
        "num_steps": sampler.num_steps,
        "spacing": sampler.spacing,
        "eta": float(sampler.eta),
    }
    return json.loads(json.dumps(request))  # as it will be read back: a tuple becomes a list


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
    """Write `manifest.json`, atomically."""
    write_json(folder / NAME, {"format": FORMAT, "request": manifest.request, "batch_size": manifest.batch_size})


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Read `manifest.json`. FileNotFoundError without one, ValueError for one that this package did not write."""
    path = folder / NAME
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} must be a folder of `geotdm sample`, got one without {NAME}") from None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got something else ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must be of format '{FORMAT}', got {shown(came)}")
    request = content.get("request")
    counts = [*(request.get(name) for name in _COUNTS), content.get("batch_size")] if isinstance(request, dict) else []
    if not counts or not all(type(count) is int and 1 <= count < 2**60 for count in counts):
        raise ValueError(
            f"{path} must hold a request with {', '.join(_COUNTS)}, and batch_size, whole numbers of at least 1; "
            f"got {shown(counts or request)}"
        )
    return Manifest(request, content["batch_size"])


def check_same_request(folder: pathlib.Path, known: dict, asked: dict) -> None:
    """ValueError naming what differs, unless both requests are equal."""
    missing = object()
    names = [name for name in {**known, **asked} if known.get(name, missing) != asked.get(name, missing)]
    if not names:
        return
    show = lambda request, name: plain(json.dumps(request[name])) if name in request else "nothing"
    differences = "; ".join(
        f"{plain(name)} is {show(known, name)} there, asked for is {show(asked, name)}" for name in names
    )
    raise ValueError(
        f"{folder} holds samples of another request: {differences}. Name another folder, or start anew (--restart)"
    )
