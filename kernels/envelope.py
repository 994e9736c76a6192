"""How much an edge counts by its length, as `geotdm_fast.reference.envelope` has it."""

import triton
import triton.language as tl


@triton.jit
def envelope(square, inverse_cutoff):
    """u(t) of t = sqrt(square) / cutoff: 1 at 0, 0 from 1 on."""
    t = tl.minimum(tl.sqrt(square) * inverse_cutoff, 1.0)
    rest = 1 - t
    return rest * rest * rest * (((((21 * t + 15) * t + 10) * t + 6) * t + 3) * t + 1)


@triton.jit
def envelope_slope(square, inverse_cutoff):
    """du/dr over r, which is du/dt / (t cutoff^2) = -168 t^4 (1 - t)^2 / cutoff^2."""
    t = tl.minimum(tl.sqrt(square) * inverse_cutoff, 1.0)
    slope = t * t * (1 - t) * inverse_cutoff
    return -168 * slope * slope
