"""What a healthy device of each model measures, and how far such devices are apart."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aimills_kernels.accept.metrics import METRICS

_MOST_NODES = 4096

# Relative standard deviations: of a device, which all of its rates share, and of one measurement.
SCATTER = {"gemm": 0.014, "burn": 0.012, "work": 0.012, "memory": 0.004, "link": 0.004}
NOISE = {"gemm": 0.004, "burn": 0.003, "work": 0.006, "memory": 0.002, "link": 0.006}


@dataclass(frozen=True)
class Model:
    """Values in SI; `all_reduce` by the number of GPUs that run together."""

    sku: str
    criteria: str
    values: Mapping[str, float] = field(default_factory=dict)
    all_reduce: Mapping[int, float] = field(default_factory=dict)
    expect: Mapping[str, int] = field(default_factory=dict)

    @property
    def cpu(self) -> bool:
        return self.criteria == "cpu"


def _model(
    sku: str, criteria: str, *, tera: dict[str, float], giga: dict[str, float],
    plain: dict[str, float], all_reduce: dict[int, float], expect: dict[str, int],
) -> Model:  # fmt: skip
    """Rates in T or G of their unit; `a__b` in a key is the metric `a.b`."""
    values = {
        key.replace("__", "."): value * factor
        for found, factor in ((tera, 1e12), (giga, 1e9), (plain, 1.0))
        for key, value in found.items()
    }
    assert set(values) <= set(METRICS), set(values) - set(METRICS)
    rates = {n: value * 1e9 for n, value in all_reduce.items()}
    return Model(sku, criteria, values, rates, expect)


_NVLINK_HOPPER = {4: 363.0, 5: 414.0, 6: 436.0, 7: 460.0, 8: 473.0}

MODELS: dict[str, Model] = {
    "h100": _model(
        "NVIDIA H100 80GB HBM3", "h100-sxm",
        tera=dict(memory__copy=2.90, memory__read=3.02, memory__write=2.86, gemm__f32=51,
                  gemm__tf32=392,
                  gemm__f16=742, gemm__bf16=745, gemm__fp8=1370, gemm__int8=1430, burn__rate=722),
        giga=dict(link__h2d=54.8, link__d2h=51, link__p2p=377, collective__all_gather=361,
                  collective__reduce_scatter=363, collective__all_to_all=335, gpu__memory=85.5,
                  burn__clock=1.62, clock__max=1.98),
        plain=dict(power__limit=700, power__idle=72, burn__power=696, burn__temperature=66,
                   burn__temperature_memory=74, work__train=41e3, work__decode=9.4e3,
                   work__video=510),
        all_reduce=_NVLINK_HOPPER | {8: 479.0},
        expect=dict(pcie__generation=5, pcie__width=16, nvlink__active=18),
    ),
    "h200": _model(
        "NVIDIA H200", "h200",
        tera=dict(memory__copy=4.18, memory__read=4.31, memory__write=4.09, gemm__f32=51,
                  gemm__tf32=394,
                  gemm__f16=744, gemm__bf16=747, gemm__fp8=1405, gemm__int8=1450, burn__rate=724),
        giga=dict(link__h2d=54.9, link__d2h=51, link__p2p=378, collective__all_gather=361,
                  collective__reduce_scatter=363, collective__all_to_all=338, gpu__memory=150.8,
                  burn__clock=1.61, clock__max=1.98),
        plain=dict(power__limit=700, power__idle=76, burn__power=697, burn__temperature=67,
                   burn__temperature_memory=76, work__train=43e3, work__decode=13.1e3,
                   work__video=520),
        all_reduce=_NVLINK_HOPPER,
        expect=dict(pcie__generation=5, pcie__width=16, nvlink__active=18),
    ),
    "b200": _model(
        "NVIDIA B200", "b200",
        tera=dict(memory__copy=6.9, memory__read=7.1, memory__write=6.7, gemm__f32=66,
                  gemm__tf32=830,
                  gemm__f16=1655, gemm__bf16=1660, gemm__fp8=3270, gemm__int8=3300,
                  burn__rate=1640),
        giga=dict(link__h2d=55.4, link__d2h=52, link__p2p=765, collective__all_gather=660,
                  collective__reduce_scatter=662, collective__all_to_all=640, gpu__memory=192.3,
                  burn__clock=1.72, clock__max=1.965),
        plain=dict(power__limit=1000, power__idle=145, burn__power=994, burn__temperature=64,
                   burn__temperature_memory=72, work__train=92e3, work__decode=21e3,
                   work__video=1050),
        all_reduce={4: 673.0, 5: 678.0, 6: 778.0, 7: 811.0, 8: 838.0},
        expect=dict(pcie__generation=5, pcie__width=16, nvlink__active=18),
    ),
    "gb200": _model(
        "NVIDIA GB200", "gb200",
        tera=dict(memory__copy=7.2, memory__read=7.35, memory__write=7.0, gemm__f32=68,
                  gemm__tf32=800,
                  gemm__f16=1560, gemm__bf16=1565, gemm__fp8=2900, gemm__int8=2950,
                  burn__rate=1540),
        giga=dict(link__h2d=380, link__d2h=370, link__p2p=770, collective__all_gather=665,
                  collective__reduce_scatter=668, collective__all_to_all=645, gpu__memory=198.7,
                  burn__clock=1.74, clock__max=2.062),
        plain=dict(power__limit=1200, power__idle=160, burn__power=1190, burn__temperature=60,
                   burn__temperature_memory=70, work__train=95e3, work__decode=22e3,
                   work__video=1080),
        all_reduce={4: 680.0},
        expect=dict(nvlink__active=18),
    ),
    "a100": _model(
        "NVIDIA A100-SXM4-80GB", "a100-sxm-80",
        tera=dict(memory__copy=1.74, memory__read=1.81, memory__write=1.70, gemm__f32=17.6,
                  gemm__tf32=132,
                  gemm__f16=258, gemm__bf16=260, gemm__int8=470, burn__rate=256),
        giga=dict(link__h2d=24.8, link__d2h=24.4, link__p2p=232, collective__all_gather=228,
                  collective__reduce_scatter=229, collective__all_to_all=215, gpu__memory=85.9,
                  burn__clock=1.33, clock__max=1.41),
        plain=dict(power__limit=400, power__idle=58, burn__power=396, burn__temperature=63,
                   burn__temperature_memory=72, work__train=16e3, work__decode=5.8e3,
                   work__video=240),
        all_reduce={4: 228.0, 8: 234.0},
        expect=dict(pcie__generation=4, pcie__width=16, nvlink__active=12),
    ),
    "l40s": _model(
        "NVIDIA L40S", "l40s",
        tera=dict(memory__copy=0.745, memory__read=0.78, memory__write=0.73, gemm__f32=62,
                  gemm__tf32=105,
                  gemm__f16=214, gemm__bf16=215, gemm__fp8=410, gemm__int8=420, burn__rate=208),
        giga=dict(link__h2d=26.2, link__d2h=26.0, link__p2p=24, collective__all_gather=19,
                  collective__reduce_scatter=19, collective__all_to_all=15, gpu__memory=48.3,
                  burn__clock=2.05, clock__max=2.52),
        plain=dict(power__limit=350, power__idle=36, burn__power=347, burn__temperature=71,
                   burn__temperature_memory=75, work__train=9.8e3, work__decode=3.1e3,
                   work__video=210),
        all_reduce={4: 20.0},
        expect=dict(pcie__generation=4, pcie__width=16),
    ),
    "cpu": _model(
        "Simulated CPU", "cpu",
        tera=dict(gemm__f32=0.21), giga=dict(memory__copy=22.0), plain=dict(work__decode=31),
        all_reduce={}, expect={},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Which devices there are: `gpus` on each of `nodes` nodes."""

    name: str
    model: Model
    gpus: int
    nodes: int

    @property
    def world(self) -> int:
        return self.gpus * self.nodes


def layout(name: str, nodes: int | None = None) -> Layout:
    """Of "h200x8", "h200x8*4" or "cpu". ValueError: a sentence that says what there is."""
    match = re.fullmatch(r"([a-z0-9]+?)(?:x([1-9]))?(?:\*([1-9][0-9]{0,3}))?", name)
    model = match and MODELS.get(match[1])
    if not match or not model:
        near = difflib.get_close_matches(name.partition("x")[0], MODELS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"--simulate: there is no pod {name!r}; there are {', '.join(MODELS)}, with GPUs and "
            f"nodes as h200x8 or h200x8*4{meant}"
        )
    if match[3] and nodes is not None:
        raise ValueError(f"--nodes: {name!r} already says how many nodes there are")
    gpus, count = int(match[2] or 1), nodes or int(match[3] or 1)
    if gpus > 8 or (model.cpu and match[2]):
        what = "a CPU is one device" if model.cpu else "a node has at most 8 GPUs"
        raise ValueError(f"--simulate: {name!r}: {what}")
    if not 1 <= count <= _MOST_NODES:
        raise ValueError(f"--nodes: {count} is not a number from 1 to {_MOST_NODES}")
    return Layout(name, model, gpus, count)
