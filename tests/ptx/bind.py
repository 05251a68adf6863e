"""Operands to functions: where a handler gets its values and leaves its results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.ptx.errors import Unknown
from tests.ptx.machine import Active, Machine
from tests.ptx.memory import GLOBAL, PARAM, Memory
from tests.ptx.parse import WIDTH, Imm, Instr, Mem, Not, Operand, Reg, Sink, Special, Sym, Vec

if TYPE_CHECKING:
    from tests.ptx.undefined import Undefined

DTYPE = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "e4m3": np.uint8, "e5m2": np.uint8,
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "f16": np.float16, "bf16": np.uint16,
    "e4m3x2": np.uint16, "e5m2x2": np.uint16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "f16x2": np.uint32,
    "bf16x2": np.uint32, "tf32": np.uint32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64, "f32x2": np.uint64,
    "pred": np.bool_,
}  # fmt: skip
_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
Source = Callable[[Active], Any]  # an array [warps, 32], or a scalar
Target = Callable[[Active, Any], None]
_CLOCKS = {
    "%clock": 2**32 - 1, "%clock_hi": 0, "%clock64": 2**64 - 1, "%globaltimer": 2**64 - 1,
    "%globaltimer_lo": 2**32 - 1, "%globaltimer_hi": 0,
}  # fmt: skip
_WIDER = ("ld", "ldu", "st", "cvt")  # whose registers may be wider than their type
_POISON = {1: 0xEB, 2: 0xDEAD, 4: 0xDEADBEEF, 8: 0xDEADBEEFDEADBEEF}


class Binder:
    """Makes the handlers of one machine. `pc` is the index of the instruction in hand."""

    def __init__(
        self,
        machine: Machine,
        memory: Memory,
        addresses: dict[str, int],
    ):
        self.m, self.memory, self.addresses = machine, memory, addresses
        self.pc = 0
        self.instr: Instr  # the one in hand
        self.undefined: Undefined | None = None

    def unknown(self, why: str = "this executor does not know the instruction") -> Unknown:
        return Unknown(why, self.instr)

    # ---- registers

    def array(self, reg: Reg) -> np.ndarray:
        """The register's storage [warps, 32], unsigned, or bool for a predicate."""
        found = self.m.registers.get(reg.name)
        if found is None:
            shape = (self.m.warps, 32)
            if reg.type == "pred":
                found = np.zeros(shape, bool)
            elif WIDTH[reg.type] == 16:
                found = np.zeros((*shape, 2), np.uint64)
            else:
                dtype = np.dtype(_UINT[WIDTH[reg.type]])
                found = np.full(shape, _POISON[dtype.itemsize], dtype)
            self.m.registers[reg.name] = found
        return found

    def check(self, reg: Reg) -> Callable[[Active], None] | None:
        """Raises where the register holds what nothing wrote; None where it can't."""
        return None if self.undefined is None else self.undefined.check(reg)

    # ---- sources

    def src(self, operand: Operand, type_: str) -> Source:
        """The operand's value as `type_`. A wider register gives its low bits."""
        if isinstance(operand, Reg):
            return self._register(operand, type_)
        if isinstance(operand, Not):
            if type_ != "pred":
                raise self.unknown("a ! before what is no predicate")
            inner = self.src(operand.reg, type_)
            return lambda s: ~inner(s)
        if isinstance(operand, Imm):
            value = self._immediate(operand, type_)
            return lambda s: value
        if isinstance(operand, Special):
            return self._special(operand, type_)
        if isinstance(operand, Sym):
            value = DTYPE[type_](self.symbol(operand.name))
            return lambda s: value
        if isinstance(operand, Vec):
            return self._packed(operand, type_)
        raise self.unknown(f"{written(operand)} is no source")

    def _register(self, reg: Reg, type_: str) -> Source:
        self.fits(reg, type_)
        array = self.array(reg)
        dtype = np.dtype(DTYPE[type_])
        if array.dtype.itemsize == dtype.itemsize:
            view = array.view(dtype)
        else:
            step = array.dtype.itemsize // dtype.itemsize
            view = array.view(dtype).reshape(*array.shape, step)[..., 0]
        return lambda s: view[s.sl]

    def fits(self, reg: Reg, type_: str) -> None:
        """PTX ISA, "Type Checking Rules": sizes agree, but that loads, stores and `cvt` take wider
        registers; floats and integers don't mix; bits go with all."""
        have, want = WIDTH[reg.type], WIDTH[type_]
        wider = have > want > 0 and self.instr.parts[0] in _WIDER
        mixed = {reg.type[0], type_[0]} in ({"f", "u"}, {"f", "s"})
        if (have != want and not wider) or mixed:
            raise self.unknown(f"register {reg.name} is a {reg.type}, and a {type_} goes here")

    def condition(self, reg: Reg) -> Source:
        """A predicate that decides who goes on."""
        source, check = self.src(reg, "pred"), self.check(reg)
        if check is None:
            return source

        def get(s: Active) -> np.ndarray:
            check(s)
            return source(s)

        return get

    def _immediate(self, imm: Imm, type_: str) -> Any:
        if type_ == "pred":
            return np.bool_(imm.value != 0)
        width = WIDTH[type_]
        bits = imm.value
        fits = (
            imm.kind != "int" if type_ in ("f32", "f64") else imm.kind in ("int", f"f{type_[1:]}")
        )
        if not fits or (imm.kind != "int" and type_[0] not in "fb"):
            raise self.unknown(f"the constant {imm} is no {type_}")
        if imm.kind == "f64" and width == 4:
            bits = int(np.float32(np.uint64(bits).view(np.float64)).view(np.uint32))
        elif imm.kind == "f32" and width == 8:
            bits = int(np.float64(np.uint32(bits).view(np.float32)).view(np.uint64))
        if imm.kind == "int" and not -(1 << (8 * width - 1)) <= bits < 1 << (8 * width):
            raise self.unknown(f"the constant {imm.value} does not fit a {type_}")
        bits &= (1 << (8 * width)) - 1
        return _UINT[width](bits).view(DTYPE[type_])

    def _special(self, special: Special, type_: str) -> Source:
        if special.name in _CLOCKS:
            dtype = DTYPE[type_]
            return lambda s: dtype(self.m.clock() & _CLOCKS[special.name])
        value = specials(self.m, self.memory).get(special.name)
        if value is None:
            text = "is not declared, and no special register that is known here"
            raise self.unknown(f"{special.name} {text}")
        if np.ndim(value) == 0:
            scalar = DTYPE[type_](value)
            return lambda s: scalar
        array = np.ascontiguousarray(
            np.broadcast_to(value, (self.m.warps, 32)).astype(DTYPE[type_])
        )
        return lambda s: array[s.sl]

    def _packed(self, vec: Vec, type_: str) -> Source:
        """{lo, hi}: the parts next to each other."""
        width = WIDTH[type_] // len(vec.items)
        parts = [self.src(item, f"b{8 * width}") for item in vec.items]
        whole = _UINT[WIDTH[type_]]

        def get(s: Active) -> np.ndarray:
            out = np.zeros((s.hi - s.lo, 32), whole)
            for i, part in enumerate(parts):
                out |= np.asarray(part(s)).astype(whole) << whole(8 * width * i)
            return out.view(DTYPE[type_])

        return get

    def symbol(self, name: str) -> int:
        """A variable's address in its own space."""
        if name not in self.addresses:
            raise self.unknown(f"{name} is not declared")
        return self.addresses[name]

    # ---- targets

    def dst(self, operand: Operand, type_: str) -> Target:
        """Takes an array [warps, 32] or a scalar. A wider register is sign- or zero-extended."""
        if isinstance(operand, Sink):
            return lambda s, value: None
        if isinstance(operand, Vec):
            return self._unpacked(operand, type_)
        if not isinstance(operand, Reg):
            raise self.unknown(f"{written(operand)} is no destination")
        self.fits(operand, type_)
        array = self.array(operand)
        return _writer(array, type_)

    def _unpacked(self, vec: Vec, type_: str) -> Target:
        width = WIDTH[type_] // len(vec.items)
        part, whole = _UINT[width], _UINT[WIDTH[type_]]
        targets = [self.dst(item, f"b{8 * width}") for item in vec.items]

        def put(s: Active, value: Any) -> None:
            bits = np.asarray(value).view(whole) if np.ndim(value) else whole(value)
            for i, target in enumerate(targets):
                target(s, (bits >> whole(8 * width * i)).astype(part))

        return put

    # ---- addresses

    def address(self, mem: Operand, space: str) -> Callable[[Active], np.ndarray]:
        """The addresses of the active lanes [k], in `space`: u64."""
        if not isinstance(mem, Mem):
            raise self.unknown("an address stands in brackets")
        offset = np.uint64(mem.offset & (2**64 - 1))
        if isinstance(mem.base, Reg):
            wide = WIDTH[mem.base.type] == 8
            base = self.src(mem.base, "u64" if wide else "u32")

            def get(s: Active) -> np.ndarray:
                value = base(s)
                value = value.reshape(-1) if s.full else value[s.mask]
                if not wide:  # a 32-bit address wraps around at 2^32
                    return (value + offset.astype(np.uint32)).astype(np.uint64)
                return value + offset

            return get
        fixed = mem.base.value if isinstance(mem.base, Imm) else self.symbol(mem.base.name)
        if space == "generic" and isinstance(mem.base, Sym):
            raise self.unknown("a variable's name has no generic address")
        total = np.uint64((fixed + mem.offset) & (2**64 - 1))
        return lambda s: np.full(len(s.lanes[0]), total)

    def gather(self, source: Source) -> Callable[[Active], np.ndarray]:
        """A source's values of the active lanes only [k]."""

        def get(s: Active) -> np.ndarray:
            value = source(s)
            if np.ndim(value) == 0:
                return np.full(len(s.lanes[0]), value)
            return value.reshape(-1) if s.full else value[s.mask]

        return get

    def scatter(self, operand: Operand, type_: str) -> Target:
        """A target that takes the values of the active lanes only [k]."""
        target = self.dst(operand, type_)

        def put(s: Active, value: np.ndarray) -> None:
            if s.full:
                target(s, value.reshape(s.mask.shape))
                return
            whole = np.zeros(s.mask.shape, value.dtype)
            whole[s.mask] = value
            target(s, whole)

        return put


