"""wgmma on the executor: operands in every layout of shared memory, and what a kernel can get wrong
about fences, waits, descriptors and who takes part."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from tests.ptx import errors, launch, wgmma_flow
from tests.ptx.cuda import compiled
from tests.ptx.parse import Kernel, parse
from tests.ptx.snippet import text

pytestmark = pytest.mark.ptx


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


# ---- layouts, from CUDA C++

# One tile of 64 x 32 x 64, of which each operand lies in shared memory as the canonical layout of
# its swizzle (SW bytes; 16: none) and major dimension has it, rows or columns of atoms next to each
# other. MODE is what the descriptors say of the swizzle.
_SOURCE = """
typedef unsigned short bf16; typedef unsigned long long u64;
__device__ unsigned at(unsigned base, int row, int k, int rows, bool major) {
  int inner = 2 * (major ? row : k), atom;
  if (major) atom = inner / SW * 64 * SW + k * SW;
  else atom = inner / SW * rows * SW + row * SW;
  unsigned a = base + atom + inner % SW;
  return a ^ ((a >> 7 & (SW / 16 - 1)) << 4);
}
__device__ u64 descriptor(unsigned base, int step, int rows, bool major) {
  unsigned start = base, near = 8 * SW, far = (major ? 64 : rows) * SW;
  if (major) start += step * 16 * SW;
  else start += step * 32 / SW * rows * SW + step * 32 % SW;
  bool swapped = SW == 16 && major;  // unswizzled, LBO and SBO change places
  u64 lbo = swapped ? near : far, sbo = swapped ? far : near;
  return (start & 0x3FFFF) >> 4 | lbo >> 4 << 16 | sbo >> 4 << 32 | (u64)MODE << 62;
}
extern "C" __global__ void __launch_bounds__(128) tile(bf16 const* a, bf16 const* b, float* c) {
  extern __shared__ __align__(1024) char shared[];
  unsigned pa = __cvta_generic_to_shared(shared), pb = pa + 8192;
  for (int i = threadIdx.x; i < 64 * 64; i += 128)
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(at(pa, i / 64, i % 64, 64, MA)), "h"(a[i]));
  for (int i = threadIdx.x; i < 32 * 64; i += 128)
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(at(pb, i / 64, i % 64, 32, MB)), "h"(b[i]));
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  float d[16] = {};
  asm volatile("" : OUTS :: "memory");  // else the zeros may be set after the fence
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  #pragma unroll
  for (int step = 0; step < 4; ++step)
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {INS}, %16, %17, 1, 1, 1, "
                 "TA, TB;" : OUTS
                 : "l"(descriptor(pa, step, 64, MA)), "l"(descriptor(pb, step, 32, MB)));
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" : OUTS :: "memory");
  int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
  for (int i = 0; i < 16; ++i)
    c[(row + i / 2 % 2 * 8) * 32 + column + i % 2 + i / 4 * 8] = d[i];
}
"""


@cache
def _compiled(swizzle: int, a_major: bool, b_major: bool, mode: int) -> Kernel:
    pytest.importorskip("cupy", reason="CuPy, which has NVRTC, is not installed")
    source = _SOURCE.replace("INS", ", ".join(f"%{i}" for i in range(16)))
    source = source.replace("OUTS", ", ".join(f'"+f"(d[{i}])' for i in range(16)))
    source = source.replace("TA, TB", f"{a_major:d}, {b_major:d}")
    defines = (f"-DSW={swizzle}", f"-DMA={a_major:d}", f"-DMB={b_major:d}", f"-DMODE={mode}")
    return compiled(source, *defines).kernel()


def _tile(kernel: Kernel, **options) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, c = drawn(64, 64), drawn(32, 64, seed=1), torch.zeros(64, 32)
    launch.run(kernel, [a, b, c], [1], [128], shared=16384, **options)
    return c.double(), a.double() @ b.double().T


_MODES = {16: 0, 128: 1, 64: 2, 32: 3}


@pytest.mark.parametrize("majors", [*itertools.product((False, True), repeat=2)])
@pytest.mark.parametrize(
    "swizzle", [pytest.param(s, marks=() if s == 128 else pytest.mark.full) for s in _MODES]
)
def test_layouts(swizzle, majors):
    got, want = _tile(_compiled(swizzle, *majors, _MODES[swizzle]))
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize(("swizzle", "says"), [(128, 64), (128, 16), (64, 128), (32, 64)])
def test_a_descriptor_with_another_swizzle_gives_wrong_values_or_an_error(swizzle, says):
    try:
        got, want = _tile(_compiled(swizzle, False, False, _MODES[says]))
    except errors.Fault:
        return
    assert (got - want).abs().max() > 1


# ---- one small product: 64 x 8 x 16, unswizzled

_BODY = """
ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mov.u32 %r2, sm;
and.b32 %r9, %r1, 127; mad.wide.u32 %rd2, %r9, 16, %rd1; mad.lo.u32 %r3, %r9, 16, %r2;
ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd2]; setp.lt.u32 %p1, %r1, 128;
@%p1 st.shared.v4.b32 [%r3], {%r4, %r5, %r6, %r7}; setp.lt.u32 %p1, %r1, 16;
@%p1 ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd2+2048];
@%p1 st.shared.v4.b32 [%r3+2048], {%r4, %r5, %r6, %r7};
fence.proxy.async;
bar.sync 0;
// PRODUCER
ld.param.u64 %rd3, [p2]; ld.param.u64 %rd4, [p3]; mov.pred %p2, 1;
mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd3, %rd4, %p2, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned;
// WAIT
wgmma.wait_group.sync.aligned 0;
ld.param.u64 %rd5, [p1]; mad.wide.u32 %rd6, %r1, 16, %rd5;
mov.u32 %r8, %cluster_ctarank; mad.wide.u32 %rd6, %r8, 2048, %rd6;
st.global.v4.f32 [%rd6], {%f1, %f2, %f3, %f4};
// END
"""
_WGMMA = next(line for line in _BODY.split("\n") if line.startswith("wgmma.mma_async"))
_FROM_REGISTERS = _WGMMA.replace("%rd3", "{%r4, %r5, %r6, %r7}").replace("0, 0;", "0;")
_OTHER = _WGMMA.replace("%f1,%f2,%f3,%f4", "%f5,%f6,%f7,%f8")
_A, _B = drawn(64, 16), drawn(8, 16, seed=1)
_SUM = 1 + (_A.double() @ _B.double().T)


def _descriptor(start: int, lbo: int = 128, sbo: int = 256, mode: int = 0) -> int:
    return start >> 4 | lbo >> 4 << 16 | sbo >> 4 << 32 | mode << 62


def _image() -> np.ndarray:
    """Pieces of 8 rows and 16 bytes, two along K, then the next rows."""
    parts = [x.view(-1, 8, 2, 8).transpose(1, 2).contiguous().view(torch.uint8) for x in (_A, _B)]
    return np.concatenate([p.numpy().reshape(-1) for p in parts])


def _small(
    *edits: tuple[str, str],
    a: int = _descriptor(0),
    b: int = _descriptor(2048),
    threads: int = 128,
    ctas: int = 1,
    **options,
) -> torch.Tensor:
    """[ctas, 64, 8]"""
    body = _BODY
    for old, new in edits:
        assert body.count(old) == 1, old
        body = body.replace(old, new)
    source = text(
        body, ["u64"] * 4, threads=threads, declare=".extern .shared .align 1024 .b8 sm[];"
    )
    out = np.zeros((ctas, 128, 4), np.float32)
    launch.run(
        source, [_image(), out, a, b], [ctas], cluster=[ctas],
        **{"shared": 2304, **options},
    )  # fmt: skip
    lanes = torch.from_numpy(out).view(ctas, 4, 8, 4, 2, 2)  # warp, g, t, half, i
    return lanes.permute(0, 1, 4, 2, 3, 5).reshape(ctas, 64, 8).double()


@pytest.mark.parametrize("seed", [0, 1, 2, None])
def test_the_small_product(seed):
    assert (_small(seed=seed) - _SUM).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ("0, 1, 1, 0, 0", _SUM - 1), ("%p2, -1, 1, 0, 0", 2 - _SUM),
        ("%p2, -1, -1, 0, 0", _SUM), ("!%p2, 1, 1, 0, 0", None),
    ],
)  # fmt: skip
def test_scales(arguments, want):
    edit = (_WGMMA, _WGMMA.replace("%p2, 1, 1, 0, 0", arguments))
    if want is None:
        edit = (_WGMMA, f"not.pred %p3, %p2; {_WGMMA.replace('%p2', '%p3')}")
        want = _SUM - 1
    assert (_small(edit) - want).abs().max() < 1e-5


def test_copies_before_the_wait_wait_by_themselves():
    copy = "mov.f32 %f5, %f1; wgmma.wait_group.sync.aligned 0;"
    edits = ("wgmma.wait_group.sync.aligned 0;", copy), ("{%f1, %f2, %f3, %f4};\n// END",
                                                         "{%f5, %f2, %f3, %f4};")  # fmt: skip
    assert (_small(*edits, seed=None) - _SUM).abs().max() < 1e-5


@pytest.mark.parametrize(
    "early",
    [
        "mov.f32 %f5, %f1; add.f32 %f6, %f5, %f5;",
        "mov.b32 %r20, %f1; mov.b32 {%rs1, %rs2}, %r20; mov.b32 %r21, {%rs1, %rs2};"
        "st.global.b32 [%rd6], %r21;",
        "mov.f32 %f5, %f1; setp.gt.f32 %p3, %f5, 0f00000000;",
    ],
)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_copies_are_not_touched_before_the_wait(early, seed):
    address = "ld.param.u64 %rd5, [p1]; mad.wide.u32 %rd6, %r1, 16, %rd5;"
    with pytest.raises(errors.Fault, match="is touched while the wgmma"):
        _small(("// WAIT", address + early), seed=seed)


def test_a_copy_that_is_overwritten_may_be_touched():
    early = "mov.f32 %f5, %f1; mov.f32 %f5, 0f00000000; add.f32 %f6, %f5, %f5;"
    assert (_small(("// WAIT", early)) - _SUM).abs().max() < 1e-5


def test_copies_go_on_adding_as_the_accumulators_would():
    """As a loop's phis do that ptxas makes one register of."""
    copy = "mov.f32 %f5, %f1; mov.f32 %f6, %f2; mov.f32 %f7, %f3; mov.f32 %f8, %f4;"
    more = f"{copy} wgmma.fence.sync.aligned; {_OTHER} wgmma.commit_group.sync.aligned;"
    store = "{%f1, %f2, %f3, %f4};\n// END", "{%f5, %f6, %f7, %f8};"
    assert (_small(("// WAIT", more), store) - (2 * _SUM - 1)).abs().max() < 1e-5


