"""Stand-ins for libraries that need a GPU: the signatures that they publish, our reference's sums.

An adapter that drops an argument, names a wrong one or takes a log-sum-exp as it comes is off.
"""

from __future__ import annotations

import math
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from aimills_kernels.kernels.attention import op, op_varlen


def _dense(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool, window: tuple[int, int],
    softcap: float = 0.0, slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return op.reference(
        q, k, v, None, slopes, None, causal, scale, *window, softcap, True, False, False
    )  # fmt: skip


def _flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    found = _dense(
        q, k, v, scale=softmax_scale, causal=causal, window=window_size, softcap=softcap,
        slopes=alibi_slopes,
    )  # fmt: skip
    return (*found, None) if return_attn_probs else found[0]


def _flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
    softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False, block_table=None,
):  # fmt: skip
    assert max_seqlen_q == max(cu_seqlens_q.diff().tolist(), default=0)
    assert max_seqlen_k == max(cu_seqlens_k.diff().tolist(), default=0)
    found = op_varlen.reference(
        q, k, v, cu_seqlens_q, cu_seqlens_k, None, alibi_slopes, None, causal, softmax_scale,
        *window_size, softcap, True, False, False,
    )  # fmt: skip
    return (*found, None) if return_attn_probs else found[0]


def _fa3_func(
    q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
    v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
    pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False,
):  # fmt: skip
    found = _dense(q, k, v, scale=softmax_scale, causal=causal, window=window_size, softcap=softcap)
    return found if return_attn_probs else found[0]


def _fa3_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None,
    seqused_k=None, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
    v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
    pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False,
):  # fmt: skip
    assert (max_seqlen_q, max_seqlen_k) == tuple(
        max(cu.diff().tolist(), default=0) for cu in (cu_seqlens_q, cu_seqlens_k)
    )
    found = op_varlen.reference(
        q, k, v, cu_seqlens_q, cu_seqlens_k, None, None, seqused_k, causal, softmax_scale,
        *window_size, softcap, True, False, False,
    )  # fmt: skip
    return found if return_attn_probs else found[0]


def _base_2(out: Tensor, lse: Tensor, return_lse: bool) -> Any:
    """[M, H, D] and [M, H], as FlashInfer has them."""
    return (out, lse.T / math.log(2)) if return_lse else out


def _single_prefill(
    q, k, v, scale_q=None, scale_k=None, scale_v=None, o_dtype=None, custom_mask=None,
    packed_custom_mask=None, causal=False, kv_layout="NHD", pos_encoding_mode="NONE",
    use_fp16_qk_reduction=False, sm_scale=None, window_left=-1, logits_soft_cap=None,
    rope_scale=None, rope_theta=None, backend="auto", return_lse=False,
):  # fmt: skip
    out, lse = _dense(
        q[None], k[None], v[None], scale=sm_scale, causal=causal, window=(window_left, -1),
        softcap=logits_soft_cap or 0.0,
    )  # fmt: skip
    return _base_2(out[0], lse[0], return_lse)


def _single_decode(
    q, k, v, kv_layout="NHD", pos_encoding_mode="NONE", use_tensor_cores=False, q_scale=None,
    k_scale=None, v_scale=None, window_left=-1, logits_soft_cap=None, sm_scale=None,
    rope_scale=None, rope_theta=None, return_lse=False,
):  # fmt: skip
    found = _single_prefill(
        q[None], k, v, sm_scale=sm_scale, window_left=window_left,
        logits_soft_cap=logits_soft_cap, return_lse=return_lse,
    )  # fmt: skip
    return tuple(t[0] for t in found) if return_lse else found[0]


class _Ragged:
    plans = 0

    def __init__(self, workspace: Tensor, kv_layout: str = "NHD"):
        assert workspace.dtype == torch.uint8

    def plan(
        self, qo_indptr, kv_indptr, num_qo_heads, num_kv_heads, head_dim_qk, head_dim_vo=None,
        causal=False, window_left=-1, logits_soft_cap=None, sm_scale=None, q_data_type="float16",
        kv_data_type=None,
    ):  # fmt: skip
        _Ragged.plans += 1
        self.made = (qo_indptr, kv_indptr), (causal, sm_scale, window_left, logits_soft_cap or 0.0)

    def run(self, q, k, v, return_lse=False):
        offsets, (causal, scale, left, softcap) = self.made
        found = op_varlen.reference(
            q,
            k,
            v,
            *offsets,
            None,
            None,
            None,
            causal,
            scale,
            left,
            -1,
            softcap,
            True,
            False,
            False,
        )
        return _base_2(*found, return_lse)


