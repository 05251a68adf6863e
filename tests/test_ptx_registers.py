"""setmaxnreg: who gives registers to the CTA's pool, and who waits for them."""

from __future__ import annotations

import pytest

from tests.ptx import errors, launch, snippet

pytestmark = pytest.mark.ptx

BOUNDS = ".reqntid 384 .minnctapersm 1"  # 168 registers a thread, as ptxas counts
FIRST = """mov.u32 %r1, %tid.x; setp.ge.u32 %p1, %r1, 128; @%p1 bra REST; FIRST bra END;
REST: OTHERS END:"""


def go(first: str, others: str = "", seed: int | None = 0, bounds: str = BOUNDS) -> None:
    """The first warpgroup does `first`, the two others `others`."""
    body = FIRST.replace("FIRST", first).replace("OTHERS", others)
    source = snippet.text(body, threads=384).replace(".reqntid 384", bounds)
    launch.run(source, [], [2], [384], seed=seed)


def less(count: int) -> str:
    return f"setmaxnreg.dec.sync.aligned.u32 {count};"


def more(count: int) -> str:
    return f"setmaxnreg.inc.sync.aligned.u32 {count};"


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize(
    "bounds", [BOUNDS, ".maxntid 384 .maxnreg 168", ".maxntid 384 .maxnreg 161"]
)
def test_what_the_pool_has_is_taken(seed, bounds):
    go(less(40), more(232), seed, bounds)
    go(less(24), more(240), seed, bounds)
    go(less(168), more(168), seed, bounds)  # the ISA lets them stay as they are
    go(less(40), less(40) + more(232), seed, bounds)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_more_than_the_pool_will_ever_have(seed):
    says = "waits in setmaxnreg.inc for 240 registers a thread; it has 168, and its CTA's pool"
    with pytest.raises(errors.Deadlock, match=says):
        go(less(40), more(240), seed)
    with pytest.raises(errors.Deadlock, match="for 176 registers"):
        go("", more(176), seed)


def test_the_count_moves_in_its_direction():
    with pytest.raises(errors.Fault, match="dec to 176 registers by a warp that has 168"):
        go(less(176))
    with pytest.raises(errors.Fault, match="inc to 160 registers by a warp that has 168"):
        go(more(160))
    with pytest.raises(errors.Fault, match="dec to 48 registers by a warp that has 40"):
        go(less(40) + less(48))


@pytest.mark.parametrize("count", [16, 36, 264, 0])
def test_a_count_that_is_none(count):
    with pytest.raises(errors.Unknown, match="a multiple of 8 from 24 to 256"):
        go(less(count))


def test_a_warpgroup_comes_as_a_whole(seed):
    last = "setp.ge.u32 %p2, %r1, 96; @%p2 bra LAST;"
    go(f"{last} {less(40)} bra END; LAST: {less(40)}", seed=seed)  # as Triton has it
    with pytest.raises(errors.Fault, match=r"of a warpgroup: .*none"):
        go(f"{last} {less(40)} LAST:", seed=seed)
    with pytest.raises(errors.Fault, match=r"number 1 of a warpgroup: setmaxnreg.dec (40|48), but"):
        go(f"{last} {less(40)} bra END; LAST: {less(48)}", seed=seed)


def test_the_registers_at_the_start_have_to_be_known():
    for bounds in ("", ".maxntid 384", ".reqntid 384"):
        with pytest.raises(errors.Unknown, match=r"needs the kernel's \.maxnreg"):
            go(less(40), bounds=bounds)


def test_more_registers_than_an_sm_has():
    with pytest.raises(errors.Fault, match="12 warps of 176 registers a thread; an SM has 65536"):
        go(less(40), bounds=".maxntid 384 .maxnreg 176")
