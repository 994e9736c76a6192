"""One step of a diffusion sampler behind the network: x_0, the update, the zero mean of graphs, the prior's shift."""

import triton
import triton.language as tl


@triton.jit(
    do_not_specialize=["num_places", "num_frames", "output_n", "output_d", "output_t", "ref_n", "ref_d", "ref_t"]
)
def diffusion_step_kernel(
    p_x, p_before, p_positions, p_output, p_noise, p_ref, p_first, p_coefficients, p_step,
    num_places, num_frames, output_n, output_d, output_t, ref_n, ref_d, ref_t,
    DIM: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_REF: tl.constexpr, HAS_GRAPHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`geotdm_fast.reference.diffusion_step` for one axis d of some places (node n, frame t), numbered n T + t.

    HAS_GRAPHS: a program has all places of a graph, first[g] T .. first[g + 1] T - 1, and subtracts their mean (the
        projection P of an unconditional model); else it has BLOCK places, and nothing is subtracted
    coefficients [steps, 6] - the row `step`, read on the device, is (p, q, a, b, c, s):
        x_0 = p x + q output;   x <- a x + b x_0 + c before + s noise;   before <- x_0;   positions <- x + x_ref
    output_n, output_d, output_t and ref_n, ref_d, ref_t: strides of output and x_ref; all else is contiguous

    P is linear: P of the sum is the sum of P of its terms. So the means of x, before, output and noise are computed in
    a first pass, and subtracted from each term in a second one, without a pass over the result.
    """
    program, d = tl.program_id(0).to(tl.int64), tl.program_id(1)
    p_row = p_coefficients + tl.load(p_step) * 6
    p, q, a = tl.load(p_row), tl.load(p_row + 1), tl.load(p_row + 2)
    b, c, s = tl.load(p_row + 3), tl.load(p_row + 4), tl.load(p_row + 5)
    if HAS_GRAPHS:
        begin = tl.load(p_first + program) * num_frames
        number = (tl.load(p_first + program + 1) * num_frames - begin).to(tl.int32)
    else:
        begin = program * BLOCK
        number = tl.minimum(num_places - begin, BLOCK).to(tl.int32)
    mean_x, mean_before, mean_output, mean_noise = 0.0, 0.0, 0.0, 0.0
    if HAS_GRAPHS:
        sum_x, sum_before = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        sum_output, sum_noise = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for start in tl.range(0, number, BLOCK):
            m_place = start + tl.arange(0, BLOCK) < number
            place = begin + start + tl.arange(0, BLOCK)
            n, t = place // num_frames, place % num_frames
            o_element = (n * DIM + d) * num_frames + t
            sum_x += tl.load(p_x + o_element, mask=m_place, other=0)
            sum_before += tl.load(p_before + o_element, mask=m_place, other=0)
            sum_output += tl.load(p_output + n * output_n + d * output_d + t * output_t, mask=m_place, other=0)
            if HAS_NOISE:
                sum_noise += tl.load(p_noise + o_element, mask=m_place, other=0)
        count = tl.maximum(number, 1)  # a graph without nodes has nothing to take a mean of
        mean_x, mean_before = tl.sum(sum_x) / count, tl.sum(sum_before) / count
        mean_output, mean_noise = tl.sum(sum_output) / count, tl.sum(sum_noise) / count
    for start in tl.range(0, number, BLOCK):
        m_place = start + tl.arange(0, BLOCK) < number
        place = begin + start + tl.arange(0, BLOCK)
        n, t = place // num_frames, place % num_frames
        o_element = (n * DIM + d) * num_frames + t
        x = tl.load(p_x + o_element, mask=m_place, other=0) - mean_x
        before = tl.load(p_before + o_element, mask=m_place, other=0) - mean_before
        output = tl.load(p_output + n * output_n + d * output_d + t * output_t, mask=m_place, other=0) - mean_output
        x_0 = p * x + q * output
        after = a * x + b * x_0 + c * before
        if HAS_NOISE:
            after += s * (tl.load(p_noise + o_element, mask=m_place, other=0) - mean_noise)
        tl.store(p_x + o_element, after, mask=m_place)
        tl.store(p_before + o_element, x_0, mask=m_place)
        if HAS_REF:
            shift = tl.load(p_ref + n * ref_n + d * ref_d + t * ref_t, mask=m_place, other=0)
            tl.store(p_positions + o_element, after + shift, mask=m_place)
