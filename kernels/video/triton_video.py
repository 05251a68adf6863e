"""Decoded frames to a normalised tensor in Triton, for any GPU from sm_80.

    out = ((down @ levels) @ across) / sums of the weights

A program makes a tile of positions of a frame's output, padding among them. It walks over the
source samples that the tile is made of in blocks, converts each to levels and multiplies it with
blocks of both filters' weights, which it computes itself: no table, no scratch, one launch.

Levels are whole and below 256, so float16 holds them; a weight is the sum of two float16 numbers to
2^-25, so the tensor cores make the first product nearly as exact as float32. The second takes three
products of tf32, to some 2^-21 of a sum.
"""

import inspect
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from aimills_kernels.kernels.triton_common import INTERPRET, dot, encode_fp8, round_to
from aimills_kernels.kernels.video import config, problem
from aimills_kernels.kernels.video.device_tone import sdr_levels
from aimills_kernels.kernels.video.device_weights import weights_of, window_of
from aimills_kernels.kernels.video.problem import Arguments
from aimills_kernels.kernels.video.ragged import RaggedArguments

_KEPT: dict[tuple, tuple] = {}
_KEPT_MOST = 256


@triton.jit
def _to_level(x):
    """Clamped and rounded half to even: adding 1.5 * 2^23 drops the fraction."""
    x = tl.where(x > 0.0, x, 0.0)
    x = tl.where(x < 255.0, x, 255.0)
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _sample(position, first, step, begin, end):
    """The sample of [begin, end) that is stored at a position, and whether there is one."""
    i = (position - first) * step
    there = (i >= begin) & (i < end)
    return tl.where(there, i, 0), there


@triton.jit
def _place(position, pixel, patch, group, pixels, patches):
    """Where a position of an axis is stored, in elements: `place_at` of csrc/video/params.h."""
    cell = position // pixels
    block = cell // patches
    place = (position - cell * pixels).to(tl.int64) * pixel
    return place + (cell - block * patches).to(tl.int64) * patch + block.to(tl.int64) * group


# ---- levels


@triton.jit
def _codes(plane, row, col, row_stride, col_stride, mask, shift):
    at = row.to(tl.int64) * row_stride + col.to(tl.int64) * col_stride
    return tl.load(plane + at, mask=mask, other=0).to(tl.int32) >> shift


@triton.jit
def _chroma_taps(at, size, half, even, odd):
    """The chroma sample of a luma sample, its neighbour on the other side, and how many quarters
    that one takes. Where an axis is not halved, `even` and `odd` are 0."""
    near = at >> half
    last = ((size + half) >> half) - 1
    is_odd = (at & 1) == 1
    far = tl.where(is_odd, tl.minimum(near + 1, last), tl.maximum(near - 1, 0))
    return near, far, tl.where(is_odd, odd, even)


@triton.jit
def _chroma(
    plane, rows, cols, row_stride, col_stride, mask, shift, zero,
    ROWS_BLEND: tl.constexpr, COLS_BLEND: tl.constexpr,
):  # fmt: skip
    """In sixteenths of a code, centred on zero. `rows`, `cols` are what `_chroma_taps` gives."""
    near_row, far_row, row_weight = rows
    near_col, far_col, col_weight = cols
    value = _codes(plane, near_row, near_col, row_stride, col_stride, mask, shift)
    if ROWS_BLEND:
        far = _codes(plane, far_row, near_col, row_stride, col_stride, mask, shift)
        value = value * (4 - row_weight) + far * row_weight
    else:
        value = value * 4
    if COLS_BLEND:
        other = _codes(plane, near_row, far_col, row_stride, col_stride, mask, shift)
        if ROWS_BLEND:
            far = _codes(plane, far_row, far_col, row_stride, col_stride, mask, shift)
            other = other * (4 - row_weight) + far * row_weight
        else:
            other = other * 4
        value = value * (4 - col_weight) + other * col_weight
    else:
        value = value * 4
    return (value - zero).to(tl.float32)


# ---- the two filters


