"""Checks that the attention ops share. `op` is the name that a message starts with."""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._op import describe

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
MAX_HEAD_DIM = 256
MAX_SCALE = 1e30


def check_qkv(op: str, q: Tensor, k: Tensor, v: Tensor, layout: str) -> None:
    """Dims, dtypes, head counts and head dims; `layout` names the dims, heads and dim last."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.dim() != layout.count(",") + 1:
            raise ValueError(f"{op}: {name} must be {layout}, got {describe(t)}")
        check_dtype(op, name, t)
        if t.dtype != q.dtype:
            raise ValueError(f"{op}: {name} must have the dtype of q, got {describe(t)}")
    check_heads(op, q, k, v)


def check_dtype(op: str, name: str, t: Tensor) -> None:
    if t.dtype in DTYPES.values():
        return
    later = ""
    if t.dtype in FP8:
        later = "; fp8 attention is not there yet, only caches of e4m3 in attention_paged"
    raise ValueError(f"{op}: {name} must be f16, bf16 or f32, got {describe(t)}{later}")


def check_heads(
    op: str, q: Tensor, k: Tensor, v: Tensor, k_name: str = "k", v_name: str = "v"
) -> None:
    (H, D), G = q.shape[-2:], k.shape[-2]
    if k.shape[-1] != D:
        raise ValueError(f"{op}: {k_name} must have the head dim of q, {D}, got {describe(k)}")
    for name, dim in (("q", D), (v_name, v.shape[-1])):
        if not 1 <= dim <= MAX_HEAD_DIM:
            later = "; 512, and latent attention (MLA), are not there yet" if dim else ""
            raise ValueError(
                f"{op}: the head dim of {name} must be 1 to {MAX_HEAD_DIM}, got {dim}{later}"
            )
    if v.shape[-2] != G:
        raise ValueError(f"{op}: {v_name} must have the heads of {k_name}, {G}, got {describe(v)}")
    if G == 0 or H % G != 0:
        raise ValueError(f"{op}: the heads of q, {H}, must be a multiple of those of {k_name}, {G}")


def check_extras(
    op: str,
    q: Tensor,
    B: int,
    sinks: Tensor | None,
    alibi_slopes: Tensor | None,
    seqused_k: Tensor | None,
) -> None:
    H = q.shape[-2]
    if sinks is not None and (
        tuple(sinks.shape) != (H,) or sinks.dtype not in (torch.float32, q.dtype)
    ):
        raise ValueError(
            f"{op}: sinks must be [{H}] (one a query head) in float32 or the dtype of q, "
            f"got {describe(sinks)}"
        )
    if alibi_slopes is not None and (
        tuple(alibi_slopes.shape) not in ((H,), (B, H)) or alibi_slopes.dtype != torch.float32
    ):
        raise ValueError(
            f"{op}: alibi_slopes must be float32 [{H}] or [{B}, {H}], got {describe(alibi_slopes)}"
        )
    if seqused_k is not None and (tuple(seqused_k.shape) != (B,) or seqused_k.dtype != torch.int32):
        raise ValueError(f"{op}: seqused_k must be int32 [{B}], got {describe(seqused_k)}")


def check_scalars(
    op: str, scale: float, window_left: int, window_right: int, softcap: float
) -> None:
    for name, value in (("scale", scale), ("softcap", softcap)):
        several = isinstance(value, Tensor) and value.numel() != 1
        if value is None or isinstance(value, (str, complex)) or several:
            raise ValueError(f"{op}: {name} must be a number, got {value!r}")
    if not -MAX_SCALE < scale < MAX_SCALE:
        raise ValueError(f"{op}: scale must be finite and below {MAX_SCALE:g}, got {scale}")
    for side, limit in (("left", window_left), ("right", window_right)):
        if not -1 <= limit < 2**31:
            raise ValueError(
                f"{op}: the {side} side of window must be -1 (no limit) or a number of keys "
                f"below 2^31, got {limit}"
            )
    if not 0 <= softcap < MAX_SCALE:
        raise ValueError(
            f"{op}: softcap must be 0 (none) or positive, below {MAX_SCALE:g}, got {softcap}"
        )


def check_cu_values(op: str, name: str, cu_seqlens: Tensor, total: int, of: str) -> None:
    """Values: from 0, never falling, to at most `total`."""
    steps = cu_seqlens.diff()
    falls = steps.numel() and int(steps.min()) < 0
    if int(cu_seqlens[0]) != 0 or falls or int(cu_seqlens[-1]) > total:
        raise ValueError(
            f"{op}: {name} must rise from 0 to at most {total}, {of}, and never fall, "
            f"got {few(cu_seqlens)}"
        )


def few(t: Tensor) -> str:
    listed = ", ".join(str(int(x)) for x in t[:8])
    return f"[{listed}{', ...' if t.numel() > 8 else ''}]"
