"""wgmma of each type, with its operands in each layout of shared memory and A in registers too,
against float64. The images of shared memory are made here, an element at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.ptx import errors, launch
from tests.ptx.snippet import text
from tests.test_ptx_mma import TORCH, drawn, exact

pytestmark = pytest.mark.ptx

M, N, K_BYTES = 64, 32, 128  # four steps of 32 bytes
MODES = {16: 0, 128: 1, 64: 2, 32: 3}  # bytes of the swizzle, 16: none; what a descriptor says
TYPES = [
    # D, A, B
    ("f32", "bf16", "bf16"), ("f32", "f16", "f16"), ("f16", "f16", "f16"),
    ("f32", "tf32", "tf32"), ("f32", "e4m3", "e4m3"), ("f32", "e5m2", "e5m2"),
    ("f32", "e4m3", "e5m2"), ("f16", "e5m2", "e4m3"), ("s32", "s8", "s8"), ("s32", "u8", "u8"),
    ("s32", "s8", "u8"), ("s32", "u8", "s8"),
]  # fmt: skip
SIXTEEN = TYPES[:3]
B_AT = 8192  # of shared memory


class Operand:
    """A matrix [rows, K] in shared memory; major: rows, not K, lie next to each other."""

    def __init__(self, values: torch.Tensor, base: int, swizzle: int, major: bool):
        self.base, self.swizzle, self.major = base, swizzle, major
        self.rows, self.depth = values.shape
        self.size = values.element_size()
        self.raw = values.contiguous().view(torch.uint8).numpy().reshape(*values.shape, -1)

    def place(self, row: int, k: int) -> int:
        """PTX ISA, "Strides": atoms of 8 lines of the swizzle's width, those along a line's
        direction behind all those across it."""
        inner, line = (row, k) if self.major else (k, row)
        lines = self.depth if self.major else self.rows
        atom, byte = divmod(inner * self.size, self.swizzle)
        at = self.base + (atom * lines + line) * self.swizzle + byte
        return at ^ (at // 128 % (self.swizzle // 16)) * 16

    def put(self, image: np.ndarray) -> None:
        for row, k in itertools.product(range(self.rows), range(self.depth)):
            at = self.place(row, k)
            image[at : at + self.size] = self.raw[row, k]

    def descriptor(self, step: int) -> int:
        first, lines = step * 32 // self.size, self.depth if self.major else self.rows
        inner, line = (0, first) if self.major else (first, 0)
        atom, byte = divmod(inner * self.size, self.swizzle)
        start = self.base + (atom * lines + line) * self.swizzle + byte
        near, far = 8 * self.swizzle, lines * self.swizzle
        # LBO of K-major swizzled operands is not looked at; unswizzled and MN-major they change.
        lbo, sbo = (near, far) if self.swizzle == 16 and self.major else (far, near)
        if self.swizzle > 16 and not self.major:
            lbo = 16 * 0x3FFF
        return start >> 4 | lbo >> 4 << 16 | sbo >> 4 << 32 | MODES[self.swizzle] << 62


def registers(values: torch.Tensor) -> np.ndarray:
    """[128 threads, 4 steps, 4] words: lane 4g + t has bytes 4t.. and 16 + 4t.. of its warp's rows
    g and g + 8."""
    words = values.contiguous().view(torch.int32).numpy()
    made = np.zeros((128, 4, 4), np.int32)
    for thread, step, j in itertools.product(range(128), range(4), range(4)):
        warp, g, t = thread // 32, thread % 32 // 4, thread % 4
        made[thread, step, j] = words[16 * warp + g + 8 * (j % 2), 8 * step + t + 4 * (j // 2)]
    return made


def product(
    types: tuple[str, str, str],
    a: Operand | np.ndarray,
    b: Operand,
    *,
    saturate: str = "",
    before: int = 0,
    more: str = "",
) -> torch.Tensor:
    """[M, N], by four steps. before: the bits of each sum; more: operands behind the last."""
    d, x, y = types
    shared = isinstance(a, Operand)
    count = N // (4 if d == "f16" else 2)
    sums = [f"%r{40 + n}" for n in range(count)]
    k = 32 // b.size
    image = np.zeros(2 * B_AT, np.uint8)
    for operand in (a, b) if shared else (b,):
        operand.put(image)
    tail = "" if d == "s32" else ", 1, 1"
    if b.size == 2:
        tail += f", {a.major:d}, {b.major:d}" if shared else f", {b.major:d}"
    steps, loads = "", ""
    for step in range(4):
        own = [f"%r{10 + 4 * step + j}" for j in range(4)]
        if not shared:
            loads += f"ld.global.v4.b32 {{{', '.join(own)}}}, [%rd5+{16 * step}];\n"
        left = f"%rd{10 + step}" if shared else "{" + ", ".join(own) + "}"
        if shared:
            loads += f"mov.u64 %rd{10 + step}, {a.descriptor(step)};\n"
        loads += f"mov.u64 %rd{20 + step}, {b.descriptor(step)};\n"
        steps += (
            f"wgmma.mma_async.sync.aligned.m64n{N}k{k}{saturate}.{d}.{x}.{y} "
            f"{{{', '.join(sums)}}}, {left}, %rd{20 + step}, 1{tail}{more};\n"
        )
    body = f"""mov.u32 %r1, %tid.x; mov.u32 %r2, sm; ld.param.u64 %rd1, [p0];
    mul.wide.u32 %rd2, %r1, 16; add.u64 %rd1, %rd1, %rd2; shl.b32 %r3, %r1, 4;
    add.u32 %r3, %r2, %r3; add.u32 %r4, %r2, {2 * B_AT};
    IN: ld.global.v4.b32 {{%r5, %r6, %r7, %r8}}, [%rd1];
    st.shared.v4.b32 [%r3], {{%r5, %r6, %r7, %r8}}; add.u64 %rd1, %rd1, 2048;
    add.u32 %r3, %r3, 2048; setp.lt.u32 %p1, %r3, %r4; @%p1 bra IN;
    fence.proxy.async; bar.sync 0; ld.param.u64 %rd5, [p1]; mad.wide.u32 %rd5, %r1, 64, %rd5;
    {loads} {"".join(f"mov.b32 {r}, {before};" for r in sums)} wgmma.fence.sync.aligned; {steps}
    wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
    ld.param.u64 %rd6, [p2]; mad.wide.u32 %rd6, %r1, {4 * count}, %rd6;
    {"".join(f"st.global.b32 [%rd6+{4 * n}], {r};" for n, r in enumerate(sums))}"""
    source = text(body, ["u64"] * 3, threads=128, declare=".extern .shared .align 1024 .b8 sm[];")
    out = np.zeros((128, count), np.uint32)
    held = np.zeros(4, np.int32) if shared else a
    launch.run(source, [image, held, out], [1], shared=2 * B_AT)
    values = torch.from_numpy(out.view(np.uint8)).view(TORCH[d])
    found = torch.zeros(M, N, dtype=torch.float64)
    for thread, i in itertools.product(range(128), range(N // 2)):
        warp, g, t = thread // 32, thread % 32 // 4, thread % 4
        found[16 * warp + g + 8 * (i // 2 % 2), 2 * t + i % 2 + 8 * (i // 4)] = values[thread, i]
    return found


def operands(types: tuple[str, str, str]) -> tuple[torch.Tensor, torch.Tensor]:
    depth = K_BYTES // TORCH[types[1]].itemsize
    return drawn(types[1], M, depth), drawn(types[2], N, depth, seed=1)


def is_right(found: torch.Tensor, types: tuple, x: torch.Tensor, y: torch.Tensor) -> None:
    """Four sums are rounded to the accumulator's type; products and sums of a step are exact."""
    a, b = exact(x, types[1]), exact(y, types[2])
    unit = {"f32": 2.0**-24, "f16": 2.0**-11, "s32": 0.0}[types[0]]
    assert ((found - a @ b.T).abs() <= 4 * unit * (a.abs() @ b.abs().T)).all()


