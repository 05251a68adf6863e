"""What Triton's interpreter gets wrong, and its compiler's traps, in one place.

Under TRITON_INTERPRET=1 a bf16 dot multiplies bit patterns, casts to bf16 and fp8 truncate, and
casts from them are wrong for bf16 subnormals and fp8 NaN. These helpers compile to the plain
operation on a GPU and are right in the interpreter too.
"""

import os

import triton
import triton.language as tl

INTERPRET = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def dot(a, b, acc):
    """acc + a @ b in float32; float32 operands are not cut to tf32."""
    if INTERPRET:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """float32 to f32, f16 or bf16, to nearest-even."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        up = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        bits = tl.where(x == x, up, bits)
        return bits.to(tl.float32, bitcast=True).to(dtype)
    return x.to(dtype)


@triton.jit
def widen(x):
    """f16, bf16 or f32 to float32."""
    if INTERPRET and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def product(x, y):
    """x * y in float32, rounded before a sum takes it.

    A sum across lanes adds two lanes' values on both sides. Where the compiler fuses the product
    into that, each side rounds the other's product and not its own, and lanes that should hold one
    sum hold two: which of them is stored is not defined.
    """
    if INTERPRET:
        return x * y
    return tl.inline_asm_elementwise(
        "mul.rn.f32 $0, $1, $2;", "=f,f,f", [x, y], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def promoted_dot(a, b, acc, PROMOTE: tl.constexpr):
    """acc + a @ b for fp8 operands, this block of K summed in the tensor core and added in float32.

    The fp8 tensor cores of sm_89 and sm_90 keep about 14 bits of a running sum. Triton 3.6 leaves
    the whole sum there unless told: its default on sm_90 is max_num_imprecise_acc = 2^30. Naming a
    limit also keeps it from folding the addition back into the dot, on every architecture.
    """
    if PROMOTE:
        return acc + tl.dot(a, b, max_num_imprecise_acc=a.shape[1])
    return tl.dot(a, b, acc)


@triton.jit
def decode_fp8(codes, E5M2: tl.constexpr):
    """e4m3 or e5m2 codes (uint8) to float16, exactly."""
    if E5M2:  # the upper byte of a float16, infinities and NaN included
        return (codes.to(tl.uint16) << 8).to(tl.float16, bitcast=True)
    else:  # noqa: RET505 (without it Triton would compile both)
        return decode_e4m3(codes)


@triton.jit
def decode_e4m3(codes):
    """e4m3 codes (uint8) to float16, exactly.

    Shifted into place the code is a float16 of 2^-8 times the value (the exponent biases are 7 and
    15), subnormals included. The two NaN codes would give 480.
    """
    wide = codes.to(tl.uint16)
    bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
    value = bits.to(tl.float16, bitcast=True) * 256.0
    return tl.where((wide & 0x7F) == 0x7F, float("nan"), value).to(tl.float16)


@triton.jit
def encode_fp8(x, E5M2: tl.constexpr):
    """float32 to e4m3 or e5m2 codes (uint8): nearest-even, beyond the largest value to that one,
    infinities too, and NaN to NaN.

    For sm_80, which has no conversion, and for the interpreter, whose own truncates.
    """
    # Bits of the mantissa that a code drops; of the smallest normal value; of 2^23 times the
    # spacing below it, from where on float32 has that spacing; of the largest value, and its code.
    DROPPED: tl.constexpr = 21 if E5M2 else 20
    NORMAL: tl.constexpr = 0x38800000 if E5M2 else 0x3C800000
    SPACED: tl.constexpr = 0x43000000 if E5M2 else 0x46800000
    LARGEST: tl.constexpr = 0x47600000 if E5M2 else 0x43E00000
    LARGEST_CODE: tl.constexpr = 0x7B if E5M2 else 0x7E
    BIAS: tl.constexpr = 112 << 2 if E5M2 else 120 << 3
    bits = x.to(tl.uint32, bitcast=True)
    size = bits & 0x7FFFFFFF
    odd = (size >> DROPPED) & 1
    normal = ((size + ((1 << (DROPPED - 1)) - 1) + odd) >> DROPPED) - BIAS
    shifted = size.to(tl.float32, bitcast=True) + (128.0 if E5M2 else 16384.0)
    code = tl.where(size < NORMAL, shifted.to(tl.uint32, bitcast=True) - SPACED, normal)
    code = tl.where(size > LARGEST, LARGEST_CODE, code)
    code = tl.where(size > 0x7F800000, 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)
