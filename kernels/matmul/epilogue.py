"""What becomes of a tile's sums: bias, activation, gate, residual, a cast or fp8 codes; and the
sums of splits of K, added in their order.

With "swiglu" the first half of b's rows is the gate. A tile then multiplies rows n and N / 2 + n
of b side by side, so that a thread holds both of a pair and one tile finishes its outputs: weights
stay as checkpoints have them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from aimills_kernels._dispatch import interpreting, sm_of
from aimills_kernels.kernels.matmul.activations import GATED
from aimills_kernels.kernels.matmul.tiles import bias_stride, load_each, store_tile, tile_of
from aimills_kernels.kernels.matmul.triton_quantize import (
    INF_BITS,
    _magnitude_bits,
    _scale,
    _store_codes,
)
from aimills_kernels.kernels.triton_common import widen


@triton.jit
def weight_rows(tile_n, N, BLOCK_N: tl.constexpr, PAIRED: tl.constexpr):
    """The row of b for each column of a tile; N where there is none."""
    each = tl.arange(0, BLOCK_N)
    if PAIRED:
        half = N // 2
        at = tile_n.to(tl.int64) * (BLOCK_N // 2) + each // 2
        return tl.where(at < half, at + each % 2 * half, N)
    else:  # noqa: RET505 (without it Triton would compile both)
        return tile_n.to(tl.int64) * BLOCK_N + each


@triton.jit
def activated(out, ACTIVATION: tl.constexpr):
    """In float32."""
    if ACTIVATION == "relu":
        out = tl.where(out < 0.0, 0.0, out)
    elif ACTIVATION == "gelu":
        out = 0.5 * out * (1.0 + tl.erf(out * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # 0.5 (1 + tanh u) = 1 / (1 + exp(-2 u))
        out = out / (1.0 + tl.exp(-1.5957691216057308 * (out + 0.044715 * out * out * out)))
    elif ACTIVATION == "silu":
        out = out / (1.0 + tl.exp(-out))
    return out


@triton.jit
def finish_tile(
    out, out_ptr, scale_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn,
    offs_m, offs_n, tile_n, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    """To memory, from float32. With scale_ptr as codes: a tile is one block of 128 of each row."""
    out, offs_n, N = finished(
        out, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn, offs_m, offs_n, tile_n, M,
        N, BLOCK_M, BLOCK_N, ACTIVATION,
    )  # fmt: skip
    store_finished(out, out_ptr, scale_ptr, M, offs_m, offs_n, tile_n, M, N, E5M2, ENCODE)


@triton.jit
def finished(
    out, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn, offs_m, offs_n, tile_n, M, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """In float32, the columns of the output, and how many it has."""
    if bias_ptr is not None:
        out += widen(load_each(bias_ptr, offs_n, N, stride_bias))[None, :]
    if ACTIVATION == "swiglu":
        gate, up = tl.split(tl.reshape(out, [BLOCK_M, BLOCK_N // 2, 2]))
        out = activated(gate, "silu") * up
        offs_n = tile_n.to(tl.int64) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        N = N // 2
    else:
        out = activated(out, ACTIVATION)
    if residual_ptr is not None:
        inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
        places = residual_ptr + offs_m[:, None] * stride_rm + offs_n[None, :] * stride_rn
        out += widen(tl.load(places, mask=inside, other=0.0))
    return out, offs_n, N


@triton.jit
def store_finished(
    out, out_ptr, scale_ptr, stride_scale, offs_m, offs_n, tile_n, M, N, E5M2: tl.constexpr,
    ENCODE: tl.constexpr,
):  # fmt: skip
    """stride_scale: from the scales of one block of all rows to the next."""
    if scale_ptr is not None:
        out = tl.where((offs_n < N)[None, :], out, 0.0)
        top = tl.max(_magnitude_bits(out), 1)
        scale = _scale(top, E5M2)
        tl.store(scale_ptr + tile_n.to(tl.int64) * stride_scale + offs_m, scale, mask=offs_m < M)
        inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
        _store_codes(
            out_ptr + offs_m[:, None] * N + offs_n[None, :], inside, out, scale[:, None],
            (top < INF_BITS)[:, None], E5M2, ENCODE,
        )  # fmt: skip
    else:
        store_tile(out_ptr, out, offs_m, offs_n, M, N)


@triton.jit
def split_of(K, per_split, stride_ak, stride_bk):
    """Where this program's split of K begins in a and in b, and how deep it is."""
    begin = tl.program_id(1).to(tl.int64) * per_split
    depth = tl.maximum(tl.minimum(K - begin, per_split), 0).to(tl.int32)
    return begin, begin * stride_ak, begin * stride_bk, depth


