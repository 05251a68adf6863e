"""Made-up benchmark records, as real ones might look. No figure in them was measured."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

from aimills_kernels._op import Cost
from aimills_kernels.harness import record as _record
from aimills_kernels.harness._rows import floor_us

H100 = {
    "name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "pci_device": "0x233010DE", "pci_subdevice": "0x16C110DE",
    "driver": "580.0", "power_limit_w": 700.0, "clock_application_sm_mhz": 1980, "ecc": "Enabled",
    "mig": "Disabled", "torch_index": 0,
}  # fmt: skip
CPU = {"model": "a made-up CPU", "machine": "x86_64", "usable_cores": 16, "threads": 16}
H200 = H100 | {"name": "NVIDIA H200", "uuid": "GPU-00000000-0000-0000-0000-000000000002"}
CEILINGS = {
    "copy_gbps": 2950.0, "gemm_f32_tflops": 50.0, "gemm_f16_tflops": 650.0,
    "gemm_fp8_tflops": 1200.0, "gemm_int8_tflops": 1300.0, "missing": [],
    "spec": {"copy_gbps": 3352.0, "gemm_f32_tflops": 66.9, "gemm_f16_tflops": 989.4,
             "gemm_fp8_tflops": 1978.9, "gemm_int8_tflops": 1978.9},
}  # fmt: skip


def samples(
    median_us: float, n: int = 50, noise: float = 0.01, seed: int = 0, second: float = 0.0
) -> list[float]:
    """Times around a median; a share `second` of them is a mode 1.2 times as slow."""
    draw = random.Random(seed)
    return [
        median_us * (1.2 if draw.random() < second else 1.0) * (1 + abs(draw.gauss(0, noise)))
        for _ in range(n)
    ]


def spread(taken: Sequence[float]) -> dict[str, Any]:
    """The fields of a distribution, by the plainest rules."""
    ordered = sorted(taken)
    n, median = len(ordered), statistics.median(ordered)
    half = round(0.98 * n**0.5)
    q1, q3 = ordered[n // 4], ordered[(3 * n) // 4]
    return {
        "n": n, "median_us": median, "q1_us": q1, "q3_us": q3, "min_us": ordered[0],
        "low_us": ordered[max(n // 2 - half, 0)], "high_us": ordered[min(n // 2 + half, n - 1)],
        "noise": (q3 - q1) / median, "samples_us": list(taken), "flags": {}, "modes": [],
    }  # fmt: skip


def row(
    provider: str = "triton",
    taken: Sequence[float] | None = None,
    *,
    ceilings: dict[str, Any] | None = CEILINGS,
    **more: Any,
) -> dict[str, Any]:
    """A row with a time, held against the ceilings."""
    made = _record.blank(
        op="attention", case="prefill", dims={"B": 1, "M": 4096, "N": 4096, "H": 32, "D": 128},
        provider=provider, peer=provider in ("sdpa", "scaled_mm", "flash_attn", "reference"),
        device="cuda:0", flops=1.4e11, bytes=8.4e7, unit="f16", validated=True, error_used=0.55,
        mode="stream", clock="events", cold=True,
    ) | spread(samples(400.0) if taken is None else taken)  # fmt: skip
    made |= more
    us = made["median_us"]
    if us is not None:
        made |= {"tflops": made["flops"] / us / 1e6, "gbps": made["bytes"] / us / 1e3}
        made["sol"], made["sol_bound"] = _share(made, ceilings)
        made["sol_spec"], _ = _share(made, (ceilings or {}).get("spec"))
    return made | more


def _share(made: dict[str, Any], held: dict[str, Any] | None) -> tuple[float | None, str | None]:
    cost = Cost(made["flops"], made["bytes"], made["unit"])
    floor, bound = floor_us(cost, held)
    return None if floor is None else floor / made["median_us"], bound


def without(provider: str, **why: Any) -> dict[str, Any]:
    """A row without a time: `failure=` or `skipped=` says why."""
    blank = {k: v for k, v in _record.blank().items() if k not in
             ("op", "case", "dims", "peer", "device", "flops", "bytes", "unit")}  # fmt: skip
    return row(provider) | blank | {"provider": provider} | why


def record(
    rows: Sequence[dict[str, Any]],
    created: str = "2026-01-05T08:00:00+00:00",
    *,
    gpus: Sequence[dict[str, Any]] = (H100,),
    commit: str = "0123456789abcdef0123456789abcdef01234567",
    dirty: bool = False,
    ceilings: dict[str, Any] = CEILINGS,
    **environment: Any,
) -> dict[str, Any]:
    return {
        "schema": _record.SCHEMA, "kind": _record.KIND, "created": created,
        "options": {
            "budget_s": 120.0, "seed": 0, "mode": "stream", "seconds": {}, "lost": None,
        },
        "environment": {
            "time": created, "package": "0.1.0", "git": {"commit": commit, "dirty": dirty},
            "python": "3.12.1", "torch": {"version": "2.11.0+cu130", "cuda": "13.0"},
            "triton": "3.6.0", "cuda_driver": "13.0", "cpu": dict(CPU),
            "gpus": [dict(g) for g in gpus], "missing": [],
            **environment,
        },
        "ceilings": ceilings, "rows": list(rows),
    }  # fmt: skip


def telemetry(**more: Any) -> dict[str, Any]:
    return {
        "source": "nvml", "sm_mhz": 1755.0, "sm_mhz_min": 1590.0, "memory_mhz": 2619.0,
        "power_w": 612.0, "temperature_c": 64.0, "throttle": {}, "missing": [],
        "sm_mhz_samples": [], "reasons_samples": [], **more,
    }  # fmt: skip


def energy(joules: float, **more: Any) -> dict[str, Any]:
    return {"joules": joules, "watts": 640.0, "idle_watts": 88.0, "window_s": 5.2, "calls": 12000,
            "level": "board, NVML total energy counter", **more}  # fmt: skip


def full(
    seed: int = 0, slower: float = 1.0, created: str = "2026-01-05T08:00:00+00:00", **more: Any
) -> dict[str, Any]:
    """A record of all that a report has to show: peers, sizes, energy, flags, modes, failures."""
    rows = [r for m in (256, 1024, 4096, 16384) for r in _prefill(m, seed, slower)]
    rows.append(row("triton", samples(31.0, 40, seed=seed), op="attention", case="decode",
                    dims={"B": 8, "M": 1, "N": 8192, "H": 32, "G": 8, "D": 128}, flops=1.07e9,
                    bytes=1.04e8, suspect="1.14 times the measured ceiling of bytes"))  # fmt: skip
    matmul = {"op": "matmul_fp8", "unit": "fp8", "case": "gate-up-4096",
              "dims": {"M": 4096, "N": 28672, "K": 4096, "scale_a": "row"},
              "scaled": {"M": 16384}, "flops": 9.6e11, "bytes": 3.7e8,
              "model": "llama3-70b", "count": 80}  # fmt: skip
    rows.append(row("triton", samples(1400.0, 3, seed=seed), **matmul, suspect="only 3 samples"))
    rows.append(row("scaled_mm", samples(1150.0, 60, seed=seed + 1), **matmul))
    rows.append(row("coarse", samples(1200.0, 60, seed=seed + 2), **matmul, validated=False,
                    peer=True, apart="largest error 0.3", differing=0.01))  # fmt: skip
    quantize = {"op": "quantize_fp8", "case": "hidden", "dims": {"shape": [4096, 4096]}}
    rows.append(without("triton", **quantize, failure="out: max error 0.5 where 0.01 is allowed"))
    rows.append(without("nvrtc", **quantize, skipped="cupy is not installed"))
    rows.append(without("reference", **quantize, skipped="the time budget ended before this case"))
    return record(rows, created, **more)


def _prefill(m: int, seed: int, slower: float) -> list[dict[str, Any]]:
    """One size of the attention of a prompt, by four providers."""
    flops, dims = 128 * 32 * 2.0 * m * m, {"B": 1, "M": m, "N": m, "H": 32, "G": 8, "D": 128}
    work = {"case": f"prefill-{m}", "flops": flops, "bytes": 2.0 * m * 128 * 80,
            "dims": dims | {"causal": True}}  # fmt: skip
    best, made = 12.0 + flops / 480e6, {}
    factors = {"triton": slower, "sdpa": 1.3, "flash_attn": 0.95, "reference": 14.0}
    for place, (name, factor) in enumerate(factors.items()):
        second = 0.3 if (name, m) == ("sdpa", 4096) else 0.0
        taken = samples(best * factor, 60, 0.012, seed + 10 * m + place, second)
        made[name] = row(name, taken, **work)
    ours = made["triton"]
    ours["warm"] = spread([0.93 * t for t in ours["samples_us"]])
    ours["telemetry"] = telemetry(throttle={"sw_power_cap": 0.4} if m == 16384 else {})
    if m == 1024:
        ours["flags"] = {"clock below 75 %": [3, 17]}
    if m == 4096:
        made["sdpa"]["modes"] = [{"median_us": best * 1.3, "share": 0.7},
                                 {"median_us": best * 1.56, "share": 0.3}]  # fmt: skip
        for name in ("triton", "sdpa", "flash_attn"):
            made[name]["energy"] = energy(640e-6 * best * factors[name])
    if m == 16384:
        ours["energy_missing"] = "the window would have been 2.1 s, 5 s is the least"
    return list(made.values())
