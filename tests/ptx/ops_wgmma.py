"""wgmma: matrix products of a warpgroup, which go on while its warps do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.ptx import elements, undefined_data, wgmma_flow
from tests.ptx.bind import Binder
from tests.ptx.elements import BYTES, FP8
from tests.ptx.errors import Fault, MissingFence
from tests.ptx.machine import Active, Handler, fault
from tests.ptx.memory import Memory
from tests.ptx.ops import handles
from tests.ptx.ops_mma import items, mixed
from tests.ptx.parse import WIDTH, Imm, Instr, Reg, Vec
from tests.ptx.races import Shadow, Transfer
from tests.ptx.wgmma_memory import Operand as Matrix

_SUMS = {"f16": ("f32", "f16"), "bf16": ("f32",), "tf32": ("f32",), "e4m3": ("f32", "f16"),
         "e5m2": ("f32", "f16"), "s8": ("s32",), "u8": ("s32",)}  # fmt: skip


@dataclass
class Product:
    """A wgmma of some warpgroups, from its issue to the wait."""

    instr: Instr
    groups: np.ndarray  # [i] numbers of warpgroups
    batch: np.ndarray  # [i] commits of each before it was issued
    compute: Callable[[np.ndarray], None]  # for some of them, as a mask [i]
    reads: list[Transfer]
    todo: np.ndarray = field(init=False)  # [i] not computed
    flying: np.ndarray = field(init=False)  # [i] not waited for
    # Registers that its own were copied to, and for which of them [i].
    copies: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.todo = np.ones(len(self.groups), bool)
        self.flying = np.ones(len(self.groups), bool)

    def copied(self, names: frozenset[str], late: np.ndarray, taken: bool) -> None:
        """These registers now hold copies of its own, or else no more."""
        for name in names:
            if taken or name in self.copies:
                known = self.copies.get(name, np.zeros_like(late))
                self.copies[name] = known | late if taken else known & ~late


class Warpgroups:
    """What each warpgroup has under way.

    A product is computed, shared memory read, at a random one of two times: when it is issued or at
    the wait for it. Until then its registers may not be touched. Warpgroup g is the g // n th of
    the cluster, in cluster g % n.
    """

    def __init__(self, memory: Memory):
        self.m, self.shadow = memory.m, memory.shadow
        m = self.m
        memory.swizzles = np.zeros(len(memory.shared) // 16, np.uint8)
        self.commits = np.zeros(m.warps // 4, np.int64)
        self.products: list[Product] = []
        self.findings = wgmma_flow.check(m.kernel)
        m.exits.append(self._leave)

    def warps(self, groups: np.ndarray) -> np.ndarray:
        """[i, 4]"""
        n = self.m.n
        return (groups // n * 4)[:, None] * n + (groups % n)[:, None] + np.arange(4) * n

    def of(self, s: Active) -> np.ndarray:
        """The warpgroups that are active, all of each."""
        n = self.m.n
        parts = s.mask.reshape(-1, 4, n, 32)
        there = parts.all(axis=(1, 3))
        partly = parts.any(axis=(1, 3)) & ~there
        if partly.any():
            warp = int(np.nonzero(s.mask.any(axis=1))[0][0]) + s.lo
            raise fault(Fault, self.m, "a wgmma without all lanes of its warpgroup", warp, 0)
        return np.nonzero(there.reshape(-1))[0] + s.lo // 4

    def issue(self, product: Product) -> None:
        self.products.append(product)
        if self.m.shuffled and self.m.rng.random() < 0.5:
            for one in self.products:
                _compute(one, np.isin(one.groups, product.groups))

    def wait(self, groups: np.ndarray, most: int) -> None:
        """Until at most this many of each one's committed batches are under way."""
        for one in self.products:
            done = one.flying & np.isin(one.groups, groups)
            done &= one.batch < self.commits[one.groups] - most
            _compute(one, done)
            one.flying &= ~done
            if self.shadow is not None:
                # Over for any of the four warps: one of them may tell the operands' producer.
                for k, warps in zip(np.nonzero(done)[0], self.warps(one.groups[done]), strict=True):
                    self.shadow.end(one.reads[k], warp=warps)
        self.products = [p for p in self.products if p.flying.any()]

    def under_way(self, warps: np.ndarray) -> Iterator[tuple[Product, np.ndarray]]:
        """Products of these warps' groups, and which [i] of theirs."""
        n = self.m.n
        active = warps // n // 4 * n + warps % n
        for one in self.products:
            late = one.flying & np.isin(one.groups, active)
            if late.any():
                yield one, late

    def touch(self, s: Active, instr: Instr, names: frozenset[str]) -> None:
        """An instruction may touch these registers of products under way, or copies of them.

        Triton copies accumulators of f16 before the wait, and ptxas puts a wait there for the copy.
        So a copy gets the result; but it is not touched before the wait either."""
        read, written = wgmma_flow.read_by(instr), wgmma_flow.written_by(instr)
        copies = wgmma_flow.is_copy(instr)
        for one, late in self.under_way(s.warps):
            own = names & (wgmma_flow.accumulators(one.instr) | wgmma_flow.left(one.instr))
            of_them = frozenset(n for n in names & read if (one.copies.get(n, False) & late).any())
            held = own & written if copies else own | of_them
            if held:
                self._touched(min(held), one, late)
            taken = copies and bool(own | of_them)
            if taken:
                _compute(one, late)
            one.copied(written, late, taken)

    def _touched(self, name: str, one: Product, late: np.ndarray) -> None:
        warp = int(self.warps(one.groups[late][:1])[0, 0])
        own = wgmma_flow.accumulators(one.instr) | wgmma_flow.left(one.instr)
        copy = "" if name in own else ", which has a copy from it,"
        raise fault(
            Fault, self.m,
            f"{name}{copy} is touched while the wgmma of line {one.instr.line} is under way: no "
            "wait_group covers it", warp, 0,
        )  # fmt: skip

    def _leave(self, s: Active) -> None:
        for one, _ in self.under_way(s.warps):
            raise Fault(f"an exit while the wgmma of line {one.instr.line} is under way")


