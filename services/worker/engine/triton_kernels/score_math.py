"""What the attention kernels do to scores: powers of two instead of e, and the soft cap. Importing imports Triton."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def capped(scores, soft_cap):
    """soft_cap * tanh(scores / soft_cap), as 1 - 2 / (e^2x + 1): right where the power is infinite or zero."""
    return soft_cap * (1.0 - 2.0 / (tl.exp2(scores / soft_cap * (2.0 * LOG2_E)) + 1.0))
