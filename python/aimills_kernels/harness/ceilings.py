"""What this device reaches in this run, and what its maker promises.

The roofline of a record is the measured one; the specification is a second view, and the line that
no honest time can cross.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from aimills_kernels.harness import gemm, specs
from aimills_kernels.harness._reading import UNITS, serving_unit
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.timing import Timer, timer_for

_CPU_COPY_BYTES = 256 << 20
_GPU_COPY_BYTES = 1 << 30
_GPU_GEMM = 8192
_CPU_GEMM = {"f32": 1024, "f16": 256}  # bf16 without its instructions was 100 times slower than f32
_CPU_PART_S = 0.35  # for each ceiling, so that a CPU's take under 2 s
_GPU_PART_S = 0.4  # long enough for clocks to fall to what the power limit allows


def measure(device: str | torch.device) -> dict[str, Any]:
    """Ceilings of `device`: copy (bytes read and written), GEMM rates, and `spec`.

    A rate that the device or this torch can't do is absent, with the reason in `missing`.
    """
    place = torch.device(device)
    timer = timer_for(place)
    found: dict[str, Any] = {"device": str(place)}
    missing: list[str] = []
    rates = {"copy_gbps": partial(_copy_gbps, place, timer)} | {
        f"gemm_{unit}_tflops": partial(_gemm_tflops, unit, place, timer) for unit in UNITS
    }
    for rate, measured in rates.items():
        try:
            found[rate] = measured()
        except (RuntimeError, TypeError, ValueError, AttributeError, MemoryError) as error:
            missing.append(f"{rate.rpartition('_')[0].removeprefix('gemm_')}: {first_line(error)}")
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else None
    return {**found, "missing": missing, "spec": spec(name)}


def spec(name: str | None) -> dict[str, float] | None:
    """The maker's figures for a GPU, in the keys of `measure`; None for one that isn't known."""
    peaks = specs.of(name)
    if peaks is None:
        return None
    rates = {f"gemm_{u}_tflops": peaks[u] for u in UNITS if u in peaks}
    return {"copy_gbps": peaks["copy"], **rates}


def peak_tflops(ceilings: dict[str, Any] | None, unit: str) -> float | None:
    """The fastest known rate for an op of arithmetic `unit`: in that or in a wider one."""
    serving = serving_unit(ceilings, unit)
    return (ceilings or {}).get(f"gemm_{serving}_tflops")


def sustained_us(timer: Timer, call: Callable[[], Any], seconds: float) -> list[float]:
    """Samples of one call each, after one untimed, for about `seconds`; three at the least.
    RuntimeError where the clock stood still or went backwards."""
    call()
    end = time.perf_counter() + seconds
    samples: list[float] = []
    while len(samples) < 3 or time.perf_counter() < end:
        samples.append(timer.sample(call))
        if samples[-1] <= 0:
            raise RuntimeError(f"the clock gave {samples[-1]:.3g} us for a call")
    return samples


def _copy_gbps(place: torch.device, timer: Timer) -> float:
    """The best of the samples: a ceiling is not what a disturbed machine did on average."""
    if place.type == "cpu":
        size, seconds = max(_CPU_COPY_BYTES, 4 * timer.cache_bytes), _CPU_PART_S
    else:
        free, _ = torch.cuda.mem_get_info(place)
        size, seconds = min(_GPU_COPY_BYTES, free // 8), _GPU_PART_S / 4
    source = torch.ones(size // 4, dtype=torch.float32, device=place)
    target = torch.empty_like(source)
    best = min(sustained_us(timer, lambda: target.copy_(source), seconds))
    return 2 * source.numel() * 4 / best / 1e3


def _gemm_tflops(unit: str, place: torch.device, timer: Timer) -> float:
    """Square GEMM on normal random data. On a GPU the mean of the second half of a sustained run,
    where power limits show; on a CPU the best sample."""
    gpu = place.type == "cuda"
    n = _GPU_GEMM if gpu else _CPU_GEMM.get(unit, 0)
    if n == 0:
        raise ValueError("not measured on a CPU")
    kind = "bf16" if unit == "f16" else unit
    with gemm.precision(kind):
        call = gemm.call(kind, *gemm.operands(kind, n, place))
        samples = sustained_us(timer, call, _GPU_PART_S if gpu else _CPU_PART_S)
    late = samples[len(samples) // 2 :]
    return 2 * n**3 / (sum(late) / len(late) if gpu else min(samples)) / 1e6
