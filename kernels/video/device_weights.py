"""Windows and weights of the resize in Triton, unnormalised, as csrc/video/weights.h has them.

Positions are exact integers. Products of two sides take 64 bits; of a distance within a window the
lower 32 bits are all of it, and outside the weight is 0 whatever they say.
"""

import triton
import triton.language as tl


@triton.jit
def _unit(size, count, ANTIALIAS: tl.constexpr):
    """Half the filter's unit of length, over the distance of two outputs' centres by `size`."""
    return tl.maximum(size, count) if ANTIALIAS else count


@triton.jit
def window_of(i, there, size, count, FILTER: tl.constexpr, ANTIALIAS: tl.constexpr):
    """The first sample of `size` that output i of `count` is made of, and the one behind the last;
    of an output that is not `there` (0, 0)."""
    REACH: tl.constexpr = (
        6 if FILTER == "lanczos" else 4 if FILTER == "bicubic" else 2 if FILTER == "bilinear" else 1
    )
    center = (2 * i + 1).to(tl.int64) * size
    if FILTER == "nearest":
        begin = center // (2 * count)
        end = begin + 1
    else:
        support = _unit(size, count, ANTIALIAS).to(tl.int64) * REACH
        begin = tl.maximum(center - support + count, 0) // (2 * count)
        end = tl.minimum((center + support + count) // (2 * count), size)
    return tl.where(there, begin, 0).to(tl.int32), tl.where(there, end, 0).to(tl.int32)


@triton.jit
def _sinc(x):
    """sin(pi x) / (pi x). The odd polynomial is Taylor's, good to 6e-8 up to a quarter turn."""
    turns = (x + 0.5).to(tl.int32)
    t = 3.14159265358979 * (x - turns.to(tl.float32))
    s = t * t
    p = -1.9841270e-4 + s * (2.7557319e-6 + s * -2.5052108e-8)
    sine = t * (1.0 + s * (-1.6666667e-1 + s * (8.3333333e-3 + s * p)))
    sine = tl.where((turns & 1) == 1, -sine, sine)
    return tl.where(x == 0.0, 1.0, sine / tl.where(x == 0.0, 1.0, 3.14159265358979 * x))


@triton.jit
def _value(distance, unit, FILTER: tl.constexpr, ANTIALIAS: tl.constexpr):
    """The filter at `distance` half units of length."""
    if FILTER == "area":
        return tl.where((distance > -unit) & (distance <= unit), 1.0, 0.0)
    else:  # noqa: RET505 (without it Triton would compile both)
        x = tl.abs(distance).to(tl.float32) / (2 * unit).to(tl.float32)
        if FILTER == "bilinear":
            value = tl.where(x < 1.0, 1.0 - x, 0.0)
        elif FILTER == "bicubic":
            # Keys' kernel in factors: no digits cancel near the zeros at 1 and 2.
            A: tl.constexpr = -0.5 if ANTIALIAS else -0.75
            inner = (1.0 - x) * (1.0 + x * (1.0 - (A + 2.0) * x))
            outer = A * (x - 1.0) * (x - 2.0) * (x - 2.0)
            value = tl.where(x < 1.0, inner, tl.where(x < 2.0, outer, 0.0))
        else:
            value = tl.where(x < 3.0, _sinc(x) * _sinc(x * (1.0 / 3.0)), 0.0)
        return value


@triton.jit
def weights_of(
    j, i, begin, end, size, count, FILTER: tl.constexpr, ANTIALIAS: tl.constexpr
):  # fmt: skip
    """Of samples j for outputs i, whose windows are given; one is a row and one a column."""
    inside = (j >= begin) & (j < end)
    if FILTER == "nearest":
        return tl.where(inside, 1.0, 0.0)
    else:  # noqa: RET505 (without it Triton would compile both)
        at = ((2 * j + 1).to(tl.int64) * count).to(tl.int32)
        distance = at - ((2 * i + 1).to(tl.int64) * size).to(tl.int32)
        unit = _unit(size, count, ANTIALIAS)
        value = _value(distance, unit, FILTER, ANTIALIAS)
        if FILTER == "bicubic" and not ANTIALIAS:  # beyond the border lies the sample at it
            for k in tl.static_range(1, 3):
                step = 2 * k * count
                before = _value(distance - step, unit, FILTER, ANTIALIAS)
                after = _value(distance + step, unit, FILTER, ANTIALIAS)
                value += tl.where(j == 0, before, 0.0) + tl.where(j == size - 1, after, 0.0)
        return tl.where(inside, value, 0.0)
