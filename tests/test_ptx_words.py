"""Every form of an instruction that the executor knows, with a word too many: nothing runs."""

from __future__ import annotations

import pytest

from tests.ptx import errors, launch, ops
from tests.ptx.snippet import text

pytestmark = pytest.mark.ptx

SAMPLES = """add.s32 %r1, %r2, %r3|sub.s32 %r1, %r2, %r3|addc.u32 %r1, %r2, %r3
subc.u32 %r1, %r2, %r3|mul.lo.s32 %r1, %r2, %r3|mul24.lo.s32 %r1, %r2, %r3
mad.lo.s32 %r1, %r2, %r3, %r4|mad24.lo.s32 %r1, %r2, %r3, %r4
madc.lo.u32 %r1, %r2, %r3, %r4|div.s32 %r1, %r2, %r3
rem.s32 %r1, %r2, %r3|abs.s32 %r1, %r2|neg.s32 %r1, %r2|min.s32 %r1, %r2, %r3
max.s32 %r1, %r2, %r3|sad.s32 %r1, %r2, %r3, %r4|dp4a.s32.s32 %r1, %r2, %r3, %r4
dp2a.lo.s32.s32 %r1, %r2, %r3, %r4|and.b32 %r1, %r2, %r3|or.b32 %r1, %r2, %r3
xor.b32 %r1, %r2, %r3|not.b32 %r1, %r2|cnot.b32 %r1, %r2|lop3.b32 %r1, %r2, %r3, %r4, 1
shl.b32 %r1, %r2, %r3|shr.u32 %r1, %r2, %r3|shf.l.wrap.b32 %r1, %r2, %r3, %r4
bfe.u32 %r1, %r2, %r3, %r4|bfi.b32 %r1, %r2, %r3, %r4, %r5|bfind.u32 %r1, %r2
bmsk.clamp.b32 %r1, %r2, %r3|brev.b32 %r1, %r2|clz.b32 %r1, %r2|popc.b32 %r1, %r2
szext.clamp.u32 %r1, %r2, %r3|add.f32 %f1, %f2, %f3|fma.rn.f32 %f1, %f2, %f3, %f4
div.full.f32 %f1, %f2, %f3|copysign.f32 %f1, %f2, %f3|testp.finite.f32 %p1, %f1
rcp.approx.f32 %f1, %f2|sqrt.approx.f32 %f1, %f2|rsqrt.approx.f32 %f1, %f2
ex2.approx.f32 %f1, %f2|lg2.approx.f32 %f1, %f2|sin.approx.f32 %f1, %f2|cos.approx.f32 %f1, %f2
tanh.approx.f32 %f1, %f2|setp.lt.s32 %p1, %r1, %r2|set.lt.u32.s32 %r1, %r2, %r3
selp.b32 %r1, %r2, %r3, %p1|slct.s32.s32 %r1, %r2, %r3, %r4|cvt.u32.u16 %r1, %rs1
cvt.pack.sat.u16.s32 %r1, %r2, %r3|prmt.b32 %r1, %r2, %r3, %r4|mov.u32 %r1, %r2
ld.global.v2.b32 {%r1, %r2}, [%rd1]|ldu.global.b32 %r1, [%rd1]|st.shared.b32 [%r1], %r2
cvta.to.global.u64 %rd1, %rd2|isspacep.global %p1, %rd1|mapa.shared::cluster.u32 %r1, %r2, %r3
getctarank.shared::cluster.u32 %r1, %r2|createpolicy.fractional.L2::evict_last.b64 %rd1, 0f3F800000
prefetch.global.L2 [%rd1]|prefetchu.L1 [%rd1]|discard.global.L2 [%rd1], 128
applypriority.global.L2::evict_normal [%rd1], 128|atom.global.add.u32 %r1, [%rd1], %r2
red.shared.max.s32 [%r1], %r2|shfl.sync.idx.b32 %r1, %r2, %r3, 31, -1
vote.sync.any.pred %p1, %p2, -1|activemask.b32 %r1|match.any.sync.b32 %r1, %r2, -1
redux.sync.add.s32 %r1, %r2, -1|elect.sync %r1|%p1, -1|bar.warp.sync -1|bra X|trap|exit|ret
nanosleep.u32 5|pmevent 1|setmaxnreg.inc.sync.aligned.u32 40|griddepcontrol.wait|bar.sync 0
barrier.cta.arrive 1, 64|bar.red.popc.u32 %r1, 0, %p1|bar.cta.red.and.pred %p1, 0, %p2
barrier.red.or.pred %p1, 0, %p2|barrier.cta.red.popc.u32 %r1, 0, %p1
barrier.cluster.arrive.aligned|barrier.cluster.wait.aligned|membar.gl|fence.acq_rel.gpu
fence.proxy.async.shared::cta|fence.proxy.alias|fence.proxy.tensormap::generic.release.gpu
fence.mbarrier_init.release.cluster|fence.acquire.sync_restrict::shared::cluster.cluster
fence.release.sync_restrict::shared::cta.cluster|mbarrier.init.shared.b64 [%r1], 1
mbarrier.inval.shared.b64 [%r1]|mbarrier.arrive.shared.b64 %rd1, [%r1]
mbarrier.arrive_drop.shared.b64 %rd1, [%r1]|mbarrier.expect_tx.shared.b64 [%r1], 5
mbarrier.complete_tx.shared.b64 [%r1], 5|mbarrier.test_wait.parity.shared.b64 %p1, [%r1], 0
mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0|mbarrier.pending_count.b64 %r1, %rd1
cp.async.ca.shared.global [%r1], [%rd1], 4|cp.async.cg.shared.global [%r1], [%rd1], 16
cp.async.commit_group|cp.async.wait_group 0|cp.async.wait_all
cp.async.mbarrier.arrive.noinc.shared.b64 [%r1]
cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 16
cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2]
cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2]
cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%rd1, {%r1}], [%r2]
cp.async.bulk.prefetch.L2.global [%rd1], 16|cp.async.bulk.prefetch.tensor.1d.L2.global [%rd1, {%r1}]
cp.async.bulk.commit_group|cp.async.bulk.wait_group.read 0
cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r1], 16
cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 \
[%r1], [%r2], 16, [%r3]
cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.bulk_group [%rd1, {%r1}], [%r2]
st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %r2, [%r3]
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3]
tensormap.replace.tile.rank.global.b1024.b32 [%rd1], 1
tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned \
[%rd1], [%r1], 128
ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2]
stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r1}
mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, {%r3}, \
{%f1, %f2, %f3, %f4}
wgmma.fence.sync.aligned|wgmma.commit_group.sync.aligned|wgmma.wait_group.sync.aligned 0
wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, %rd2, 1, 1, 1, 0, 0\
"""
FORMS = [one.replace("@", "|") for one in
         SAMPLES.replace("%r1|%p1, -1", "%r1@%p1, -1").replace("\n", "|").split("|")]  # fmt: skip


