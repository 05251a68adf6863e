"""What follows the colour matrix before levels are rounded, in Triton: HDR to SDR, and a jitter.

tone.py, the reference, names the standards; csrc/video/tone.h has the same polynomials. Triton's
own exp2 and log2 are the GPU's approximations, whose error the powers of HDR would make too large.
"""

import triton
import triton.language as tl


@triton.jit
def power_of_two(x):
    """Within 2e-7 of its size, for x from -126 to 127. A minimax fit of (2^f - 1) / f."""
    x = tl.where(x > -126.0, x, -126.0)
    whole = (x + 128.5).to(tl.int32) - 128
    f = x - whole.to(tl.float32)
    p = 0.009618031 + f * (0.0013390867 + f * 0.0001546973)
    p = 0.6931472 + f * (0.2402265 + f * (0.05550357 + f * p))
    return ((whole + 127) << 23).to(tl.float32, bitcast=True) * (1.0 + f * p)


@triton.jit
def log_two(x):
    """Within 1e-7, for positive x that is no subnormal. A minimax fit of log2(1 + t) / t."""
    bits = x.to(tl.int32, bitcast=True)
    whole = (bits - 0x3F3504F3) >> 23  # of sqrt(1/2)
    t = (bits - (whole << 23)).to(tl.float32, bitcast=True) - 1.0
    high = 0.20429616 + t * (-0.1906129 + t * (0.1878259 + t * -0.112973355))
    high = 0.28858528 + t * (-0.23963657 + t * high)
    p = 1.442695 + t * (-0.72134733 + t * (0.4808979 + t * (-0.36069643 + t * high)))
    return whole.to(tl.float32) + t * p


@triton.jit
def power(x, e):
    """For x from 0 on, with 0 for what is next to it."""
    return power_of_two(e * log_two(tl.where(x > 1e-30, x, 1e-30)))


@triton.jit
def _within_one(x):
    x = tl.where(x > 0.0, x, 0.0)
    return tl.where(x < 1.0, x, 1.0)


@triton.jit
def _luma(r, g, b):
    return 0.2627 * r + 0.6780 * g + 0.0593 * b


# ---- display light over 1000 cd/m2, to the power of 1 / 2.4


@triton.jit
def _pq_gamma(signal):
    n = power(_within_one(signal), 1.0 / 78.84375)
    above = n - 0.8359375
    ratio = tl.where(above > 0.0, above, 0.0) / (18.8515625 - 18.6875 * n)
    # 10^(1 / 2.4) and 1 / (2.4 m1)
    return _within_one(2.6101572 * power(ratio, 2.6155811))


@triton.jit
def _hlg_scene(signal):
    x = _within_one(signal)
    # (x - c) / (a ln 2)
    high = (power_of_two((x - 0.55991073) * 8.0672857) + 0.28466892) / 12.0
    return tl.where(x <= 0.5, x * x * (1.0 / 3.0), high)


@triton.jit
def _hdr_gamma(r, g, b, TRANSFER: tl.constexpr):
    if TRANSFER == "pq":
        return _pq_gamma(r), _pq_gamma(g), _pq_gamma(b)
    else:  # noqa: RET505 (without it Triton would compile both)
        r, g, b = _hlg_scene(r), _hlg_scene(g), _hlg_scene(b)
        gain = power(_luma(r, g, b), 0.2 / 2.4)
        return gain * power(r, 1 / 2.4), gain * power(g, 1 / 2.4), gain * power(b, 1 / 2.4)


# ---- to SDR


@triton.jit
def _knee(x):
    middle = (-1.1510 * x + 2.7811) * x - 0.6302
    high = 0.5 * x + 0.5
    return tl.where(x <= 0.7399, 1.0770 * x, tl.where(x < 0.9909, middle, high))


@triton.jit
def _tone_mapped(r, g, b):
    luma = _luma(r, g, b)
    # The logarithms to base 2 of rho for 1000 and 100 cd/m2, and rho - 1.
    bright = log_two(1.0 + 12.2597979 * luma) * (1.0 / 3.7289869)
    sdr = (power_of_two(_knee(bright) * 2.5101917) - 1.0) * (1.0 / 4.6969577)
    gain = sdr / (1.1 * tl.where(luma > 1e-9, luma, 1e-9))
    red, blue = gain * (r - luma), gain * (b - luma)
    base = sdr - tl.where(red > 0.0, red * (0.1 / 1.4746), 0.0)
    green = base - red * (0.2627 / 0.6780) - blue * (0.0593 / 0.6780)
    return base + red, green, base + blue


@triton.jit
def _linear_of(signal):
    return power(_within_one(signal), 2.4)


@triton.jit
def _level_of(light):
    return 255.0 * power(_within_one(light), 1 / 2.4)


@triton.jit
def sdr_levels(r, g, b, TRANSFER: tl.constexpr):
    """Levels of the signal to levels of SDR, BT.709."""
    one = 1.0 / 255.0
    r, g, b = _hdr_gamma(r * one, g * one, b * one, TRANSFER)
    r, g, b = _tone_mapped(r, g, b)
    r, g, b = _linear_of(r), _linear_of(g), _linear_of(b)
    red = _level_of(1.66049100 * r - 0.58764114 * g - 0.07284986 * b)
    green = _level_of(-0.12455047 * r + 1.13289990 * g - 0.00834942 * b)
    blue = _level_of(-0.01815076 * r - 0.10057890 * g + 1.11872966 * b)
    return red, green, blue