class _Blocks:
    """A block-diagonal mask of xFormers."""

    def __init__(self, q_seqlen: list[int], kv_seqlen: list[int], causal: bool = False):
        self.lengths, self.causal = (q_seqlen, kv_seqlen), causal

    @classmethod
    def from_seqlens(cls, q_seqlen, kv_seqlen):
        return cls(q_seqlen, kv_seqlen)

    def make_causal_from_bottomright(self):
        return _Blocks(*self.lengths, causal=True)


class _Triangle:
    pass


def _memory_efficient(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None):
    q, k, v = (t.flatten(2, 3) if t.dim() == 5 else t for t in (query, key, value))
    if isinstance(attn_bias, _Blocks):
        if sum(attn_bias.lengths[0]) != q.shape[1] or sum(attn_bias.lengths[1]) != k.shape[1]:
            raise ValueError("the blocks must cover all tokens")
        offsets = [
            torch.tensor([0, *n], dtype=torch.int32).cumsum(0).int() for n in attn_bias.lengths
        ]
        return op_varlen.reference(
            q[0], k[0], v[0], *offsets, None, None, None, attn_bias.causal, scale, -1, -1, 0.0,
            False, False, False,
        )[0][None].view(*query.shape[:-1], -1)  # fmt: skip
    causal = isinstance(attn_bias, _Triangle)
    found = _dense(q, k, v, scale=scale, causal=causal, window=(-1, -1))[0]
    return found.view(*query.shape[:-1], v.shape[-1])


def _int_scaled_matmul(a, b, scales1):
    """Only what torchao takes: scales [M, 1] or [1, 1]."""
    assert scales1.shape in ((len(a), 1), (1, 1))
    assert scales1.is_contiguous()
    return (a.double() @ b.double()).to(scales1.dtype) * scales1


class _Int8Tensor:
    """A weight that F.linear knows how to multiply by."""

    def __init__(self, qdata, scale, block_size, dtype, zero_point=None):
        assert qdata.dtype == torch.int8
        assert scale.shape == (qdata.shape[0], 1)
        assert list(block_size) == [1, qdata.shape[1]]
        self.weight = (qdata.float() * scale).to(dtype)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        assert func is torch.nn.functional.linear
        x, weight, *bias = args
        return func(x, weight.weight, *bias)


def _addmm_float8(
    a_data, a_scale, b_data, b_scale, output_dtype, output_scale=None, bias=None,
    use_fast_accum=False,
):  # fmt: skip
    assert b_data.stride(0) == 1
    out = (a_data.float() * a_scale) @ (b_data.float() * b_scale)
    return (out if bias is None else out + bias.float()).to(output_dtype)


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(names)
    return module


def modules(local: bool = True) -> dict[str, ModuleType]:
    """For sys.modules; `local` says whether the build of FlashAttention-3 takes windows."""
    bias = SimpleNamespace(LowerTriangularFromBottomRightMask=_Triangle, BlockDiagonalMask=_Blocks)
    flags = {"FLASHATTENTION_DISABLE_LOCAL": not local, "FLASHATTENTION_DISABLE_FP16": True}
    ops = _module(
        "xformers.ops",
        memory_efficient_attention_forward=_memory_efficient,
        fmha=SimpleNamespace(attn_bias=bias),
    )
    return {
        "flash_attn": _module(
            "flash_attn",
            flash_attn_func=_flash_attn_func,
            flash_attn_varlen_func=_flash_attn_varlen_func,
        ),
        "fa3_fwd_interface": _module(
            "fa3_fwd_interface", flash_attn_func=_fa3_func, flash_attn_varlen_func=_fa3_varlen_func
        ),
        "fa3_fwd_config": _module("fa3_fwd_config", CONFIG={"build_flags": flags}),
        "flashinfer": _module(
            "flashinfer",
            single_prefill_with_kv_cache=_single_prefill,
            single_decode_with_kv_cache=_single_decode,
            BatchPrefillWithRaggedKVCacheWrapper=_Ragged,
        ),
        "xformers": _module("xformers", ops=ops),
        "xformers.ops": ops,
    }


def torchao() -> dict[str, ModuleType]:
    """For sys.modules."""
    return {
        "torchao": _module("torchao"),
        "torchao.kernel": _module("torchao.kernel"),
        "torchao.kernel.intmm": _module(
            "torchao.kernel.intmm", int_scaled_matmul=_int_scaled_matmul
        ),
        "torchao.quantization": _module("torchao.quantization", Int8Tensor=_Int8Tensor),
        "torchao.float8": _module("torchao.float8"),
        "torchao.float8.inference": _module(
            "torchao.float8.inference", addmm_float8_unwrapped_inference=_addmm_float8
        ),
    }
