"""FlashInfer: single requests, and ragged batches behind a plan that is made once."""

from __future__ import annotations

import math
from typing import Any

import torch

from aimills_kernels.harness.peers import Adapter

from ._attention import Call

NAME = "flashinfer"
_WORKSPACE = 128 << 20  # bytes, as in its documentation


def _checked(call: Call) -> Call:
    call.refuse(NAME, "sinks", "alibi_slopes", "seqused_k", "right_window")
    return call


def _natural(call: Call, found: Any) -> Any:
    """Its log-sum-exp is of base 2 and [M, H]."""
    if not call.return_lse:
        return found
    out, lse = found
    return out, (lse * math.log(2)).T.contiguous()


def attention(*args: Any) -> Any:
    """FlashInfer: single_prefill_with_kv_cache, for one query single_decode_with_kv_cache."""
    import flashinfer

    call = _checked(Call.of(*args))
    if len(call.q) != 1:
        raise NotImplementedError(f"{NAME} takes one sequence without a plan")
    shared: dict[str, Any] = {
        "sm_scale": call.scale, "window_left": call.left,
        "logits_soft_cap": call.softcap or None, "return_lse": call.return_lse,
    }  # fmt: skip
    q, k, v = call.q[0], call.k[0], call.v[0]
    if len(q) == 1:
        found = flashinfer.single_decode_with_kv_cache(q[0], k, v, use_tensor_cores=True, **shared)
        found = [t.unsqueeze(0) for t in found] if call.return_lse else found.unsqueeze(0)
    else:
        found = flashinfer.single_prefill_with_kv_cache(q, k, v, causal=call.causal, **shared)
    found = _natural(call, found)
    return tuple(t.unsqueeze(0) for t in found) if call.return_lse else found.unsqueeze(0)


def attention_varlen(*args: Any) -> Any:
    """FlashInfer: BatchPrefillWithRaggedKVCacheWrapper, planned before."""
    call = _checked(Call.of_varlen(*args))
    assert call.cu_q is not None
    if not hasattr(call.cu_q, "flashinfer_plan"):
        call.cu_q.flashinfer_plan = _plan(call)  # type: ignore[attr-defined]
    run = call.cu_q.flashinfer_plan.run  # type: ignore[attr-defined]
    return _natural(call, run(call.q, call.k, call.v, return_lse=call.return_lse))


def _plan(call: Call) -> Any:
    import flashinfer

    place = call.q.device
    workspace = torch.empty(_WORKSPACE, dtype=torch.uint8, device=place)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
    wrapper.plan(
        call.cu_q, call.cu_k, call.q.shape[1], call.k.shape[1], call.q.shape[2],
        head_dim_vo=call.v.shape[2], causal=call.causal, sm_scale=call.scale,
        window_left=call.left, logits_soft_cap=call.softcap or None,
        q_data_type=call.q.dtype, kv_data_type=call.k.dtype,
    )  # fmt: skip
    return wrapper


ADAPTER = Adapter(
    NAME,
    {"attention": attention, "attention_varlen": attention_varlen},
    needs={"flashinfer": "flashinfer-python"},
)
