"""Collective GEMMs of CUTLASS on the executor against float64, and faults planted in one."""

from __future__ import annotations

import shutil

import pytest
from torch import Tensor

from tests.ptx import cutlass
from tests.ptx.cutlass import Instance
from tests.ptx.errors import Deadlock, Fault, MissingFence, Race, Uninitialised
from tests.ptx.measured import note
from tests.ptx.plant import Planted, op

pytestmark = [
    pytest.mark.ptx,
    pytest.mark.full,
    pytest.mark.skipif(cutlass.headers() is None, reason="nvidia-cutlass is not installed"),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
]

PINGPONG = Instance(
    "bfloat16_t", "bfloat16_t", ("RowMajor", "ColumnMajor"), (64, 128, 64), "Pingpong"
)
COOPERATIVE = Instance(
    "bfloat16_t", "bfloat16_t", ("ColumnMajor", "RowMajor"), (128, 128, 64), "Cooperative"
)
FP8 = Instance(
    "float_e4m3_t", "half_t", ("RowMajor", "ColumnMajor"), (128, 128, 128), "Cooperative"
)
ROUNDING = {"bfloat16_t": 2.0**-8, "half_t": 2.0**-11}


def is_right(tensors: list[Tensor], out: str) -> None:
    """D = A B + 2 C, to what f32 sums and the rounding of D may lose."""
    a, b, c, d = (x.double() for x in tensors)
    want = a @ b.mT + 2 * c
    size = a.abs() @ b.abs().mT + 2 * c.abs()
    note(d, want, size)
    excess = (d - want).abs() - ROUNDING[out] * want.abs() - (a.shape[-1] + 2) * 2.0**-23 * size
    assert excess.max() <= 0, "wrong values"


SHAPES = [
    # M, N, K, batches, SMs: one tile of a cluster; tails in every dimension, more tiles than CTAs
    (128, 128, 128, 1, 2),
    (200, 264, 272, 2, 4),
]


@pytest.mark.parametrize("shape", SHAPES, ids=["one tile", "ragged"])
@pytest.mark.parametrize(
    "instance", [PINGPONG, COOPERATIVE, FP8], ids=["pingpong", "cooperative", "fp8"]
)
def test_cutlass_gemm(instance, shape, seed):
    tensors = instance.operands(*shape[:4])
    instance.run(tensors, sms=shape[4], seed=seed)
    is_right(tensors, instance.out)


# Which of several faults shows first may depend on the order of warps; then there is a choice.
EARLY = "were not all written|(written|read) by an engine|while a (tensor copy|wgmma)"
FAULTS = [
    Planted("no fence.proxy.async before the stores", op(r"fence\.proxy\.async\S*"), "", None,
            MissingFence, "stmatrix.*no fence.proxy.async lies between"),
    Planted("no barrier before a store", r"bar\.sync %r\d+, %r\d+;", "", 0, Race,
            "stmatrix.*cp.async.bulk.tensor.3d.global.*nothing orders the two"),
    Planted("stores' buffers are not waited for", op(r"cp\.async\.bulk\.wait_group\.read"), "",
            None, Fault, "while a tensor store|an exit with a bulk copy that nobody waited for"),
    Planted("no arrival at the empty barrier",
            r"mapa\S+\s+remAddr32, %r\d+, %r11;\s*mbarrier\.arrive[^;]*;", "", 0, Deadlock,
            "2 arrivals and 0 bytes are missing"),
    Planted("an early arrival at the empty barrier", op(r"wgmma\.wait_group\S*"), "", 0, Race,
            EARLY),
    Planted("results before the last wait", op(r"wgmma\.wait_group\S*"), "", 1, Fault,
            "is touched while the wgmma"),
    Planted("no wgmma.fence", op(r"wgmma\.fence\S*"), "", 0, MissingFence, "no wgmma.fence comes"),
    Planted("no fence after mbarrier.init", op(r"fence\.mbarrier_init\S*"), "", None, Fault,
            r"mbarrier\.init.*nothing orders the two|no fence\.mbarrier_init"),
    Planted("no wait at the cluster's barrier", op(r"barrier\.cluster\.wait\S*"), "", None,
            Uninitialised, "there is no mbarrier"),
    Planted("half of the bytes expected", r"(expect_tx\S+ _, \[%r\d+\], )%r\d+", r"\g<1>12288", 0,
            Fault, EARLY + "|12288 bytes more came than were expected"),
    Planted("the producer waits for the other phase",
            r"(try_wait\.parity\S+ P1, \[%r1039\], )%r\d+", r"\g<1>0", 0, Deadlock,
            "2 arrivals and 0 bytes are missing"),
    Planted("the consumer waits for the other phase",
            r"(try_wait\.parity\S+ P1, \[%r465\], )%r\d+", r"\g<1>1", None, Fault,
            EARLY + "|waits for phase"),
    Planted("a warpgroup does not hand over", r"mbarrier\.arrive\.shared::cta\.b64 _, \[%r48\];",
            "", 0, Deadlock, "128 arrivals and 0 bytes are missing"),
    Planted("a multicast to one CTA of two", r"(multicast::cluster[^;]*, )%rs\d+(, %rd\d+;)",
            r"\g<1>1\2", 0, Fault, EARLY + "|bytes are missing|arrivals and"),
    Planted("a CTA that exits before the other's arrivals came", r"mbarrier\.try_wait\S+ P1, "
            r"\[%r\d+\], %r\d+, %r1118;\s*@P1 bra DONE;\s*bra\s+LAB_WAIT;", "", None, Fault,
            "whose last thread exits|which has exited"),
    Planted("another swizzle in wgmma's descriptors", "4611686293305360384",
            "-9223371761976803328", None, Fault, "64-byte swizzle"),
]  # fmt: skip


def faulty(seed: int, text: str) -> list[Tensor]:
    tensors = PINGPONG.operands(100, 200, 328, 1)
    PINGPONG.run(tensors, sms=2, seed=seed, text=text)
    return tensors


def test_without_a_fault_it_is_right(seed):
    is_right(faulty(seed, PINGPONG.ptx), PINGPONG.out)


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.name)
def test_a_planted_fault_is_found(planted, seed):
    assert planted.error is not None
    with pytest.raises(planted.error, match=planted.said):
        faulty(seed, planted.edit(PINGPONG.ptx))
