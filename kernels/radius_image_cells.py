"""The neighbours of every row in periodic boxes by cells of a grid that each box is divided into, and wraps around.

`geotdm_fast.reference.CellSearch` says what is near. As in `radius_images`, in float64 and launched with
enable_fp_fusion=False, so that the result is the same to the last edge; a row is a node in a frame: i * T + t.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.radius_graph import cell_hash, group_hash, group_of


@triton.jit(do_not_specialize=["box_frames"])
def radius_image_grid_kernel(
    p_inverse, p_pbc, p_farthest, p_cutoff, p_per_cell, p_size, box_frames, MOST: tl.constexpr,
):  # fmt: skip
    """Of each box, along each vector: per_cell [boxes, box_frames, 3] float64, how many cells there are in its length,
    and size int32, after how many they repeat, 0 where that direction is open; at most MOST.

    Cells are a little wider than the cutoff reaches: two positions within it, whatever is rounded, are in cells that
    touch. Far out in an open direction they are as much wider as positions there are coarser: farthest [3] is the
    largest of each coordinate.
    """
    place = tl.program_id(0).to(tl.int64)
    cutoff = tl.load(p_cutoff)
    for k in tl.static_range(3):
        a = tl.load(p_inverse + place * 9 + k)
        b = tl.load(p_inverse + place * 9 + 3 + k)
        c = tl.load(p_inverse + place * 9 + 6 + k)
        coarse = tl.abs(a) * tl.load(p_farthest) + tl.abs(b) * tl.load(p_farthest + 1)
        coarse += tl.abs(c) * tl.load(p_farthest + 2)
        width = tl.maximum(cutoff * tl.sqrt(a * a + b * b + c * c) * 1.001953125, coarse / MOST)
        number = tl.minimum(tl.maximum(tl.floor(1 / width), 1.0), MOST)
        is_periodic = tl.load(p_pbc + place // box_frames * 3 + k) != 0
        tl.store(p_per_cell + place * 3 + k, tl.where(is_periodic, number, 1 / width))
        tl.store(p_size + place * 3 + k, tl.where(is_periodic, number, 0.0).to(tl.int32))


@triton.jit(do_not_specialize=["num_rows", "num_frames", "box_frames", "frame_step", "num_keys"])
def radius_image_cells_kernel(
    p_moved, p_batch, p_box, p_inverse, p_per_cell, p_size, p_cell, p_key, num_rows, num_frames, box_frames, frame_step,
    num_keys,
    HAS_BATCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """cell [rows, 3]: of the grid of the row's box; key [rows]: its hash with graph and frame.

    moved [rows, 3]: in their boxes, NaN for what is nowhere; box [N]: of each node; inverse [boxes, box_frames, 3, 3];
    per_cell, size: as above; frame_step: 0 or 1 box a frame.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = row < num_rows
    box = tl.load(p_box + row // num_frames, mask=m_row, other=0)
    place = box * box_frames + (row % num_frames) * frame_step
    x_0 = tl.load(p_moved + row * 3, mask=m_row, other=0)
    x_1 = tl.load(p_moved + row * 3 + 1, mask=m_row, other=0)
    x_2 = tl.load(p_moved + row * 3 + 2, mask=m_row, other=0)
    key = group_hash(group_of(row, p_batch, num_frames, m_row, HAS_BATCH))
    for d in tl.static_range(3):
        p_column = p_inverse + place * 9 + d
        fraction = x_0 * tl.load(p_column) + x_1 * tl.load(p_column + 3) + x_2 * tl.load(p_column + 6)
        number = fraction * tl.load(p_per_cell + place * 3 + d)
        # What is nowhere is near to nothing, in whatever cell.
        cell = tl.where(tl.abs(number) < 4194304.0, tl.floor(number), 0.0).to(tl.int32)
        size = tl.load(p_size + place * 3 + d)
        # A position at a face may be rounded to the other side of it.
        cell = tl.where(size > 0, tl.minimum(tl.maximum(cell, 0), size - 1), cell)
        tl.store(p_cell + row * 3 + d, cell, mask=m_row)
        key = key ^ cell_hash(cell.to(tl.int64), d)
    tl.store(p_key + row, (key & (num_keys - 1)).to(tl.int32), mask=m_row)


@triton.jit(
    do_not_specialize=[
        "num_rows", "num_frames", "box_frames", "frame_step", "num_keys", "capacity", "images_0", "images_1",
        "images_2",
    ],
)  # fmt: skip
def radius_image_search_kernel(
    p_moved, p_batch, p_box, p_cell, p_size, p_shift, p_row, p_bucket, p_limit, p_found, p_degree,
    num_rows, num_frames, box_frames, frame_step, num_keys, capacity, images_0, images_1, images_2,
    HAS_BATCH: tl.constexpr, LOOP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Looks at the cells around each row, 27 where the cutoff is under the box, COLUMNS rows in them at a time.

    cell, size, box: as above; shift [boxes, box_frames, K, 3]: of each image; row [rows]: by key; bucket
    [num_keys + 1]: where each key begins; images_k: images -images_k .. images_k are looked at along vector k.
    found [rows, capacity] int64: col * K + k, image k of row col, in no order; degree [rows]: how many, -1 for what is
    nowhere. A cell around is met once with each of its images; two cells may share a key, so rows of others are
    passed over.
    """
    o_place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_place < num_rows
    row = tl.load(p_row + o_place, mask=m_row, other=0)
    group = group_of(row, p_batch, num_frames, m_row, HAS_BATCH)
    box = tl.load(p_box + row // num_frames, mask=m_row, other=0)
    place = box * box_frames + (row % num_frames) * frame_step
    limit = tl.load(p_limit)
    num_images = (2 * images_0 + 1) * (2 * images_1 + 1) * (2 * images_2 + 1)
    home = (num_images - 1) // 2
    around_1, around_2 = 2 * tl.maximum(images_1, 1) + 1, 2 * tl.maximum(images_2, 1) + 1
    degree = tl.zeros([BLOCK], tl.int32)
    for i_cell in tl.range(0, (2 * tl.maximum(images_0, 1) + 1) * around_1 * around_2):
        step_0 = i_cell // (around_1 * around_2) - tl.maximum(images_0, 1)
        step_1 = (i_cell // around_2) % around_1 - tl.maximum(images_1, 1)
        step_2 = i_cell % around_2 - tl.maximum(images_2, 1)
        cell_0, m_0 = wrapped_cell(p_cell + row * 3, p_size + place * 3, step_0)
        cell_1, m_1 = wrapped_cell(p_cell + row * 3 + 1, p_size + place * 3 + 1, step_1)
        cell_2, m_2 = wrapped_cell(p_cell + row * 3 + 2, p_size + place * 3 + 2, step_2)
        key = group_hash(group) ^ cell_hash(cell_0.to(tl.int64), 0)
        key = key ^ cell_hash(cell_1.to(tl.int64), 1) ^ cell_hash(cell_2.to(tl.int64), 2)
        key = key & (num_keys - 1)
        # Where no images are looked at, the cells beside may still be in one.
        m_image = m_row & (tl.abs(m_0) <= images_0) & (tl.abs(m_1) <= images_1) & (tl.abs(m_2) <= images_2)
        begin = tl.load(p_bucket + key, mask=m_image, other=0)
        end = tl.load(p_bucket + key + 1, mask=m_image, other=0)
        k = ((m_0 + images_0) * (2 * images_1 + 1) + m_1 + images_1) * (2 * images_2 + 1) + m_2 + images_2
        k = tl.where(m_image, k, home)
        p_image = p_shift + (place * num_images + k) * 3
        for start in tl.range(0, tl.max(end - begin), COLUMNS):
            o_col = begin[:, None] + start + tl.arange(0, COLUMNS)[None, :]
            m_col = o_col < end[:, None]
            col = tl.load(p_row + o_col, mask=m_col, other=0)
            near = m_col & (group_of(col, p_batch, num_frames, m_col, HAS_BATCH) == group[:, None])
            near = near & (tl.load(p_cell + col * 3) == cell_0[:, None])
            near = near & (tl.load(p_cell + col * 3 + 1) == cell_1[:, None])
            near = near & (tl.load(p_cell + col * 3 + 2) == cell_2[:, None])
            square = squared_between(p_moved + row * 3, p_moved + col * 3, p_image)
            square += squared_between(p_moved + row * 3 + 1, p_moved + col * 3 + 1, p_image + 1)
            square += squared_between(p_moved + row * 3 + 2, p_moved + col * 3 + 2, p_image + 2)
            near = near & (square <= limit)
            if not LOOP:
                near = near & ((row[:, None] != col) | (k != home)[:, None])
            number = near.to(tl.int32)
            to = degree[:, None] + tl.cumsum(number, 1) - number
            p_to = p_found + (row * capacity)[:, None] + to
            tl.store(p_to, col * num_images + k[:, None], mask=near & (to < capacity))
            degree += tl.sum(number, 1)
    here = tl.load(p_moved + row * 3)
    tl.store(p_degree + row, tl.where(here == here, degree, -1), mask=m_row)


@triton.jit(do_not_specialize=["num_images", "capacity"])
def radius_image_order_kernel(
    p_found, p_degree, p_away, p_number, p_sender, p_image, num_images, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    """What was found of a row, ascending: sender [rows, capacity] and image [rows, capacity, 3] of each.

    away [rows, 3] int8: how many boxes a row was moved; number [K, 3] int8: of the images. Each counts those before it.
    """
    blocks = tl.cdiv(capacity, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    o_own = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    count = tl.minimum(tl.load(p_degree + row), capacity)
    p_row = p_found + row * capacity
    m_own = o_own < count
    own = tl.load(p_row + o_own, mask=m_own, other=0)
    rank = tl.zeros([BLOCK], tl.int32)
    for start in tl.range(0, count, BLOCK):
        o_other = start + tl.arange(0, BLOCK)
        other = tl.load(p_row + o_other, mask=o_other < count, other=9223372036854775807)
        rank += tl.sum((other[None, :] < own[:, None]).to(tl.int32), 1)
    col = own // num_images
    k = own - col * num_images
    to = row * capacity + rank
    tl.store(p_sender + to, col.to(tl.int32), mask=m_own)
    for d in tl.static_range(3):
        counted = tl.load(p_number + k * 3 + d) - tl.load(p_away + col * 3 + d)
        tl.store(p_image + to * 3 + d, tl.load(p_away + row * 3 + d) + counted, mask=m_own)


@triton.jit
def wrapped_cell(p_cell, p_size, step):
    """The cell `step` cells on, and in which image of the box it is."""
    cell, size = tl.load(p_cell) + step, tl.load(p_size)
    least = tl.maximum(size, 1)
    m = tl.where(size > 0, (cell + 128 * least) // least - 128, 0)
    return cell - m * size, m


@triton.jit
def squared_between(p_row, p_col, p_shift):
    """Of one coordinate: (x_i - x_j) - shift, squared."""
    difference = (tl.load(p_row)[:, None] - tl.load(p_col)) - tl.load(p_shift)[:, None]
    return difference * difference
