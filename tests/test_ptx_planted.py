"""Faults planted in the PTX of right kernels: each is found and named or, where only numbers
change, seen by the comparison with float64."""

from __future__ import annotations

import pytest
import torch
import triton

from tests.ptx import producers
from tests.ptx.errors import Deadlock, Fault, MissingFence, OutOfBounds, Race, Uninitialised
from tests.ptx.plant import Planted, op
from tests.ptx.triton import executing
from tests.test_ptx_producers import (
    BF16,
    F32,
    attention_is_right,
    drawn,
    product_is_right,
    three_warpgroups,
)

pytestmark = pytest.mark.ptx

M, N, K = 70, 64, 176
DESCRIPTOR = (
    r"4611686293305294(\d{3});"  # 64-byte rows of 128 bytes' swizzle, and a few of 16 bytes
)


@pytest.fixture(autouse=True)
def _scratch() -> None:
    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8))


def pointers(**options) -> None:
    """cp.async in three stages, wgmma."""
    a, b = drawn(M, K, dtype=BF16), drawn(N, K, dtype=BF16, seed=1)
    c = torch.full((M, N), torch.nan, dtype=F32)
    with executing(**options):
        producers.by_pointers[(1, 1)](
            a, b.T, c, M, N, K, 1, K, 128, 64, 32, num_warps=8, num_stages=3
        )
    product_is_right(c, a, b)


def descriptors(**options) -> None:
    """TMA in three stages by one mbarrier each, wgmma, a store by TMA."""
    a, b = drawn(M, K, dtype=BF16), drawn(N, K, dtype=BF16, seed=1)
    c = torch.full((M, N), torch.nan, dtype=BF16)
    with executing(**options):
        producers.by_descriptors[(1,)](a, b, c, M, N, K, 64, 64, 32, num_warps=4, num_stages=3)
    product_is_right(c, a, b)


def warpgroups(**options) -> None:
    """One warp loads by TMA, two warpgroups attend: full and empty mbarriers."""
    q, k, v = (drawn(n, 64, dtype=BF16, seed=i) for i, n in enumerate((128, 128, 128)))
    o = torch.full_like(q, torch.nan)
    three_warpgroups(o, q, k, v, 32, **options)
    attention_is_right(o, q, k, v)


# Which of several faults shows first may depend on the order of warps; then there is a choice.
EARLY = "were not all written|(written|read) by an engine|while a (tensor copy|cp.async|wgmma)"
WAIT = r"mbarrier\.try_wait[^;]*;\s*@!complete bra[^;]*;"
PARITY = r"(try_wait\.parity\S+ complete, \[%r\d+\], )%r\d+"
EXPECT = r"(expect_tx\S+ _, \[%r\d+\], )8192"

