"""One layer: ours and its peers in plain PyTorch, eager and compiled, with the same weights and inputs."""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bench.common import correctness
from bench.common.workloads import Workload
from bench.ops.single_op import SingleOp
from bench.peers.attention_peers import FlexTemporal, SdpaTemporal
from bench.peers.baselines import EfficientTemporal, OfficialTemporal, PlainSpatial
from geotdm_fast.graphs import Graph
from geotdm_fast.ops import egcl, temporal_attention
from geotdm_fast.reference import EGCLParams, TemporalAttentionParams
from geotdm_fast.reference import egcl as reference_egcl
from geotdm_fast.reference import temporal_attention as reference_temporal_attention

LAYERS = ("spatial", "temporal")
NAMES = ("ours", "eager", "compiled")
# The official structure (eager, compiled) has [N, H, T, T] and finds no memory for more frames.
SHORT = 128
PRECISIONS = ("fp32", "tf32", "bf16")
DIRECTIONS = ("forward", "backward")
ROUNDOFF = {"tf32": 2.0**-11, "bf16": 2.0**-8}
# Layer and name of a peer: its structure, and whether torch.compile takes it.
PEERS = {
    ("spatial", "eager"): (PlainSpatial, False),
    ("spatial", "compiled"): (PlainSpatial, True),
    ("temporal", "eager"): (OfficialTemporal, False),
    ("temporal", "compiled"): (OfficialTemporal, True),
    ("temporal", "efficient"): (EfficientTemporal, False),
    ("temporal", "efficient_compiled"): (EfficientTemporal, True),
    ("temporal", "flex"): (FlexTemporal, True),
    ("temporal", "sdpa"): (SdpaTemporal, True),
}


def names_of(layer: str, num_frames: int) -> tuple[str, ...]:
    """Ours and the peers that are compared with it at this many frames."""
    if layer == "spatial":
        return NAMES
    peers = ("eager", "compiled") if num_frames <= SHORT else ("flex", "sdpa")
    return ("ours", *peers, "efficient", "efficient_compiled")


def make_layer(
    workload: Workload,
    name: str,
    precision: str,
    device: torch.device,
    compiler: str = "inductor",
    layer: str = "spatial",
) -> SingleOp:
    """The implementation `name` of `names_of`, or `truth`: the reference in float64; `fp32`, `tf32` or `bf16` products.

    Tensors are float32 outside; the plain ones get bf16 products from autocast, tf32 ones from torch's switch.
    """
    network = workload.network()
    module = (network.s_modules if layer == "spatial" else network.t_modules)[0]
    dtype = torch.float64 if name == "truth" else torch.float32
    batch = workload.batch.to(device, dtype)
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(*size, generator=generator).to(device, dtype)

    x = batch.x.transpose(1, 2).contiguous()  # [N, T, D]
    h = draw(workload.num_nodes, workload.num_frames, workload.arguments["hidden_dim"])
    cotangents = draw(*x.shape), draw(*h.shape)
    if name in ("ours", "truth"):
        x, h = x.requires_grad_(), h.requires_grad_()
        params = params_of(module.to(device, dtype))
        flags = {"precision": precision} if name == "ours" else {}
        if layer == "spatial":
            op = egcl if name == "ours" else reference_egcl
            edges = batch.edge_index
            if name == "ours":  # sorted once, as by whoever owns a batch
                edges = Graph.static(edges, workload.num_nodes)
            call = lambda: op(x, h, edges, batch.edge_attr, params, pre_norm=module.pre_norm, **flags)
        else:
            op = temporal_attention if name == "ours" else reference_temporal_attention
            call = lambda: op(x, h, params, **flags)
        return _single(workload, layer, call, [x, h, *params], cotangents, device)
    structure, is_compiled = PEERS[layer, name]
    plain = _plain(structure, workload).to(device)
    plain.load_state_dict(module.state_dict())
    x, h, *cotangents = (v.transpose(1, 2).contiguous() for v in (x, h, *cotangents))  # [N, D, T], [N, H, T]
    edges = ()
    if layer == "spatial":
        edge_attr = batch.edge_attr
        if edge_attr is not None:
            edge_attr = edge_attr[..., None].repeat(1, 1, workload.num_frames)
        edges = batch.edge_index, edge_attr
    leaves = [x.requires_grad_(), h.requires_grad_(), *plain.parameters()]
    run = torch.compile(plain, fullgraph=True, dynamic=False, backend=compiler) if is_compiled else plain

    def call() -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            x_out, h_out = run(x, h, *edges)
        return x_out.float(), h_out.float()

    return _single(workload, layer, call, leaves, tuple(cotangents), device)