@triton.jit(do_not_specialize=["M", "splits"])
def _add_splits_kernel(
    out_ptr, scale_ptr, work_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn, M, N,
    splits, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MOST: tl.constexpr,
    ACTIVATION: tl.constexpr, E5M2: tl.constexpr, ENCODE: tl.constexpr,
):  # fmt: skip
    """The sums of all splits, which are read at once, are added from the first to the last; -0 for
    those from `splits` to MOST, as 0 would not leave a -0 as it is."""
    PAIRED: tl.constexpr = ACTIVATION == "swiglu"
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, 8)
    offs_m = tile_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = weight_rows(tile_n, N, BLOCK_N, PAIRED)
    at = work_ptr + offs_m[:, None] * N + offs_n[None, :]
    inside = (offs_m < M)[:, None] & (offs_n < N)[None, :]
    out = tl.load(at, mask=inside, other=0.0)
    for split in tl.static_range(1, MOST):
        there = inside & (split < splits)
        out += tl.load(at + tl.cast(split, tl.int64) * M * N, mask=there, other=-0.0)
    finish_tile(
        out, out_ptr, scale_ptr, bias_ptr, residual_ptr, stride_bias, stride_rm, stride_rn,
        offs_m, offs_n, tile_n, M, N, BLOCK_M, BLOCK_N, ACTIVATION, E5M2, ENCODE,
    )  # fmt: skip


@dataclass(frozen=True)
class End:
    """What is stored, and what is done before. `scale`: where `out` takes codes, those of 1x128."""

    out: torch.Tensor
    bias: torch.Tensor | None = None
    activation: str = "none"
    residual: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    @property
    def pairs(self) -> int:
        """Rows of b for each column of the output."""
        return 2 if self.activation == GATED else 1

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        out = self.out
        if self.scale is not None and _encoded(out):
            out = out.view(torch.uint8)
        return out, self.scale, self.bias, self.residual

    @property
    def strides(self) -> tuple[int, int, int]:
        return bias_stride(self.bias), *(
            (0, 0) if self.residual is None else self.residual.stride()
        )

    def strides_of_groups(self, masked: bool) -> tuple[int, ...]:
        """From group to group and within one, for `segments.finish_group`: of the output, of its
        codes' scales, of the bias and of the residual."""
        out, bias, residual, scales = self.out, self.bias, self.residual, (0, 0)
        if self.scale is not None:  # [blocks, all rows]
            scales = out.shape[-2] if masked else 0, out.shape[:-1].numel()
        return (
            out.stride(0) if masked else 0, *scales, *((0, 0) if bias is None else bias.stride()),
            *((0, 0, 0) if residual is None
              else (residual.stride(0) if masked else 0, *residual.stride()[-2:])),
        )  # fmt: skip

    @property
    def options(self) -> dict[str, str | bool]:
        return dict(
            ACTIVATION=self.activation, E5M2=self.out.dtype == torch.float8_e5m2,
            ENCODE=self.scale is not None and _encoded(self.out),
        )  # fmt: skip


def _encoded(codes: torch.Tensor) -> bool:
    return (sm_of(codes.device) or 90) < 89 or interpreting()


def add_splits(work: torch.Tensor, splits: int, M: int, N: int, end: End) -> None:
    """`work` holds [splits, M, N] float32. A kernel serves all numbers of splits up to a power of
    two, since layers of a model differ in theirs."""
    out, scale, bias, residual = end.tensors
    rows, columns = 2 if M > 1 else 1, 128 * end.pairs
    _add_splits_kernel[(triton.cdiv(M, rows) * triton.cdiv(N, columns),)](
        out, scale, work, bias, residual, *end.strides, M, N, splits, BLOCK_M=rows,
        BLOCK_N=columns, MOST=triton.next_power_of_2(splits), num_warps=2 * rows, **end.options,
    )  # fmt: skip