@triton.jit
def _weighted(high, low, level):
    """(high + low) @ level, to float32: a limit keeps its sum out of the tensor core's running one,
    which is not rounded to nearest."""
    level = level.to(tl.float16)
    if INTERPRET:
        return dot(high, level, dot(low, level, 0.0))
    else:  # noqa: RET505 (without it Triton would compile both)
        total = tl.dot(low, level, max_num_imprecise_acc=level.shape[0])
        return tl.dot(high, level, total, max_num_imprecise_acc=level.shape[0])


@triton.jit
def _product(lines, across):
    """lines @ across from three products of halves with 11 bits each, likewise."""
    return tl.dot(
        lines, across, input_precision="tf32x3", max_num_imprecise_acc=across.shape[0]
    )  # fmt: skip


# ---- the store


@triton.jit
def _store(
    out, at, mask, covered, total, scale, pad_level, mean_hi, mean_lo, factor, copies, copy_stride,
    E4M3: tl.constexpr,
):  # fmt: skip
    level = tl.where(covered, _to_level(total * scale), pad_level)
    x = (level - mean_hi - mean_lo) * factor
    for copy in range(copies):
        there = out + at + tl.cast(copy, tl.int64) * copy_stride
        if E4M3:
            tl.store(there, encode_fp8(x, False), mask=mask)
        elif out.dtype.element_ty == tl.uint8:
            tl.store(there, x.to(tl.uint8), mask=mask)
        else:
            tl.store(there, round_to(x, out.dtype.element_ty), mask=mask)


def _for_any_numbers(kernel: Any) -> Any:
    """One kernel for all sizes and strides: constants alone, in capitals, make another."""
    names = [name for name in inspect.signature(kernel).parameters if not name.isupper()]
    return triton.jit(kernel, do_not_specialize=names)


