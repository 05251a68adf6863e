"""Public attention functions."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = ..., scale: float | None = ...,
    window: tuple[int, int] = ..., softcap: float = ..., sinks: Tensor | None = ...,
    alibi_slopes: Tensor | None = ..., seqused_k: Tensor | None = ...,
    return_lse: Literal[False] = ..., deterministic: bool = ..., batch_invariant: bool = ...,
    out: Tensor | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = ..., scale: float | None = ...,
    window: tuple[int, int] = ..., softcap: float = ..., sinks: Tensor | None = ...,
    alibi_slopes: Tensor | None = ..., seqused_k: Tensor | None = ...,
    return_lse: Literal[True], deterministic: bool = ..., batch_invariant: bool = ...,
    out: None = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    seqused_k: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Fused attention: softmax(scale * q k^T + mask) v, with windows, soft caps, sinks and ALiBi.

    Shapes and dtypes:
        q             [B, M, H, D]   f16 | bf16 | f32; D from 1 to 256
        k             [B, N, G, D]   dtype of q; H divisible by G (grouped queries)
        v             [B, N, G, Dv]  dtype of q; Dv from 1 to 256
        sinks         [H]            f32 or dtype of q
        alibi_slopes  [B, H]         f32; or [H], the same for each sequence
        seqused_k     [B]            i32, 0 to N
        out           [B, M, H, Dv]  dtype of q
        lse           [B, H, M]      f32, natural logarithm

    Any lengths, empty ones too, and any strides. Query i stands at p = i + n - M (aligned
    bottom-right), where n is N or the sequence's part of `seqused_k`.

    Args:
        causal: query i sees the keys up to p.
        scale: factor of q k^T; 1 / sqrt(D) by default.
        window: (left, right): query i sees the keys from p - left to p + right; -1 is no limit.
            With `causal` the right side is 0.
        softcap: scores become softcap * tanh(score / softcap); 0 for none.
        sinks: a logit for each query head that takes part in the softmax and has no value. It
            counts in lse.
        alibi_slopes: slope * |p - j| is taken off the score of key j, after the soft cap.
        seqused_k: how many keys and values of each sequence are in use. The others are not read.
        return_lse: also return the logarithm of each row's softmax denominator.
        deterministic: only take kernels that give the same bits in every run, gradients included.
            Ours always do.
        batch_invariant: the bits of a query's result depend on its own sequence alone: not on the
            batch, on what it is packed with, nor on how its queries were cut into calls; and they
            are those of `attention_varlen` and `attention_paged` in this mode. Takes a kernel of
            its own; there is none on a CPU. Not looked at on a GPU yet. Gradients are worked out as
            without: no atomics, one sequence's by programs of its own; but as their tiles follow
            from strides too, the promise is not made for them.
        out: written and returned in place of a new tensor; not with `return_lse`.

    Returns:
        out, or (out, lse). A query without keys has out 0 and lse -inf, or the sink's logit.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument. Whether
            `seqused_k` lies within 0 and N is looked at on a CPU, and with AIMILLS_CHECK=1 on a
            GPU.

    Accumulates in float32. Gradients of q, k, v, sinks and slopes, through out and lse, come from
    `attention_backward`; where a kernel of ours serves it, in memory for two numbers a row. Second
    derivatives, and torch.func's, differentiate the PyTorch reference, with memory for
    B * H * M * N scores; there are none in forward mode (jvp, jacfwd). torch.vmap makes one call
    for each element of the batch; torch.autocast changes nothing. Formula: Vaswani et al.,
    arXiv:1706.03762; the blockwise form: Dao et al., arXiv:2205.14135; ALiBi: Press et al.,
    arXiv:2108.12409; sinks: Xiao et al., arXiv:2309.17453, as learned logits in gpt-oss
    (arXiv:2508.10925); soft cap: Gemma 2, arXiv:2408.00118.
    """
    scalars = scalars_of("attention", q, causal, scale, window, softcap)
    flags = _flags("attention", return_lse, deterministic, batch_invariant)
    args = (q, k, v, sinks, alibi_slopes, seqused_k, *scalars, *flags)
    return _call("attention", args, return_lse, out)


