"""Launchers of the EGCL kernels: tensors in, tensors out, on the current stream of the tensors' device."""

import contextlib
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import Configuration, edges_configuration, padded, rows_configuration
from geotdm_fast.kernels.egcl import egcl_edges_kernel, egcl_project_kernel, egcl_update_kernel
from geotdm_fast.reference import EGCLOptions, EGCLParams
from geotdm_fast.reference.row_sums import receivers


class TritonTables(NamedTuple):
    """The edges of a graph of N nodes, sorted by receiver, in the tables that the Triton kernels of EGCL read.

    node: [N] int32 - the nodes by falling degree. So rows of a tile end at nearly the same edge, and long tiles start
        first
    first_edge: [N] int32, degree: [N] float32 - the first edge and the degree of node[k]
    receiver, sender: [E] int32 - the two ends of each edge
    first: [N + 1] int64 - the edges of receiver i begin at first[i]; first[N] is the number of edges. Places behind it
        are no edges, and hold any numbers in 0..N-1
    sender_first: [N + 1] int64, by_sender: [E] int64 - the edges of sender j, ascending, begin at
        by_sender[sender_first[j]]
    divisor: [N] float32 - max(degree of node i, 1)
    """

    node: Tensor
    first_edge: Tensor
    degree: Tensor
    receiver: Tensor
    sender: Tensor
    first: Tensor
    sender_first: Tensor
    by_sender: Tensor
    divisor: Tensor


def graph_tables(first: Tensor, sender: Tensor, sender_first: Tensor, by_sender: Tensor) -> TritonTables:
    """`TritonTables` from the tables of `geotdm_fast.graphs.edges.EdgeTables`, which describes them.

    Places without an edge get the last node as their receiver. Nothing waits for the device.
    """
    degree = first.diff()
    node = torch.argsort(degree, descending=True, stable=True)
    receiver = receivers(first, sender.numel()).clamp(max=max(len(degree) - 1, 0))
    return TritonTables(
        node.int(), first[node].int(), degree[node].float(), receiver.int(), sender.int(), first, sender_first,
        by_sender, degree.clamp(min=1).float(),
    )  # fmt: skip


class Kept(NamedTuple):
    """The tensors that the forward of EGCL keeps for its backward. They are 0 in channels beyond H.

    pq: [N, T, 2, padded H] - P / 2 and Q / 2, the parts of the first product that belong to receiver and sender
    m_sum: [N, T, padded H] - sum over the messages of each receiver
    halved: [2, padded H, padded H] - W2 / 2 and U1 / 2
    moves: [N, T, 4] - sums that x' is made of where there is a cutoff; else empty
    edge_term: [E, H] - W_a a of each edge, or None without edge features
    `pq` and `halved` are bfloat16 where the products are.
    """

    pq: Tensor
    m_sum: Tensor
    halved: Tensor
    moves: Tensor
    edge_term: Tensor | None


