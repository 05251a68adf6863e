"""Public gradients of attention, for those who write their own autograd: what `attention` itself
calls in a backward pass."""

from __future__ import annotations

from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.attention import scalars_of


def attention_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    *,
    dlse: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    seqused_k: Tensor | None = None,
    need_dslopes: bool = False,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `attention`, from what its forward gave.

    Shapes and dtypes:
        dout          [B, M, H, Dv]  dtype of q: the gradient of the result
        q             [B, M, H, D]   f16 | bf16 | f32; D from 1 to 256
        k             [B, N, G, D]   dtype of q
        v             [B, N, G, Dv]  dtype of q
        o             [B, M, H, Dv]  dtype of q: the result
        lse           [B, H, M]      f32: of the same call; or [0], where it was not kept
        dlse          [B, H, M]      f32: the gradient of lse
        sinks         [H]            f32 or dtype of q
        alibi_slopes  [B, H]         f32; or [H]
        seqused_k     [B]            i32, 0 to N
        dq            [B, M, H, D]   dtype of q; dk and dv likewise like k and v

    `o` and `lse` may be those of more keys than are given here, merged from several calls: then
    the result is these keys' part of the gradients, as context parallelism wants it.

    Args:
        causal, scale, window, softcap, sinks, alibi_slopes, seqused_k: those of the forward.
        need_dslopes: also work out the gradient of `alibi_slopes`.
        deterministic: only take kernels that give the same bits in every run. Ours always do.

    Returns:
        (dq, dk, dv, dsinks, dslopes). dsinks is like `sinks` and of size 0 without; dslopes is like
        `alibi_slopes` and of size 0 unless asked for. Keys that are not in use, and queries
        without keys, have gradients of 0.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument. Whether
            `seqused_k` lies within 0 and N is looked at on a CPU, and with AIMILLS_CHECK=1 on a
            GPU.

    Works out the scores anew, tile by tile, and accumulates in float32. Carries no gradient itself.
    Where lse was not kept, the PyTorch reference serves, with memory for B * H * M * N scores.
    Formula: Dao et al., arXiv:2205.14135, appendix B.4, and arXiv:2307.08691.
    """
    scalars = scalars_of("attention_backward", q, causal, scale, window, softcap)
    if type(need_dslopes) is not bool or type(deterministic) is not bool:
        check_bools("attention_backward", need_dslopes=need_dslopes, deterministic=deterministic)
    args = (
        dout, q, k, v, o, lse, dlse, sinks, alibi_slopes, seqused_k, *scalars, need_dslopes,
        deterministic,
    )  # fmt: skip
    return run("attention_backward", args)


def attention_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    o: Tensor,
    lse: Tensor,
    *,
    dlse: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    seqused_k: Tensor | None = None,
    need_dslopes: bool = False,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `attention_varlen`, from what its forward gave.

    Shapes and dtypes:
        dout          [T, H, Dv]  dtype of q: the gradient of the result
        q             [T, H, D]   f16 | bf16 | f32; D from 1 to 256
        k             [S, G, D]   dtype of q
        v             [S, G, Dv]  dtype of q
        cu_seqlens_q  [B + 1]     i32, from 0, never falling, to at most T
        cu_seqlens_k  [B + 1]     i32, from 0, never falling, to at most S
        o             [T, H, Dv]  dtype of q: the result
        lse           [H, T]      f32: of the same call; or [0], where it was not kept
        dlse          [H, T]      f32: the gradient of lse
        sinks         [H]         f32 or dtype of q
        alibi_slopes  [B, H]      f32; or [H]
        seqused_k     [B]         i32, 0 to the length of the sequence's keys
        dq            [T, H, D]   dtype of q; dk and dv likewise like k and v

    Args:
        causal, scale, window, softcap, sinks, alibi_slopes, seqused_k: those of the forward.
        need_dslopes, deterministic: as in `attention_backward`.

    Returns:
        (dq, dk, dv, dsinks, dslopes), as in `attention_backward`; what lies beyond the last
        sequence has gradients of 0.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument. What
            stands in `cu_seqlens_q`, `cu_seqlens_k` and `seqused_k` is looked at on a CPU, and
            with AIMILLS_CHECK=1 on a GPU.

    Lengths stay on the device. Formula: as in `attention_backward`.
    """
    scalars = scalars_of("attention_varlen_backward", q, causal, scale, window, softcap)
    if type(need_dslopes) is not bool or type(deterministic) is not bool:
        check_bools(
            "attention_varlen_backward", need_dslopes=need_dslopes, deterministic=deterministic
        )
    args = (
        dout, q, k, v, cu_seqlens_q, cu_seqlens_k, o, lse, dlse, sinks, alibi_slopes, seqused_k,
        *scalars, need_dslopes, deterministic,
    )  # fmt: skip
    return run("attention_varlen_backward", args)
