"""Public attention functions."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = ..., scale: float | None = ...,
    return_lse: Literal[False] = ..., out: Tensor | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = ..., scale: float | None = ...,
    return_lse: Literal[True], out: None = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Fused attention: softmax(scale * q k^T + mask) v.

    Shapes and dtypes:
        q    [B, M, H, D]       f16 | bf16 | f32; D from 1 to 256
        k    [B, N, G, D]       dtype of q; H divisible by G (grouped queries)
        v    [B, N, G, Dv]      dtype of q; Dv from 1 to 256
        out  [B, M, H, Dv]      dtype of q
        lse  [B, H, M]          f32, natural logarithm

    Any lengths, empty ones too, and any strides.

    Args:
        causal: query i sees the keys up to i + N - M (aligned bottom-right).
        scale: factor of q k^T; 1 / sqrt(D) by default.
        return_lse: also return the row log-sum-exp of the scaled, masked scores.
        out: written and returned in place of a new tensor; not with `return_lse`.

    Returns:
        out, or (out, lse). A query without keys has out 0 and lse -inf.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument.

    Accumulates in float32. Gradients of q, k and v are those of the PyTorch reference, which is run
    again for them and needs memory for B * H * M * N scores; there are none in forward mode (jvp,
    jacfwd). torch.vmap makes one call for each element of the batch; torch.autocast changes
    nothing. Formula: Vaswani et al., arXiv:1706.03762; the blockwise form: Dao et al.,
    arXiv:2205.14135.
    """
    if type(causal) is not bool or type(return_lse) is not bool:
        check_bools("attention", causal=causal, return_lse=return_lse)
    if scale is None:
        known = isinstance(q, Tensor) and not q.is_nested and q.dim() and q.shape[-1]
        scale = q.shape[-1] ** -0.5 if known else 1.0
    elif type(scale) is bool:
        raise ValueError(f"attention: scale must be a number, got {scale}")
    if out is not None:
        if return_lse:
            raise ValueError(
                "attention: out= holds one tensor, so it can't go with return_lse=True"
            )
        return run("attention", (q, k, v, causal, scale, False), out)
    result = run("attention", (q, k, v, causal, scale, return_lse))
    return result if return_lse else result[0]
