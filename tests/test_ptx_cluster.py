"""Shared memory of a CTA of the cluster that has not begun, or has ended."""

from __future__ import annotations

import pytest

from tests.ptx import errors
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

ARRIVE, WAIT = "barrier.cluster.arrive{}.aligned;", "barrier.cluster.wait.aligned;"
MEET = ARRIVE.format("") + WAIT
START = """mov.u32 %r1, sm; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank; xor.b32 %r4, %r3, 1;
    mapa.shared::cluster.u32 %r5, %r1, %r4; shl.b32 %r6, %r2, 2; add.u32 %r7, %r5, %r6;
    mov.u32 %r9, 1; st.shared.u32 [%r1+512], %r9; shl.b32 %r8, %r3, 8;"""
ACCESS = {
    "load": "ld.shared::cluster.u32 %r10, [%r5+512];",
    "store": "st.shared::cluster.u32 [%r7], %r2;",
    "generic": "cvt.u64.u32 %rd1, %r7; cvta.shared.u64 %rd1, %rd1; st.u32 [%rd1], %r2;",
    "atom": "red.relaxed.cluster.shared::cluster.add.u32 [%r5+512], %r2;",
}


def cluster(body: str, seed: int | None, size: int = 2) -> None:
    run(START + body, threads=32, grid=(2 * size,), cluster=(size,), seed=seed, shared=1024,
        declare=".extern .shared .align 128 .b8 sm[];")  # fmt: skip


@pytest.mark.parametrize("how", ACCESS)
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_the_other_cta_has_to_have_begun(how, seed):
    access = ACCESS[how]
    if how != "atom":  # CTAs that add to what the other one stores race
        cluster(MEET + access + MEET, seed)
        cluster("bar.sync 0;" + ARRIVE.format(".release") + WAIT + access + MEET, seed)
    with pytest.raises(errors.Fault, match=r"CTA [01] of the cluster, which may not have begun"):
        cluster(access + MEET, seed)
    with pytest.raises(errors.Fault, match="may not have begun"):
        cluster(ARRIVE.format("") + access + WAIT + MEET, seed)
    with pytest.raises(errors.Fault, match="may not have begun"):
        cluster("bar.sync 0;" + access + MEET, seed)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_a_relaxed_arrival_tells_that_it_has(seed):
    cluster(ARRIVE.format(".relaxed") + WAIT + ACCESS["store"] + MEET, seed)


@pytest.mark.parametrize("how", ["load", "store", "generic"])
def test_the_other_cta_has_to_be_there_until_the_end(how, seed):
    with pytest.raises(errors.Fault, match=r"which has exited|whose last thread exits"):
        cluster(MEET + ACCESS[how], seed)


def test_the_own_memory_by_its_rank_needs_nothing(seed):
    cluster("mapa.shared::cluster.u32 %r5, %r1, %r3;" + ACCESS["load"], seed)


def test_a_barrier_of_another_cta_counts_too(seed):
    body = """setp.ne.u32 %p1, %r2, 0; @%p1 bra GO; mbarrier.init.shared.b64 [%r1], 2;
    fence.mbarrier_init.release.cluster; GO: MEET
    @%p1 bra END; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5]; END: """
    cluster(body.replace("MEET", MEET) + MEET, seed)
    with pytest.raises(errors.PtxError):
        cluster(body.replace("MEET", "") + MEET, seed)
