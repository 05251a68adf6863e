"""atom and red."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx import errors
from tests.ptx.num import bf16_to_f32, f32_to_bf16
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

SEEDS = [None, 0, 1]
# %rd1: where all meet; %rd2: the thread's own element of p1; %r1: the thread.
START = """mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1];
mul.wide.u32 %rd3, %r1, 8; add.u64 %rd2, %rd2, %rd3;"""
SHARED = ".shared .align 16 .b8 sm[64];"
# The word at p0 is in shared memory while `{}` runs.
IN_SHARED = """ld.global.{t} %{r}30, [%rd1]; mov.u32 %r31, sm; setp.eq.u32 %p1, %r1, 0;
@%p1 st.shared.{t} [%r31], %{r}30; bar.sync 0;
{body}
bar.sync 0; ld.shared.{t} %{r}30, [%r31]; st.global.{t} [%rd1], %{r}30;"""


def together(body: str, cell: np.ndarray, *, threads: int = 64, seed: int | None = 0, **options):
    """Runs `body` in all threads; what is in `cell` then, and what each put into p1."""
    cell, out = cell.copy(), np.zeros(threads, np.uint64)
    run(START + body, [("u64", cell), ("u64", out)], threads=threads, seed=seed, **options)
    return cell, out


def integer(op: str, type_: str, old: int, value: int) -> int:
    """One step, on exact integers."""
    bits = int(type_[1:])
    low = -(1 << (bits - 1)) if type_[0] == "s" else 0
    made = {
        "add": old + value, "min": min(old, value), "max": max(old, value), "and": old & value,
        "or": old | value, "xor": old ^ value, "exch": value,
        "inc": 0 if old >= value else old + 1,
        "dec": value if old == 0 or old > value else old - 1,
    }[op]  # fmt: skip
    return (made - low) % (1 << bits) + low


CASES = [
    *((op, t) for op in ("min", "max") for t in ("u32", "s32", "u64", "s64")),
    *(("add", t) for t in ("u32", "s32", "u64")),
    *((op, t) for op in ("and", "or", "xor", "exch") for t in ("b32", "b64")),
    ("inc", "u32"), ("dec", "u32"),
]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("op", "type_"), CASES)
def test_integers(op, type_, shared):
    """The lanes go one after the other: what one leaves, the next one gets, or it is the last."""
    bits = int(type_[1:])
    reg, word = ("%r2", f"u{bits}") if bits == 32 else ("%rd5", "u64")
    start = np.array(
        [-3 if type_[0] == "s" else 5], f"{'i' if type_[0] == 's' else 'u'}{bits // 8}"
    )
    values = f"sub.{word} {reg}, {'%r1' if bits == 32 else '%rd3'}, 7;"
    got = f"st.global.{word} [%rd2], {reg};"
    if shared:
        body = f"{values} bar.sync 0; atom.shared.{op}.{type_} {reg}, [%r31], {reg}; {got}"
        body = IN_SHARED.format(t=word, r="r" if bits == 32 else "rd", body=body)
    else:
        body = f"{values} atom.global.{op}.{type_} {reg}, [%rd1], {reg}; {got}"
    for seed in SEEDS:
        cell, out = together(body, start, seed=seed, declare=SHARED)
        own = (np.arange(64) * (1 if bits == 32 else 8) - 7).astype(start.dtype).tolist()
        old = out.astype(f"u{bits // 8}").view(start.dtype).tolist()
        after = [integer(op, type_, *step) for step in zip(old, own, strict=True)]
        assert sorted([*old, int(cell[0])]) == sorted([int(start[0]), *after])


@pytest.mark.parametrize("seed", SEEDS)
def test_compare_and_swap(seed):
    """A lock-free counter, each lane trying until its swap is the one that counts."""
    body = """ld.volatile.global.u32 %r3, [%rd1];
    L: add.u32 %r4, %r3, 1; atom.global.acq_rel.gpu.cas.b32 %r5, [%rd1], %r3, %r4;
    setp.eq.u32 %p1, %r5, %r3; mov.u32 %r3, %r5; @!%p1 bra L; st.global.u32 [%rd2], %r4;"""
    cell, out = together(body, np.array([10], np.uint32), seed=seed)
    assert cell[0] == 74
    assert sorted(out) == list(range(11, 75))


def test_compare_and_swap_of_half_a_word():
    body = """mov.b16 %rs1, 5; mov.b16 %rs2, 9; add.u64 %rd1, %rd1, 2;
    atom.global.cas.b16 %rs3, [%rd1], %rs1, %rs2; cvt.u32.u16 %r2, %rs3;
    st.global.u32 [%rd2], %r2;"""
    cell, out = together(body, np.array([1, 5, 7], np.uint16))
    assert cell.tolist() == [1, 9, 7]
    assert sorted(out) == [5] + [9] * 63


def test_float_sums_depend_on_the_order():
    body = """cvt.rn.f32.u32 %f1, %r1; mul.f32 %f1, %f1, 0f3DCCCCCD;
    red.global.add.f32 [%rd1], %f1;"""
    sums = {float(together(body, np.zeros(1, np.float32), seed=s)[0][0]) for s in range(8)}
    exact = np.float32(0.1) * np.arange(64, dtype=np.float32)
    assert len(sums) > 1
    np.testing.assert_allclose(list(sums), exact.sum(dtype=np.float64), rtol=1e-6)


def test_subnormals_are_flushed_in_global_memory_only():
    """PTX ISA, atom: .add.f32."""
    small = np.array([1e-40], np.float32)
    body = "mov.f32 %f1, 0f00000001; {} [{}], %f1;"
    cell, _ = together(body.format("red.global.add.f32", "%rd1"), small, threads=1)
    assert cell[0] == 0
    inside = IN_SHARED.format(t="f32", r="f", body=body.format("red.shared.add.f32", "%r31"))
    cell, _ = together(inside, small, threads=1, declare=SHARED)
    assert cell.view(np.uint32)[0] == small.view(np.uint32)[0] + 1


def test_doubles():
    body = "cvt.rn.f64.u32 %d1, %r1; atom.global.add.f64 %d2, [%rd1], %d1;"
    assert together(body, np.zeros(1))[0][0] == 2016


@pytest.mark.parametrize("type_", ["f16", "bf16"])
@pytest.mark.parametrize("op", ["add", "min", "max"])
def test_halves(type_, op):
    values = np.array([3, -1, 0.5, 8], np.float32)
    raw = f32_to_bf16(values) if type_ == "bf16" else values.astype(np.float16).view(np.uint16)
    words = raw.view(np.uint32)
    body = f"mov.b32 %r2, {words[0]}; mov.b32 %r3, {words[1]};" + (
        f"red.global.add.noftz.{type_}x2 [%rd1], %r2;"
        if op == "add"
        else f"red.global.v2.{type_}x2.{op}.noftz [%rd1], {{%r2, %r3}};"
    )
    cell, _ = together(body, np.zeros(4, np.uint16), threads=4)
    got = bf16_to_f32(cell) if type_ == "bf16" else cell.view(np.float16).astype(np.float32)
    want = {"add": [12, -4, 0, 0], "min": [0, -1, 0, 0], "max": [3, 0, 0.5, 8]}[op]
    assert got.tolist() == want


def test_vectors():
    body = """cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f3F800000;
    atom.global.v4.f32.add {%f5, %f6, %f7, %f8}, [%rd1], {%f1, %f2, %f1, %f2};
    st.global.f32 [%rd2], %f6;"""
    cell, out = together(body, np.zeros(4, np.float32))
    assert cell.tolist() == [2016, 64, 2016, 64]
    assert sorted(out.astype(np.uint32).view(np.float32)) == list(range(64))


def test_generic_addresses_reach_both_spaces():
    body = IN_SHARED.format(t="u32", r="r", body="""
    cvt.u64.u32 %rd5, %r31; cvta.shared.u64 %rd5, %rd5; setp.lt.u32 %p2, %r1, 32;
    selp.b64 %rd6, %rd5, %rd2, %p2; bar.sync 0;
    atom.add.u32 %r5, [%rd6], 3;""")  # fmt: skip
    cell, out = together(body, np.array([4], np.uint32), declare=SHARED)
    assert cell[0] == 4 + 32 * 3
    assert out.tolist() == [0] * 32 + [3] * 32


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("atom.global.add.u32 %r2, [%rd1+4], 1;", errors.OutOfBounds, "4 bytes into"),
        ("atom.global.add.u32 %r2, [%rd1+2], 1;", errors.Misaligned, "multiple of 4"),
        ("atom.shared.add.u32 %r2, [sm], 1;", errors.Uninitialised, "nothing was written"),
        ("atom.global.add.b32 %r2, [%rd1], 1;", errors.Unknown, ""),
        ("atom.global.min.f32 %f2, [%rd1], %f1;", errors.Unknown, ""),
        ("atom.global.add.f16x2 %r2, [%rd1], %r1;", errors.Unknown, "noftz"),
        ("atom.global.sub.u32 %r2, [%rd1], 1;", errors.Unknown, "sub"),
        ("atom.shared.v2.f32.add {%f1, %f2}, [sm], {%f1, %f2};", errors.Unknown, ""),
    ],
)  # fmt: skip
def test_what_there_is_not(body: str, kind: Any, said: str):
    with pytest.raises(kind, match=said or None):
        together(body, np.zeros(1, np.uint32), declare=SHARED)


def test_a_plain_read_beside_an_atom_is_a_race():
    body = IN_SHARED.format(
        t="u32", r="r", body="red.shared.add.u32 [%r31], 1; ld.shared.u32 %r4, [%r31];"
    )
    with pytest.raises(errors.Race):
        together(body, np.zeros(1, np.uint32), declare=SHARED)