def _compute(product: Product, some: np.ndarray) -> None:
    some = some & product.todo
    if some.any():
        product.compute(some)
        product.todo &= ~some


def warpgroups(b: Binder) -> Warpgroups:
    if not hasattr(b.m, "warpgroups"):
        b.m.warpgroups = Warpgroups(b.memory)  # type: ignore[attr-defined]
    return b.m.warpgroups  # type: ignore[attr-defined, no-any-return]


def watch(b: Binder) -> Callable[[int, Handler], Handler]:
    """Wraps the handlers that may touch registers of a wgmma that is under way."""
    if not any(wgmma_flow.is_wgmma(i) for i in b.m.kernel.code):
        return lambda pc, run: run
    groups = warpgroups(b)

    def wrap(pc: int, run: Handler) -> Handler:
        names = groups.findings.touching.get(pc)
        if names is None:
            return run
        instr = b.m.kernel.code[pc]

        def watched(s: Active) -> int | None:
            groups.touch(s, instr, names)
            return run(s)

        return watched

    return wrap


@dataclass(frozen=True)
class _Form:
    """What the opcode and its immediates say."""

    n: int
    d: str
    a: str
    b: str
    sign: int
    a_major: bool
    b_major: bool
    saturate: bool


def _form(i: Instr, b: Binder) -> _Form:
    found = re.fullmatch(r"m64n(\d+)k(\d+)", i.parts[4])
    if i.parts[2:4] != ("sync", "aligned") or found is None or len(i.types) != 3:
        raise b.unknown()
    (d, x, y), n, k = i.types, int(found[1]), int(found[2])
    saturate = i.parts[5] == "satfinite" and d == "s32"
    if x not in _SUMS or not mixed(x, y) or d not in _SUMS[x] or len(i.parts) != 8 + saturate:
        raise b.unknown()
    step = 16 if d == "s32" and n > 32 else 8
    if n % step or not 8 <= n <= 256 or k * BYTES[x] != 32:
        raise b.unknown(f"sm_90 has no {i.parts[4]} of {x}")
    from_registers = isinstance(i.args[1], Vec)
    scales = 0 if d == "s32" else 2
    turns = (1 if from_registers else 2) if BYTES[x] == 2 else 0
    given = [v.value if isinstance(v, Imm) else None for v in i.args[4:]]
    good = [v in (1, -1) for v in given[:scales]] + [v in (0, 1) for v in given[scales:]]
    if len(given) != scales + turns or not all(good):
        raise b.unknown(f"{scales} scales of 1 or -1 and {turns} transpositions of 0 or 1 go here")
    sign = given[0] * given[1] if scales else 1  # type: ignore[operator]
    turned = [False, False, *map(bool, given[scales:])]
    return _Form(n, d, x, y, sign, turned[-2] if turns == 2 else False, turned[-1], saturate)


