"""The arguments of our two attention ops, as other libraries ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Feature = Literal[
    "sinks", "alibi_slopes", "seqused_k", "window", "right_window", "softcap", "return_lse"
]


@dataclass(frozen=True)
class Call:
    """One call. `right` is -1 where causal sets that limit, as all libraries but ours have it."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_q: Tensor | None
    cu_k: Tensor | None
    sinks: Tensor | None
    alibi_slopes: Tensor | None
    seqused_k: Tensor | None
    causal: bool
    scale: float
    left: int
    right: int
    softcap: float
    return_lse: bool
    deterministic: bool
    batch_invariant: bool

    @classmethod
    def of(cls, *args: Any) -> Call:
        """From the flat arguments of `attention`."""
        return cls.of_varlen(*args[:3], None, None, *args[3:])

    @classmethod
    def of_varlen(cls, *args: Any) -> Call:
        """From those of `attention_varlen`."""
        call = cls(*args)
        if call.deterministic:
            raise NotImplementedError("other libraries are timed without deterministic")
        if call.batch_invariant:
            raise NotImplementedError("other libraries are timed without batch_invariant")
        return cls(*args[:11], -1, *args[12:]) if call.causal else call

    def refuse(self, library: str, *features: Feature) -> None:
        """NotImplementedError where the call wants one of them."""
        wanted = {
            "sinks": self.sinks is not None,
            "alibi_slopes": self.alibi_slopes is not None,
            "seqused_k": self.seqused_k is not None,
            "window": self.left >= 0 or self.right >= 0,
            "right_window": self.right >= 0,
            "softcap": self.softcap != 0,
            "return_lse": self.return_lse,
        }
        for feature in features:
            if wanted[feature]:
                raise NotImplementedError(f"{library} takes no {feature.replace('_w', ' w')}")

    @property
    def longest(self) -> tuple[int, int]:
        """Of the queries and of the keys of any sequence. A caller knows these lengths, so reading
        them back from the device is no part of the time: each tensor of offsets is read once."""
        assert self.cu_q is not None
        assert self.cu_k is not None
        return _longest(self.cu_q), _longest(self.cu_k)


def lengths(cu_seqlens: Tensor) -> list[int]:
    if not hasattr(cu_seqlens, "host_lengths"):
        cu_seqlens.host_lengths = cu_seqlens.diff().tolist()  # type: ignore[attr-defined]
    return cu_seqlens.host_lengths


def _longest(cu_seqlens: Tensor) -> int:
    return max(lengths(cu_seqlens), default=0)
