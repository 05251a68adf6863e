"""Public functions for attention over a paged KV cache."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from aimills_kernels._dispatch import one_device
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.attention.op_paged import fake as paged_outputs
from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import check_tensors, run
from aimills_kernels.ops.attention import _call, scalars_of


@overload
def attention_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor, *,
    cu_seqlens_q: Tensor | None = ..., k_scale: Tensor | None = ..., v_scale: Tensor | None = ...,
    workspace: Tensor | None = ..., causal: bool = ..., scale: float | None = ...,
    window: tuple[int, int] = ..., softcap: float = ..., sinks: Tensor | None = ...,
    alibi_slopes: Tensor | None = ..., return_lse: Literal[False] = ...,
    batch_invariant: bool = ..., out: Tensor | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def attention_paged(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor, *,
    cu_seqlens_q: Tensor | None = ..., k_scale: Tensor | None = ..., v_scale: Tensor | None = ...,
    workspace: Tensor | None = ..., causal: bool = ..., scale: float | None = ...,
    window: tuple[int, int] = ..., softcap: float = ..., sinks: Tensor | None = ...,
    alibi_slopes: Tensor | None = ..., return_lse: Literal[True], batch_invariant: bool = ...,
    out: None = ...,
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention_paged(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_table: Tensor,
    cache_seqlens: Tensor,
    *,
    cu_seqlens_q: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    workspace: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    return_lse: bool = False,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over keys and values in pages of a cache: decode and chunked prefill.

    Shapes and dtypes:
        q              [B, M, H, D]               f16 | bf16 | f32; with cu_seqlens_q [T, H, D]
        k_cache        [pages, page_size, G, D]   dtype of q, or float8_e4m3fn for f16 and bf16
        v_cache        [pages, page_size, G, Dv]  dtype of k_cache
        page_table     [B, max_pages]             i32
        cache_seqlens  [B]                        i32, 0 to max_pages * page_size
        cu_seqlens_q   [B + 1]                    i32, from 0, never falling, to at most T
        k_scale        [G]                        f32; or [] for the whole cache
        v_scale        [G]                        f32; or []
        workspace      [bytes]                    u8, as `attention_workspace` says
        sinks          [H]                        f32 or dtype of q
        alibi_slopes   [B, H]                     f32; or [H], the same for each sequence
        out            [B, M, H, Dv]              dtype of q; or [T, H, Dv]
        lse            [B, H, M]                  f32, natural logarithm; or [H, T]

    Key j of sequence b stands in page page_table[b, j // page_size], at j % page_size. Pages may
    have any size from 1 and any order, and the caches any strides. Lengths stay on the device and
    nothing is planned on the host: one CUDA graph serves all lengths up to what the table lists.

    Args:
        cache_seqlens: keys of each sequence in use; those of its queries (see `kv_append`) count.
            What stands behind them is not read, nor are its entries of the page table; with a
            window that holds as well for whatever no query of the sequence can see.
        cu_seqlens_q: packs queries of any lengths, as in `attention_varlen`.
        k_scale, v_scale: what the codes of e4m3 caches are multiplied with; 1 by default.
        workspace: scratch memory. With it and `out` nothing is allocated; by default it comes from
            the caching allocator. Its contents don't matter before and after.
        causal, scale, window, softcap, sinks, alibi_slopes, return_lse, out: as in `attention`,
            with the queries at the end of the keys in use.
        batch_invariant: the bits of a query's result depend on its own sequence alone: not on the
            batch, on how the prompt was cut into chunks, on pages, workspace or graph. Takes a
            kernel of its own, which serves decode and prefill; there is none on a CPU. Not looked
            at on a GPU yet.

    Returns:
        out, or (out, lse). A query without keys, or beyond the last sequence, has out 0 and lse
        -inf, or the sink's logit.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument. What
            stands in `page_table`, `cache_seqlens` and `cu_seqlens_q` is looked at on a CPU, and
            with AIMILLS_CHECK=1 on a GPU. Without it a page out of range or a length beyond the
            table gives NaN there.

    For inference: the outputs carry no gradient. Formulas: as in `attention`; pages: Kwon et al.,
    arXiv:2309.06180; split keys: Dao et al., "Flash-Decoding", 2023.
    """
    scalars = scalars_of("attention_paged", q, causal, scale, window, softcap)
    if type(return_lse) is not bool or type(batch_invariant) is not bool:
        check_bools("attention_paged", return_lse=return_lse, batch_invariant=batch_invariant)
    args = (
        q, k_cache, v_cache, page_table, cache_seqlens, cu_seqlens_q, k_scale, v_scale, sinks,
        alibi_slopes, *scalars, return_lse, batch_invariant,
    )  # fmt: skip
    if workspace is None:
        return _call("attention_paged", args, return_lse, out)
    if out is not None and return_lse:
        raise ValueError(
            "attention_paged: out= holds one tensor, so it can't go with return_lse=True"
        )
    if not torch.compiler.is_dynamo_compiling():
        check_tensors(get_op("attention_paged"), args)
    made, lse = paged_outputs(*args)
    into = {"workspace": workspace, "lse": lse} if return_lse else {"workspace": workspace}
    made = run("attention_paged", args, made if out is None else out, **into)
    return (made, lse) if return_lse else made


