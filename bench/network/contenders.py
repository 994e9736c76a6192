"""Who runs: our network and the peers, with the same weights and inputs, in one dtype."""

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.common.workloads import Workload
from bench.peers.baselines import EfficientEGTN, OfficialEGTN, PlainEGTN
from bench.peers.framewise import FramewiseEGTN
from geotdm_fast.graphs import Graph

PEERS = ("official", "official_compiled", "efficient", "efficient_compiled")
IMPLEMENTATIONS = ("ours", *PEERS)
DTYPES = ("float32", "bfloat16", "mixed")
ABOUT = {
    "ours": "geotdm_fast.EGTN with the implementation that `auto` takes",
    "official": "structure of the official code, eager: relative embeddings as [N, H, T, T], concatenated edge inputs",
    "official_compiled": "the same under torch.compile",
    "efficient": "the memory-efficient structure, eager: one [2 T - 1, H] table, concatenated edge inputs",
    "efficient_compiled": "the same under torch.compile",
    "pyg": "the same with the spatial layer as a MessagePassing of torch_geometric, eager, where it is asked for",
    "pyg_compiled": "the same under torch.compile",
}
STRUCTURES = {"official": OfficialEGTN, "efficient": EfficientEGTN}


@dataclass
class Contender:
    """One implementation in one dtype, ready to be called.

    dtype: `float32`; `bfloat16` - parameters, positions and features in bfloat16; `mixed` - float32 outside, bfloat16
        inputs of matrix products (ours by `set_precision`, the peers by `torch.autocast`)
    """

    name: str
    dtype: str
    network: nn.Module
    inputs: dict
    cotangents: tuple[Tensor, Tensor]

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.dtype

    @property
    def device(self) -> torch.device:
        return self.inputs["x"].device

    def inference(self) -> tuple[Tensor, Tensor]:
        """One denoiser call: x_out, h_out."""
        with torch.no_grad(), self._autocast():
            return self.network(**self.inputs)

    def training(self) -> tuple[Tensor, Tensor]:
        """One denoiser call and the gradients of all parameters, left in `.grad`."""
        self.network.zero_grad(set_to_none=True)
        with self._autocast():
            outputs = self.network(**self.inputs)
        torch.autograd.backward(outputs, [g.to(o.dtype) for g, o in zip(self.cotangents, outputs, strict=True)])
        return outputs

    def call(self, mode: str) -> tuple[Tensor, Tensor]:
        """`inference` or `training`, by name."""
        return self.training() if mode == "training" else self.inference()

    def _autocast(self):
        if self.dtype == "mixed" and self.name != "ours":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()


def make_contender(workload: Workload, name: str, dtype: str = "float32", device: str = "cpu") -> Contender:
    """The implementation `name` of `workload`; every one has the weights of `workload.network()`.

    name: one of `IMPLEMENTATIONS`; `pyg`, a structure as the others; a structure with `_recompute`, which computes
        every layer again in backward; `ours_current`, for the radius graph of every frame's own positions
    """
    torch_dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    whose, _, variant = name.partition("_")
    if whose == "ours":
        rule = {"radius": workload.cutoff, "of": "current"} if variant == "current" else None
        network = workload.network(graph=rule).set_precision("bf16" if dtype == "mixed" else "fp32")
    else:
        network = structure_of(whose)(**workload.arguments, recompute=variant == "recompute")
        network.load_state_dict(workload.network().state_dict())
        if workload.images is not None:
            network.in_boxes(workload.graph(device).shift(workload.num_frames).to(torch_dtype))
        network = network.compiled() if variant == "compiled" else network
    network, inputs = network.to(device, torch_dtype), workload.inputs(device, torch_dtype)
    if name == "ours":  # sorted once, as by whoever owns a batch
        inputs["graph"] = workload.graph(device)
    elif name == "ours_current":  # one rule for all calls, which remembers the room that the first one made
        inputs["graph"] = network.graph_of(inputs)
    return Contender(name, dtype, network, inputs, workload.cotangents(device))


def listed(names: Iterable[str]) -> str:
    """What each of these implementations is, a line each, for a program's help."""
    return "implementations:\n" + "\n".join(f"  {name:19} {ABOUT[name]}" for name in names)


def structure_of(name: str) -> type[PlainEGTN]:
    """One of `STRUCTURES`, or `pyg`, for which torch_geometric must be installed."""
    if name == "pyg":
        try:
            from bench.peers.message_passing import MessagePassingEGTN
        except ModuleNotFoundError as error:
            raise ValueError(f"pyg needs torch_geometric, which is not installed: {error}") from None

        return MessagePassingEGTN
    return STRUCTURES[name]


def make_truth(
    workload: Workload,
    device: str = "cpu",
    graph_of_frames: Graph | None = None,
    dtype: torch.dtype | None = None,
) -> Contender:
    """The memory-efficient structure, every layer recomputed.

    graph_of_frames: edges of every frame instead of those of the batch; dtype: None for float64, or float32 where that
    does not fit
    """
    one_layer = bytes_needed(workload, "efficient_recompute", "float32", "training")
    if dtype is None:
        dtype = torch.float64 if 2 * one_layer < 0.8 * free_memory(device) else torch.float32
    structure = EfficientEGTN if graph_of_frames is None else FramewiseEGTN
    network = structure(**workload.arguments, recompute=True)
    network.load_state_dict(workload.network().state_dict())
    inputs, graph = workload.inputs(device, dtype), graph_of_frames or workload.graph(device)
    inputs["edge_index"] = graph.edge_index
    if graph.images is not None:
        network.in_boxes(graph.shift(workload.num_frames).to(dtype))
    return Contender("truth", str(dtype), network.to(device, dtype), inputs, workload.cotangents(device))


def bytes_needed(workload: Workload, name: str, dtype: str, mode: str) -> float:
    """An estimate of the memory of one call of a peer, from what its structure holds; 0 for ours (linear in all sizes).

    Counted: tensors [E, T, H], twice as wide ones [E, 2 H + 1 + A, T], and [N, H, T, T] (efficient: [N, D + 4, T, T]).
    """
    if name.startswith("ours"):
        return 0
    width, layers, frames = workload.arguments["hidden_dim"], workload.arguments["n_layers"], workload.num_frames
    size = 2 if dtype == "bfloat16" else 4
    edges = workload.num_edges * frames * width * size
    pairs = workload.num_nodes * frames**2 * size
    if name.startswith("official"):
        pairs *= width
    else:
        pairs *= workload.batch.x.shape[1] + 4
    if mode == "inference":
        return max(6 * edges, 4 * pairs)
    held = 1 if name.endswith("_recompute") else layers
    return held * (9 * edges + 2 * pairs) + 4 * pairs


def free_memory(device: str = "cpu") -> float:
    """Bytes that a new tensor may take on `device`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def split_by_memory(
    workload: Workload, names: Sequence[str], dtypes: Sequence[str], mode: str, device: str = "cpu"
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], str]]:
    """The (name, dtype) pairs that fit in four fifths of the free memory, and for the others why not."""
    limit = 0.8 * free_memory(device)
    fit, refused = [], {}
    for dtype in dtypes:
        for name in names:
            need = bytes_needed(workload, name, dtype, mode)
            if need <= limit:
                fit.append((name, dtype))
            else:
                refused[name, dtype] = f"needs about {need / 2**30:.0f} GiB, {limit / 2**30:.0f} are free"
    return fit, refused