def test_warpgroups_of_an_uneven_cta_in_a_cluster():
    """Five warps: the last is in no warpgroup, and the next CTA's begin anew."""
    leave = ("// PRODUCER", "setp.gt.u32 %p3, %r1, 127; @%p3 bra DONE;")
    got = _small(leave, ("// END", "DONE:"), threads=160, ctas=2)
    assert (got - _SUM).abs().max() < 1e-5


FAULTS = {
    "no wgmma.fence": (
        "wgmma.fence.sync.aligned;", "", errors.MissingFence, "no wgmma.fence comes before it",
    ),
    "an accumulator set after the fence": (
        _WGMMA, f"mov.f32 %f2, %f1; {_WGMMA}", errors.MissingFence, "touched %f1, %f2",
    ),
    "a register of A set after the fence": (
        _WGMMA, f"mov.b32 %r4, %r5; {_FROM_REGISTERS}", errors.MissingFence, "touched %r4",
    ),
    "a sum read before the wait": (
        "// WAIT", "add.f32 %f9, %f1, %f1;", errors.Fault, "%f1 is touched.*add.f32",
    ),
    "a sum set before the wait": (
        "// WAIT", "mov.f32 %f3, 0f00000000;", errors.Fault, "%f3 is touched",
    ),
    "a wait for one group less": (
        "aligned 0;", "aligned 1;", errors.Fault, "%f1 is touched.*st.global",
    ),
    "no wgmma.commit_group": (
        "wgmma.commit_group.sync.aligned;", "", errors.Fault, "no wait_group covers it",
    ),
    "an exit before the wait": (
        "// WAIT", "exit;", errors.Fault, "an exit while the wgmma",
    ),
    "accumulators that nothing set": (
        "// WAIT", _OTHER, errors.Uninitialised, "%f5 is used here and holds what was never",
    ),
    "no fence.proxy.async": ("fence.proxy.async;", "", errors.MissingFence, "no fence.proxy.async"),
    "no __syncthreads before a tile is read": (
        "bar.sync 0;", "", errors.Race, "nothing orders|wgmma",
    ),
    "a tile overwritten before the wait": (
        "// WAIT", "st.shared.b32 [sm], 0;", errors.Race, "wgmma",
    ),
    "a warp that left": (
        "// PRODUCER", "setp.gt.u32 %p3, %r1, 95; @%p3 exit;", errors.Deadlock, "wgmma.fence",
    ),
    "a lane that left": (
        "// PRODUCER", "setp.eq.u32 %p3, %r1, 7; @%p3 exit;", errors.Fault, "all lanes|wgmma",
    ),
    "a descriptor for each lane": (
        _WGMMA, f"add.u64 %rd4, %rd4, %rd3; cvt.u64.u32 %rd3, %r1; {_WGMMA}", errors.Fault,
        "descriptor of A is not the same",
    ),
    "a scale-d for each lane": (
        _WGMMA, f"setp.lt.u32 %p2, %r1, 5; {_WGMMA}", errors.Fault, "scale-d is not the same",
    ),
}  # fmt: skip