def _linked(instruction: str) -> None:
    """Never executed, but decoded."""
    source = text(f"exit; X: {instruction};", threads=128)
    launch.run(source.replace(".reqntid 128", ".reqntid 128 .maxnreg 128"), [], (1,))


def _every(n: int) -> list:
    """All forms, each n-th of them in `make test`."""
    return [pytest.param(f, marks=pytest.mark.full if i % n else ()) for i, f in enumerate(FORMS)]


@pytest.mark.parametrize("form", FORMS)
def test_a_known_form_is_known(form):
    _linked(form)


@pytest.mark.parametrize("form", _every(3))
def test_a_word_too_many_stops_before_the_kernel_starts(form):
    """A nonsense word at every place, and each of its own words twice."""
    op, _, operands = form.partition(" ")
    parts = op.split(".")
    changed = [[*parts[:n], "bogus", *parts[n:]] for n in range(1, len(parts) + 1)]
    changed += [[*parts[:n], parts[n], *parts[n:]] for n in range(1, len(parts))]
    for words in changed:
        wrong = ".".join(words)
        with pytest.raises(errors.Unknown) as caught:
            _linked(f"{wrong} {operands}")
        assert wrong in str(caught.value), wrong
        assert "[line 11: " in str(caught.value)


FOREIGN = ("ftz", "trans", "bulk_group", "parity", "noComplete", "popc", "row", "wide", "acq_rel",
           "noftz", "x4", "nc", "v8", "cc", "sat", "approx")  # fmt: skip
