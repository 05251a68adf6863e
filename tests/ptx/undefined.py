"""Values that nothing wrote: followed, bit by bit, until they matter.

Compilers read registers that were never written, and rightly: a masked load leaves its lanes alone,
a shuffle takes them along, and a select drops them. So such a read is no fault. It is one when the
value becomes an address, a predicate of control flow, or a result in global memory, or is what a
wgmma adds to. Through shared and local memory and matrix products it is followed (undefined_data).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.ptx import flow, undefined_data
from tests.ptx.bind import Binder, Source
from tests.ptx.errors import Uninitialised
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.ops import decode
from tests.ptx.parse import WIDTH, Imm, Instr, Kernel, Mem, Operand, Reg

_Check = Callable[[Active], None]
# Run before an instruction; what it gives is run behind it.
_Follow = Callable[[Active], Callable[[Active], None]]
# Instructions that move bits: run on the undefined bits themselves. The operands named here say how
# to move, and keep their values.
_MOVES: dict[str, tuple[int, ...]] = {
    "mov": (), "prmt": (3,), "shfl": (2, 3, 4), "shl": (2,), "shr": (2,), "selp": (3,),
    "bfe": (2, 3), "shf": (3,),
}  # fmt: skip
# Their result counts as defined; what a load from shared or local memory brings is looked up there.
_DEFINES = ("ld", "ldu", "ldmatrix", "atom", "cp", "mbarrier", "mapa")
_INSIDE = {"shared", "shared::cta", "shared::cluster", "local"}
# All that they read has to be defined.
_EFFECTS = ("bar", "barrier", "mbarrier", "red", "atom", "cp", "tensormap", "setmaxnreg", "mapa")


@functools.lru_cache(flow.KERNELS)
def spread(kernel: Kernel) -> tuple[frozenset[str], bool]:
    """The registers that may ever hold what nothing wrote, and whether memory may."""
    found = {name for _, name in flow.doubtful(kernel)}
    local = any(v.space == "local" for v in kernel.variables.values())
    shared, grew = False, bool(found) or local
    while grew:
        grew = False
        for instr in kernel.code:
            taken = not found.isdisjoint(r.name for r in flow.reads(instr))
            if _puts(instr):
                grew, shared = grew or (taken and not shared), shared or taken
                continue
            if _takes(instr):
                taken = local if "local" in instr.parts else shared or (local and _generic(instr))
            elif instr.parts[0] == "wgmma":
                taken = taken or shared
            elif instr.parts[0] in _DEFINES:
                continue
            new = {r.name for r in flow.writes(instr)} - found
            if taken and new:
                grew = True
                found |= new
    return frozenset(found), shared or local


def _generic(instr: Instr) -> bool:
    return _INSIDE.isdisjoint(instr.parts) and not {"global", "param", "const"} & set(instr.parts)


def _takes(instr: Instr) -> bool:
    """It loads from shared or local memory."""
    inside = not _INSIDE.isdisjoint(instr.parts) or _generic(instr)
    return instr.parts[0] == "ldmatrix" or (instr.parts[0] == "ld" and inside)


def _puts(instr: Instr) -> bool:
    """It stores there."""
    inside = not _INSIDE.isdisjoint(instr.parts) or _generic(instr)
    plain = instr.parts[0] == "st" and inside and not instr.has("async")
    return instr.parts[0] == "stmatrix" or plain


class Undefined:
    """The undefined bits of those registers, as arrays like the registers' own.

    Most of them never hold any, so only the spoilt ones are looked at and written: those that may
    be read before they are written, and what got undefined bits in some lane since.
    """

    def __init__(self, b: Binder):
        self.b = b
        self.names, self.everywhere = spread(b.m.kernel)
        self.doubted = frozenset(name for _, name in flow.doubtful(b.m.kernel))
        self.spoilt = set(self.doubted)
        self.bits: dict[str, np.ndarray] = {}
        self.memory = b.memory.bits = undefined_data.Bits(b.memory)

    def array(self, reg: Reg) -> np.ndarray:
        found = self.bits.get(reg.name)
        if found is None:
            like = self.b.array(reg)
            ones = True if like.dtype == bool else np.iinfo(like.dtype).max
            found = np.full_like(like, ones if reg.name in self.doubted else 0)
            self.bits[reg.name] = found
        return found

    def note(self, regs: Iterable[Reg], where: slice | np.ndarray) -> None:
        """Bits of these registers were written, in these warps."""
        for reg in regs:
            if reg.name not in self.spoilt and self.array(reg)[where].any():
                self.spoilt.add(reg.name)

    def check(self, reg: Reg, width: int | None = None) -> _Check | None:
        """Raises where the register's low `width` bytes hold undefined bits; None if they can't."""
        if reg.name not in self.names:
            return None
        bits = self.array(reg)
        if width is not None and width < bits.itemsize and bits.dtype != bool:
            bits = bits.view(f"u{width}").reshape(*bits.shape, -1)[..., 0]

        def check(s: Active) -> None:
            if reg.name not in self.spoilt:
                return
            bad = s.mask & (bits[s.sl] != 0)
            if bad.any():
                warp, lane = (int(i[0]) for i in np.nonzero(bad))
                text = f"register {reg.name} is used here and holds what was never written"
                raise fault(Uninitialised, self.b.m, text, warp + s.lo, lane)

        return check

    def binder(self) -> Binder:
        """Binds operands to their undefined bits."""
        return _Bits(self, [])

    # ---- instructions

    def wrap(self, pc: int, run: Handler) -> Handler:
        """`run`, with its checks before and the undefined bits of its results after."""
        instr = self.b.m.kernel.code[pc]
        read = [r for r in flow.reads(instr) if r.name in self.names]
        made = [r for r in flow.writes(instr) if r.name in self.names]
        if not read and not made and not (self.everywhere and _puts(instr)):
            return run

        @functools.cache
        def prepared() -> tuple[list[_Check], _Follow | None]:
            self.b.pc, self.b.instr = pc, instr
            checks = [c for c in (self.check(r, w) for r, w in _sinks(instr)) if c]
            return checks, self._follow(instr, read, made)

        touched = frozenset(r.name for r in (*read, *made))
        moves = _takes(instr) or _puts(instr)

        def followed(s: Active) -> int | None:
            if self.spoilt.isdisjoint(touched) and not (moves and self.memory.spoilt):
                return run(s)
            checks, follow = prepared()
            for check in checks:
                check(s)
            if follow is None:
                return run(s)
            late = follow(s)  # before the sources may be overwritten
            after = run(s)
            late(s)
            self.note(made, s.sl)
            return after

        return followed

    def _follow(self, instr: Instr, read: list[Reg], made: list[Reg]) -> _Follow | None:
        if _takes(instr) or _puts(instr):
            return self._accessed(instr)
        if not made or instr.parts[0] == "wgmma":  # whose bits follow where it is computed
            return None
        if instr.parts[0] == "mma":
            return undefined_data.mma(instr, _Bits(self, []))
        if instr.parts[0] in _DEFINES or not read:
            return self._set(made, lambda s: None)
        if _moves(instr):
            return self._moved(instr)
        if instr.parts[0] in ("and", "or") and instr.types[-1] != "pred":
            return self._masked(instr)
        if instr.parts[0] in ("xor", "not") or instr.types[-1:] == ("pred",):
            return self._joined(instr)
        sources = [self.array(r) for r in read]
        whole = instr.parts[0] in ("redux", "vote", "match", "elect")

        def any_(s: Active) -> np.ndarray:
            found = np.zeros(s.mask.shape, bool)
            for bits in sources:
                found |= (bits[s.sl] != 0) & s.mask
            return np.broadcast_to(found.any(axis=1)[:, None], found.shape) if whole else found

        return self._set(made, any_)

    def _set(self, made: list[Reg], find: Callable[[Active], np.ndarray | None]) -> _Follow:
        """All bits of the results undefined where `find` says so, and defined elsewhere."""
        arrays = [self.array(r) for r in made]

        def follow(s: Active) -> Callable[[Active], None]:
            found = find(s)

            def late(s: Active) -> None:
                for bits in arrays:
                    ones = bits.dtype.type(True if bits.dtype == bool else np.iinfo(bits.dtype).max)
                    value = bits.dtype.type(0) if found is None else np.where(found, ones, 0)
                    np.copyto(bits[s.sl], np.asarray(value).astype(bits.dtype), where=s.mask)

            return late

        return follow

    def _accessed(self, instr: Instr) -> _Follow:
        """A load or a store of shared or local memory, which does the same with undefined bits."""
        shadow = _Bits(self, [])
        shadow.memory = self.memory  # type: ignore[assignment]
        run = decode(instr, shadow)

        def follow(s: Active) -> Callable[[Active], None]:
            shadow.at = [get(s) for get in shadow.places]

            def late(s: Active) -> None:
                run(s)

            return late

        return follow

    def _moved(self, instr: Instr) -> _Follow:
        keep = _MOVES.get(instr.parts[0], ())
        shadow = _Bits(self, [instr.args[i] for i in keep if i < len(instr.args)])
        run = decode(instr, shadow)
        how = [
            (self.array(r), self.array(d))
            for i in keep
            if i < len(instr.args)
            for r in flow.registers(instr.args[i])
            if r.name in self.names
            for d in flow.writes(instr)
        ]

        def follow(s: Active) -> Callable[[Active], None]:
            lost = [(d, (k[s.sl] != 0) & s.mask) for k, d in how]
            run(s)

            def late(s: Active) -> None:
                for bits, where in lost:
                    ones = True if bits.dtype == bool else np.iinfo(bits.dtype).max
                    bits[s.sl][where] = ones

            return late

        return follow

    def _pair(self, instr: Instr) -> tuple[list[Source], list[Source]]:
        """Values and undefined bits of the sources."""
        shadow = _Bits(self, [])
        type_ = instr.types[-1]
        return (
            [self.b.src(a, type_) for a in instr.args[1:]],
            [shadow.src(a, type_) for a in instr.args[1:]],
        )

    def _masked(self, instr: Instr) -> _Follow:
        """A defined 0 decides an `and`, a defined 1 an `or`."""
        (x, y), (u, v) = self._pair(instr)
        put = _Bits(self, []).dst(instr.args[0], instr.types[-1])
        flip = instr.parts[0] == "or"

        def follow(s: Active) -> Callable[[Active], None]:
            a, b, p, q = x(s), y(s), u(s), v(s)
            if flip:
                a, b = ~a, ~b
            found = (p | q) & (a | p) & (b | q)
            return lambda s: put(s, found)

        return follow

    def _joined(self, instr: Instr) -> _Follow:
        _, undefined = self._pair(instr)
        put = _Bits(self, []).dst(instr.args[0], instr.types[-1])

        def follow(s: Active) -> Callable[[Active], None]:
            found: Any = undefined[0](s)
            for more in undefined[1:]:
                found = found | more(s)
            return lambda s: put(s, found)

        return follow


def _moves(instr: Instr) -> bool:
    if instr.parts[0] == "cvt":
        return len(instr.parts) == 3 and not any("f" in t or "m" in t for t in instr.types)
    if instr.parts[0] in ("shr", "bfe"):  # the signed ones copy a bit
        return instr.types[-1][0] != "s"
    return instr.parts[0] in _MOVES


def _sinks(instr: Instr) -> list[tuple[Reg, int | None]]:
    """Registers that have to be defined, and how many of their bytes."""
    found: list[tuple[Reg, int | None]] = []
    for operand in instr.args:
        if isinstance(operand, Mem):
            found += [(r, None) for r in flow.registers(operand)]
    if instr.parts[0] == "st" and not _puts(instr):
        width = WIDTH[instr.types[-1]]
        found += [(r, width) for r in flow.registers(instr.args[1])]
    if instr.parts[0] in _EFFECTS:
        written = {r.name for r in flow.writes(instr)}
        found += [(r, None) for r in flow.reads(instr) if r.name not in written]
    return found


def _zero(type_: str) -> Imm:
    return Imm(0, type_) if type_ in ("f32", "f64") else Imm(0)


class _Bits(Binder):
    """Binds an instruction to the undefined bits of its operands instead of to their values."""

    def __init__(self, undefined: Undefined, keep: list[Operand]):
        b = undefined.b
        super().__init__(b.m, b.memory, b.addresses)
        self.pc, self.instr = b.pc, b.instr
        self.undefined_, self.keep = undefined, [id(k) for k in keep]
        self.places: list[Callable[[Active], np.ndarray]] = []  # that its addresses come from
        self.at: list[np.ndarray] = []  # the addresses, as they were before the instruction

    def array(self, reg: Reg) -> np.ndarray:
        return self.undefined_.array(reg)

    def src(self, operand: Operand, type_: str) -> Source:
        if id(operand) in self.keep:
            return self.undefined_.b.src(operand, type_)
        if isinstance(operand, Reg) and operand.name not in self.undefined_.names:
            return super().src(_zero(type_), type_)
        if not isinstance(operand, Reg) and not list(flow.registers(operand)):
            return super().src(_zero(type_), type_)
        return super().src(operand, type_)

    def address(self, mem: Operand, space: str) -> Callable[[Active], np.ndarray]:
        self.places.append(self.undefined_.b.address(mem, space))
        which = len(self.places) - 1
        return lambda s: self.at[which]