def written(operand: Operand) -> str:
    """An operand as a sentence about it names it."""
    if isinstance(operand, Special):
        return f"{operand.name}, which nobody declared,"
    if isinstance(operand, Imm):
        return f"the constant {operand}"
    return getattr(
        operand,
        "name",
        {"Mem": "an address", "Not": "what has a ! before it"}.get(
            type(operand).__name__, f"a {type(operand).__name__.lower()}"
        ),
    )


def _writer(array: np.ndarray, type_: str) -> Target:
    dtype = np.dtype(DTYPE[type_])
    if array.dtype.itemsize == dtype.itemsize:
        view = array.view(dtype)

        def put(s: Active, value: Any) -> None:
            if s.full:
                view[s.sl] = value
            else:
                np.copyto(view[s.sl], value, where=s.mask)

        return put
    signed = dtype.kind == "i"
    wide = np.dtype(f"{'i' if signed else 'u'}{array.dtype.itemsize}")
    view = array.view(wide)
    bits = dtype if signed else np.dtype(_UINT[dtype.itemsize])

    def extend(s: Active, value: Any) -> None:
        value = np.asarray(value)
        value = value.view(bits) if value.dtype != bits else value
        np.copyto(view[s.sl], value.astype(wide), where=s.mask)

    return extend


