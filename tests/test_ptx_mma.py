"""The executor's matrix instructions against float64: fragments as the PTX ISA has them, and what
Triton makes of products."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from tests.ptx import elements, errors
from tests.ptx.measured import note
from tests.ptx.snippet import run
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx

BF16, F16, F32, S8 = torch.bfloat16, torch.float16, torch.float32, torch.int8
E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
TORCH = {"bf16": BF16, "f16": F16, "tf32": F32, "s8": S8, "u8": torch.uint8, "e4m3": E4, "e5m2": E5,
         "f64": torch.float64, "s32": torch.int32, "f32": F32}  # fmt: skip


def drawn(type_: str, *shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    if type_ in ("s8", "u8", "s32"):
        low, high = (0, 256) if type_ == "u8" else (-128, 128)
        return torch.randint(low, high, shape, generator=g).to(TORCH[type_])
    return torch.randn(shape, generator=g, dtype=torch.float64).to(TORCH[type_])


def exact(x: torch.Tensor, type_: str) -> torch.Tensor:
    """Its values in f64, cut to tf32 where the hardware does."""
    if type_ == "tf32":
        x = (x.contiguous().view(torch.int32) & ~0x1FFF).view(F32)
    return x.double()


def close(got: torch.Tensor, want: torch.Tensor, type_: str) -> None:
    if type_ in ("s32", "f64"):
        torch.testing.assert_close(got.double(), want, rtol=1e-14, atol=1e-14)
        return
    unit = {"f32": 2.0**-23, "f16": 2.0**-10}[type_]
    assert (got.double() - want).abs().max() <= 8 * unit * want.abs().max()


# ---- mma.sync: where the ISA says that each lane's elements lie


def _a_at(type_: str, k: int, lane: int, i: int) -> tuple[int, int]:
    """Row and column of a_i."""
    g, t = lane >> 2, lane % 4
    if type_ in ("f16", "bf16"):
        return g + 8 * (i // 2 % 2), 2 * t + i % 2 + 8 * (i // 4)
    if type_ in ("s8", "u8", "e4m3", "e5m2"):
        return g + 8 * (i // 4 % 2), 4 * t + i % 4 + 16 * (i // 8)
    return g + 8 * (i % 2), t + 4 * (i // 2)


def _b_at(type_: str, lane: int, i: int) -> tuple[int, int]:
    """Row (of K) and column of b_i."""
    g, t = lane >> 2, lane % 4
    if type_ in ("f16", "bf16"):
        return 2 * t + i % 2 + 8 * (i // 2), g
    if type_ in ("s8", "u8", "e4m3", "e5m2"):
        return 4 * t + i % 4 + 16 * (i // 4), g
    return t + 4 * i, g


def _c_at(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + 8 * (i // 2), 2 * (lane % 4) + i % 2


def _held(matrix: torch.Tensor, at) -> np.ndarray:
    """[32, bytes of a lane's elements]."""
    count = matrix.numel() // 32
    rows = [torch.stack([matrix[at(lane, i)] for i in range(count)]) for lane in range(32)]
    return np.stack([row.view(torch.uint8).numpy() for row in rows])


def _mma(op: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, wide: bool) -> np.ndarray:
    """The bytes [32, ...] that each lane gets."""
    kind, size = ("rd", 8) if wide else ("r", 4)
    out = np.zeros_like(c)
    lines = ["mov.u32 %r98, %tid.x;"]
    counts = [x.shape[1] // size for x in (out, a, b, c)]
    names = iter(range(10, 90))
    regs = [[f"%{kind}{next(names)}" for _ in range(n)] for n in counts]
    for p, (own, x) in enumerate(zip(regs[1:], (a, b, c), strict=True), 1):
        lines.append(f"ld.param.u64 %rd1, [p{p}]; mad.wide.u32 %rd1, %r98, {x.shape[1]}, %rd1;")
        lines += [f"ld.global.b{8 * size} {r}, [%rd1+{size * j}];" for j, r in enumerate(own)]
    lines.append(f"{op} " + ", ".join("{" + ", ".join(own) + "}" for own in regs) + ";")
    lines.append(f"ld.param.u64 %rd1, [p0]; mad.wide.u32 %rd1, %r98, {out.shape[1]}, %rd1;")
    lines += [f"st.global.b{8 * size} [%rd1+{size * j}], {r};" for j, r in enumerate(regs[0])]
    run("\n".join(lines), [("u64", x) for x in (out, a, b, c)])
    return out


@pytest.mark.parametrize(
    ("m", "k", "a", "b", "d"),
    [
        (16, 8, "f16", "f16", "f32"), (16, 16, "f16", "f16", "f16"), (16, 8, "bf16", "bf16", "f32"),
        (16, 16, "bf16", "bf16", "f32"), (16, 4, "tf32", "tf32", "f32"), (8, 16, "s8", "u8", "s32"),
        (16, 8, "tf32", "tf32", "f32"), (16, 16, "u8", "s8", "s32"), (16, 32, "s8", "s8", "s32"),
        (16, 32, "e4m3", "e5m2", "f32"), (16, 32, "e5m2", "e5m2", "f16"),
        (16, 16, "e4m3", "e4m3", "f32"), (8, 4, "f64", "f64", "f64"), (16, 4, "f64", "f64", "f64"),
        (16, 8, "f64", "f64", "f64"), (16, 16, "f64", "f64", "f64"),
    ],
)  # fmt: skip
def test_mma_has_the_fragments_of_the_isa(m, k, a, b, d):
    x, y, z = drawn(a, m, k), drawn(b, k, 8, seed=1), drawn(d, m, 8, seed=2)
    got = _mma(
        f"mma.sync.aligned.m{m}n8k{k}.row.col.{d}.{a}.{b}.{d}",
        _held(x, lambda lane, i: _a_at(a, k, lane, i)), _held(y, lambda lane, i: _b_at(b, lane, i)),
        _held(z, _c_at), d == "f64",
    )  # fmt: skip
    want = exact(x, a) @ exact(y, b) + z.double()
    values = torch.from_numpy(got).view(TORCH[d])
    back = torch.zeros(m, 8, dtype=TORCH[d])
    for lane, i in itertools.product(range(32), range(m // 4)):
        back[_c_at(lane, i)] = values[lane, i]
    close(back, want, d)


@pytest.mark.parametrize("saturate", [False, True])
def test_s32_wraps_around_or_saturates(saturate):
    a, b = (np.full((32, n), 127, np.uint8) for n in (16, 8))
    c = np.full((32, 4), 2**31 - 5, np.int32)
    op = f"mma.sync.aligned.m16n8k32.row.col{'.satfinite' * saturate}.s32.s8.s8.s32"
    got = _mma(op, a, b, c.view(np.uint8), False).view(np.int32)
    assert (got == (2**31 - 1 if saturate else 2**31 - 5 + 32 * 127**2 - 2**32)).all()


def test_a_nan_is_the_tensor_cores_nan():
    a, b = np.full((32, 8), np.inf, np.float16), np.zeros((32, 4), np.float16)
    got = _mma(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", a.view(np.uint8), b.view(np.uint8),
        np.zeros((32, 16), np.uint8), False,
    )  # fmt: skip
    assert (got.view(np.uint32) == 0x7FFFFFFF).all()


def test_fp8_sums_can_lose_what_hopper_loses(monkeypatch):
    def total() -> float:
        """1 * 1, and 31 times 2^-7 * 2^-8."""
        a, b = np.full((32, 16), 0x04, np.uint8), np.full((32, 8), 0x02, np.uint8)
        a[::4, 0] = a[::4, 4] = b[::4, 0] = 0x38
        op = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"
        return float(_mma(op, a, b, np.zeros((32, 16), np.uint8), False).view(np.float32)[0, 0])

    assert total() == 1 + 31 * 2.0**-15
    monkeypatch.setattr(elements, "FP8_BITS", 14)
    assert total() == 1


@pytest.mark.parametrize(
    "op",
    [
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32",
        "mma.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
        "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32",
        "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n40k32.s32.s8.s8",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.tf32.tf32",
        "wgmma.mma_async.sync.aligned.m64n264k16.f32.bf16.bf16",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16",
        "wgmma.mma_async.sync.aligned.m64n8k16.f16.bf16.bf16",
    ],
)
def test_what_sm_90_does_not_have_is_unknown(op):
    operands = "{%f1, %f2, %f3, %f4}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%f1, %f2, %f3, %f4}"
    if op.startswith("wgmma"):
        operands = "{%f1, %f2, %f3, %f4}, %rd1, %rd2, 0, 1, 1, 0, 0"
    with pytest.raises(errors.Unknown):
        run(f"{op} {operands};", threads=128)


def test_a_warp_that_lost_lanes_multiplies_no_more():
    body = """mov.u32 %r1, %laneid; setp.gt.u32 %p1, %r1, 7; @%p1 exit;
    mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%d1, %d2}, {%d3}, {%d4}, {%d1, %d2};"""
    with pytest.raises(errors.Fault, match="a lane of the warp is missing"):
        run("mov.f64 %d1, 0d0000000000000000; mov.f64 %d2, %d1; mov.f64 %d3, %d1; mov.f64 %d4, %d1;"
            + body)  # fmt: skip


# ---- ldmatrix, stmatrix


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_and_stmatrix(count, trans):
    """Rows come from the addresses of eight lanes each; lane 4g + t has row g, elements 2t, 2t + 1;
    with .trans of the transpose."""
    items = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    back, out = np.zeros_like(items), np.zeros((32, count), np.uint32)
    regs = "{" + ", ".join(f"%r{10 + j}" for j in range(count)) + "}"
    how = f"sync.aligned.m8n8.x{count}{'.trans' * trans}.shared.b16"
    lines = f"""ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, sm;
    mad.wide.u32 %rd2, %r1, 16, %rd1; mad.lo.u32 %r3, %r1, 16, %r2;
    setp.lt.u32 %p1, %r1, {8 * count};
    @%p1 ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd2];
    @%p1 st.shared.v4.b32 [%r3], {{%r4, %r5, %r6, %r7}};
    bar.sync 0; ldmatrix.{how} {regs}, [%r3]; stmatrix.{how} [%r3+512], {regs}; bar.sync 0;
    ld.param.u64 %rd3, [p1]; mad.wide.u32 %rd4, %r1, 16, %rd3;
    @%p1 ld.shared.v4.b32 {{%r4, %r5, %r6, %r7}}, [%r3+512];
    @%p1 st.global.v4.b32 [%rd4], {{%r4, %r5, %r6, %r7}};
    ld.param.u64 %rd5, [p2]; mad.wide.u32 %rd6, %r1, {4 * count}, %rd5;"""
    lines += "".join(f"st.global.b32 [%rd6+{4 * j}], %r{10 + j};" for j in range(count))
    run(lines, [("u64", x) for x in (items, back, out)], declare=SHARED, shared=1024)
    assert (back == items).all()
    halves = out.view(np.uint16).reshape(32, count, 2)
    for lane, j, i in itertools.product(range(32), range(count), (0, 1)):
        row, column = lane // 4, 2 * (lane % 4) + i
        assert halves[lane, j, i] == (items[j, column, row] if trans else items[j, row, column])


SHARED = ".extern .shared .align 1024 .b8 sm[];"

# ---- Triton


@triton.jit
def _matmul(a, b, c, K, sam, sak, sbk, sbn, scm, BM: tl.constexpr, BN: tl.constexpr,
            BK: tl.constexpr, OUT: tl.constexpr):  # fmt: skip
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), OUT)
    for k in range(0, K, BK):
        x = tl.load(a + rm[:, None] * sam + (k + rk)[None, :] * sak)
        y = tl.load(b + (k + rk)[:, None] * sbk + rn[None, :] * sbn)
        acc = tl.dot(x, y, acc, out_dtype=OUT)
    tl.store(c + rm[:, None] * scm + rn[None, :], acc)


def word(value: object) -> str:
    """Part of a case's name, which has a row in the README."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).split(".")[0]


@pytest.mark.parametrize(
    ("type_", "tile", "warps", "stages", "turned", "out", "op"),
    [
        ("bf16", (64, 64, 32), 4, 1, "", "f32", "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16"),
        ("bf16", (128, 256, 64), 8, 3, "a", "f32", "wgmma"),
        ("bf16", (128, 64, 64), 4, 4, "b", "f32", "wgmma"),
        ("f16", (64, 16, 16), 4, 2, "ab", "f32", "wgmma"),
        ("f16", (64, 32, 32), 4, 1, "a", "f16", "wgmma"),
        ("f16", (128, 128, 32), 8, 2, "ab", "f32", "wgmma"),
        ("tf32", (64, 64, 32), 4, 3, "b", "f32", "wgmma"),
        ("s8", (64, 64, 64), 4, 3, "b", "s32", "wgmma"),
        ("e4m3", (128, 32, 64), 4, 3, "b", "f32", "wgmma"),
        ("e5m2", (64, 128, 128), 8, 1, "b", "f32", "wgmma"),
        ("bf16", (16, 32, 64), 2, 1, "", "f32", "mma.sync"),
        ("tf32", (32, 16, 32), 2, 2, "a", "f32", "mma.sync"),
        ("s8", (16, 32, 64), 2, 1, "", "s32", "mma.sync"),
    ],
    ids=word,
)  # fmt: skip
def test_triton_matmul(type_, tile, warps, stages, turned, out, op, seed):
    (m, n, k), depth = tile, 3 * tile[2]
    x, y = drawn(type_, m, depth), drawn(type_, depth, 2 * n, seed=1)
    want = exact(x, type_) @ exact(y, type_)
    x = x.t().contiguous().t() if "a" in turned else x
    y = y.t().contiguous().t() if "b" in turned else y
    got = torch.zeros(m, 2 * n, dtype=TORCH[out])
    width = {"f32": tl.float32, "f16": tl.float16, "s32": tl.int32}[out]
    with executing(90, seed=seed):
        made = _matmul[(1, 2)](
            x, y, got, depth, *x.stride(), *y.stride(), got.stride(0), BM=m, BN=n, BK=k, OUT=width,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    assert op in made.asm["ptx"]
    note(got, want, exact(x, type_).abs() @ exact(y, type_).abs())
    close(got, want, out)


@triton.jit
def _attend(q, k, v, o, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, N: tl.constexpr):
    rm, rn, rd = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, D)
    x = tl.load(q + rm[:, None] * D + rd[None, :])
    acc = tl.zeros((BM, D), tl.float32)
    for start in range(0, N, BN):
        y = tl.load(k + (start + rn)[:, None] * D + rd[None, :])
        z = tl.load(v + (start + rn)[:, None] * D + rd[None, :])
        p = tl.dot(x, y.T) * 0.125
        acc = tl.dot(tl.maximum(p, 0.0).to(tl.bfloat16), z, acc)
    tl.store(o + rm[:, None] * D + rd[None, :], acc)


@pytest.mark.parametrize("stages", [1, 2])
def test_triton_product_from_registers(stages, seed):
    q, k, v = drawn("bf16", 64, 64), drawn("bf16", 128, 64, seed=1), drawn("bf16", 128, 64, seed=2)
    got = torch.zeros(64, 64)
    with executing(90, seed=seed):
        made = _attend[(1,)](q, k, v, got, 64, 64, 64, 128, num_warps=4, num_stages=stages)
    assert re.search(r"wgmma\.mma_async[^;]*\}, \{%r", made.asm["ptx"])
    p = ((q.double() @ k.double().T) * 0.125).clamp(min=0).float().bfloat16()
    note(got, p.double() @ v.double(), p.double() @ v.double().abs())
    assert (got.double() - p.double() @ v.double()).abs().max() < 0.05  # p may round elsewhere
