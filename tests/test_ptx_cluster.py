"""What orders the CTAs of a cluster: scopes, and that another CTA has started."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx import snippet
from tests.ptx.errors import Fault, Race

pytestmark = pytest.mark.ptx

MEET = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
# CTA 0 writes a word and raises a flag; CTA 1 looks at the flag over there until it is raised.
FLAG = f""".shared .align 16 .b8 sm[256];
ld.param.u64 %rd1, [p0]; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, sm; mov.u32 %r9, %tid.x;
mapa.shared::cluster.u32 %r3, %r2, 0; setp.eq.u32 %p1, %r1, 0; setp.eq.u32 %p2, %r9, 0;
@%p2 st.shared.u32 [sm], 0; @%p2 st.shared.u32 [sm+128], 0; {MEET}
@!%p2 bra DONE; @!%p1 bra READER;
st.shared.u32 [sm], 7; TELL bra DONE;
READER: HEAR setp.eq.u32 %p3, %r4, 0; @%p3 bra READER; AFTER
ld.shared::cluster.u32 %r5, [%r3]; st.global.u32 [%rd1], %r5;
DONE: {MEET}"""
HEAR = "ld.acquire.{}.shared::cluster.u32 %r4, [%r3+128];"
ATOM = "atom.acquire.{}.shared::cluster.or.b32 %r4, [%r3+128], 0;"
RELAXED = "ld.relaxed.{}.shared::cluster.u32 %r4, [%r3+128];"
WAYS = {
    "st": ("st.release.{}.shared.u32 [sm+128], 1;", HEAR, ""),
    "atom": ("atom.release.{}.shared.add.u32 %r6, [sm+128], 1;", ATOM, ""),
    "red": ("red.release.{}.shared.add.u32 [sm+128], 1;", HEAR, ""),
    "fence": ("fence.acq_rel.{}; st.relaxed.cluster.shared.u32 [sm+128], 1;",
              RELAXED.format("cluster"), "fence.acq_rel.{};"),
    "fenced": ("fence.acq_rel.gpu; st.relaxed.{}.shared.u32 [sm+128], 1;", RELAXED,
               "fence.acq_rel.gpu;"),
}  # fmt: skip


def told(tell: str, hear: str, after: str, seed: int | None) -> None:
    out = np.zeros(1, np.uint32)
    body = FLAG.replace("TELL", tell).replace("HEAR", hear).replace("AFTER", after)
    snippet.run(body, [("u64", out)], grid=(2,), cluster=(2,), seed=seed)
    assert out[0] == 7


@pytest.mark.parametrize("scope", ["cluster", "gpu", "sys"])
@pytest.mark.parametrize("way", WAYS)
def test_a_scope_that_holds_the_cluster_orders_its_ctas(way, scope, seed):
    told(*(text.format(scope) for text in WAYS[way]), seed)


@pytest.mark.parametrize("narrow", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("way", WAYS)
def test_a_scope_of_one_cta_does_not(way, narrow, seed):
    """On either side, or both."""
    tell, hear, after = WAYS[way]
    first, second = ("cta" if n else "cluster" for n in narrow)
    texts = tell.format(first), hear.format(second), after.format(second)
    if way in ("fence", "fenced") and "{}" not in hear + after and not narrow[0]:
        return
    with pytest.raises(Race, match="nothing orders"):
        told(*texts, seed)


def test_relaxed_accesses_order_nothing(seed):
    for scope in ("cluster", "gpu"):
        with pytest.raises(Race, match="nothing orders"):
            told(f"st.relaxed.{scope}.shared.u32 [sm+128], 1;", RELAXED.format(scope), "", seed)


def test_inside_of_a_cta_its_scope_orders(seed):
    body = FLAG.replace("setp.eq.u32 %p1, %r1, 0;", "setp.lt.u32 %p1, %r9, 32;")
    body = body.replace("mapa.shared::cluster.u32 %r3, %r2, 0;", "mov.u32 %r3, %r2;")
    body = body.replace("%p2, %r9, 0", "%p2, %r8, 0").replace(
        "mov.u32 %r9", "mov.u32 %r8, %laneid; mov.u32 %r9"
    )
    for way in WAYS.values():
        tell, hear, after = (text.format("cta") for text in way)
        text = body.replace("TELL", tell).replace("HEAR", hear).replace("AFTER", after)
        out = np.zeros(1, np.uint32)
        snippet.run(
            text.replace("shared::cluster.", "shared."), [("u64", out)], threads=64, seed=seed
        )
        assert out[0] == 7


# ---- the other CTA has started

REMOTE = """.shared .align 16 .b8 sm[256]; .shared .align 8 .b8 bar[8];
mov.u32 %r1, %cluster_ctarank; xor.b32 %r1, %r1, 1; mov.u32 %r2, sm; mov.u32 %r4, bar;
mapa.shared::cluster.u32 %r3, %r2, %r1; mapa.shared::cluster.u32 %r5, %r4, %r1; {} {}
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"""
USES = {
    "store": "st.shared::cluster.u32 [%r3], 1;",
    "atom": "atom.shared::cluster.add.u32 %r6, [%r3], 1;",
    "arrive": "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5];",
}


@pytest.mark.parametrize("use", USES)
def test_another_cta_is_touched_before_it_is_known_to_be_there(use):
    for seed in (None, *range(6)):
        with pytest.raises(Fault, match=r"CTA \d of the cluster, and nothing orders this after"):
            snippet.run(REMOTE.format("bar.sync 0;", USES[use]), grid=(2,), cluster=(2,), seed=seed)


@pytest.mark.parametrize("arrive", ["", ".relaxed"])
def test_after_the_clusters_barrier_it_is_there(arrive):
    meet = f"barrier.cluster.arrive{arrive}.aligned; barrier.cluster.wait.aligned;"
    for seed in (None, *range(4)):
        body = REMOTE.format(meet, USES["store"])
        snippet.run(body, grid=(4,), cluster=(2,), seed=seed)


def test_one_warp_tells_the_others_of_its_cta():
    """Warp 0 waits for the cluster; the others wait for warp 0."""
    tell = """barrier.cluster.arrive.relaxed.aligned; mov.u32 %r9, %tid.x; setp.ge.u32 %p1, %r9, 32;
    @%p1 bra ON; barrier.cluster.wait.aligned; ON: bar.sync 0;"""
    late = "@!%p1 bra OFF; barrier.cluster.wait.aligned; OFF:"
    body = REMOTE.format(tell, "@%p1 " + USES["store"] + late)
    for seed in (None, *range(4)):
        snippet.run(body, threads=64, grid=(2,), cluster=(2,), seed=seed)
