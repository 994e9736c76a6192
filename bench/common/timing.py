"""Interleaved timing, and the matrix rate of the machine in the same minute."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import torch


class Times(NamedTuple):
    """Seconds of every repeat, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        ordered = sorted(self.seconds)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def most(self) -> float:
        return max(self.seconds)

    def row(self, flop: float, rate: float) -> dict[str, object]:
        """What a line of results says of them: flop, the least work of one repeat; rate, of the matrix product."""
        return {
            "seconds": self.median,
            "seconds_least": self.least,
            "seconds_most": self.most,
            "repeats": len(self.seconds),
            "gflop": flop / 1e9,
            "matrix_gflops": rate / 1e9,
            "floor_seconds": flop / rate,
        }


def interleaved(
    calls: Mapping[Hashable, Callable[[], object]],
    repeats: int,
    device: torch.device | str = "cpu",
    *,
    warm_up: int = 1,
    progress: bool = True,
) -> dict[Hashable, Times]:
    """Time the calls in turn, A B C A B C ...: what the machine does meanwhile touches all alike.

    warm_up: unmeasured rounds first (torch.compile compiles there); progress: show a bar
    """
    from geotdm_fast.runtime.bars import progress_bar

    device = torch.device(device)
    seconds = {name: [] for name in calls}
    with progress_bar(total=(warm_up + repeats) * len(calls), desc="calls", unit="call", disable=not progress) as bar:
        for i in range(warm_up + repeats):
            for name, call in calls.items():
                bar.set_postfix_str(" ".join(map(str, name)) if isinstance(name, tuple) else str(name), refresh=False)
                took = timed(call, device)
                if i >= warm_up:
                    seconds[name].append(took)
                bar.update()
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device is done."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; nothing to wait for on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class MatrixProduct:
    """A large square matrix product, to measure the rate that bounds everything else: `MatrixProduct(...)()`.

    size: None for the largest power of two up to 2048 (CUDA: 8192) whose product takes less than half a second, for
    there are processors that multiply bfloat16 a thousand times slower than float32.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, size: int | None = None):
        device = torch.device(device)
        largest = size or (8192 if device.type == "cuda" else 2048)
        self.size = size or 256
        self._draw(device, dtype)
        while self.size < largest and 8 * min(timed(self, device) for _ in range(2)) < 0.5:
            self.size *= 2
            self._draw(device, dtype)

    def _draw(self, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator(device).manual_seed(0)

        def draw():
            return torch.randn(self.size, self.size, generator=generator, device=device).to(dtype)

        self.a, self.b = draw(), draw()
        self.out = torch.empty_like(self.a)

    @property
    def flop(self) -> float:
        return 2.0 * self.size**3

    def __call__(self) -> None:
        torch.mm(self.a, self.b, out=self.out)


def products_for(dtypes: Iterable[str], device: torch.device | str) -> dict[tuple[str, str], MatrixProduct]:
    """What to time along with calls in `dtypes`: a product in float32, and one in bfloat16 where that is used."""
    names = {"float32": torch.float32}
    if set(dtypes) != {"float32"}:
        names["bfloat16"] = torch.bfloat16
    return {("matrix product", name): MatrixProduct(device, dtype) for name, dtype in names.items()}


def rates(products: Mapping[tuple[str, str], MatrixProduct], times: Mapping[Hashable, Times]) -> dict[str, float]:
    """Operations a second by dtype; bfloat16 and mixed take the better rate, for float32 does their work as well."""
    found = {key[1]: product.flop / times[key].median for key, product in products.items()}
    best = max(found.values())
    return {"float32": found["float32"], "bfloat16": best, "mixed": best}
