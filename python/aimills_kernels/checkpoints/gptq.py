"""GPTQ: codes packed along K, stored transposed.

    qweight i32 [K / p, N]   p = 32 / bits codes in a word
    qzeros  i32 [G, N / p]   checkpoint_format "gptq" (v1): zero - 1; "gptq_v2": zero
    scales      [G, N]
    g_idx   i32 [K]          the group of each input; any order with desc_act

v1 takes 1 from every zero, and a zero of 0 then borrows from its neighbours in the word. GPTQModel
does this on whole words, so that adding 1 to each code of the word undoes it. Other writers spoil
the neighbours: there a stored -1 is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from aimills_kernels._words import shown
from aimills_kernels.checkpoints._bits import groups_of, per_word, signed, unpack
from aimills_kernels.checkpoints._config import Config
from aimills_kernels.checkpoints._files import Part
from aimills_kernels.checkpoints._quantized import Quantized

V1, V2 = "gptq", "gptq_v2"


@dataclass(frozen=True)
class Layout:
    """How the layers that no rule of `dynamic` picks out are stored."""

    bits: int
    group_size: int  # -1: a whole row
    symmetric: bool
    act_order: bool | None  # None: not stated, g_idx decides


@dataclass(frozen=True)
class Gptq:
    """Layers of one GPTQ checkpoint."""

    layout: Layout
    form: str
    whole_words: bool  # v1: a zero of 0 was stored by a borrow that can be undone
    dynamic: tuple[tuple[str, Layout | None], ...]  # patterns of names; None: not quantised
    words = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    @property
    def title(self) -> str:
        at = self.layout
        groups = "whole rows" if at.group_size == -1 else f"groups of {at.group_size}"
        order = ", act-order" if at.act_order else ""
        version = "v1" if self.form == V1 else "v2"
        return f"GPTQ {version}, {at.bits} bits, {groups}{order}"

    def read(self, part: Part) -> Quantized | None:
        if not any(word in part for word in self.words):
            return None
        at = self._layout(part)
        p = per_word(at.bits)
        words = part.matrix("qweight", torch.int32)
        K, N = words.shape[0] * p, words.shape[1]
        if N % p:
            raise part.error("qweight", f"has {N} outputs, expected a multiple of {p}")
        group_size = K if at.group_size == -1 else at.group_size
        G = groups_of(K, group_size)
        why = f"{K} inputs in groups of {group_size}, {N} outputs"
        scales = part.scales("scales", (G, N), why=why)
        packed = part.read("qzeros", (torch.int32,), (G, N // p), why=why)
        zeros = self._zeros(part, packed, at.bits)
        if at.symmetric:
            check_middle(part, "qzeros", zeros, at.bits, f"checkpoint_format {shown(self.form)}")
        g_idx = None
        if "g_idx" in part or at.act_order:
            g_idx = part.group_index("g_idx", K, G, group_size)
        if g_idx is not None:
            g_idx = _order(part, g_idx, at.act_order, group_size)
        codes = unpack(words.T, at.bits)
        return integers(codes, at.bits, scales, None if at.symmetric else zeros, g_idx, group_size)

    def _zeros(self, part: Part, packed: torch.Tensor, bits: int) -> torch.Tensor:
        """As codes of the same range as the weight's."""
        stored, top = unpack(packed, bits), (1 << bits) - 1
        if self.form == V2:
            return stored
        if not self.whole_words and bool((stored == top).any()):
            count = int((stored == top).sum())
            raise part.error(
                "qzeros",
                f"holds {top} in {count} of {stored.numel()} places, expected 0 to {top - 1}: a "
                f"zero of 0 that v1 can't hold, written by other than GPTQModel",
            )
        return unpack(packed + sum(1 << bit for bit in range(0, 32, bits)), bits)

    def _layout(self, part: Part) -> Layout:
        for pattern, layout in self.dynamic:
            if re.match(pattern, part.name):
                if layout is None:
                    word = next(w for w in part.words if w in self.words)
                    raise part.error(
                        word, f"is there, although dynamic has {shown('-:' + pattern)}"
                    )
                return layout
        return self.layout


