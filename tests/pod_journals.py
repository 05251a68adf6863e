"""Journals of a pod that never was, made by hand: for the report, the signature and their tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aimills_kernels._version import __version__
from aimills_kernels.accept import evidence, journal
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import FAIL, PASS, UNKNOWN, WARN, Finding
from aimills_kernels.accept.metrics import METRICS

_BEGUN = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
_SAMPLES = 24

CRITERIA = SimpleNamespace(name="h200", version="2026.1", digest="c" * 64, unknown={})

# What a healthy H200 would measure, with a spread of so much.
_HEALTHY: dict[str, tuple[Any, float]] = {
    "gpu.driver": ("590.44.01", 0), "gpu.vbios": ("96.00.99.00.01", 0),
    "gpu.toolkit": ("13.0", 0), "clock.max": (1.98e9, 0), "node.gpus": (8, 0),
    "pcie.generation": (5, 0), "pcie.width": (16, 0),
    "nvlink.active": (18, 0), "ecc.enabled": (1, 0), "gpu.memory": (150_754_820_096, 0),
    "power.limit": (700.0, 0), "power.idle": (76.0, 0.05), "ecc.uncorrected": (0, 0),
    "remap.pending": (0, 0), "xid.count": (0, 0), "burn.xid": (0, 0),
    "memory.copy": (4.02e12, 0.004), "memory.read": (4.31e12, 0.004),
    "gemm.bf16": (7.41e14, 0.012), "gemm.fp8": (1.39e15, 0.014), "link.h2d": (5.48e10, 0.01),
    "link.d2h": (5.21e10, 0.01),
    "collective.all_reduce": (4.73e11, 0.003), "burn.rate": (6.92e14, 0.012),
    "burn.temperature": (66.0, 0.05), "burn.temperature_memory": (79.0, 0.04),
    "burn.power": (697.0, 0.002), "burn.clock": (1.62e9, 0.012),
    "throttle.sw_power_cap": (0.93, 0.02), "throttle.hw_thermal_slowdown": (0.0, 0),
    "memory.copy_hot": (3.99e12, 0.004), "energy.gemm": (9.93e11, 0.012),
    "sdc.repeats": (4096, 0), "work.wrong": (0, 0), "sdc.differing": (0, 0),
    "work.train": (14_320.0, 0.01), "work.train_energy": (20.4, 0.012),
}  # fmt: skip


def chained(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbered, and each holding the hash of the one before it."""
    made: list[dict[str, Any]] = []
    before = journal.FIRST
    for place, entry in enumerate(entries):
        made.append({**entry, "n": place, "prev": before})
        before = journal.digest(journal.encoded(made[-1]))
    return made


