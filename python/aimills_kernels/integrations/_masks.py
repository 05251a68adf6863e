"""Transformers' masks as what `attention` can say: limits, and how many keys are in use.

A model hands its mask as a function of four indices, built from a few parts of
`transformers.masking_utils`. The parts that are known are read off that function; where one is not,
the whole mask is made as booleans, which is right for any of them, and slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True, eq=False)
class Mask(BlockMask):
    """Query i sees keys from p - left to p + right, -1 for no limit, p counted from the end of the
    keys in use.

    used     [B] i32       keys in use; None for all
    keys     [B, N] i64    order that puts the valid keys of a padded batch first; None as they are
    queries  [B, M] i64    order that puts its valid queries last
    back     [B, M] i64    the inverse of `queries`

    A BlockMask in name only: where Transformers is given a mask it made before (static caches), it
    passes on a tensor or a BlockMask of four dims and takes anything else for padding.
    """

    sizes: tuple[int, int, int, int]
    left: int = -1
    right: int = -1
    used: Tensor | None = None
    keys: Tensor | None = None
    queries: Tensor | None = None
    back: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:  # type: ignore[override]
        """[B, 1, M, N], as of the mask written out."""
        return self.sizes

    def to(self, device: Any, non_blocking: bool = False) -> Mask:
        """On the device of the layer that it is given to, where a model is spread over several."""
        tensors = {n: getattr(self, n) for n in ("used", "keys", "queries", "back")}
        moved = {n: t.to(device, non_blocking=non_blocking) for n, t in tensors.items()
                 if t is not None}  # fmt: skip
        return replace(self, **moved)

    def __getitem__(self, index: Any) -> Any:
        raise ValueError(
            "this model reads its attention_mask, which attention keeps as limits: use "
            "attn_implementation='sdpa'"
        )

    def __str__(self) -> str:
        return repr(self)


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable | None = None,
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    use_vmap: bool = False,
    **others: Any,
) -> Mask | Tensor:
    """What `AttentionMaskInterface` calls, once for a forward pass: a `Mask`, or all booleans
    [B, 1, M, N]."""
    from transformers import masking_utils

    mask_function = mask_function or masking_utils.causal_mask_function
    limits = limits_of(mask_function, masking_utils)
    end = q_offset + q_length - kv_offset  # keys before the end of the queries
    fits = isinstance(end, int) and end == kv_length
    ahead = limits is not None and limits[1] > 0 and not fits  # keys behind the last query
    if limits is None or ahead or use_vmap:
        others = {k: v for k, v in others.items() if not k.startswith("allow_is_")}
        return masking_utils.sdpa_mask(
            batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset,
            kv_offset=kv_offset, mask_function=mask_function, attention_mask=attention_mask,
            device=device, use_vmap=use_vmap, allow_is_causal_skip=False,
            allow_is_bidirectional_skip=False, **others,
        )  # fmt: skip
    (left, right), shape = limits, (batch_size, 1, q_length, kv_length)
    positions = limits != (-1, -1)  # without limits it does not matter where a query stands
    valid = _valid(attention_mask, kv_length, kv_offset)
    if valid is None:
        if not positions or fits:
            return Mask(shape, left, right)
        used = torch.zeros(batch_size, dtype=torch.int32, device=device) + end
        return Mask(shape, left, right, used.int())
    valid = valid.expand(batch_size, -1)
    if positions:
        valid = valid & (torch.arange(kv_length, device=valid.device) < end)
    used, keys = valid.sum(1, dtype=torch.int32), (~valid).sort(dim=1, stable=True).indices
    if not positions or q_length == 1:
        return Mask(shape, left, right, used, keys)
    at = torch.arange(q_length, device=valid.device) + (q_offset - kv_offset)
    queries = valid[:, at].sort(dim=1, stable=True).indices
    return Mask(shape, left, right, used, keys, queries, queries.argsort(1))


def _valid(attention_mask: Tensor | None, kv_length: int, kv_offset: Any) -> Tensor | None:
    """Which keys are no padding, [B, N]; None where all are."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask must be [batch, keys], got {list(attention_mask.shape)}; for a mask "
            f"of your own use attn_implementation='sdpa'"
        )
    missing = kv_length + kv_offset - attention_mask.shape[1]
    if not isinstance(missing, int) or missing > 0:
        attention_mask = torch.nn.functional.pad(attention_mask, (0, missing))
    valid = attention_mask[:, kv_offset : kv_offset + kv_length].bool()
    # One wait for the GPU for each mask of a forward pass, as Transformers' own flash path has it:
    # a batch without padding then needs no copy of its keys in any layer.
    if not torch.compiler.is_compiling() and not _capturing(valid) and bool(valid.all()):
        return None
    return valid


def _capturing(t: Tensor) -> bool:
    return t.is_cuda and torch.cuda.is_current_stream_capturing()


def limits_of(function: Callable, known: Any) -> tuple[int, int] | None:
    """(left, right) of a mask function made of `known` parts (`transformers.masking_utils`); None
    where it has others."""
    if function is known.causal_mask_function:
        return -1, 0
    if function is known.bidirectional_mask_function:
        return -1, -1
    code = getattr(function, "__code__", None)
    if code is known.sliding_window_overlay(1).__code__:
        return _captured(function, "sliding_window") - 1, -1
    if code is known.sliding_window_bidirectional_overlay(1).__code__:
        return (_captured(function, "sliding_window"),) * 2
    if code is known.and_masks(known.causal_mask_function).__code__:
        parts = [limits_of(part, known) for part in _captured(function, "mask_functions")]
        if None in parts:
            return None
        left, right = (
            min((x for x in side if x >= 0), default=-1)
            for side in zip(*[p for p in parts if p is not None], strict=True)
        )
        return left, right
    return None


def _captured(function: Callable, name: str) -> Any:
    place = function.__code__.co_freevars.index(name)
    return function.__closure__[place].cell_contents  # type: ignore[index]
