"""Scopes: what is ordered for the own CTA only is not ordered for another one of the cluster."""

from __future__ import annotations

import pytest

from tests.ptx import errors
from tests.ptx.snippet import run

pytestmark = pytest.mark.ptx

WIDE = ("cluster", "gpu", "sys")
MEET = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
# Thread 0 of CTA 0 writes data at 64 and tells by the word at 0; the reader, which is thread 0 of
# CTA 1 or the first of warp 1 of CTA 0, waits for that and reads.
BODY = f"""
    mov.u32 %r1, sm; mov.u32 %r2, %tid.x; mov.u32 %r3, %cluster_ctarank;
    mapa.shared::cluster.u32 %r4, %r1, 0; mov.u32 %r5, 0; mov.u32 %r6, 1;
    or.b32 %r7, %r2, %r3; setp.ne.u32 %p1, %r7, 0; @%p1 bra START; INIT
START: {MEET}
    @!%p1 bra WRITE; setp.ne.u32 %p2, %r3, RANK; @%p2 bra END;
    setp.ne.u32 %p2, %r2, LANE; @%p2 bra END;
READ: TAKE
    ld.shared::cluster.u32 %r8, [%r4+64]; bra END;
WRITE: st.shared.u32 [%r1+64], %r2; TELL
END: {MEET}
"""


def passed(
    tell: str, take: str, seed: int, init: str = "st.shared.u32 [%r1], %r5;", **where
) -> None:
    rank, lane = where.get("reader", (1, 0))
    words = {"INIT": init, "TELL": tell, "TAKE": take, "RANK": str(rank), "LANE": str(lane)}
    body = BODY
    for name, text in words.items():
        body = body.replace(name, text)
    run(body, threads=64, grid=(2,), cluster=(2,), seed=seed, shared=128,
        declare=".extern .shared .align 128 .b8 sm[];")  # fmt: skip


def loop(load: str, after: str = "") -> str:
    return f"LOOP: {load} setp.eq.u32 %p3, %r8, 0; @%p3 bra LOOP; {after}"


def flag(releases: str, acquires: str) -> tuple[str, str]:
    return (
        f"st.release.{releases}.shared.u32 [%r1], %r6;",
        loop(f"ld.acquire.{acquires}.shared::cluster.u32 %r8, [%r4];"),
    )


def atomic(releases: str, acquires: str) -> tuple[str, str]:
    return (
        f"red.release.{releases}.shared.add.u32 [%r1], %r6;",
        loop(f"atom.acquire.{acquires}.shared::cluster.or.b32 %r8, [%r4], %r5;"),
    )


def fences(releases: str, acquires: str) -> tuple[str, str]:
    """The accesses have all scopes; the fences decide."""
    return (
        f"fence.acq_rel.{releases}; st.relaxed.sys.shared.u32 [%r1], %r6;",
        loop("ld.relaxed.sys.shared::cluster.u32 %r8, [%r4];", f"fence.acq_rel.{acquires};"),
    )


def accesses(releases: str, acquires: str) -> tuple[str, str]:
    """The fences have all scopes; the accesses decide."""
    return (
        f"fence.sc.sys; st.relaxed.{releases}.shared.u32 [%r1], %r6;",
        loop(f"ld.relaxed.{acquires}.shared::cluster.u32 %r8, [%r4];", "fence.sc.sys;"),
    )


def mbarrier(releases: str, acquires: str) -> tuple[str, str]:
    return (
        f"mapa.shared::cluster.u32 %r9, %r1, RANK;"
        f"mbarrier.arrive.release.{releases}.shared::cluster.b64 _, [%r9+16];",
        f"LOOP: mbarrier.try_wait.parity.acquire.{acquires}.shared::cta.b64 %p3, [%r1+16], 0;"
        "@!%p3 bra LOOP;",
    )


WAYS = [flag, atomic, fences, accesses]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_both_scopes_reach_the_other_cta(way, seed):
    for releases in WIDE:
        for acquires in WIDE:
            passed(*way(releases, acquires), seed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("releases", "acquires"), [("cta", "gpu"), ("gpu", "cta"), ("cta", "cta")])
def test_the_scope_of_a_cta_does_not(way, releases, acquires, seed):
    with pytest.raises(errors.Race):
        passed(*way(releases, acquires), seed)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scopes", [("cta", "cta"), ("cta", "gpu"), ("cluster", "cta")])
@pytest.mark.parametrize("seed", range(3))
def test_any_scope_reaches_the_own_cta(way, scopes, seed):
    passed(*way(*scopes), seed, reader=(0, 32))


RELAXED = [
    (flag("gpu", "gpu")[0].replace("release", "relaxed"), flag("gpu", "gpu")[1]),
    (flag("gpu", "gpu")[0], flag("gpu", "gpu")[1].replace("acquire", "relaxed")),
    (atomic("gpu", "gpu")[0].replace("release", "relaxed"), atomic("gpu", "gpu")[1]),
    (atomic("gpu", "gpu")[0], atomic("gpu", "gpu")[1].replace("acquire.gpu.", "")),
]


@pytest.mark.parametrize("words", RELAXED)
@pytest.mark.parametrize("reader", [(1, 0), (0, 32)])
def test_relaxed_orders_nothing(words, reader, seed):
    with pytest.raises(errors.Race):
        passed(*words, seed, reader=reader)


EACH = "mbarrier.init.shared.b64 [%r1+16], 1; fence.mbarrier_init.release.cluster;"


def by_mbarrier(releases: str, acquires: str, seed: int) -> None:
    """Each CTA has its own; CTA 0 arrives at that of CTA 1."""
    tell, take = mbarrier(releases, acquires)
    body = BODY.replace("START:", f"START: setp.ne.u32 %p4, %r2, 0; @%p4 bra GO; {EACH} GO:")
    for name, text in {"INIT": "", "TELL": tell, "TAKE": take, "RANK": "1", "LANE": "0"}.items():
        body = body.replace(name, text)
    run(body, threads=64, grid=(2,), cluster=(2,), seed=seed, shared=128,
        declare=".extern .shared .align 128 .b8 sm[];")  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_an_mbarrier_has_a_scope(seed):
    by_mbarrier("cluster", "cluster", seed)
    for scopes in (("cta", "cluster"), ("cluster", "cta"), ("cta", "cta")):
        with pytest.raises(errors.Race):
            by_mbarrier(*scopes, seed)


def test_atomics_of_a_cta_race_with_those_of_another(seed):
    body = """mov.u32 %r1, sm; mapa.shared::cluster.u32 %r4, %r1, 0; mov.u32 %r6, 1; mov.u32 %r2,
    %tid.x; mov.u32 %r3, %cluster_ctarank; or.b32 %r7, %r2, %r3; setp.ne.u32 %p1, %r7, 0;
    @!%p1 st.shared.u32 [%r1], %r2; MEET red.relaxed.SCOPE.shared::cluster.add.u32 [%r4], %r6;
    MEET""".replace("MEET", MEET)
    go = dict(threads=64, grid=(2,), cluster=(2,), seed=seed, shared=128,
              declare=".extern .shared .align 128 .b8 sm[];")  # fmt: skip
    run(body.replace("SCOPE", "cluster"), **go)
    with pytest.raises(errors.Race):
        run(body.replace("SCOPE", "cta"), **go)