@_for_any_numbers
def _video_to_tensor_kernel(
    y, u, v, out, tiles_y, tiles_x,
    y_frame, y_row, y_col, u_frame, u_row, u_col, v_frame, v_row, v_col,
    # Of time, of the resized picture's rows and of its columns: a StoreAxis of csrc/video/params.h.
    t_pixel, t_patch, t_group, t_pixels, t_patches, t_end, t_length,
    d_pixel, d_patch, d_group, d_first, d_step, d_pixels, d_patches, d_end, d_length,
    a_pixel, a_patch, a_group, a_first, a_step, a_pixels, a_patches, a_end, a_length,
    clip, channel, height, width, resized_height, resized_width, first_row, first_col,
    top, left, crop_height, crop_width,
    half_row, half_col, shift, zero, even_row, odd_row, even_col, odd_col, pad_level,
    y_scale, y_shift, r_v, g_u, g_v, b_u,
    mean_hi_r, mean_hi_g, mean_hi_b, mean_lo_r, mean_lo_g, mean_lo_b, scale_r, scale_g, scale_b,
    m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11,
    RGB: tl.constexpr, ROWS_BLEND: tl.constexpr, COLS_BLEND: tl.constexpr,
    TRANSFER: tl.constexpr, JITTER: tl.constexpr, FILTER: tl.constexpr, ANTIALIAS: tl.constexpr,
    E4M3: tl.constexpr, OUT_ROWS: tl.constexpr, OUT_COLS: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    tile_row = tile // tiles_x
    frame = (tile_row // tiles_y).to(tl.int64)
    row_at = tile_row % tiles_y * OUT_ROWS + tl.arange(0, OUT_ROWS)
    col_at = tile % tiles_x * OUT_COLS + tl.arange(0, OUT_COLS)
    out_row, row_there = _sample(row_at, d_first, d_step, first_row, d_end)
    out_col, col_there = _sample(col_at, a_first, a_step, first_col, a_end)
    row_begin, row_end = window_of(
        out_row, row_there, crop_height, resized_height, FILTER, ANTIALIAS
    )
    col_begin, col_end = window_of(out_col, col_there, crop_width, resized_width, FILTER, ANTIALIAS)
    rows_from = tl.min(tl.where(row_there, row_begin, crop_height), 0)
    cols_from = tl.min(tl.where(col_there, col_begin, crop_width), 0)
    rows_to, cols_to = tl.max(row_end, 0), tl.max(col_end, 0)
    y += frame * y_frame
    u += frame * u_frame
    v += frame * v_frame
    red = tl.zeros([OUT_ROWS, OUT_COLS], tl.float32)
    green = tl.zeros([OUT_ROWS, OUT_COLS], tl.float32)
    blue = tl.zeros([OUT_ROWS, OUT_COLS], tl.float32)
    down_sum = tl.zeros([OUT_ROWS], tl.float32)
    across_sum = tl.zeros([OUT_COLS], tl.float32)
    for begin_col in range(cols_from, cols_to, COLS):
        col = begin_col + tl.arange(0, COLS)
        at_col = (left + col)[None, :]
        cols = _chroma_taps(at_col, width, half_col, even_col, odd_col)
        lines_r = tl.zeros([OUT_ROWS, COLS], tl.float32)
        lines_g = tl.zeros([OUT_ROWS, COLS], tl.float32)
        lines_b = tl.zeros([OUT_ROWS, COLS], tl.float32)
        down_sum = tl.zeros([OUT_ROWS], tl.float32)
        for begin_row in range(rows_from, rows_to, ROWS):
            row = begin_row + tl.arange(0, ROWS)
            at_row = (top + row)[:, None]
            there = (row < rows_to)[:, None] & (col < cols_to)[None, :]
            first = _codes(y, at_row, at_col, y_row, y_col, there, shift).to(tl.float32)
            if RGB:
                r = first * y_scale
                g = _codes(u, at_row, at_col, u_row, u_col, there, shift).to(tl.float32) * y_scale
                b = _codes(v, at_row, at_col, v_row, v_col, there, shift).to(tl.float32) * y_scale
            else:
                rows = _chroma_taps(at_row, height, half_row, even_row, odd_row)
                cb = _chroma(u, rows, cols, u_row, u_col, there, shift, zero, ROWS_BLEND,
                             COLS_BLEND)  # fmt: skip
                cr = _chroma(v, rows, cols, v_row, v_col, there, shift, zero, ROWS_BLEND,
                             COLS_BLEND)  # fmt: skip
                luma = first * y_scale + y_shift
                r = luma + r_v * cr
                g = luma + g_v * cr + g_u * cb
                b = luma + b_u * cb
            if TRANSFER != "sdr":
                r, g, b = sdr_levels(r, g, b, TRANSFER)
            if JITTER:
                from_r, from_g, from_b = r, g, b
                r = m0 * from_r + m1 * from_g + m2 * from_b + m3
                g = m4 * from_r + m5 * from_g + m6 * from_b + m7
                b = m8 * from_r + m9 * from_g + m10 * from_b + m11
            down = weights_of(row[None, :], out_row[:, None], row_begin[:, None], row_end[:, None],
                              crop_height, resized_height, FILTER, ANTIALIAS)  # fmt: skip
            down_sum += tl.sum(down, 1)
            high = down.to(tl.float16)
            low = (down - high.to(tl.float32)).to(tl.float16)
            lines_r += _weighted(high, low, _to_level(r))
            lines_g += _weighted(high, low, _to_level(g))
            lines_b += _weighted(high, low, _to_level(b))
        across = weights_of(col[:, None], out_col[None, :], col_begin[None, :], col_end[None, :],
                            crop_width, resized_width, FILTER, ANTIALIAS)  # fmt: skip
        across_sum += tl.sum(across, 0)
        red += _product(lines_r, across)
        green += _product(lines_g, across)
        blue += _product(lines_b, across)
    covered = row_there[:, None] & col_there[None, :]
    weight = tl.where(covered, down_sum[:, None] * across_sum[None, :], 1.0)
    scale = 1.0 / weight
    in_clip = frame % t_end
    at = frame // t_end * clip + _place(in_clip, t_pixel, t_patch, t_group, t_pixels, t_patches)
    at += _place(row_at, d_pixel, d_patch, d_group, d_pixels, d_patches)[:, None]
    at += _place(col_at, a_pixel, a_patch, a_group, a_pixels, a_patches)[None, :]
    mask = (row_at < d_length)[:, None] & (col_at < a_length)[None, :]
    copies = tl.where(in_clip == t_end - 1, 1 + t_length - t_end, 1)
    wide_channel = tl.cast(channel, tl.int64)
    pad = pad_level.to(tl.float32)
    _store(out, at, mask, covered, red, scale, pad, mean_hi_r, mean_lo_r, scale_r, copies, t_pixel,
           E4M3)  # fmt: skip
    _store(out, at + wide_channel, mask, covered, green, scale, pad, mean_hi_g, mean_lo_g, scale_g,
           copies, t_pixel, E4M3)  # fmt: skip
    _store(out, at + 2 * wide_channel, mask, covered, blue, scale, pad, mean_hi_b, mean_lo_b,
           scale_b, copies, t_pixel, E4M3)  # fmt: skip


# ---- the launch


def launch(outs: tuple[Tensor, ...], *args: Any) -> None:
    _launch(outs[0].view(-1), args)


def launch_ragged(outs: tuple[Tensor, ...], *args: Any) -> None:
    """A launch for each clip: Triton has no way to hand a table over in a launch's parameters."""
    rest = outs[0].view(-1)
    for clip in RaggedArguments(*args).each():
        rest = rest[_launch(rest, clip) :]


def _launch(out: Tensor, args: tuple) -> int:
    """Into the first elements of `out`; how many they are. All but the crop and the jitter, which
    training draws anew, is kept from call to call."""
    crop, jitter = args[problem._CROP], args[problem._JITTER]
    key = problem.geometry(args[0], problem._kept_of(args))
    if (found := _KEPT.get(key)) is None:
        if len(_KEPT) >= _KEPT_MOST:
            _KEPT.clear()
        found = _KEPT[key] = _numbers(Arguments(*args)._replace(crop=[]))
    size, grid, (before, box, behind), constants = found
    if size:
        views = Arguments(*args).form.views(args[0])
        out = out.view(torch.uint8) if constants["E4M3"] else out
        _video_to_tensor_kernel[(grid,)](
            *views,
            out,
            *before,
            *(crop or box),
            *behind,
            *map(float, problem._affine_rows(jitter, None)),
            JITTER=bool(jitter),
            **constants,
            **config.TILE,
            num_warps=config.NUM_WARPS,
            num_stages=1,
            maxnreg=config.REGISTERS,
        )
    return size


def _numbers(a: Arguments) -> tuple[int, int, tuple, dict[str, Any]]:
    """The elements of the output, the programs, and the kernel's arguments behind the tensors:
    before the box, the whole frame's, behind it up to the jitter's, and the constants."""
    form, place = a.form, a.placed
    time, down, across = (problem._STORE.unpack(axis) for axis in problem._stores(a, place))
    zero, blend = problem._chroma(form.bits, form.halved, a.chroma_location, a.chroma_upsampling)
    before = (
        *config.tiles(a), *(s for view in form.views(a.planes) for s in view.stride()),
        *time[:3], *time[5:], *down, *across, place.clip_stride, place.channel,
        *form.size(a.planes)[1:], *a.resized, *(begin for begin, _ in a.stored),
    )  # fmt: skip
    behind = (
        *form.halved, form.shift, zero, *blend, a.pad_level, *problem.color_of(a),
        *problem._affine(a.mean, a.std, a.dtype == torch.uint8),
    )  # fmt: skip
    constants = dict(
        RGB=form.rgb, ROWS_BLEND=any(blend[:2]), COLS_BLEND=any(blend[2:]), TRANSFER=a.transfer,
        FILTER=a.interpolation, ANTIALIAS=a.antialias,
        E4M3=a.dtype == torch.float8_e4m3fn,
    )  # fmt: skip
    return math.prod(place.shape), config.programs(a), (before, a.box, behind), constants