def params_of(module: nn.Module) -> EGCLParams | TemporalAttentionParams:
    """The parameters of an ESLayer or ETLayer as its op takes them."""
    if hasattr(module, "edge_mlp"):
        return EGCLParams(*module.edge_mlp.tensors, *module.coord_mlp.tensors, *module.node_mlp.tensors)
    mlps = (module.q_mlp, module.k_mlp, module.v_mlp, module.x_mlp)
    tensors = (tensor for mlp in mlps for tensor in mlp.tensors)
    return TemporalAttentionParams(*tensors, module.time_emb.weight, module.time_emb.bias)


def _plain(structure: type[nn.Module], workload: Workload) -> nn.Module:
    sizes = workload.arguments
    if structure is PlainSpatial:
        return PlainSpatial(sizes["hidden_dim"], sizes["edge_dim"], sizes["pre_norm"])
    return structure(sizes["hidden_dim"], sizes["time_emb_dim"])


def _single(workload, layer, call, leaves, cotangents, device) -> SingleOp:
    flop = workload.spatial_flop() if layer == "spatial" else workload.temporal_flop()
    return SingleOp("egcl" if layer == "spatial" else "temporal_attention", call, leaves, cotangents, flop, device)


def bound(op: SingleOp, direction: str, precision: str) -> Callable[[], list[Tensor]]:
    """`op` in one direction as a call that waits for nothing; products in float32 take tf32 if that is the precision.

    `backward` is forward + backward.
    """
    run = op.forward if direction == "forward" else op.both

    def call() -> list[Tensor]:
        with tf32(precision == "tf32"):
            return run()

    return call


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether cuBLAS may round float32 inputs to tf32 within the block."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def errors(calls: dict[tuple[str, str], Callable[[], list[Tensor]]], truth: list[Tensor]) -> dict:
    """(name, precision) to the largest relative error of a result, and which; NaN and missing results are infinite.

    A peer that raises has an infinite error in "failed: ...".
    """
    expected = _named(truth)
    found = {}
    for (name, precision), call in calls.items():
        try:
            values = call()
        except RuntimeError as error:
            if name == "ours":
                raise
            found[name, precision] = math.inf, f"failed: {' '.join(str(error).split())[:200]}"
            continue
        # The plain layer's first two are [N, C, T].
        first = [v if name == "ours" else v.transpose(1, 2) for v in values[:2]]
        dtype = "float32" if precision == "fp32" else "mixed"
        found[name, precision] = correctness.worst_error(_named([*first, *values[2:]]), expected, dtype)
    return found


def wrong(found: dict[tuple[str, str], tuple[float, str]]) -> dict[tuple[str, str], str]:
    """Who is not correct, and why: over 1e-4 in fp32, over twice an eager layer's own error in the others."""
    reasons = {}
    for (name, precision), (error, where) in found.items():
        limit = correctness.FLOAT32
        if precision != "fp32":
            roundoff = ROUNDOFF[precision]
            plain = min(found.get((peer, precision), (math.inf, ""))[0] for peer in ("eager", "efficient"))
            plain = roundoff if plain == math.inf else plain
            # An eager layer that rounds nothing (tf32 on the CPU), or is wrong itself, is no measure.
            limit = correctness.TIMES_PLAIN * min(max(plain, roundoff), 16 * roundoff) + roundoff
        if where.startswith("failed"):
            reasons[name, precision] = where
        elif not error <= limit:
            reasons[name, precision] = f"wrong, so not timed: {where} must be within {limit:.1e}, got {error:.1e}"
    return reasons


def _named(values: list[Tensor]) -> dict[str, Tensor]:
    """x_out and h_out; or the gradients of x, h and every parameter."""
    fields = EGCLParams._fields if len(values) == 2 + len(EGCLParams._fields) else TemporalAttentionParams._fields
    names = ["x_out", "h_out"] if len(values) == 2 else [f"grad {n}" for n in ("x", "h", *fields)]
    return {name: value.detach() for name, value in zip(names, values, strict=True) if value is not None}