# What the ISA has: (first words, a word that may be there too).
REAL = {
    "ldmatrix trans", "stmatrix trans", "add.s32 sat", "sub.s32 sat", "add.f32 ftz", "add.f32 sat",
    "fma.rn ftz", "fma.rn sat", "div.full ftz", "rcp.approx ftz", "sqrt.approx ftz",
    "rsqrt.approx ftz", "ex2.approx ftz", "lg2.approx ftz", "sin.approx ftz", "cos.approx ftz",
    "addc.u32 cc", "subc.u32 cc", "madc.lo cc", "mad.lo cc", "ld.global nc", "add.s32 cc",
    "sub.s32 cc", "atom acq_rel", "fence.proxy acq_rel", "mbarrier.arrive noComplete",
    "mbarrier.arrive_drop noComplete", "cp.reduce noftz",
}  # fmt: skip


@pytest.mark.parametrize("form", _every(4))
def test_a_word_of_other_instructions_stops_it_too(form):
    op, _, operands = form.partition(" ")
    parts = op.split(".")
    for word in FOREIGN:
        if f"{'.'.join(parts[:2])} {word}" in REAL or f"{parts[0]} {word}" in REAL:
            continue
        for n in {1, len(parts)}:
            if word in parts:
                continue
            wrong = ".".join([*parts[:n], word, *parts[n:]])
            with pytest.raises(errors.Unknown):
                _linked(f"{wrong} {operands}")


# Words that are right each for itself; the assembler has none of these either.
CLASHES = """atom.global.min.noftz.f16 %rs1, [%rd1], %rs2|red.max.noftz.bf16x2 [%rd1], %r2
ld.global.v4.b64 {%rd1, %rd2, %rd3, %rd4}, [%rd5]|st.shared.v4.f64 [%r1], {%d1, %d2, %d3, %d4}
ld.global.f16 %rs1, [%rd1]|ld.global.e4m3 %rs1, [%rd1]|st.global.bf16x2 [%rd1], %r1
ld.global.tf32 %r1, [%rd1]|st.global.f32 [%rd1], 1|st.global.v2.f64 [%rd1], {%d1, 1}
cp.reduce.async.bulk.global.shared::cta.bulk_group.min.noftz.f16 [%rd1], [%r1], 16
cp.async.bulk.tensor.1d.shared::cta.global.mbarrier::complete_tx::bytes.multicast::cluster \
[%r1], [%rd1, {%r2}], [%r3], %rs1
cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.and.b64 \
[%r1], [%r2], 16, [%r3]
cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.max.s64 \
[%r1], [%r2], 16, [%r3]
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.f32 [%r1], %f1, [%r3]
red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.min.u64 [%r1], %rd1, [%r3]
st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u16 [%r1], %rs2, [%r3]
tensormap.replace.tile.swizzle_mode.global.b1024.b32 [%rd1], 4
tensormap.replace.tile.swizzle_mode.global.b1024.b32 [%rd1], %r1
tensormap.replace.tile.fill_mode.global.b1024.b32 [%rd1], 2
tensormap.replace.tile.interleave_layout.global.b1024.b32 [%rd1], 3
tensormap.replace.tile.elemtype.global.b1024.b32 [%rd1], 16
tensormap.replace.tile.global_stride.global.b1024.b32 [%rd1], 0, %r1
tensormap.replace.tile.rank.global.b1024.b64 [%rd1], %rd2
ld.shared.L1::evict_last.b32 %r1, [%r2]|st.shared.L1::no_allocate.b32 [%r1], %r2
ld.global.L2::evict_last.b32 %r1, [%rd1]|st.global.L2::evict_first.b32 [%rd1], %r1
mbarrier.arrive.release.shared.b64 %rd1, [%r1]|mbarrier.arrive.cta.shared.b64 %rd1, [%r1]
mbarrier.try_wait.acquire.shared.b64 %p1, [%r1], %rd1
mbarrier.test_wait.parity.cluster.shared.b64 %p1, [%r1], 0
mbarrier.expect_tx.relaxed.shared.b64 [%r1], 5|mbarrier.complete_tx.cta.shared.b64 [%r1], 5
red.async.relaxed.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r1], %r2, [%r3]
cp.async.bulk.tensor.1d.global.bulk_group [%rd1, {%r1}], [%r2]
cp.async.bulk.tensor.1d.shared::cluster.global [%r1], [%rd1, {%r2}], [%r3]
prefetch.global.L2 [%f1]|prefetch.global.L2 [%p1]|discard.global.L2 [%d1], 128
ld.global.L2::cache_hint.u32 %r1, [%rd1], %r2|cp.async.cg.shared.global.L2::cache_hint \
[%r1], [%rd1], 16, %p1
atom.global.add.u32 %f1, [%rd1], %r2|atom.global.add.u32 %r1, [%rd1], %f1
red.shared.max.s32 [%r1], %f1|st.global.u32 [%rd1], %f1
redux.sync.add.s32 %f1, %r2, -1"""