@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, *,
    causal: bool = ..., scale: float | None = ..., window: tuple[int, int] = ...,
    softcap: float = ..., sinks: Tensor | None = ..., alibi_slopes: Tensor | None = ...,
    seqused_k: Tensor | None = ..., return_lse: Literal[False] = ..., deterministic: bool = ...,
    batch_invariant: bool = ..., out: Tensor | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, *,
    causal: bool = ..., scale: float | None = ..., window: tuple[int, int] = ...,
    softcap: float = ..., sinks: Tensor | None = ..., alibi_slopes: Tensor | None = ...,
    seqused_k: Tensor | None = ..., return_lse: Literal[True], deterministic: bool = ...,
    batch_invariant: bool = ..., out: None = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    seqused_k: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool = False,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over sequences of any lengths, packed one behind the other.

    Shapes and dtypes:
        q             [T, H, D]     f16 | bf16 | f32; D from 1 to 256
        k             [S, G, D]     dtype of q; H divisible by G (grouped queries)
        v             [S, G, Dv]    dtype of q; Dv from 1 to 256
        cu_seqlens_q  [B + 1]       i32, from 0, never falling, to at most T
        cu_seqlens_k  [B + 1]       i32, from 0, never falling, to at most S
        sinks         [H]           f32 or dtype of q
        alibi_slopes  [B, H]        f32; or [H], the same for each sequence
        seqused_k     [B]           i32, 0 to the length of the sequence's keys
        out           [T, H, Dv]    dtype of q
        lse           [H, T]        f32, natural logarithm

    Sequence b has the queries cu_seqlens_q[b] to cu_seqlens_q[b + 1] and the keys likewise; either
    may have none. Lengths stay on the device: there is no largest length to give, and no wait for
    the GPU.

    Args:
        causal, scale, window, softcap, sinks, alibi_slopes, seqused_k, return_lse, deterministic,
            batch_invariant, out: as in `attention`, with M and N of each sequence.

    Returns:
        out, or (out, lse). A query without keys, or beyond the last sequence, has out 0 and lse
        -inf, or the sink's logit.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument. What
            stands in `cu_seqlens_q`, `cu_seqlens_k` and `seqused_k` is looked at on a CPU, and
            with AIMILLS_CHECK=1 on a GPU.

    Gradients come from `attention_varlen_backward`; second derivatives differentiate the PyTorch
    reference, with memory for T * S scores of each query head. Formulas: as in `attention`.
    """
    scalars = scalars_of("attention_varlen", q, causal, scale, window, softcap)
    flags = _flags("attention_varlen", return_lse, deterministic, batch_invariant)
    args = (
        q, k, v, cu_seqlens_q, cu_seqlens_k, sinks, alibi_slopes, seqused_k, *scalars, *flags,
    )  # fmt: skip
    return _call("attention_varlen", args, return_lse, out)


def scalars_of(
    op: str, q: Any, causal: bool, scale: float | None, window: Any, softcap: float
) -> tuple[bool, float, int, int, float]:
    """As the flat schema has them; a ValueError for what is none."""
    if type(causal) is not bool:
        check_bools(op, causal=causal)
    if scale is None:
        known = isinstance(q, Tensor) and not q.is_nested and q.dim() and q.shape[-1]
        scale = q.shape[-1] ** -0.5 if known else 1.0
    elif type(scale) is bool:
        raise ValueError(f"{op}: scale must be a number, got {scale}")
    if type(softcap) is bool:
        raise ValueError(f"{op}: softcap must be a number, got {softcap}")
    left, right = (-1, -1) if window == (-1, -1) else _sides(op, window)
    return causal, scale, left, right, softcap


def _flags(op: str, lse: Any, deterministic: Any, invariant: Any) -> tuple[bool, bool, bool]:
    if type(lse) is not bool or type(deterministic) is not bool or type(invariant) is not bool:
        check_bools(op, return_lse=lse, deterministic=deterministic, batch_invariant=invariant)
    return lse, deterministic, invariant


def _call(op: str, args: tuple, return_lse: bool, out: Tensor | None) -> Any:
    if out is not None:
        if return_lse:
            raise ValueError(f"{op}: out= holds one tensor, so it can't go with return_lse=True")
        return run(op, args, out)
    result = run(op, args)
    return result if return_lse else result[0]


def _sides(op: str, window: Any) -> tuple[int, int]:
    if isinstance(window, (tuple, list)) and len(window) == 2:
        left, right = window
        if all(isinstance(x, (int, torch.SymInt)) and type(x) is not bool for x in (left, right)):
            return left, right
    raise ValueError(f"{op}: window must be (left, right), two whole numbers, got {window!r}")
