"""Weights of 4 bits in the one packing that every `matmul_w4` kernel reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.kernels.matmul import layout_w4 as layout
from aimills_kernels.kernels.matmul.checks import check_scale
from aimills_kernels.kernels.matmul.op_w4 import check_weight_values

_SCHEME = re.compile(r"w4-(?:g(32|64|128)|channel)(-asym)?")
_SCHEMES = "w4-g32, w4-g64, w4-g128 or w4-channel, each with or without -asym"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_VERSION = 1


class Unpacked(NamedTuple):
    """codes [N, K] u8 0..15, scales [G, N], zeros [G, N] u8 or None, g_idx [K] i32: the group of
    each column."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    g_idx: Tensor


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight [N, K] of 4-bit codes: (code - zero) * scale, with a scale for each group of columns
    and each row.

    Shapes and dtypes:
        codes     [N, width]   i16, four codes a word (`kernels/matmul/layout_w4.py`)
        scales    [G, N]       f16 | bf16 | f32, as given
        zeros     [G, N]       u8, 0 to 16; None: 8 throughout
        perm      [4 width]    i32; None unless groups are not runs of columns
        group_of  [width / 8]  i32; None unless groups are of other lengths than group_size

    `pack` makes one, `unpack` undoes that without loss. One packing serves every number of rows.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    perm: Tensor | None
    group_of: Tensor | None
    group_size: int  # 32, 64, 128, or K: one group
    offset: int  # where the first column lies in its group
    in_features: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.codes.shape[0], self.in_features

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self._named().values())

    @classmethod
    def pack(
        cls,
        weight: Tensor,
        scheme: str = "w4-g128",
        *,
        scales: Tensor | None = None,
        zeros: Tensor | None = None,
        g_idx: Tensor | None = None,
    ) -> PackedWeight:
        """From a weight [N, K], which is quantised, or from u8 codes [N, K] of 0..15 with their
        scales [G, N], zeros [G, N] (0..16; the scheme then ends with "-asym") and g_idx [K].

        A weight is rounded to the nearest code. Symmetric: scale = max|w| / 7 and codes 1 to 15, so
        that no weight is cut off; with / 8 the largest would be. Asymmetric: scale = (max - min) /
        15 over the group and 0, zero = the code next to 0. A scale has the dtype of the weight, and
        codes follow from the scale as stored. A group of zeros has scale 1.
        """
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            found = describe(weight) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"PackedWeight.pack: weight must be [N, K], got {found}")
        group_size, asym = _parsed(scheme, weight.shape[1])
        if weight.dtype != torch.uint8:
            given = {"scales": scales, "zeros": zeros, "g_idx": g_idx}
            if any(t is not None for t in given.values()):
                name = next(n for n, t in given.items() if t is not None)
                raise ValueError(
                    f"PackedWeight.pack: {name} belongs to uint8 codes, and weight is "
                    f"{describe(weight)}"
                )
            weight, scales, zeros = _quantised(weight, group_size, asym)
        elif asym != (zeros is not None):
            wanted = "needs zeros" if asym else "takes no zeros, or must end with -asym"
            raise ValueError(f"PackedWeight.pack: scheme {scheme!r} {wanted}")
        if scales is None:
            raise ValueError("PackedWeight.pack: codes need scales, [G, N]")
        if not weight.is_meta:
            _check_parts(weight, scales, zeros, g_idx, group_size)
        return _built(weight, scales, zeros, g_idx, group_size, 0)

    def unpack(self) -> Unpacked:
        """Codes, scales, zeros and g_idx as they were given; g_idx counts columns from the first
        group that this weight has scales of."""
        at = layout.places(self.in_features, self.perm, self.offset, self.device)
        codes = layout.unpack_nibbles(self.codes).index_select(1, at)
        groups = layout.group_index(at, self.group_of, self.group_size)
        return Unpacked(codes, self.scales, self.zeros, groups.to(torch.int32))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """(code - zero) * scale in float32 (float64 for float64), rounded to `dtype`: [N, K]."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return layout.dequantize(
            self.codes, self.scales, self.zeros, self.perm, self.group_of, self.in_features,
            self.group_size, self.offset, wide,
        ).to(dtype)  # fmt: skip

    def shard(self, dim: int, start: int, stop: int) -> PackedWeight:
        """Rows (dim 0) or columns (dim 1) start to stop - 1, in memory of their own. Any boundary:
        one within a group leaves its scales to both shards."""
        if dim not in (0, 1):
            raise ValueError(f"PackedWeight.shard: dim must be 0 or 1, got {shown(dim)}")
        size = self.shape[dim]
        for name, value in (("start", start), ("stop", stop)):
            if not isinstance(value, int):
                raise ValueError(
                    f"PackedWeight.shard: {name} must be an integer, got {shown(value)}"
                )
        if not 0 <= start <= stop <= size:
            raise ValueError(
                f"PackedWeight.shard: start and stop must be 0 <= start <= stop <= {size}, "
                f"got {shown(start)} and {shown(stop)}"
            )
        if dim == 0:
            parts = self._named() | {"codes": self.codes[start:stop]}
            parts |= {n: parts[n][:, start:stop] for n in ("scales", "zeros") if n in parts}
            return self._with({name: _own(t) for name, t in parts.items()})
        codes, scales, zeros, g_idx = self.unpack()
        codes, g_idx = codes[:, start:stop], g_idx[start:stop]
        if self.perm is not None or self.group_of is not None:
            return _built(codes, scales, zeros, g_idx, self.group_size, 0)
        if self.group_size not in layout.SIZES:
            return _built(codes, scales, zeros, None, stop - start, 0)
        first, last = start + self.offset, stop + self.offset
        rows = slice(first // self.group_size, -(-last // self.group_size))
        zeros = None if zeros is None else zeros[rows]
        return _built(codes, scales[rows], zeros, None, self.group_size, first % self.group_size)

    def to(self, device: str | torch.device) -> PackedWeight:
        """The same on another device; itself where it is there already."""
        moved = {name: t.to(device) for name, t in self._named().items()}
        return self if moved["codes"] is self.codes else self._with(moved)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Everything, by names, for safetensors: `<prefix>.codes`, `.scales`, ... and `.layout`, an
        i64 tensor with the sizes."""
        optional = (self.zeros, self.perm, self.group_of)
        layout_of = [
            _VERSION, *self.shape, self.scales.shape[0], self.group_size, self.offset,
            *(int(t is not None) for t in optional),
        ]  # fmt: skip
        named = {**self._named(), "layout": torch.tensor(layout_of, dtype=torch.int64)}
        return {_key(prefix, name): t for name, t in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], prefix: str = "") -> PackedWeight:
        """What `tensors(prefix)` gave. ValueError, which names the tensor, where one is missing, is
        not of this weight, or holds a scale, a zero or a place that no weight has."""
        N, K, groups, group_size, offset, *has = _layout_from(tensors, prefix)
        found = {}
        for name in (f.name for f in fields(cls)[:5]):
            key = _key(prefix, name)
            optional = dict(zip(("zeros", "perm", "group_of"), has, strict=True)).get(name, 1)
            if (key in tensors) != bool(optional):
                state = "missing" if optional else "of another weight: this one has none"
                raise ValueError(f"PackedWeight.from_tensors: {shown(key)} is {state}")
            found[name] = tensors.get(key)
        made = cls(**found, group_size=group_size, offset=offset, in_features=K)  # type: ignore[arg-type]
        made._check(prefix, N, groups)
        return made

    def _check(self, prefix: str, N: int, groups: int) -> None:
        what = "PackedWeight.from_tensors"
        width = layout.words_for(self.in_features + self.offset)
        if self.perm is not None or self.group_of is not None:
            width = self.codes.shape[1] if self.codes.dim() == 2 else width
            if width % layout.WORDS or 4 * width < self.in_features:
                width = layout.words_for(self.in_features)
        wanted: dict[str, tuple[tuple[int, ...], tuple[torch.dtype, ...]]] = {
            "codes": ((N, width), (torch.int16,)),
            "scales": ((groups, N), _FLOATS),
            "zeros": ((groups, N), (torch.uint8,)),
            "perm": ((4 * width,), (torch.int32,)),
            "group_of": ((4 * width // layout.RUN,), (torch.int32,)),
        }
        for name, t in self._named().items():
            (shape, dtypes), key = wanted[name], shown(_key(prefix, name))
            if not isinstance(t, Tensor):
                raise ValueError(f"{what}: {key} must be a tensor, got {type(t).__name__}")
            if t.device != self.device:
                raise ValueError(f"{what}: {key} must be on {self.device} as codes, got {t.device}")
            if tuple(t.shape) != shape or t.dtype not in dtypes:
                kinds = " or ".join(describe(d) for d in dtypes)
                raise ValueError(f"{what}: {key} must be {kinds} {list(shape)}, got {describe(t)}")
        if not self.codes.is_meta:
            check_weight_values(
                f"{what} of {shown(prefix)}" if prefix else what, self.in_features, self.scales,
                self.zeros, self.perm, self.group_of, self.group_size,
            )  # fmt: skip

    def _named(self) -> dict[str, Tensor]:
        found = {f.name: getattr(self, f.name) for f in fields(self)[:5]}
        return {name: t for name, t in found.items() if t is not None}

    def _with(self, tensors: Mapping[str, Tensor]) -> PackedWeight:
        found: dict[str, Any] = {f.name: tensors.get(f.name) for f in fields(self)[:5]}
        return PackedWeight(
            **found, group_size=self.group_size, offset=self.offset, in_features=self.in_features
        )


def _key(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _layout_from(tensors: Mapping[str, Tensor], prefix: str) -> list[int]:
    """N, K, G, group_size, offset, and whether there are zeros, perm, group_of."""
    key = _key(prefix, "layout")
    if key not in tensors:
        raise ValueError(f"PackedWeight.from_tensors: {shown(key)} is missing")
    t = tensors[key]
    if not isinstance(t, Tensor):
        raise ValueError(
            f"PackedWeight.from_tensors: {shown(key)} must be a tensor, got {type(t).__name__}"
        )
    if t.dtype != torch.int64 or tuple(t.shape) != (9,) or t.is_meta:
        raise ValueError(f"PackedWeight.from_tensors: {shown(key)} must be int64[9] with contents, "
                         f"got {describe(t)} on {t.device}")  # fmt: skip
    version, *sizes = t.tolist()
    if version != _VERSION:
        raise ValueError(
            f"PackedWeight.from_tensors: {shown(key)} is of version {version}, known is {_VERSION}"
        )
    _, K, groups, group_size, offset, _, perm, group_of = sizes
    limit = group_size if group_size in layout.SIZES and not perm and not group_of else 1
    fits = group_of or groups == layout.groups_in(K, group_size, offset)
    if (
        min(sizes) < 0
        or max(sizes[5:]) > 1
        or group_size not in (*layout.SIZES, K)
        or offset >= limit
        or not fits
    ):
        raise ValueError(f"PackedWeight.from_tensors: {shown(key)} holds sizes that no weight has: "
                         f"{sizes}")  # fmt: skip
    return sizes


def _parsed(scheme: str, K: int) -> tuple[int, bool]:
    """Group size and whether there are zeros."""
    found = _SCHEME.fullmatch(scheme) if isinstance(scheme, str) else None
    if found is None:
        raise ValueError(f"PackedWeight.pack: scheme must be {_SCHEMES}, got {shown(scheme)}")
    return int(found[1]) if found[1] else K, found[2] is not None


def _quantised(
    weight: Tensor, group_size: int, asym: bool
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Codes [N, K], scales [G, N] and zeros, rounded to the nearest."""
    if weight.dtype not in _FLOATS:
        raise ValueError(
            f"PackedWeight.pack: weight must be f16, bf16, f32 or uint8 codes, "
            f"got {describe(weight)}"
        )
    if not weight.is_meta and not bool(torch.isfinite(weight).all()):
        raise ValueError("PackedWeight.pack: weight must be finite, got NaN or infinity in it")
    (N, K), groups = weight.shape, layout.groups_in(weight.shape[1], group_size, 0)
    size = group_size if group_size in layout.SIZES else K
    values = torch.nn.functional.pad(weight.float(), (0, groups * size - K))
    values = values.reshape(N, groups, size)
    low, high = values.new_zeros(N, groups), values.new_zeros(N, groups)
    if size:
        low, high = values.amin(2).clamp_max(0), values.amax(2).clamp_min(0)
    span = (high - low) / 15 if asym else torch.maximum(high, -low) / 7
    scale = span.to(weight.dtype)
    least = torch.nextafter(scale.new_zeros(()), scale.new_ones(()))
    scale = torch.where(span == 0, torch.ones_like(scale), torch.maximum(scale, least))
    step = scale.float()
    zero = (-low / step).round().clamp(0, 15) if asym else torch.full_like(step, 8)
    codes = (values / step[..., None]).round() + zero[..., None]
    codes = codes.clamp(0 if asym else 1, 15).to(torch.uint8).reshape(N, groups * size)[:, :K]
    return codes, scale.T, zero.to(torch.uint8).T if asym else None


def _check_parts(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, g_idx: Tensor | None, group_size: int
) -> None:
    what, (N, K) = "PackedWeight.pack", codes.shape
    for name, t in (("scales", scales), ("zeros", zeros), ("g_idx", g_idx)):
        if t is not None and not isinstance(t, Tensor):
            raise ValueError(f"{what}: {name} must be a tensor, got {type(t).__name__}")
        if t is not None and t.device != codes.device:
            raise ValueError(f"{what}: {name} must be on {codes.device} as codes, got {t.device}")
    if codes.numel() and int(codes.max()) > 15:
        raise ValueError(f"{what}: codes must be 0 to 15, got {int(codes.max())}")
    if scales.dtype not in _FLOATS:
        raise ValueError(f"{what}: scales must be f16, bf16 or f32, got {describe(scales)}")
    groups = layout.groups_in(K, group_size, 0)
    if scales.dim() != 2 or scales.shape[1] != N or (g_idx is None and scales.shape[0] != groups):
        wanted = groups if g_idx is None else "G"
        raise ValueError(f"{what}: scales must be [{wanted}, {N}], got {describe(scales)}")
    check_scale(what, "scales", scales)
    if zeros is not None:
        if zeros.dtype != torch.uint8 or zeros.shape != scales.shape:
            raise ValueError(f"{what}: zeros must be uint8{[*scales.shape]}, got {describe(zeros)}")
        if zeros.numel() and int(zeros.max()) > 16:
            raise ValueError(f"{what}: zeros must be 0 to 16, got {int(zeros.max())}")
    if g_idx is not None:
        if tuple(g_idx.shape) != (K,) or g_idx.dtype not in _INTEGERS:
            raise ValueError(f"{what}: g_idx must be integers [{K}], got {describe(g_idx)}")
        if K and not 0 <= int(g_idx.min()) <= int(g_idx.max()) < scales.shape[0]:
            raise ValueError(
                f"{what}: g_idx must be 0 to {scales.shape[0] - 1}, a row of scales, "
                f"got {int(g_idx.min())} to {int(g_idx.max())}"
            )


def _built(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, g_idx: Tensor | None, group_size: int,
    offset: int,
) -> PackedWeight:  # fmt: skip
    """Lay checked codes [N, K] out. Groups that are runs of columns need no tables."""
    (N, K), place = codes.shape, codes.device
    listed = None if g_idx is None else g_idx.tolist()
    regular = layout.groups_in(K, group_size, offset) == scales.shape[0]
    perm: list[int] | None = None
    group_of: list[int] | None = None
    if listed is not None and not (regular and listed == _runs(K, group_size)):
        by_group = sorted(range(K), key=listed.__getitem__)
        if regular and [listed[k] for k in by_group] == _runs(K, group_size):
            perm = by_group + [-1] * (4 * layout.words_for(K) - K)
        else:
            perm, group_of = layout.by_group(listed)
    if perm is None:
        behind = 4 * layout.words_for(K + offset) - K - offset
        stored = torch.nn.functional.pad(codes, (offset, behind))
    else:
        at = torch.tensor(perm, dtype=torch.int64, device=place)
        stored = codes.index_select(1, at.clamp_min(0)) if K else codes.new_zeros(N, len(perm))
        stored = stored.masked_fill(at < 0, 0)

    def table(values: list[int] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.int32, device=place)

    return PackedWeight(
        layout.pack_nibbles(stored), _own(scales), None if zeros is None else _own(zeros),
        table(perm), table(group_of), group_size, offset, K,
    )  # fmt: skip


def _runs(K: int, group_size: int) -> list[int]:
    return [k // group_size for k in range(K)] if group_size in layout.SIZES else [0] * K


def _own(t: Tensor) -> Tensor:
    return t.detach().clone(memory_format=torch.contiguous_format)
