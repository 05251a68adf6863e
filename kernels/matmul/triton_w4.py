"""Matmul with 4-bit weights in Triton, for any GPU from sm_80.

    out = activation(x @ ((code - zero) * scale).T + bias) + residual

x is [M, K], codes as in `layout_w4`.

Weights stand on the wide side: a tile is [channels, rows of x], so that few rows cost no more than
they are. Codes less their zero are integers from -16 to 15, exact in f16 and bf16; the tensor cores
multiply them by x, and each group's sum is scaled in float32 and added. No weight is ever rounded.
One program walks the steps of a split of K. Splits go to the workspace and a second kernel adds
them from the first to the last, or one program walks them all and adds them in the same order.
"""

import torch
import triton
import triton.language as tl

from aimills_kernels import _configs
from aimills_kernels.kernels.matmul.config_w4 import config_of
from aimills_kernels.kernels.matmul.epilogue import End, add_splits, finish_tile, weight_rows
from aimills_kernels.kernels.matmul.layout_w4 import SIZES, WORDS
from aimills_kernels.kernels.matmul.tiles import places_of, tile_among
from aimills_kernels.kernels.triton_common import INTERPRET, dot, product, widen

PLANE = tl.constexpr(WORDS)  # columns that one nibble of the words of a block holds
# Two words in, a pair of codes less 8 out. A code below the exponent of 1024 in float16, or of 128
# in bfloat16, is that much and itself. sm_80 has no subtraction of bfloat16.
F16 = tl.constexpr("""{
.reg .b32 code, bias;
shr.u32 code, $1, SHIFT;
lop3.b32 code, code, 0x000f000f, 0x64006400, 0xea;
mov.b32 bias, 0xe408e408;
add.f16x2 $0, code, bias;
}""")
BF16 = tl.constexpr("""{
.reg .b32 code, bias, one;
shr.u32 code, $1, SHIFT;
lop3.b32 code, code, 0x000f000f, 0x43004300, 0xea;
mov.b32 bias, 0xc308c308;
mov.b32 one, 0x3f803f80;
fma.rn.bf16x2 $0, code, one, bias;
}""")


@triton.constexpr_function
def _assembly(text: str, place: int) -> str:
    return text.replace("SHIFT", str(4 * place))


@triton.jit
def _centred(words, PLACE: tl.constexpr, dtype: tl.constexpr):
    """code - 8 of nibble PLACE of each word, in f16 or bf16: three instructions for two codes."""
    if INTERPRET:
        return ((words >> (4 * PLACE)) & 15).to(tl.float32) - 8.0
    if dtype == tl.float16:
        return tl.inline_asm_elementwise(
            _assembly(F16, PLACE), "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2
        )
    else:  # noqa: RET505 (without it Triton would compile both)
        return tl.inline_asm_elementwise(
            _assembly(BF16, PLACE), "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2
        )