def egcl_forward(
    x: Tensor,
    h: Tensor,
    graph: TritonTables,
    edge_attr: Tensor | None,
    edge_term: Tensor | None,
    params: EGCLParams,
    options: EGCLOptions,
    configuration: Configuration | None = None,
    *,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Kept]:
    """Equal to `geotdm_fast.reference.egcl`, by three kernels. No tensor grows with edges times frames.

    x: [N, T, D], h: [N, T, H] - positions and features
    graph: the edges; a graph that changes from frame to frame is one of N T nodes with T = 1
    edge_attr: [E, A] - edge features a, in the order of the graph, or None
    edge_term: [E, H] - W_a a of each edge; None: the first kernel makes it from edge_attr
    params, options: of the layer
    configuration: of the kernel over edges; None: that of the table of configurations
    shift: [E, D] - n C of each edge in a periodic box, in the order of the graph; None: no boxes
    All tensors are float32 and contiguous. Returns x', h' and what the backward needs. Equal inputs give equal bits.
    Raises ValueError from 2^31 rows or edges on.
    """
    precision = options.precision
    num_nodes, num_frames, dim = x.shape
    width, num_rows = h.shape[2], num_nodes * num_frames
    size = padded(width)
    if max(num_rows, graph.sender.numel()) >= 2**31:
        raise ValueError(
            f"egcl: nodes times frames and edges must be under 2^31, got {num_rows} and {graph.sender.numel()}"
        )
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    x_out, h_out = torch.empty_like(x), torch.empty_like(h)
    pq = h.new_empty(num_nodes, num_frames, 2, size, dtype=low)
    m_sum = h.new_empty(num_nodes, num_frames, size)
    halved = h.new_empty(2, size, size, dtype=low)
    makes_term = edge_term is None and edge_attr is not None
    num_edges = edge_attr.shape[0] if makes_term else 0
    if makes_term:
        edge_term = h.new_empty(num_edges, width)
    has_cutoff = options.cutoff is not None
    moves = x.new_empty(*x.shape[:2], 4) if has_cutoff else x.new_empty(0)
    kept = Kept(pq, m_sum, halved, moves, edge_term)
    if num_rows == 0:
        return x_out, h_out, kept
    rows = rows_configuration(size, precision, capability(x))
    tiles = configuration or edges_configuration(size, precision, capability(x))
    shared = {"WIDTH": width, "PADDED": size, "PRECISION": executed(precision, x)}
    row_options = shared | {"BLOCK": rows.block, "SLICE": rows.slice}
    row_options |= {"num_warps": rows.num_warps, "num_stages": rows.num_stages}
    with on_device(x):
        egcl_project_kernel[(triton.cdiv(max(num_rows, num_edges), rows.block), 2 + makes_term)](
            h, edge_attr if makes_term else h, params.edge_w1, params.edge_b1, params.edge_w2, params.coord_w1,
            pq, halved, edge_term if makes_term else h,
            num_rows, num_edges, params.edge_w1.stride(0), **row_options,
        )  # fmt: skip
        egcl_edges_kernel[(triton.cdiv(num_rows, tiles.block),)](
            x, pq, graph.node, graph.first_edge, graph.degree, graph.sender, x if edge_term is None else edge_term,
            halved, params.edge_w1, params.edge_b2, params.coord_b1, params.coord_w2, params.coord_b2, x_out, m_sum,
            moves if has_cutoff else x, x if shift is None else shift, num_rows, num_frames, params.edge_w1.stride(0),
            inverse_cutoff(options),
            DIM=dim, BLOCK=tiles.block, SLICE=tiles.slice, HAS_TERM=edge_term is not None,
            HAS_CUTOFF=has_cutoff, HAS_SHIFT=shift is not None, NORMALIZE=options.normalize, PRE_NORM=options.pre_norm,
            IS_RESIDUAL=options.residual, num_warps=tiles.num_warps, num_stages=tiles.num_stages, **shared,
        )  # fmt: skip
        egcl_update_kernel[(triton.cdiv(num_rows, rows.block),)](
            h, m_sum, params.node_w1, params.node_b1, params.node_w2, params.node_b2, h_out,
            num_rows, **row_options,
        )  # fmt: skip
    return x_out, h_out, kept


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """A block in which Triton launches on the device of `x`, which need not be the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def capability(x: Tensor) -> int:
    """The compute capability of the GPU that holds `x`, as 80, 90 or 100; 90 in Triton's interpreter."""
    if not x.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def multiprocessors(x: Tensor) -> int:
    """Multiprocessors of the GPU that holds `x`; 3 in the interpreter, so that a program there has several tiles."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 3


def inverse_cutoff(options: EGCLOptions) -> float:
    """1 / cutoff, by which the kernels multiply distances; 0 without a cutoff, where they do not read it."""
    return 0.0 if options.cutoff is None else 1 / options.cutoff


def executed(precision: str, x: Tensor) -> str:
    """PRECISION of the kernels. A GPU rounds to `tf32` and `bf16` itself; in the interpreter kernels emulate that."""
    return precision if x.is_cuda or precision == "fp32" else f"{precision}_emulated"