@pytest.mark.parametrize("form", CLASHES.replace("\\\n", "").replace("\n", "|").split("|"))
def test_words_that_no_instruction_has_together(form):
    with pytest.raises(errors.PtxError, match=r"\[line 11: ") as caught:
        _linked(form)
    assert isinstance(caught.value, (errors.Unknown, errors.Malformed))


# What the assembler has, and the executor has not.
MISSING = """wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, \
%rd2, %r1, 0, 1, 1, 1, 0, 0
mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r2}, \
{%r3, %r4}, {%f1, %f2, %f3, %f4}, %r5, 0
cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r1], \
[%rd1, {%r2, %r3, %r4}], [%r5], {%rs1}
lop3.or.b32 %r1@%p1, %r2, %r3, %r4, 1, %p2|multimem.red.global.add.f32 [%rd1], %f1
max.s16x2.relu %r1, %r2, %r3|fns.b32 %r1, %r2, %r3, %r4|rcp.approx.ftz.f64 %d1, %d2
rsqrt.approx.ftz.f64 %d1, %d2|vadd.s32.s32.s32 %r1, %r2, %r3|suld.b.1d.b32.trap %r1, [%rd1, {%r2}]
tex.1d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [%rd1, {%f1}]|alloca.u64 %rd1, %rd2
wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r1}, [%rd1]|mov.u32 %r1, %envreg2"""


@pytest.mark.parametrize("form", MISSING.replace("\\\n", "").replace("\n", "|").split("|"))
def test_what_the_executor_lacks_is_told_by_name(form):
    with pytest.raises(errors.Unknown, match=r"does not know|known here") as caught:
        _linked(form.replace("@", "|"))
    assert "[line 11: " in str(caught.value)


def test_every_handler_has_a_form_here():
    firsts = [form.split()[0] + "." for form in FORMS] + ["brx.idx."]  # which needs a table
    names = [name for name in ops.TABLE if " " not in name]
    missing = [n for n in names if not any(first.startswith(n + ".") for first in firsts)]
    assert not missing


OTHERS = [
    ".func (.param .b32 r) f(.param .b32 a) { call.uni (r), g, (a); ret; }",
    ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);",
    ".func __assertfail(.param .b64 a) .noreturn;",
    ".visible .func (.param .align 16 .b8 r[16]) f(.param .b64 a) .noinline { X: call f; bra X; }",
    ".visible .entry other() { .reg .b64 %rd<9>; { call.uni (r0), vprintf, (%rd1, 5); } ret; }",
    ".visible .entry other() { P: .callprototype (.param .b32 _) _ (.param .b64 _); call P; ret; }",
    ".visible .entry other() { nobody.knows %this; ret; }",
    ".alias f, g;",
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", [True, False])
def test_calls_elsewhere_in_the_module_are_nobodys_business(other, first):
    source = text("mov.u32 %r1, 1;")
    mark = ".visible .entry k"
    source = source.replace(mark, f"{other}\n{mark}") if first else source + other
    done = launch.run(source, [], [1], kernel="k")
    assert done.executed.tolist() == [1, 1]
