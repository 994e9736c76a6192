"""Cuts a batch out of a data set on the device: a gather of positions, features, steps and weights."""

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=["num_x", "num_h", "num_attr", "num_steps", "num_weights", "num_frames", "width", "columns"]
)
def cut_windows_kernel(
    p_first, p_all_x, p_all_h, p_all_attr, p_batch, p_node, p_graph_of_edge, p_edge, p_graph_of_scored, p_share,
    p_items, p_graph_steps, p_graph_weight, p_x, p_h, p_attr, p_steps, p_weight,
    num_x, num_h, num_attr, num_steps, num_weights, num_frames, width, columns,
    DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`geotdm_fast.reference.cut_windows`: the program's second number says which of the five results it writes."""
    o_out = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    result = tl.program_id(1)
    if result == 0:
        m_out = o_out < num_x
        o_row, frame = o_out // num_frames, o_out % num_frames
        node, axis = o_row // DIM, o_row % DIM
        p_row = _window(p_first, p_items, p_batch, node, m_out)
        place = tl.load(p_node + node, mask=m_out, other=0) * DIM + axis
        o_x = tl.load(p_row, mask=m_out, other=0) + place * tl.load(p_row + 1, mask=m_out, other=0) + frame
        tl.store(p_x + o_out, tl.load(p_all_x + o_x, mask=m_out, other=0), mask=m_out)
    elif result == 1:
        m_out = o_out < num_h
        node = o_out // width
        first = tl.load(_window(p_first, p_items, p_batch, node, m_out) + 2, mask=m_out, other=0)
        row = first + tl.load(p_node + node, mask=m_out, other=0)
        tl.store(p_h + o_out, tl.load(p_all_h + row * width + o_out % width, mask=m_out, other=0), mask=m_out)
    elif result == 2:
        m_out = o_out < num_attr
        edge = o_out // columns
        first = tl.load(_window(p_first, p_items, p_graph_of_edge, edge, m_out) + 3, mask=m_out, other=0)
        row = first + tl.load(p_edge + edge, mask=m_out, other=0)
        b_attr = tl.load(p_all_attr + row * columns + o_out % columns, mask=m_out, other=0)
        tl.store(p_attr + o_out, b_attr, mask=m_out)
    elif result == 3:
        m_out = o_out < num_steps
        graph = tl.load(p_batch + o_out, mask=m_out, other=0)
        tl.store(p_steps + o_out, tl.load(p_graph_steps + graph, mask=m_out, other=0), mask=m_out)
    else:
        m_out = o_out < num_weights
        graph = tl.load(p_graph_of_scored + o_out, mask=m_out, other=0)
        b_weight = tl.load(p_graph_weight + graph, mask=m_out, other=0)
        tl.store(p_weight + o_out, b_weight * tl.load(p_share + o_out, mask=m_out, other=0), mask=m_out)


@triton.jit
def _window(p_first, p_items, p_graph, o_member, m_member):
    """The rows of `first` of the graphs that nodes or edges belong to."""
    graph = tl.load(p_graph + o_member, mask=m_member, other=0)
    return p_first + tl.load(p_items + graph, mask=m_member, other=0) * 4