def test_a_from_registers_is_no_fault() -> None:
    _small((_WGMMA, _FROM_REGISTERS))


@pytest.mark.parametrize("what", FAULTS)
def test_planted_faults(what, seed):
    old, new, kind, says = FAULTS[what]
    with pytest.raises(kind, match=says):
        _small((old, new), seed=seed)


@pytest.mark.parametrize(
    ("descriptor", "kind", "says"),
    [
        (_descriptor(1024), errors.OutOfBounds, "matrix A.*which has 2304"),
        (_descriptor(0, sbo=4096), errors.OutOfBounds, "matrix A"),
        (_descriptor(0) | 1 << 14, errors.Fault, "reserved bits"),
        (_descriptor(0) | 1 << 50, errors.Fault, "base offset without swizzle"),
        (_descriptor(128, mode=1), errors.Misaligned, "128-byte swizzle.*row 1 of the pattern"),
        (_descriptor(64, mode=3), errors.Misaligned, "32-byte swizzle.*row 2 of the pattern"),
    ],
)
def test_wrong_descriptors(descriptor, kind, says):
    with pytest.raises(kind, match=says):
        _small(a=descriptor)


def test_operands_that_were_not_written():
    with pytest.raises(errors.Uninitialised, match=r"matrix B: the 16 bytes at 0x900.*not all"):
        _small(b=_descriptor(2048, lbo=256), shared=4096)


