"""compressed-tensors: pack-quantized, int-quantized, float-quantized and naive-quantized.

    pack-quantized   weight_packed i32 [N, ceil(K / p)], p = 32 / bits codes in a word, code 0 is
                     -2^(bits-1); weight_shape [2] = N, K; weight_zero_point i32 [ceil(N / p), G],
                     packed likewise; weight_g_idx [K]
    int-quantized    weight i8 [N, K], weight_zero_point i8 of the scales' shape
    float-quantized  weight e4m3 [N, K]
    naive-quantized  either of the last two, by the type of the weights

weight_scale is [1] (strategy tensor), [N, 1] (channel), [N, G] (group) or blocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.checkpoints._bits import groups_of, per_word, unpack
from aimills_kernels.checkpoints._config import Config
from aimills_kernels.checkpoints._files import Part
from aimills_kernels.checkpoints._quantized import Quantized
from aimills_kernels.checkpoints.fp8 import blocks, fp8_codes
from aimills_kernels.checkpoints.gptq import integers

PACKED, INT, FLOAT, NAIVE = "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"
_FORMATS = {"int": (PACKED, INT, NAIVE), "float": (FLOAT, NAIVE)}
_STRATEGIES = {
    "int": ("tensor", "channel", "group"),
    "float": ("tensor", "channel", "group", "block"),
}


@dataclass(frozen=True)
class Group:
    """One of `config_groups`: which layers, and how their weights are stored."""

    name: str
    targets: tuple[str, ...]
    form: str
    kind: str  # "int" or "float"
    bits: int
    symmetric: bool
    strategy: str
    group_size: int
    block: tuple[int, int] | None
    act_order: bool

    @property
    def title(self) -> str:
        return f"{self.form}, {self.bits}-bit {self.kind}, by {self.strategy}"

    def columns(self, K: int) -> int:
        return self.group_size if self.strategy == "group" else K


@dataclass(frozen=True)
class Compressed:
    """Layers of one compressed-tensors checkpoint."""

    groups: tuple[Group, ...]
    words = frozenset(
        {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"}
    )

    @property
    def title(self) -> str:
        return "compressed-tensors, " + "; ".join(group.title for group in self.groups)

    def read(self, part: Part) -> Quantized | None:
        quantised = any(word in part for word in self.words)
        if not quantised and ("weight" not in part or part.read("weight").dtype.itemsize > 1):
            return None
        group = self._group(part)
        if group.form == PACKED:
            return _packed(part, group)
        return _floats(part, group) if group.kind == "float" else _integers(part, group)

    def _group(self, part: Part) -> Group:
        """By name or pattern, else the one group whose targets are classes, as "Linear"."""
        for group in self.groups:
            if any(_names(target, part.name) for target in group.targets):
                return group
        by_class = [g for g in self.groups if any(re.fullmatch(r"\w+", t) for t in g.targets)]
        if len(by_class) == 1:
            return by_class[0]
        among = ", ".join(g.name for g in by_class) or "none"
        raise part.error(
            part.words[0], f"is quantised, expected one group of config_groups for it: {among} fits"
        )


def _names(target: str, name: str) -> bool:
    if target.startswith("re:"):
        return re.match(target[3:], name) is not None
    return target == name


def _packed(part: Part, group: Group) -> Quantized:
    p = per_word(group.bits)
    words = part.matrix("weight_packed", torch.int32)
    shape = part.read("weight_shape", (torch.int64, torch.int32), (2,)).tolist()
    N, K = shape
    if words.shape != (N, groups_of(K, p)):
        raise part.error(
            "weight_packed",
            f"is {describe(words)}, expected [{N}, {groups_of(K, p)}]: {group.bits} bits and "
            f"weight_shape {shape}",
        )
    scales, G = _scales(part, group, N, K)
    zeros = None
    if not group.symmetric and group.strategy == "tensor":
        zeros = _zeros(part, group, N, G).to(torch.int16) + (1 << (group.bits - 1))
    elif not group.symmetric:
        why = f"{p} codes in a word, {N} rows"
        packed = part.read("weight_zero_point", (torch.int32,), (groups_of(N, p), G), why=why)
        zeros = unpack(packed.T, group.bits)[:, :N]
    g_idx = None
    if "weight_g_idx" in part or group.act_order:
        g_idx = part.group_index("weight_g_idx", K, G, group.columns(K))
    codes = unpack(words, group.bits)[:, :K].contiguous()
    return integers(codes, group.bits, scales, zeros, g_idx, group.columns(K))


def _integers(part: Part, group: Group) -> Quantized:
    codes = part.matrix("weight", torch.int8)
    N, K = codes.shape
    scales, G = _scales(part, group, N, K)
    zeros = None if group.symmetric else _zeros(part, group, N, G)
    if group.bits == 8:
        zeros = None if zeros is None else zeros.to(torch.int16)
        return Quantized("int8", codes, scales, zeros, None, group.columns(K))
    for word, values in (("weight", codes), ("weight_zero_point", zeros)):
        if values is not None and values.numel() and not -8 <= values.min() <= values.max() <= 7:
            low, high = int(values.min()), int(values.max())
            raise part.error(word, f"holds {low} to {high}, expected -8 to 7: num_bits is 4")
    zeros = None if zeros is None else zeros + 8
    return integers((codes + 8).view(torch.uint8), 4, scales, zeros, None, group.columns(K))


def _floats(part: Part, group: Group) -> Quantized:
    codes = fp8_codes(part, torch.float8_e4m3fn)
    if group.strategy == "tensor":
        scales = part.scales("weight_scale", (), (1,), (1, 1), why="strategy tensor", fp8=True)
        return Quantized("fp8", codes, scales.reshape(()))
    block = group.block if group.block is not None else (1, group.columns(codes.shape[1]))
    scales = blocks(part, "weight_scale", codes, block)
    return Quantized("fp8", codes, scales, block=block)


def _shapes(group: Group, N: int, K: int) -> tuple[tuple[int, ...], ...]:
    if group.strategy == "tensor":
        return (), (1,), (1, 1)
    if group.strategy == "channel":
        return (N, 1), (N,)
    return ((N, groups_of(K, group.group_size)),)


def _why(group: Group, N: int, K: int) -> str:
    size = f" {group.group_size}" if group.strategy == "group" else ""
    return f"strategy {group.strategy}{size} of [{N}, {K}]"


def _scales(part: Part, group: Group, N: int, K: int) -> tuple[Tensor, int]:
    """[G, N] and G."""
    shapes = _shapes(group, N, K)
    found = part.scales("weight_scale", *shapes, why=_why(group, N, K))
    return _by_group(found, group, N)


def _by_group(found: Tensor, group: Group, N: int) -> tuple[Tensor, int]:
    if group.strategy == "tensor":
        return found.reshape(1, 1).expand(1, N).contiguous(), 1
    found = found.reshape(N, -1) if N else found.reshape(0, found.shape[-1])
    return found.T.contiguous(), found.shape[1]


def _zeros(part: Part, group: Group, N: int, G: int) -> Tensor:
    """i8 [G, N]; packed ones are read elsewhere."""
    shapes = ((), (1,), (1, 1)) if group.strategy == "tensor" else ((N, G), *(((N,),) * (G == 1)))
    found = part.read("weight_zero_point", (torch.int8,), *shapes, why="as weight_scale")
    return _by_group(found, group, N)[0]


# ---- the config


def parse(config: Config) -> Compressed:
    config.one_of("quantization_status", ("compressed", "frozen"), "compressed")
    sparsity = config.get("sparsity_config") or {}
    if sparsity and (not isinstance(sparsity, dict) or sparsity.get("format") != "dense"):
        raise config.error("sparsity_config", f"is {shown(sparsity)}, expected dense weights")
    if transforms := config.get("transform_config"):
        raise config.error(
            "transform_config", f"is {shown(transforms)}, expected weights without transforms"
        )
    groups = config.inner("config_groups")
    found = (groups.inner(name) for name in groups.values)
    return Compressed(tuple(_group(g, config) for g in found if g.get("weights") is not None))


def _group(config: Config, whole: Config) -> Group:
    targets = config.get("targets")
    if not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        raise config.error("targets", f"is {shown(targets)}, expected a list of names")
    for target in targets:
        if target.startswith("re:"):
            try:
                re.compile(target[3:])
            except re.error as error:
                raise config.error("targets", f"has {shown(target)}: {error}") from error
    weights = config.inner("weights")
    kind = weights.one_of("type", _STRATEGIES, "int")
    stated = config if config.get("format") is not None else whole
    form = stated.one_of("format", _FORMATS[kind])
    strategy = _strategy(weights, kind)
    symmetric = weights.one_of("symmetric", (True,) if kind == "float" else (True, False), True)
    return Group(
        config.key.rpartition(".")[2],
        tuple(targets),
        form,
        kind,
        weights.one_of("num_bits", (8,) if kind == "float" else (4, 8), 8),
        symmetric,
        strategy,
        weights.group_size("group_size") if strategy == "group" else 0,
        weights.pair("block_structure") if strategy == "block" else None,
        weights.get("actorder") in ("group", "dynamic"),
    )


def _strategy(weights: Config, kind: str) -> str:
    """Where none is stated it follows from the group size."""
    size = weights.get("group_size")
    default = "tensor" if size is None else "channel" if size == -1 else "group"
    return str(weights.one_of("strategy", _STRATEGIES[kind], default))