def _order(
    part: Part, g_idx: torch.Tensor, act_order: bool | None, group_size: int
) -> torch.Tensor | None:
    """A g_idx that is not of runs is at odds with desc_act false; one of zeros was not written."""
    written = bool(g_idx.any())
    if written and act_order is False:
        sentence = f"is in another order, expected runs of {group_size}: desc_act is false"
        raise part.error("g_idx", sentence)
    if not written and act_order is not False:
        raise part.error("g_idx", "is 0 throughout, expected the group of each input")
    return g_idx if written else None


def integers(
    codes: torch.Tensor,
    bits: int,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    g_idx: torch.Tensor | None,
    group_size: int,
) -> Quantized:
    """From codes u8 [N, K] as stored, with zeros of the same range [G, N]."""
    if bits == 4:
        zeros = None if zeros is None else zeros.to(torch.uint8)
        return Quantized("w4", codes, scales, zeros, g_idx, group_size)
    zeros = None if zeros is None else zeros.to(torch.int16) - 128
    return Quantized("int8", signed(codes), scales, zeros, g_idx, group_size)


def check_middle(part: Part, word: str, zeros: torch.Tensor, bits: int, said: str) -> None:
    """A symmetric layer has its zeros in the middle: where they are not, a zero of v1 was taken
    for one of v2 or the reverse, or the layer is not symmetric."""
    middle = 1 << (bits - 1)
    if zeros.numel() and bool((zeros != middle).any()):
        low, high = int(zeros.min()), int(zeros.max())
        raise part.error(
            word, f"holds zeros of {low} to {high}, expected {middle}: symmetric, and {said}"
        )


def parse(config: Config) -> Gptq:
    if config.get("is_marlin_format"):
        raise config.error("is_marlin_format", "is true, expected GPTQ's own layout")
    name = "checkpoint_format" if config.get("checkpoint_format") is not None else "format"
    form = config.one_of(name, (V1, V2), V1)
    if config.get("format", form) != form:
        found = shown(config.get("format"))
        raise config.error("format", f"is {found}, but checkpoint_format is {shown(form)}")
    layout = _layout(config, Layout(0, 128, True, None))
    rules = config.inner("dynamic") if config.get("dynamic") else None
    dynamic = [_rule(rules, name, layout) for name in rules.values] if rules else []
    return Gptq(layout, form, _by_gptqmodel(config), tuple(dynamic))


def _by_gptqmodel(config: Config) -> bool:
    meta = config.get("meta")
    named = meta.get("quantizer") if isinstance(meta, dict) else None
    quantizers = named if isinstance(named, list) else [named]
    return any(isinstance(q, str) and q.startswith("gptqmodel") for q in quantizers)


def _layout(config: Config, default: Layout) -> Layout:
    return Layout(
        config.one_of("bits", (4, 8), default.bits or None),
        config.group_size("group_size", default.group_size),
        config.one_of("sym", (True, False), default.symmetric),
        config.one_of("desc_act", (True, False, None), default.act_order),
    )


def _rule(rules: Config, name: str, layout: Layout) -> tuple[str, Layout | None]:
    """One of GPTQModel's `dynamic`: "-:pattern" leaves layers out, "pattern" changes them."""
    pattern = name.removeprefix("-:").removeprefix("+:")
    try:
        re.compile(pattern)
    except re.error as error:
        raise rules.error(name, f"is no regular expression: {error}") from error
    if name.startswith("-:"):
        return pattern, None
    values = rules.values[name]
    if not isinstance(values, Mapping):
        raise rules.error(name, f"is {shown(values)}, expected a JSON object")
    return pattern, _layout(rules.inner(name), layout)