def _uniform(b: Binder, value: np.ndarray, warps: np.ndarray, what: str) -> np.ndarray:
    """[i]: what all threads of each warpgroup have."""
    rows = value[warps].reshape(len(warps), -1)
    if (rows != rows[:, :1]).any():
        raise fault(Fault, b.m, f"{what} is not the same in a warpgroup", int(warps[0, 0]), 0)
    return rows[:, 0]


@handles("wgmma.mma_async")
def _mma_async(i: Instr, b: Binder) -> Handler:
    form, groups, pc = _form(i, b), warpgroups(b), b.pc
    sums = items(i.args[0])
    if len(sums) != form.n // (4 if form.d == "f16" else 2) or not _all_words(sums):
        raise b.unknown(f"{len(sums)} registers for the accumulator")
    held = [b.array(r) for r in sums]  # type: ignore[arg-type]
    doubts = [check for r in sums if (check := b.check(r))]  # type: ignore[arg-type]
    scale = b.src(i.args[3], "pred")
    left = _left(i, b, form)
    right = _Shared(i.args[2], b, Matrix(b.memory, "B", form.n, form.b_major))
    fp8 = form.a in FP8 and form.d == "f32"
    spoil = _spoil(i, b, form, left, right)

    def run(s: Active) -> None:
        if pc in groups.findings.missing:
            raise MissingFence(groups.findings.missing[pc])
        mine = groups.of(s)
        warps = groups.warps(mine)
        adds = np.broadcast_to(scale(s), s.mask.shape)
        for check in doubts:
            check(s.only(adds))
        keep = _uniform(b, adds, warps - s.lo, "scale-d")
        p, a_reads = left(s, warps)
        q, b_reads = right(s, warps)

        def compute(some: np.ndarray) -> None:
            rows = warps[some]
            x = elements.decode(p(some), form.a) * form.sign
            before = elements.values(np.stack([r[rows] for r in held]), form.d)
            before = np.where(keep[some][:, None, None], before, before.dtype.type(0))
            more, before = elements.total(x, elements.decode(q(some), form.b), before, fp8)
            after = elements.add(before, more, form.d, form.saturate)
            for r, value in zip(held, elements.registers(after, form.d), strict=True):
                r[rows] = value

        if spoil is not None:
            spoil(s, warps, a_reads, b_reads)
        reads = _begin(groups.shadow, warps, [*a_reads, *b_reads])
        groups.issue(Product(i, mine, groups.commits[mine], compute, reads))

    return run


def _all_words(registers: tuple) -> bool:
    return all(isinstance(r, Reg) and WIDTH[r.type] == 4 for r in registers)


