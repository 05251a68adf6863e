"""What the matmul kernels share: a program's tile of the output, and a block of fp8 codes."""

import triton
import triton.language as tl

from aimills_kernels.kernels.triton_common import decode_fp8


@triton.jit
def tile_of(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """Neighbouring programs share tiles: they go down GROUP_M tiles, then one to the right."""
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group = tl.program_id(0) // (GROUP_M * tiles_n)
    within = tl.program_id(0) % (GROUP_M * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return group * GROUP_M + within % height, within // height


@triton.jit
def load_codes(ptrs, inside, E5M2: tl.constexpr, TAIL: tl.constexpr, DECODE: tl.constexpr):
    """Codes, or the float16 that they are. Masked codes are 0, which is the value 0."""
    if TAIL:
        codes = tl.load(ptrs, mask=inside, other=0 if DECODE else 0.0)
    else:
        codes = tl.load(ptrs)
    if DECODE:
        return decode_fp8(codes, E5M2)
    else:  # noqa: RET505 (without it Triton would compile both)
        return codes