def specials(m: Machine, memory: Memory) -> dict[str, Any]:
    """The predefined registers: scalars, or arrays that broadcast to [warps, 32]."""
    bx, by, _ = m.shape.block
    thread = m.warp_of[:, None] * 32 + np.arange(32)[None, :]
    lane = np.arange(32)[None, :]
    cta, inside = m.cta_of(), m.cta_in_cluster()
    cluster = cta // np.asarray(m.shape.cluster)
    found: dict[str, Any] = {
        "%tid.x": thread % bx, "%tid.y": thread // bx % by, "%tid.z": thread // (bx * by),
        "%laneid": lane, "%warpid": m.warp_of[:, None], "%nwarpid": m.shape.warps,
        "%cluster_ctarank": m.rank_of[:, None], "%cluster_nctarank": m.shape.cluster_size,
        "%lanemask_eq": 1 << lane, "%lanemask_lt": (1 << lane) - 1,
        "%lanemask_le": (2 << lane) - 1, "%lanemask_gt": 0xFFFFFFFF & ~((2 << lane) - 1),
        "%lanemask_ge": 0xFFFFFFFF & ~((1 << lane) - 1),
        "%smid": m.rank_of[:, None], "%nsmid": 132, "%gridid": 0,
        "%dynamic_smem_size": m.shape.shared, "%total_smem_size": memory.shared_size,
        "%is_explicit_cluster": m.shape.cluster_size > 1, "%reserved_smem_offset_begin": 0,
    }  # fmt: skip
    for i, axis in enumerate("xyz"):
        found[f"%ntid.{axis}"] = m.shape.block[i]
        found[f"%nctaid.{axis}"] = m.shape.grid[i]
        found[f"%ctaid.{axis}"] = cta[:, i : i + 1]
        found[f"%cluster_ctaid.{axis}"] = inside[:, i : i + 1]
        found[f"%cluster_nctaid.{axis}"] = m.shape.cluster[i]
        found[f"%clusterid.{axis}"] = cluster[:, i : i + 1]
        found[f"%nclusterid.{axis}"] = m.shape.clusters[i]
    return found


__all__ = ["DTYPE", "GLOBAL", "PARAM", "Binder", "Source", "Target", "specials"]