def entries(
    rank: int = 0,
    *,
    world: int = 8,
    per_node: int = 8,
    sku: str = "NVIDIA H200",
    device: str | None = None,
    simulated: bool = False,
    text: str = "plain",
    slow: float = 1.0,
    hot: bool = False,
    crashed: bool = False,
    resumed: bool = False,
    without: tuple[str, ...] = (),
    version: str = __version__,
) -> list[dict[str, Any]]:
    """One rank's journal. `slow` scales its rates; `text` is every text that comes from outside."""
    clock = [0.0]

    def at(kind: str, step: float = 1.0, **data: Any) -> dict[str, Any]:
        clock[0] += step
        moment = _BEGUN + timedelta(seconds=clock[0])
        time = moment.isoformat(timespec="milliseconds")
        return {"kind": kind, "time": time, "clock": round(100 + clock[0], 6), **data}

    here = device or f"cuda:{rank % per_node}"
    begin = {
        "run": "run-17", "node": f"node-{rank // per_node}", "rank": rank, "world": world,
        "local_rank": rank % per_node, "device": here, "uuid": f"GPU-{rank:08d}-0000-4000-8000",
        "sku": sku, "profile": "full", "simulated": simulated, "version": version,
        "criteria": {"name": CRITERIA.name, "digest": CRITERIA.digest}, "seed": 3, "exclude": [],
        "ops": ["attention"], "resumed": False,
        "environment": {"python": "3.12.4", "driver": "590.44.01", "cpu": {"model": text,
                        "threads": 96}, "gpus": [{"name": sku}], text: [text]},
    }  # fmt: skip
    made = [at("begin", **begin)]
    if resumed:
        made += [at("stage", name="memory", title="Memory", state="begin"),
                 at("event", stage="memory", name="crash", text=f"the node went down: {text}"),
                 at("begin", 600.0, **{**begin, "resumed": True})]  # fmt: skip
    for name, title, metrics in _STAGES:
        made.append(at("stage", name=name, title=title, state="begin"))
        for metric in metrics:
            if metric in without:
                continue
            value = _value(metric, rank, slow, hot)
            made.append(at("measure", 0.1, stage=name, metric=metric, value=value,
                           unit=METRICS[metric].unit))  # fmt: skip
        if name == "burn":
            made += [at("sample", 25.0, stage="burn", values=_sample(rank, i, slow, hot))
                     for i in range(_SAMPLES)]  # fmt: skip
            if crashed:
                return chained(made)
        if name == "sdc":
            made.append(at("checksum", stage="sdc", name="gemm.bf16", digest="ab" * 32, detail={}))
        made.append(at("stage", name=name, title=title, state="end", status="passed",
                       seconds=12.5, summary=text, failure=None))  # fmt: skip
    made += [at("check", **row) for row in _checks(here, text)]
    made.append(at("not_run", stage="correctness", name="", what=text, reason=text, device=here,
                   gap=False))  # fmt: skip
    made.append(at("end", state="done", reason=""))
    return chained(made)


_STAGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("inventory", "Inventory", tuple(_HEALTHY)[:11]),
    ("health", "Health", tuple(_HEALTHY)[11:15]),
    ("memory", "Memory", ("memory.copy", "memory.read")),
    ("compute", "Compute", ("gemm.bf16", "gemm.fp8")),
    ("interconnect", "Interconnect", ("link.h2d", "link.d2h", "collective.all_reduce")),
    ("burn", "Sustained burn-in", ("burn.xid", *tuple(_HEALTHY)[23:32])),
    ("sdc", "Silent data corruption", ("sdc.repeats", "sdc.differing")),
    ("workloads", "Workloads", ("work.wrong", "work.train", "work.train_energy")),
)


def _value(metric: str, rank: int, slow: float, hot: bool) -> Any:
    value, spread = _HEALTHY[metric]
    if not spread:
        return value
    wave = math.sin(1.7 * rank + len(metric))
    rate = METRICS[metric].better == "higher"
    value = value * (1 + spread * wave) * (slow if rate else 1.0)
    return round(value + 22.0 * (hot and "temperature" in metric), 4)


def _sample(rank: int, step: int, slow: float, hot: bool) -> dict[str, Any]:
    warm = 1 - math.exp(-step / 4)
    heat = 22.0 * warm * hot
    power = 110 + 587 * min(1.0, (step + 1) / 3) + 2 * math.sin(step + rank)
    clock = (1755 - 130 * warm - 4 * rank + 9 * math.sin(1.3 * step + rank)) * slow
    return {
        "sm_mhz": round(clock), "memory_mhz": 3201, "power_w": round(power, 1),
        "temperature_c": round(38 + 27 * warm + rank % 4 + heat),
        "memory_temperature_c": round(44 + 33 * warm + rank % 3 + heat),
        "reasons": (0x4 if step > 2 else 0x1) | (0x40 if hot and step > 12 else 0),
        "energy_mj": 5_000_000 + 6_950_000 * step,
    }  # fmt: skip


