"""One spatial layer: ours and its plain transcription, eager and compiled, with the same weights and inputs."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench import gate
from bench.baselines import PlainSpatial
from bench.single_op import SingleOp
from bench.workloads import Workload
from geotdm_fast.ops import egcl
from geotdm_fast.reference import EGCLParams
from geotdm_fast.reference import egcl as reference_egcl

NAMES = ("ours", "eager", "compiled")
PRECISIONS = ("fp32", "tf32", "bf16")
DIRECTIONS = ("forward", "backward")
ROUNDOFF = {"tf32": 2.0**-11, "bf16": 2.0**-8}


def make_layer(
    workload: Workload, name: str, precision: str, device: torch.device, compiler: str = "inductor"
) -> SingleOp:
    """The implementation `name` of `NAMES`, or `truth`: the reference in float64; `fp32`, `tf32` or `bf16` products.

    Tensors are float32 outside; the plain ones get bf16 products from autocast, tf32 ones from torch's switch.
    """
    layer = workload.network().s_modules[0]
    dtype = torch.float64 if name == "truth" else torch.float32
    batch = workload.batch.to(device, dtype)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator).to(device, dtype)
    width = workload.arguments["hidden_dim"]
    x = batch.x.transpose(1, 2).contiguous()  # [N, T, D]
    h = draw(workload.num_nodes, workload.num_frames, width)
    cotangents = draw(*x.shape), draw(*h.shape)
    flop = workload.spatial_flop()
    if name in ("ours", "truth"):
        layer = layer.to(device, dtype)
        params = EGCLParams(*layer.edge_mlp.tensors, *layer.coord_mlp.tensors, *layer.node_mlp.tensors)
        leaves = [x.requires_grad_(), h.requires_grad_(), *params]
        op, flags = (egcl, {"precision": precision}) if name == "ours" else (reference_egcl, {})
        call = lambda: op(x, h, batch.edge_index, batch.edge_attr, params, pre_norm=layer.pre_norm, **flags)
        return SingleOp("egcl", call, leaves, cotangents, flop, device)
    plain = PlainSpatial(width, workload.arguments["edge_dim"], layer.pre_norm)
    plain.load_state_dict(layer.state_dict())
    plain = plain.to(device)
    x, h, *cotangents = (v.transpose(1, 2).contiguous() for v in (x, h, *cotangents))  # [N, D, T], [N, H, T]
    leaves = [x.requires_grad_(), h.requires_grad_(), *plain.parameters()]
    edge_attr = batch.edge_attr
    if edge_attr is not None:
        edge_attr = edge_attr[..., None].repeat(1, 1, workload.num_frames)
    run = torch.compile(plain, fullgraph=True, dynamic=False, backend=compiler) if name == "compiled" else plain

    def call() -> tuple[Tensor, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            x_out, h_out = run(x, h, batch.edge_index, edge_attr)
        return x_out.float(), h_out.float()

    return SingleOp("egcl", call, leaves, tuple(cotangents), flop, device)


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
    """(name, precision) to the largest relative error of a result, and which; NaN and missing results are infinite."""
    expected = _named(truth)
    found = {}
    for (name, precision), call in calls.items():
        values = call()
        # The plain layer's first two are [N, C, T].
        first = [v if name == "ours" else v.transpose(1, 2) for v in values[:2]]
        dtype = "float32" if precision == "fp32" else "mixed"
        found[name, precision] = gate.worst_error(_named([*first, *values[2:]]), expected, dtype)
    return found


def wrong(found: dict[tuple[str, str], tuple[float, str]]) -> dict[tuple[str, str], str]:
    """Who is not correct, and why: over 1e-4 in fp32, over twice the eager layer's own error in the others."""
    reasons = {}
    for (name, precision), (error, where) in found.items():
        limit = gate.FLOAT32
        if precision != "fp32":
            roundoff = ROUNDOFF[precision]
            plain = found.get(("eager", precision), (roundoff, ""))[0]
            # An eager layer that rounds nothing (tf32 on the CPU), or is wrong itself, is no measure.
            limit = gate.TIMES_PLAIN * min(max(plain, roundoff), 16 * roundoff) + roundoff
        if not error <= limit:
            reasons[name, precision] = f"wrong, so not timed: {where} must be within {limit:.1e}, got {error:.1e}"
    return reasons


def _named(values: list[Tensor]) -> dict[str, Tensor]:
    """x_out and h_out; or the gradients of x, h and every parameter."""
    names = ["x_out", "h_out"] if len(values) == 2 else [f"grad {n}" for n in ("x", "h", *EGCLParams._fields)]
    return {name: value.detach() for name, value in zip(names, values, strict=True) if value is not None}
