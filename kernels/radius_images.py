"""The neighbours of every row in periodic boxes: positions moved into their box, then all images of all pairs.

`geotdm_fast.reference.CellSearch` says what is near. All in float64, launched with enable_fp_fusion=False: each
operation is rounded, as there. A row is a node in a frame: i * T + t.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "num_frames", "box_frames", "frame_step", "most_away"])
def radius_wrap_kernel(
    p_x, p_box, p_vectors, p_inverse, p_pbc, p_moved, p_away, num_rows, num_frames, box_frames, frame_step, most_away,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """moved [rows, 3]: x in its box, NaN where x is nowhere; away [rows, 3]: how many boxes it was moved, 0 there.

    box [N]: of each node; vectors, inverse [boxes, box_frames, 3, 3]; pbc [boxes, 3]; frame_step: 0 or 1 box a frame.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = row < num_rows
    box = tl.load(p_box + row // num_frames, mask=m_row, other=0)
    place = (box * box_frames + (row % num_frames) * frame_step) * 9
    x_0 = tl.load(p_x + row * 3, mask=m_row, other=0).to(tl.float64)
    x_1 = tl.load(p_x + row * 3 + 1, mask=m_row, other=0).to(tl.float64)
    x_2 = tl.load(p_x + row * 3 + 2, mask=m_row, other=0).to(tl.float64)
    w_0 = boxes_away(x_0, x_1, x_2, p_inverse + place, p_pbc + box * 3)
    w_1 = boxes_away(x_0, x_1, x_2, p_inverse + place + 1, p_pbc + box * 3 + 1)
    w_2 = boxes_away(x_0, x_1, x_2, p_inverse + place + 2, p_pbc + box * 3 + 2)
    infinite = float("inf")
    usable = (tl.abs(x_0) < infinite) & (tl.abs(x_1) < infinite) & (tl.abs(x_2) < infinite)
    usable = usable & (tl.abs(w_0) <= most_away) & (tl.abs(w_1) <= most_away) & (tl.abs(w_2) <= most_away)
    w_0, w_1, w_2 = tl.where(usable, w_0, 0.0), tl.where(usable, w_1, 0.0), tl.where(usable, w_2, 0.0)
    moved(p_moved + row * 3, x_0, w_0, w_1, w_2, p_vectors + place, usable, m_row)
    moved(p_moved + row * 3 + 1, x_1, w_0, w_1, w_2, p_vectors + place + 1, usable, m_row)
    moved(p_moved + row * 3 + 2, x_2, w_0, w_1, w_2, p_vectors + place + 2, usable, m_row)
    tl.store(p_away + row * 3, w_0.to(tl.int8), mask=m_row)
    tl.store(p_away + row * 3 + 1, w_1.to(tl.int8), mask=m_row)
    tl.store(p_away + row * 3 + 2, w_2.to(tl.int8), mask=m_row)


@triton.jit(do_not_specialize=["box_frames", "images_0", "images_1", "images_2"])
def radius_shifts_kernel(
    p_vectors, p_pbc, p_shift, p_number, box_frames, images_0, images_1, images_2, BLOCK: tl.constexpr,
):  # fmt: skip
    """Images -images_k .. images_k along each vector: number [K, 3] int8 in lexicographic order, shift
    [boxes, box_frames, K, 3] of each in every box, NaN along a direction that is open."""
    width_1, width_2 = 2 * images_1 + 1, 2 * images_2 + 1
    num_images = (2 * images_0 + 1) * width_1 * width_2
    num_blocks = tl.cdiv(num_images, BLOCK)
    place = (tl.program_id(0) // num_blocks).to(tl.int64)
    k = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    m_0, m_1, m_2 = k // (width_1 * width_2) - images_0, (k // width_2) % width_1 - images_1, k % width_2 - images_2
    m_k = k < num_images
    p_flag = p_pbc + place // box_frames * 3
    exists = ((m_0 == 0) | (tl.load(p_flag) != 0)) & ((m_1 == 0) | (tl.load(p_flag + 1) != 0))
    exists = exists & ((m_2 == 0) | (tl.load(p_flag + 2) != 0))
    for d in tl.static_range(3):
        p_column = p_vectors + place * 9 + d
        shift = m_0.to(tl.float64) * tl.load(p_column) + m_1.to(tl.float64) * tl.load(p_column + 3)
        shift += m_2.to(tl.float64) * tl.load(p_column + 6)
        tl.store(p_shift + (place * num_images + k) * 3 + d, tl.where(exists, shift, float("nan")), mask=m_k)
    m_k = k < tl.where(place == 0, num_images, 0)
    tl.store(p_number + k * 3, m_0.to(tl.int8), mask=m_k)
    tl.store(p_number + k * 3 + 1, m_1.to(tl.int8), mask=m_k)
    tl.store(p_number + k * 3 + 2, m_2.to(tl.int8), mask=m_k)


@triton.jit(
    do_not_specialize=["num_nodes", "num_frames", "num_images", "box_frames", "frame_step", "capacity"],
)
def radius_images_kernel(
    p_moved, p_away, p_node, p_begin, p_end, p_box, p_shift, p_number, p_limit, p_sender, p_image, p_degree,
    num_nodes, num_frames, num_images, box_frames, frame_step, capacity,
    LOOP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Candidates of a row are c * num_images + k, image k of the c-th node: so senders come out in their order.

    node, begin, end: as in `radius_pairs_kernel`; shift, number: as above. sender, image: the first of each row's;
    degree: how many, -1 for what is nowhere.
    """
    num_blocks = tl.cdiv(num_nodes, BLOCK)
    t = tl.program_id(0) // num_blocks
    o_row = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_row < num_nodes
    row = tl.load(p_node + o_row, mask=m_row, other=0) * num_frames + t
    begin = tl.load(p_begin + o_row, mask=m_row, other=num_nodes).to(tl.int32)
    end = tl.load(p_end + o_row, mask=m_row, other=0).to(tl.int32)
    limit = tl.load(p_limit)
    home = (num_images - 1) // 2
    degree = tl.zeros([BLOCK], tl.int32)
    for start in tl.range(tl.min(begin) * num_images, tl.max(end) * num_images, COLUMNS):
        o_candidate = start + tl.arange(0, COLUMNS)
        o_col = o_candidate // num_images
        k = o_candidate - o_col * num_images
        m_col = o_col < num_nodes
        node = tl.load(p_node + o_col, mask=m_col, other=0)
        col = node * num_frames + t
        box = tl.load(p_box + node, mask=m_col, other=0)
        p_k = p_shift + ((box * box_frames + t * frame_step) * num_images + k) * 3
        square = squared_along(p_moved + row * 3, p_moved + col * 3, p_k)
        square += squared_along(p_moved + row * 3 + 1, p_moved + col * 3 + 1, p_k + 1)
        square += squared_along(p_moved + row * 3 + 2, p_moved + col * 3 + 2, p_k + 2)
        near = (square <= limit) & (o_col[None, :] >= begin[:, None]) & (o_col[None, :] < end[:, None])
        if not LOOP:
            near = near & ((o_row[:, None] != o_col[None, :]) | (k != home)[None, :])
        number = near.to(tl.int32)
        place = degree[:, None] + tl.cumsum(number, 1) - number
        near = near & (place < capacity)
        place = (row * capacity)[:, None] + place
        tl.store(p_sender + place, col.to(tl.int32) + tl.zeros_like(place).to(tl.int32), mask=near)
        for d in tl.static_range(3):
            counted = tl.load(p_number + k * 3 + d) - tl.load(p_away + col * 3 + d)
            tl.store(p_image + place * 3 + d, tl.load(p_away + row * 3 + d)[:, None] + counted[None, :], mask=near)
        degree += tl.sum(number, 1)
    here = tl.load(p_moved + row * 3)
    tl.store(p_degree + row, tl.where(here == here, degree, -1), mask=m_row)


@triton.jit
def boxes_away(x_0, x_1, x_2, p_column, p_flag):
    """The whole number of boxes along one vector; p_column: of the inverse."""
    s = x_0 * tl.load(p_column) + x_1 * tl.load(p_column + 3) + x_2 * tl.load(p_column + 6)
    return tl.where(tl.load(p_flag) != 0, tl.floor(s), 0.0)


@triton.jit
def moved(p_to, x, w_0, w_1, w_2, p_column, usable, m_row):
    """Stores one coordinate in the box; p_column: that coordinate of the vectors."""
    shift = w_0 * tl.load(p_column) + w_1 * tl.load(p_column + 3) + w_2 * tl.load(p_column + 6)
    tl.store(p_to, tl.where(usable, x - shift, float("nan")), mask=m_row)


@triton.jit
def squared_along(p_row, p_col, p_shift):
    """Of one coordinate of every pair: (x_i - x_j) - shift, squared."""
    difference = (tl.load(p_row)[:, None] - tl.load(p_col)[None, :]) - tl.load(p_shift)[None, :]
    return difference * difference