@pytest.mark.parametrize(
    "edits",
    [
        [(_WGMMA, _FROM_REGISTERS.replace("%r7", "%r30"))],
        [("// PRODUCER", "st.shared.b16 [%r2], %r31; fence.proxy.async; bar.sync 0;")],
        [("// PRODUCER", "st.shared.b16 [%r2+2048], %r31; fence.proxy.async; bar.sync 0;")],
    ],
    ids=["A from registers", "A", "B"],
)
def test_what_nothing_wrote_spoils_the_product(edits):
    with pytest.raises(errors.Uninitialised, match=r"%f\d is used here and holds.*st.global"):
        _small(*edits, seed=None)


def test_an_undefined_row_of_a_spoils_no_other():
    half = "setp.lt.u32 %p3, %r1, 64; @%p3 mov.b32 %r30, %r7;"
    wgmma = (_WGMMA, f"{half} wgmma.fence.sync.aligned; {_FROM_REGISTERS.replace('%r7', '%r30')}")
    store = next(line for line in _BODY.split("\n") if line.startswith("st.global"))
    _small(wgmma, (store, f"@%p3 {store}"))
    with pytest.raises(errors.Uninitialised, match="lane 0 of warp 2"):
        _small(wgmma)


# ---- the text alone


def _findings(body: str) -> wgmma_flow.Findings:
    return wgmma_flow.check(parse(text(body)).kernel())


def test_waits_count_commits_through_loops():
    """A wait for all but one lets the next step's products run on, into the loop's next turn."""
    loop = f"""wgmma.fence.sync.aligned; L:
    {_WGMMA} wgmma.commit_group.sync.aligned; {_OTHER} wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 1; add.f32 %f9, %f1, %f1;
    @%p5 bra L; add.f32 %f9, %f5, %f5; wgmma.wait_group.sync.aligned 0; add.f32 %f9, %f5, %f5;"""
    found = _findings(loop)
    assert list(found.touching.values()) == [{"%f5"}]
    assert list(found.missing.values()) == ["no wgmma.fence since other instructions touched %f1"]


def test_accumulators_of_another_shape_need_a_fence_and_a_wait():
    other = _WGMMA.replace("n8k16.f32", "n16k16.f16").replace(".bf16", ".f16")
    found = _findings(f"wgmma.fence.sync.aligned; {_WGMMA} {other}")
    assert list(found.missing) == list(found.touching) == [2]
    found = _findings(f"wgmma.fence.sync.aligned; {_WGMMA} {_WGMMA}")
    assert not found.missing
    assert not found.touching