def _checks(device: str, text: str) -> list[dict[str, Any]]:
    row = {"stage": "correctness", "op": "attention", "case": "tiny", "dims": {"B": 1},
           "scaled": {}, "provider": "triton", "own": True, "device": device, "seed": 3,
           "status": "right", "used": 0.5, "outputs": {"out": {"used": 0.5, "error": 1e-3,
           "bound": 2e-3, "text": "max error"}}, "failures": [], "skipped": None}  # fmt: skip
    return [row, row | {"case": text, "used": 0.31}]


def write(folder: Path, ranks: Iterable[list[dict[str, Any]]]) -> Path:
    """The journals in `folder`, as ranks leave them."""
    (folder / evidence.FOLDER).mkdir(parents=True, exist_ok=True)
    for found in ranks:
        begin = found[0]
        path = folder / evidence.FOLDER / f"{begin['node']}-{begin['rank']}.jsonl"
        path.write_text("".join(journal.encoded(e) + "\n" for e in found))
    return folder


def pod(ranks: Iterable[list[dict[str, Any]]]) -> Pod:
    return evidence.pod([evidence.Rank(tuple(found)) for found in ranks])


def eight(**more: Any) -> list[list[dict[str, Any]]]:
    """Eight ranks: rank 3 slow, 5 hot, and 6 resumed after a crash."""
    odd: dict[int, dict[str, Any]] = {3: {"slow": 0.88}, 5: {"hot": True}, 6: {"resumed": True}}
    return [entries(rank, **{**odd.get(rank, {}), **more}) for rank in range(8)]


# ---- rules enough for a report; the real ones are the criteria's

_FLOORS = {"memory.copy": 3.6e12, "gemm.bf16": 6.6e14, "gemm.fp8": 1.25e15,
           "collective.all_reduce": 4.3e11, "burn.rate": 6.2e14}  # fmt: skip
_CEILINGS = {"burn.temperature": 87.0, "ecc.uncorrected": 0, "xid.count": 0}


def judge(found: Pod, criteria: Any = CRITERIA) -> list[Finding]:
    made = [Finding("pod.complete", FAIL, "pod", f"rank {n} left no journal", source="the launch")
            for n in found.missing]  # fmt: skip
    holds: tuple[tuple[str, dict[str, float], Callable[[Any, Any], bool], str], ...] = (
        ("floor", _FLOORS, lambda v, t: v >= t, "90 % of the SKU's sustained reference"),
        ("ceiling", _CEILINGS, lambda v, t: v <= t, "the maker's limit"),
    )
    for rank in found.ranks:
        where = f"{rank.node} {rank.device}"
        for kind, limits, holds_in, source in holds:
            for metric, limit in limits.items():
                made.append(_asked(rank, where, kind, metric, limit, holds_in, source))
        if rank.ended is None:
            made.append(Finding("run.ended", FAIL, where, "the process left no word", source="run"))
        hot = [v for v in rank.values("burn.temperature") if v > 80]
        made += [Finding("burn.temperature.warm", WARN, where, f"{v:.0f} °C is warm",
                         "burn.temperature", v, 80.0, "degC", "the site") for v in hot]  # fmt: skip
    return made


def _asked(
    rank: Any, where: str, kind: str, metric: str, limit: float, holds: Any, source: str
) -> Finding:
    measured = rank.values(metric)
    rule, unit = f"{metric}.{kind}", METRICS[metric].unit
    if not measured:
        return Finding(rule, UNKNOWN, where, f"{metric} was not measured", metric, None, limit,
                       unit, source)  # fmt: skip
    good = holds(measured[-1], limit)
    text = f"{measured[-1]:.4g} {unit} against {limit:.4g} {unit}"
    return Finding(rule, PASS if good else FAIL, where, text, metric, measured[-1], limit, unit,
                   source)  # fmt: skip


def judged(found: Pod, data: dict[str, Any], criteria: Path | None) -> Any:
    """As `verify.judged`, by the criteria that this pod's report names."""
    if (data.get("criteria") or {}).get("digest") != CRITERIA.digest:
        return "the criteria are not here"
    return judge(found), CRITERIA