def _spoil(i: Instr, b: Binder, form: _Form, left: Callable, right: _Shared) -> Callable | None:
    """Marks what the accumulators hold of undefined operands; None where none can be."""
    undefined, sums = b.undefined, items(i.args[0])
    if undefined is None or not undefined.names & {r.name for r in sums}:  # type: ignore[union-attr]
        return None
    held = [undefined.array(r) for r in sums]  # type: ignore[arg-type]
    fragments = None if isinstance(left, _Shared) else _fragments(i, undefined.binder())

    def spoil(s: Active, warps: np.ndarray, a_reads: list, b_reads: list) -> None:
        y = right.undefined(*b_reads)
        x = fragments(s, warps) if fragments is not None else left.undefined(*a_reads)  # type: ignore
        for r, value in zip(held, undefined_data.wgmma(x, y, form.d), strict=True):
            r[warps] = value
        undefined.note(sums, warps)  # type: ignore[arg-type]

    return spoil


def _fragments(i: Instr, b: Binder) -> Callable[[Active, np.ndarray], np.ndarray]:
    """A from registers, of the active lanes and warps [i, 4]: bytes [i, 64, 32]."""
    gets = [b.src(r, "b32") for r in i.args[1].items]  # type: ignore[union-attr]

    def take(s: Active, warps: np.ndarray) -> np.ndarray:
        words = np.stack([np.broadcast_to(get(s), s.mask.shape) for get in gets])
        return elements.fragment(words, 2)[warps - s.lo].reshape(len(warps), 64, 32)

    return take


def _left(i: Instr, b: Binder, form: _Form) -> Callable:
    """Of the active lanes and warps [i, 4]: (bytes [i, 64, 32] of A, pieces of shared memory)."""
    if not isinstance(i.args[1], Vec):
        return _Shared(i.args[1], b, Matrix(b.memory, "A", 64, form.a_major))
    if len(i.args[1].items) != 4 or not _all_words(i.args[1].items):
        raise b.unknown("A has four registers of 32 bits")
    fragments = _fragments(i, b)

    def take(s: Active, warps: np.ndarray) -> tuple:
        whole = fragments(s, warps)
        return lambda some: whole[some], []

    return take


class _Shared:
    """A matrix in shared memory, by its descriptor."""

    def __init__(self, operand, b: Binder, matrix: Matrix):
        self.get, self.b, self.matrix = b.src(operand, "u64"), b, matrix

    def __call__(self, s: Active, warps: np.ndarray) -> tuple:
        value = np.broadcast_to(self.get(s), s.mask.shape)
        what = f"the descriptor of {self.matrix.name}"
        pieces = self.matrix.find(_uniform(self.b, value, warps - s.lo, what), warps[:, 0])
        return lambda some: self.matrix.read(pieces[some]), [pieces]

    def undefined(self, pieces: np.ndarray) -> np.ndarray:
        """The undefined bits of what lies there [i, rows, 32]."""
        bits = self.b.memory.bits
        if bits is None or bits.shared is None:
            return np.zeros((len(pieces), self.matrix.rows, 1), np.uint8)
        return self.matrix.read(pieces, bits.shared)


def _begin(shadow: Shadow | None, warps: np.ndarray, pieces: list[np.ndarray]) -> list[Transfer]:
    """The reads of shared memory of each warpgroup, from now on."""
    if shadow is None:
        return []
    step = np.arange(0, 16, min(16, 1 << shadow.shift))
    return [
        shadow.begin(
            (np.concatenate([p[k].reshape(-1) for p in pieces])[:, None] * 16 + step).reshape(-1),
            int(warps[k, 0]), write=False, proxy="async", what="a wgmma",
        )
        for k in range(len(warps))
    ]  # fmt: skip


@handles("wgmma.fence")
def _fence(i: Instr, b: Binder) -> Handler:
    return lambda s: None


@handles("wgmma.commit_group")
def _commit(i: Instr, b: Binder) -> Handler:
    groups = warpgroups(b)

    def run(s: Active) -> None:
        groups.commits[groups.of(s)] += 1

    return run


@handles("wgmma.wait_group")
def _wait(i: Instr, b: Binder) -> Handler:
    groups, most = warpgroups(b), wgmma_flow.waits_for(i)
    if most is None or not isinstance(i.args[0], Imm):
        raise b.unknown("how many groups may be left is a number")
    return lambda s: groups.wait(groups.of(s), most)
