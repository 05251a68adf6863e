"""wgmma reads what a tensor copy wrote in the swizzle that it was written in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.ptx import errors, launch, tma
from tests.ptx.snippet import text

pytestmark = pytest.mark.ptx

MODES = {0: 0, 128: 1, 64: 2, 32: 3}  # bytes of the swizzle, as a descriptor says it
# 8 KiB by a tensor copy, of which one wgmma of 64 x 8 x 16 has both its operands.
BODY = """mov.u32 %r1, %tid.x; mov.u32 %r2, sm; mov.b64 %rd1, p0; cvta.param.u64 %rd1, %rd1;
setp.ne.u32 %p1, %r1, 0; mov.u32 %r4, 0; mov.u32 %r5, 8192; @%p1 bra BEGUN;
mbarrier.init.shared.b64 [bar], 1; fence.proxy.async;
mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r5;
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
[%r2], [%rd1, {%r4, %r4}], [bar];
BEGUN: bar.sync 0; W: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra W;
// AFTER
ld.param.u64 %rd3, [p1]; mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1;
mov.f32 %f4, %f1; wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd3, %rd3, 1, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"""
EACH = """mul.lo.u32 %r6, %r1, 16; add.u32 %r6, %r6, %r2; add.u32 %r7, %r2, 8192;
ld.param.u64 %rd8, [p2]; R: WRITE add.u32 %r6, %r6, 2048; setp.lt.u32 %p3, %r6, %r7; @%p3 bra R;
cp.async.wait_all; fence.proxy.async; bar.sync 0;"""
OTHERS = {
    "a store": EACH.replace("WRITE", "st.shared.v4.b32 [%r6], {%r4, %r4, %r4, %r4};"),
    "cp.async": EACH.replace("WRITE", "cp.async.cg.shared.global [%r6], [%rd8], 16;"),
    "cp.async.bulk": """ld.param.u64 %rd8, [p2]; @%p1 bra GONE;
    mbarrier.arrive.expect_tx.shared.b64 _, [bar], %r5;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd8], %r5, [bar];
    GONE: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 1; @!%p2 bra GONE;""",
}


def read(wrote: int, reads: int, after: str = "") -> None:
    source = text(
        BODY.replace("// AFTER", after), ["u64"] * 3, threads=128,
        declare=".extern .shared .align 1024 .b8 sm[]; .shared .align 8 .b64 bar;",
    ).replace(".param .u64 p0", ".param .align 64 .b8 p0[128]")  # fmt: skip
    line = wrote or 128
    data = np.ones((8192 // line, line // 2), np.uint16)
    swizzle = {0: 0, 32: 1, 64: 2, 128: 3}[wrote]
    box = tma.encode(data, "bf16", data.shape[::-1], (line,), data.shape[::-1], swizzle=swizzle)
    start, near, far = 1024, 8 * (reads or 16), 1024  # the mbarrier lies before it
    descriptor = start >> 4 | far >> 4 << 16 | near >> 4 << 32 | MODES[reads] << 62
    launch.run(source, [box, descriptor, np.zeros(2048, np.uint32)], [1], shared=8192)


@pytest.mark.parametrize(("wrote", "reads"), [*itertools.product(MODES, repeat=2)])
def test_another_swizzle_is_named(wrote, reads):
    """A copy without may bring what was in a swizzled order before."""
    if wrote in (0, reads):
        read(wrote, reads)
        return
    says = f"a {reads}-byte swizzle" if reads else "no swizzle"
    with pytest.raises(errors.Fault, match=f"A: its descriptor says {says}, .* a {wrote}-byte one"):
        read(wrote, reads)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("reads", MODES)
def test_what_others_wrote_since_has_no_swizzle(reads, other):
    read(128, reads, OTHERS[other])
