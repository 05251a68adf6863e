"""The names and units of everything that acceptance measures, declared once.

A stage may measure, and a criterion may judge, only what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass

from aimills_kernels.harness.reasons import BITS

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
PROFILES = ("gate", "quick", "full", "burn-in")  # each measures what those before it measure


@dataclass(frozen=True)
class Metric:
    """`better`: which way a fault shows; `NEITHER` for what is only compared with an expectation.

    unit    SI, without prefixes: "B/s", "FLOP/s", "W", "Hz", "FLOP/J"; "degC"; "1" for counts and
            shares; "text" for names
    """

    name: str
    unit: str
    better: str
    title: str


def _metrics(unit: str, better: str, **titles: str) -> list[Metric]:
    """`a__b` in a keyword is the name `a.b`."""
    return [Metric(name.replace("__", "."), unit, better, text) for name, text in titles.items()]


THROTTLES = tuple(BITS)  # each reason for low clocks on its own, and those without a name

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        *_metrics(
            "text", NEITHER,
            gpu__name="name of the device", gpu__driver="version of the driver",
            gpu__vbios="version of the VBIOS", gpu__toolkit="CUDA toolkit of PyTorch",
        ),
        *_metrics(
            "1", NEITHER,
            node__gpus="GPUs of the node", node__cores="CPU cores of the node",
            pcie__generation="PCIe generation", pcie__width="PCIe lanes",
            nvlink__active="active NVLinks", mig__enabled="MIG is on", ecc__enabled="ECC is on",
        ),
        *_metrics("B", NEITHER, gpu__memory="device memory", node__memory="host memory"),
        *_metrics("W", NEITHER, power__limit="power limit", power__idle="power at idle"),
        *_metrics("Hz", NEITHER, clock__max="largest SM clock"),
        *_metrics(
            "1", LOWER,
            ecc__uncorrected="uncorrected memory errors since boot",
            ecc__uncorrected_ever="uncorrected memory errors ever",
            ecc__corrected="corrected memory errors since boot",
            remap__uncorrected="rows remapped for uncorrected errors",
            remap__pending="a row remapping is pending", remap__failed="a row remapping failed",
            xid__count="XID errors since boot", burn__xid="XID errors in the burn",
            pcie__replays="PCIe replays since boot",
            nvlink__errors="NVLink errors since boot",
        ),
        *_metrics(
            "B/s", HIGHER,
            memory__copy="copy bandwidth (read and written bytes)", memory__read="read bandwidth",
            memory__write="write bandwidth",
            memory__copy_hot="copy bandwidth at the end of the burn",
            link__h2d="host to device", link__d2h="device to host",
            link__p2p="device to device, the slowest pair",
            collective__all_reduce="all-reduce, bus bandwidth",
            collective__all_gather="all-gather, bus bandwidth",
            collective__reduce_scatter="reduce-scatter, bus bandwidth",
            collective__all_to_all="all-to-all, bus bandwidth",
        ),
        *_metrics(
            "1", LOWER,
            memory__wrong="bytes of a pattern read back wrong",
            gemm__wrong="elements of a matmul further off than roundings explain",
            link__wrong="elements that arrived wrong over a link",
            collective__wrong="elements of a collective's result that are wrong",
            work__wrong="values of a workload's result that are not finite",
        ),
        *_metrics(
            "FLOP/s", HIGHER,
            gemm__f32="f32 matmul", gemm__tf32="tf32 matmul", gemm__f16="f16 matmul",
            gemm__bf16="bf16 matmul", gemm__fp8="fp8 matmul", gemm__int8="int8 matmul",
            burn__rate="matmul over the whole burn",
        ),
        *_metrics(
            "degC", LOWER,
            burn__temperature="temperature in the burn, 95th percentile",
            burn__temperature_memory="memory temperature in the burn, 95th percentile",
        ),
        *_metrics("W", NEITHER, burn__power="power in the burn, mean"),
        *_metrics("Hz", HIGHER, burn__clock="SM clock in the burn, mean"),
        *_metrics(
            "1", LOWER,
            **{f"throttle__{name}": f"share of the burn with {name}" for name in THROTTLES},
        ),
        *_metrics("FLOP/J", HIGHER, energy__gemm="matmul per joule in the burn"),
        *_metrics("FLOP/s", NEITHER, sweep__rate="matmul at a lower power limit"),
        *_metrics("FLOP/J", NEITHER, sweep__energy="matmul per joule at a lower power limit"),
        *_metrics(
            "1", LOWER,
            sdc__differing="repeats that differ in a bit from the first",
        ),
        *_metrics("1", HIGHER, sdc__repeats="repeats compared bit by bit"),
        *_metrics(
            "1/s", HIGHER,
            work__train="tokens trained", work__decode="tokens decoded",
            work__video="frames to tokens",
        ),
        *_metrics(
            "1/J", HIGHER,
            work__train_energy="tokens trained per joule",
            work__decode_energy="tokens decoded per joule",
            work__video_energy="frames to tokens per joule",
        ),
    )
}  # fmt: skip


def is_collective_rate(name: str) -> bool:
    """What depends on how many work together; a wrong element is wrong with any number."""
    return name.startswith("collective.") and METRICS[name].unit == "B/s"