@triton.jit
def _group(step, half: tl.constexpr, group_ptr, scales_ptr, zeros_ptr, channels, N, G, width,
           GROUP: tl.constexpr):  # fmt: skip
    """Scale, and 8 - zero, of each channel for one half of the columns of a step."""
    if group_ptr is not None:
        block = 2 * step + half
        g = tl.load(group_ptr + block, mask=block < width // 8, other=0)
    elif GROUP == 32:
        g = 2 * step + half
    elif GROUP == 0:
        g = step * 0
    else:
        g = step
    there = (g >= 0) & (g < G)
    at = g.to(tl.int64) * N + channels
    scale = widen(tl.load(scales_ptr + at, mask=there, other=0.0))
    if group_ptr is not None:  # a number out of range is not followed, and shows
        scale = tl.where(there, scale, float("nan"))
    shift = 8.0
    if zeros_ptr is not None:
        shift = 8.0 - tl.load(zeros_ptr + at, mask=there, other=0).to(tl.float32)
    return scale, shift


@triton.jit
def _times(acc, words, x_ptr, perm_ptr, column, rows, shift, stride_xm, stride_xk, M, K, width,
           offset, PLACE: tl.constexpr, ZEROS: tl.constexpr):  # fmt: skip
    """acc + weights @ x for one nibble of the words: [channels, columns] by [columns, rows]."""
    w = _centred(words, PLACE, x_ptr.dtype.element_ty)
    if ZEROS:
        w += shift.to(w.dtype)[:, None]
    column += PLACE * PLANE
    here = column < 4 * width
    if perm_ptr is not None:
        k = tl.load(perm_ptr + column, mask=here, other=0)
    else:
        k = column - offset
    here = here & (k >= 0) & (k < K)
    x_ptrs = x_ptr + k.to(tl.int64)[:, None] * stride_xk + rows[None, :] * stride_xm
    x = tl.load(x_ptrs, mask=here[:, None] & (rows < M)[None, :], other=0.0)
    return dot(w, x, acc)


@triton.jit
def sum_of_steps(
    begin, end, x_ptr, codes_ptr, scales_ptr, zeros_ptr, perm_ptr, group_ptr, channels, rows,
    stride_xm, stride_xk, M, N, K, G, width, offset,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The scales of a step are read while the one before is multiplied."""
    ZEROS: tl.constexpr = zeros_ptr is not None
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    none = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    word = tl.arange(0, STEP)
    offs_k = word // PLANE * (4 * PLANE) + word % PLANE
    codes_ptrs = codes_ptr + channels[:, None] * width + word[None, :]
    scale, shift = _group(begin, 0, group_ptr, scales_ptr, zeros_ptr, channels, N, G, width, GROUP)
    scale_2, shift_2 = scale, shift
    if GROUP == 32:
        scale_2, shift_2 = _group(
            begin, 1, group_ptr, scales_ptr, zeros_ptr, channels, N, G, width, GROUP
        )
    for step in range(begin, end):
        first = step * STEP
        if STEP == PLANE:
            words = tl.load(codes_ptrs + first)
        else:
            words = tl.load(codes_ptrs + first, mask=(first + word < width)[None, :], other=0)
        column = 4 * first + offs_k
        part = acc if GROUP == 0 else none
        for place in tl.static_range(4):
            if GROUP == 32 and place == 2:
                acc = tl.fma(part, scale[:, None], acc)
                part = none
            part = _times(
                part, words, x_ptr, perm_ptr, column, rows, shift if place < 2 else shift_2,
                stride_xm, stride_xk, M, K, width, offset, place, ZEROS,
            )  # fmt: skip
        if GROUP == 0:
            acc = part
        else:
            acc = tl.fma(part, scale_2[:, None], acc)
            scale, shift = _group(
                step + 1, 0, group_ptr, scales_ptr, zeros_ptr, channels, N, G, width, GROUP
            )
            scale_2, shift_2 = scale, shift
        if GROUP == 32:
            scale_2, shift_2 = _group(
                step + 1, 1, group_ptr, scales_ptr, zeros_ptr, channels, N, G, width, GROUP
            )
    if GROUP == 0:  # rounded before it is added to other splits, wherever that is done
        acc = product(acc, tl.broadcast_to(scale[:, None], [BLOCK_N, BLOCK_M]))
    return acc


@triton.jit(do_not_specialize=["M", "G", "splits", "per_split"])
def _matmul_w4_kernel(
    out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, x_ptr, codes_ptr, scales_ptr, zeros_ptr,
    perm_ptr, group_ptr, stride_bias, stride_rm, stride_rn, stride_xm, stride_xk, M, N, K, G,
    width, offset, splits, per_split,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, STEP: tl.constexpr, GROUP: tl.constexpr,
    TALL: tl.constexpr, SPLIT: tl.constexpr, WALKED: tl.constexpr, ACTIVATION: tl.constexpr,
    E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles_m = tl.cdiv(M, BLOCK_M)
    split = tl.program_id(0) // (tiles_n * tiles_m)
    tile = tl.program_id(0) % (tiles_n * tiles_m)
    tile_n, tile_m = tile_among(tiles_n, tiles_m, tile, TALL)
    offs_m, _ = places_of(tile_m, M, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, ACTIVATION == "swiglu")
    channels = tl.where(offs_n < N, offs_n, 0)
    steps = tl.cdiv(width, STEP)
    if WALKED:
        sums = tl.full([BLOCK_N, BLOCK_M], -0.0, tl.float32)  # 0 would not leave a -0 as it is
        for one in range(splits):
            begin = one * per_split
            sums += sum_of_steps(
                begin, tl.minimum(begin + per_split, steps), x_ptr, codes_ptr, scales_ptr,
                zeros_ptr, perm_ptr, group_ptr, channels, offs_m, stride_xm, stride_xk, M, N, K,
                G, width, offset, BLOCK_N, BLOCK_M, STEP, GROUP,
            )  # fmt: skip
    else:
        begin = split * per_split
        sums = sum_of_steps(
            begin, tl.minimum(begin + per_split, steps), x_ptr, codes_ptr, scales_ptr, zeros_ptr,
            perm_ptr, group_ptr, channels, offs_m, stride_xm, stride_xk, M, N, K, G, width,
            offset, BLOCK_N, BLOCK_M, STEP, GROUP,
        )  # fmt: skip

    if SPLIT:
        out_ptr += split.to(tl.int64) * M * N
    finish_tile(
        tl.trans(sums), out_ptr, codes_scale_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm,
        stride_rn, offs_m, offs_n, tile_n, M, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


def launch(
    outs: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None,
    perm: torch.Tensor | None, group_of: torch.Tensor | None, bias: torch.Tensor | None,
    residual: torch.Tensor | None, group_size: int, offset: int, activation: str,
    batch_invariant: bool,
) -> None:  # fmt: skip
    out, work = outs
    if out.numel() == 0:
        return
    (M, K), (N, width) = x.shape, codes.shape
    config = _configs.config(
        config_of(x, codes, perm, group_of, group_size, offset, batch_invariant)
    )
    group = 32 if group_of is not None else group_size if group_size in SIZES else 0
    tiles = triton.cdiv(N, config.block_n) * triton.cdiv(M, config.block_m)
    split = config.splits > 1 and not config.walked
    end = End(out, bias, activation, residual)
    now = End(work) if split else end
    _matmul_w4_kernel[(tiles * config.splits if split else tiles,)](
        *now.tensors, x, codes, scales, zeros, perm, group_of, *now.strides, *x.stride(),
        M, N, K, scales.shape[0], width, offset, config.splits,
        triton.cdiv(triton.cdiv(width, config.step), config.splits),
        BLOCK_N=config.block_n, BLOCK_M=config.block_m, STEP=config.step, GROUP=group, TALL=8,
        SPLIT=split, WALKED=config.walked, num_warps=config.num_warps,
        num_stages=config.num_stages, **now.options,
    )  # fmt: skip
    if split:
        add_splits(work, config.splits, M, N, end)
