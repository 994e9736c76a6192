"""The neighbours of every row within a cutoff, in a table of fixed width: all pairs, or cells of a grid.

A row is a node in a frame: i * T + t. Launched with enable_fp_fusion=False: each operation of a squared distance is
rounded, as in the reference, so that what lies at the cutoff is decided alike.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_nodes", "num_frames", "capacity"])
def radius_pairs_kernel(
    p_x, p_node, p_begin, p_end, p_limit, p_sender, p_degree, num_nodes, num_frames, capacity,
    DIM: tl.constexpr, LOOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Looks at all pairs of a graph. node [N]: graph by graph, ascending; a node at place o is among begin .. end - 1.

    sender [N * T, capacity]: the first of each row's senders, ascending; degree [N * T]: how many there are.
    """
    num_blocks = tl.cdiv(num_nodes, BLOCK)
    t = tl.program_id(0) // num_blocks
    o_row = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_row < num_nodes
    row = tl.load(p_node + o_row, mask=m_row, other=0) * num_frames + t
    begin = tl.load(p_begin + o_row, mask=m_row, other=num_nodes)
    end = tl.load(p_end + o_row, mask=m_row, other=0)
    limit = tl.load(p_limit)
    degree = tl.zeros([BLOCK], tl.int32)
    for first in tl.range(tl.min(begin).to(tl.int32), tl.max(end).to(tl.int32), BLOCK):
        o_col = first + tl.arange(0, BLOCK)
        col = tl.load(p_node + o_col, mask=o_col < num_nodes, other=0) * num_frames + t
        square = squared_distance(p_x + (row * DIM)[:, None], p_x + (col * DIM)[None, :], DIM)
        near = (square <= limit) & (o_col[None, :] >= begin[:, None]) & (o_col[None, :] < end[:, None])
        if not LOOP:
            near = near & (o_row[:, None] != o_col[None, :])
        number = near.to(tl.int32)
        place = degree[:, None] + tl.cumsum(number, 1) - number
        p_place = p_sender + (row * capacity)[:, None] + place
        tl.store(p_place, (col.to(tl.int32) + tl.zeros_like(place)), mask=near & (place < capacity))
        degree += tl.sum(number, 1)
    tl.store(p_degree + row, degree, mask=m_row)


@triton.jit(do_not_specialize=["num_rows", "num_frames", "num_keys"])
def radius_cells_kernel(
    p_x, p_batch, p_low, p_size, p_cell, p_key, num_rows, num_frames, num_keys,
    DIM: tl.constexpr, HAS_BATCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """cell [rows, 3]: of a grid from low [DIM] with cells of size []; key [rows]: its hash with graph and frame."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = row < num_rows
    group = group_of(row, p_batch, num_frames, m_row, HAS_BATCH)
    size = tl.load(p_size)
    key = group_hash(group)
    for d in tl.static_range(DIM):
        value = tl.load(p_x + row * DIM + d, mask=m_row, other=0).to(size.dtype)
        place = (value - tl.load(p_low + d)) / size
        # What is not finite is near to nothing, in whatever cell.
        cell = tl.where(tl.abs(place) < 1e6, tl.floor(place), 0).to(tl.int64)
        tl.store(p_cell + row * DIM + d, cell.to(tl.int32), mask=m_row)
        key = key ^ cell_hash(cell, d)
    tl.store(p_key + row, (key & (num_keys - 1)).to(tl.int32), mask=m_row)


@triton.jit(do_not_specialize=["num_rows", "num_frames", "num_keys", "capacity"])
def radius_search_kernel(
    p_x, p_batch, p_cell, p_row, p_bucket, p_limit, p_sender, p_degree, num_rows, num_frames, num_keys, capacity,
    DIM: tl.constexpr, HAS_BATCH: tl.constexpr, LOOP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Looks at the 3^DIM cells around each row. row [rows]: by key; bucket [num_keys + 1]: where each key begins.

    Two cells may share a key: only rows of the cell that is looked for count, so nothing is found twice. sender: as
    above, but in no order.
    """
    o_place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_place < num_rows
    row = tl.load(p_row + o_place, mask=m_row, other=0)
    group = group_of(row, p_batch, num_frames, m_row, HAS_BATCH)
    limit = tl.load(p_limit)
    degree = tl.zeros([BLOCK], tl.int32)
    for i_cell in tl.range(0, 3**DIM):
        key = group_hash(group)
        for d in tl.static_range(DIM):
            key = key ^ cell_hash(neighbour_cell(p_cell, row, i_cell, d, DIM), d)
        key = key & (num_keys - 1)
        o_col = tl.load(p_bucket + key, mask=m_row, other=0)
        end = tl.load(p_bucket + key + 1, mask=m_row, other=0)
        for i_col in tl.range(0, tl.max(end - o_col)):
            m_col = o_col + i_col < end
            col = tl.load(p_row + o_col + i_col, mask=m_col, other=0)
            near = m_col & (group_of(col, p_batch, num_frames, m_col, HAS_BATCH) == group)
            for d in tl.static_range(DIM):
                near = near & (tl.load(p_cell + col * DIM + d) == neighbour_cell(p_cell, row, i_cell, d, DIM))
            near = near & (squared_distance(p_x + row * DIM, p_x + col * DIM, DIM) <= limit)
            if not LOOP:
                near = near & (row != col)
            tl.store(p_sender + row * capacity + degree, col.to(tl.int32), mask=near & (degree < capacity))
            degree += near.to(tl.int32)
    tl.store(p_degree + row, degree, mask=m_row)


@triton.jit
def squared_distance(p_a, p_b, DIM: tl.constexpr):
    """Of rows at p_a and p_b, coordinates added in order; 16-bit ones in float32."""
    total = squared_difference(p_a, p_b)
    for d in tl.static_range(1, DIM):
        total += squared_difference(p_a + d, p_b + d)
    return total


@triton.jit
def squared_difference(p_a, p_b):
    a, b = tl.load(p_a), tl.load(p_b)
    if a.dtype.primitive_bitwidth == 16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    difference = a - b
    return difference * difference


@triton.jit
def group_of(row, p_batch, num_frames, m_row, HAS_BATCH: tl.constexpr):
    """A number for the graph and frame of each row."""
    group = row % num_frames
    if HAS_BATCH:
        group += tl.load(p_batch + row // num_frames, mask=m_row, other=0).to(tl.int64) * num_frames
    return group


@triton.jit
def group_hash(group):
    return (group % 2147483648) * 2654435761


@triton.jit
def cell_hash(cell, d: tl.constexpr):
    """Large primes, as in Teschner et al., Optimized Spatial Hashing for Collision Detection (2003)."""
    if d == 0:
        return cell * 73856093
    elif d == 1:
        return cell * 19349663
    else:
        return cell * 83492791


@triton.jit
def neighbour_cell(p_cell, row, i_cell, d: tl.constexpr, DIM: tl.constexpr):
    """Coordinate d of the i-th of the cells around that of each row."""
    POWER: tl.constexpr = 3**d
    return tl.load(p_cell + row * DIM + d).to(tl.int64) + (i_cell // POWER) % 3 - 1
