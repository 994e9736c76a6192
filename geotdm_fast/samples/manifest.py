"""`manifest.json` of a folder of shards: what was asked for, and so which shards there are."""

import functools
import hashlib
import json
import pathlib
from dataclasses import dataclass

from geotdm_fast.runtime.files import write_json
from geotdm_fast.runtime.parsing import parse_json
from geotdm_fast.runtime.shown import plain, shown
from geotdm_fast.samples.blocks import Block

FORMAT = "geotdm_fast shards 1"
NAME = "manifest.json"
_COUNTS = ("num_graphs", "num_samples", "shard_size")


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds or will hold. Written once, before the first shard.

    request: everything that the samples depend on, from `sampling.description`; and `shard_size`, the most
        trajectories of a shard
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
    except NotADirectoryError:
        raise ValueError(f"{folder} must be a folder of `geotdm sample`, got a file; read_samples reads one") from None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got something else ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        came = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must be of format '{FORMAT}', got {shown(came)}")
    request = content.get("request")
    counts = [*(request.get(name) for name in _COUNTS), content.get("batch_size")] if isinstance(request, dict) else []
    if not isinstance(request, dict) or not all(type(count) is int and 1 <= count < 2**60 for count in counts):
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

    def show(request: dict, name: str) -> str:
        return plain(json.dumps(request[name])) if name in request else "nothing"

    differences = "; ".join(
        f"{plain(name)} is {show(known, name)} there, asked for is {show(asked, name)}" for name in names
    )
    raise ValueError(
        f"{folder} holds samples of another request: {differences}. Name another folder, or start anew (--restart)"
    )