def attention_workspace(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_table: Tensor,
    *,
    cu_seqlens_q: Tensor | None = None,
    batch_invariant: bool = False,
) -> int:
    """Bytes of the workspace for `attention_paged` on tensors of these shapes, on their device.

    At most 4 * splits * B * M * H * (Dv + 2), where the number of splits follows from shapes, the
    table's length and the GPU. The contents of the tensors don't matter, and meta tensors do.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument.
    """
    op = get_op("attention_paged")
    lens = page_table.new_empty(page_table.shape[:1]) if isinstance(page_table, Tensor) else None
    check_bools("attention_workspace", batch_invariant=batch_invariant)
    scalars = (False, 1.0, -1, -1, 0.0, False, batch_invariant)
    args = (q, k_cache, v_cache, page_table, lens, cu_seqlens_q, *[None] * 4, *scalars)
    check_tensors(op, args)
    paged_outputs(*args)
    one_device(op, args)
    return op.needed_workspace(args)


def kv_append(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_table: Tensor,
    cache_seqlens: Tensor,
    *,
    cu_seqlens: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """Write new keys and values behind those that a paged cache holds.

    Shapes and dtypes:
        k              [B, M, G, D]               f16 | bf16 | f32; with cu_seqlens [T, G, D]
        v              [B, M, G, Dv]              dtype of k; or [T, G, Dv]
        k_cache        [pages, page_size, G, D]   dtype of k, or float8_e4m3fn for f16 and bf16
        v_cache        [pages, page_size, G, Dv]  dtype of k_cache
        page_table     [B, max_pages]             i32
        cache_seqlens  [B]                        i32
        cu_seqlens     [B + 1]                    i32, from 0, never falling, to at most T
        k_scale        [G]                        f32; or [] for the whole cache
        v_scale        [G]                        f32; or []
        result         []                         none: k_cache and v_cache are written to

    Args:
        cache_seqlens: keys of each sequence in use before, not counting the new ones. It stays as
            it is; `attention_paged` wants it with the new ones.
        cu_seqlens: packs tokens of any lengths, as in `attention_varlen`.
        k_scale, v_scale: e4m3 caches hold k / k_scale, rounded to nearest-even, within +-448 (what
            is beyond saturates); 1 by default.

    Returns:
        None.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or a cache requires a gradient; the
            message names the argument. Lengths, pages, scales, and whether each element has a place
            of its own are looked at on a CPU, and with AIMILLS_CHECK=1 on a GPU. Without it a token
            beyond the table, or of a page out of range, is not written.

    Gradients don't pass through the cache.
    """
    run(
        "kv_append",
        (k, v, k_cache, v_cache, page_table, cache_seqlens, cu_seqlens, k_scale, v_scale),
    )


def merge_attention_states(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """From attention over some keys and attention over others, attention over all of them.

    Shapes and dtypes:
        out_a  [B, M, H, Dv]  f16 | bf16 | f32; or [T, H, Dv]
        lse_a  [B, H, M]      f32, natural logarithm; or [H, T]
        out_b  [B, M, H, Dv]  like out_a
        lse_b  [B, H, M]      like lse_a
        out    [B, M, H, Dv]  like out_a
        lse    [B, H, M]      like lse_a

    Args:
        out_a, lse_a: what an attention op returns with `return_lse=True`. A lse of -inf is a query
            that saw no key, and its out counts for nothing, whatever it is.
        out_b, lse_b: the same queries over other keys. At most one of the two may have sinks.

    Returns:
        (out, lse): out = (e^lse_a out_a + e^lse_b out_b) / (e^lse_a + e^lse_b), and lse the
        logarithm of that sum; 0 and -inf where neither saw a key.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; the message names the argument.

    Computed in float32. Gradients are those of the PyTorch reference. Formula: Ye et al.,
    "FlashInfer", arXiv:2501.01005.
    """
    return run("merge_attention_states", (out_a, lse_a, out_b, lse_b))