FAULTS = {
    pointers: [
        Planted("no cp.async.wait_group", op(r"cp\.async\.wait_group"), "", 0, Fault, EARLY),
        Planted("a wait for one group less", r"(cp\.async\.wait_group\s+)2", r"\g<1>3", 0, Fault,
                EARLY),
        Planted("no __syncthreads before a tile is read", op(r"bar\.sync"), "", 1, Fault,
                EARLY + "|nothing orders the two"),
        Planted("no __syncthreads before a tile is overwritten", op(r"bar\.sync"), "", 2, Race,
                EARLY),
        Planted("no wgmma.wait_group in the loop", op(r"wgmma\.wait_group\S*"), "", 0, Race,
                "while a wgmma"),
        Planted("no wgmma.wait_group at the end", op(r"wgmma\.wait_group\S*"), "", 1, Fault,
                "is touched while the wgmma"),
        Planted("no wgmma.fence", op(r"wgmma\.fence\S*"), "", 0, MissingFence,
                "no wgmma.fence comes before it"),
        Planted("a row too many is loaded", r"setp\.lt(\.s32\s+%p2,)", r"setp.le\1", 0,
                OutOfBounds, "load of .* argument 0"),
        Planted("a row too many is stored", r"setp\.lt(\.s32\s+%p\d+, %r1\d\d, %r15;)",
                r"setp.le\1", None, OutOfBounds, "store of .* argument 2"),
        Planted("a column too many counts", r"setp\.lt(\.s32\s+%p12,)", r"setp.le\1", 0,
                OutOfBounds, "load of .* argument"),
        Planted("the loop ends a step early", r"(setp\.lt\.s32\s+%p13, %r\d+, )%r17", r"\g<1>160",
                0, None),
    ],
    descriptors: [
        Planted("no fence.proxy.async before the store", op(r"fence\.proxy\.async\S*"), "", 0,
                MissingFence, "stmatrix.*no fence.proxy.async lies between"),
        Planted("no fence.proxy.async before the first load", op(r"fence\.proxy\.async\S*"), "",
                1, MissingFence, "tensormap.replace.*no fence.proxy.async lies between"),
        Planted("no fence after a tensor map changed", op(r"fence\.proxy\.tensormap\S*"), "", 0,
                MissingFence, "used without a fence.proxy.tensormap::generic.acquire"),
        Planted("always the even phase", PARITY, r"\g<1>0", None, Fault,
                EARLY + "|waits for phase"),
        Planted("always the odd phase", PARITY, r"\g<1>1", None, Fault, EARLY + "|waits for phase"),
        Planted("no wait for the copy", WAIT, "", 0, Fault, EARLY),
        Planted("half of the bytes expected", EXPECT, r"\g<1>4096", 0, Fault, EARLY),
        Planted("too many bytes expected", EXPECT, r"\g<1>8208", 0, Deadlock,
                "16 bytes are missing"),
        Planted("nothing expected", op(r"mbarrier\.arrive\.expect_tx\S*"), "", 1, Deadlock,
                "8192 bytes more came than were expected"),
        Planted("no mbarrier.init", op(r"mbarrier\.init\S*"), "", 1, Uninitialised,
                "there is no mbarrier"),
        Planted("a narrower swizzle", r"(swizzle_mode\S* \[ %rd\d+ \+ 0 \], )0x2", r"\g<1>0x1", 0,
                Fault, "longer than the swizzle"),
        Planted("no swizzle of the result", r"(swizzle_mode\S* \[ %rd\d+ \+ 0 \], )0x3",
                r"\g<1>0x0", -1, None),
        Planted("a wider swizzle in wgmma's descriptors", "-9223371899415822336;",
                "4611686155866341376;", None, Fault,
                "descriptor says a 128-byte swizzle, and the tensor copy .* had a 64-byte one"),
        Planted("a narrower swizzle in wgmma's descriptors", "-9223371899415822336;",
                "-4611685880988434432;", None, Fault,
                "descriptor says a 32-byte swizzle, and the tensor copy .* had a 64-byte one"),
        Planted("no swizzle in wgmma's descriptors", "-9223371899415822336;",
                "137438953472;", None, Fault,
                "descriptor says no swizzle, and the tensor copy .* had a 64-byte one"),
        Planted("no swizzle of what is loaded", r"(swizzle_mode\S* \[ %rd\d+ \+ 0 \], )0x2",
                r"\g<1>0x0", 0, None),
        Planted("a row too many is loaded", r"(global_dim\S* \[ %rd\d+ \+ 0 \], 0x1, )%r\d+",
                rf"\g<1>{M + 1}", 0, OutOfBounds, "a tensor's box of .* argument 0"),
        Planted("a row too many is stored", r"(global_dim\S* \[ %rd\d+ \+ 0 \], 0x1, )%r\d+",
                rf"\g<1>{M + 1}", 2, OutOfBounds, "a tensor's box of .* argument 2"),
        Planted("a row too few in a box", r"(box_dim\S* \[ %rd\d+ \+ 0 \], 0x1, )%r\d+",
                r"\g<1>63", 0, Deadlock, "64 bytes are missing"),
        Planted("the store's buffer is not waited for", op(r"cp\.async\.bulk\.wait_group\.read"),
                "", -2, Race, "while a tensor store"),
    ],
    warpgroups: [
        Planted("no arrival at the empty barrier", op(r"mbarrier\.arrive\.shared::cta\S*"), "", 0,
                Deadlock, "1 arrivals and 0 bytes are missing"),
        Planted("the empty barrier opens for one warpgroup", r"(mbarrier\.init\S+ \[%r\d+\], )2",
                r"\g<1>1", None, Fault, EARLY + "|waits for phase|arrivals at the"),
        Planted("the empty barrier waits for three", r"(mbarrier\.init\S+ \[%r\d+\], )2",
                r"\g<1>3", None, Deadlock, "1 arrivals and 0 bytes are missing"),
        Planted("the producer does not wait", WAIT, "", -1, Fault,
                EARLY + "|which waits for 0"),
        Planted("a consumer does not wait", WAIT, "", 1, Fault, EARLY),
        Planted("the first slots are waited for", PARITY, r"\g<1>0", -1, Deadlock,
                "waits for phase 0"),
        Planted("an early arrival at the empty barrier", op(r"wgmma\.wait_group\S*"), "", 1, Race,
                EARLY),
        Planted("scores before their wait", op(r"wgmma\.wait_group\S*"), "", 0, Fault,
                "is touched while the wgmma"),
        Planted("shares without a wgmma.fence", op(r"wgmma\.fence\S*"), "", 1, MissingFence,
                "no wgmma.fence since other instructions touched"),
        Planted("no fence.proxy.async before the store", op(r"fence\.proxy\.async\S*"), "", 1,
                MissingFence, "stmatrix.*no fence.proxy.async lies between"),
        Planted("half of the bytes expected", EXPECT, r"\g<1>4096", None, Fault, EARLY),
        Planted("a step of the keys twice, and another never", "4611686293305294850;",
                "4611686293305294854;", 0, None),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kernel", [pointers, descriptors, warpgroups], ids=lambda k: k.__name__)
def test_without_a_fault_it_is_right(kernel, seed):
    kernel(seed=seed)


@pytest.mark.parametrize(
    ("kernel", "planted"),
    [
        pytest.param(kernel, planted, id=f"{kernel.__name__}: {planted.name}")
        for kernel, some in FAULTS.items()
        for planted in some
    ],
)
def test_a_planted_fault_is_found(kernel, planted, seed):
    error = planted.error or AssertionError
    with pytest.raises(error, match=planted.said):
        kernel(seed=seed, edit=planted.edit)