SWIZZLES = [128, *(pytest.param(n, marks=pytest.mark.full) for n in (16, 32, 64))]


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("types", TYPES, ids=".".join)
@pytest.mark.parametrize("where", ["shared", "registers"])
def test_each_type_k_major(types, where, swizzle):
    x, y = operands(types)
    a = Operand(x, 0, swizzle, False) if where == "shared" else registers(x)
    is_right(product(types, a, Operand(y, B_AT, swizzle, False)), types, x, y)


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("types", SIXTEEN, ids=".".join)
@pytest.mark.parametrize("majors", [(True, False), (False, True), (True, True), (None, True)])
def test_sixteen_bits_mn_major(types, majors, swizzle):
    """None: A in registers."""
    x, y = operands(types)
    a = registers(x) if majors[0] is None else Operand(x, 0, swizzle, majors[0])
    is_right(product(types, a, Operand(y, B_AT, swizzle, majors[1])), types, x, y)


@pytest.mark.full
@pytest.mark.parametrize("types", [TYPES[1], TYPES[3], TYPES[4], TYPES[8]], ids=".".join)
@pytest.mark.parametrize("swizzles", [*itertools.permutations(MODES, 2)])
def test_operands_of_different_swizzles(types, swizzles):
    x, y = operands(types)
    a, b = Operand(x, 0, swizzles[0], False), Operand(y, B_AT, swizzles[1], False)
    is_right(product(types, a, b), types, x, y)


@pytest.mark.parametrize("saturate", ["", ".satfinite"])
def test_sums_of_integers_wrap_around_or_saturate(saturate):
    x, y = (torch.full((rows, 128), 127, dtype=torch.int8) for rows in (M, N))
    a, b = Operand(x, 0, 128, False), Operand(y, B_AT, 128, False)
    found = product(("s32", "s8", "s8"), a, b, saturate=saturate, before=2**31 - 5)
    assert (found == (2**31 - 1 if saturate else 2**31 - 5 + 128 * 127**2 - 2**32)).all()


@pytest.mark.parametrize("types", [t for t in TYPES if t not in SIXTEEN], ids=".".join)
def test_other_types_are_not_transposed(types):
    x, y = operands(types)
    a, b = Operand(x, 0, 128, False), Operand(y, B_AT, 128, False)
    with pytest.raises(errors.Unknown, match=r"0 transpositions.*\[line \d+: wgmma\.mma_async"):
        product(types, a, b, more=", 0, 1")
