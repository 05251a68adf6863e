"""How large the buffers of collectives are, and which of them a profile has the time for. No rate
stands for another size than its own. Needs no torch, as the simulated pod goes by it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aimills_kernels.harness import specs

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
FIGURES = 8 << 30  # of the criteria, where a rule names no size
# Each profile has 256 MiB, which a link of PCIe moves in 25 ms at its full rate.
IN_ALL = 256 << 20
SIZES = {
    "gate": (8 << 20, IN_ALL, FIGURES),
    "quick": (8 << 20, IN_ALL, FIGURES),
    "full": (1 << 20, 8 << 20, 64 << 20, IN_ALL, FIGURES),
    "burn-in": (1 << 20, 8 << 20, 64 << 20, IN_ALL, FIGURES),
}
CHECKS = 3  # with other data each; one alone missed a bad node among 1000 (nccl-tests#172)
_SHARE = 0.5  # of the stage, for all collectives; the rest is for copies and pairs
_LARGEST, _OTHERS = 0.6, 0.4  # of a collective's time
_OF_PEAK = 0.3  # that a healthy pod reaches: 20 GB/s of L40S, 230 of A100, 360 and more of H200


def factor(name: str, n: int) -> float:
    """Of the whole buffer, that is bus bandwidth among n ranks as nccl-tests counts it."""
    return (2 if name == "all_reduce" else 1) * (n - 1) / n


def seconds(stage_s: float, sizes: Sequence[int], size: int) -> float:
    """What one size of one collective may take, checks and all."""
    whole = _SHARE * stage_s / len(COLLECTIVES)
    if len(sizes) == 1:
        return whole
    return whole * (_LARGEST if size == max(sizes) else _OTHERS / (len(sizes) - 1))


def calls(call_s: float, seconds: float, most: int) -> int:
    """Timed ones, beside the checks and the first that tells how long one takes; 0: that one is
    all there is time for."""
    left = seconds - (CHECKS + 1) * call_s
    return max(0, min(most, int(left / max(call_s, 1e-9))))


def of_profile(profile: str, stage_s: float, sku: str, name: str, ranks: int) -> tuple[int, ...]:
    """The largest, which takes most of the time, only where links of this model have it: by what
    they are made for, as those of a pod that is slow are to be measured and rejected."""
    sizes, row = SIZES[profile], specs.of(sku)
    if row is None:
        return sizes
    # Of GPUs without NVLink over PCIe, in both directions.
    rate = _OF_PEAK * 1e9 * row.get("peer", 2 * row.get("host", 0.0))
    call_s = factor(name, ranks) * max(sizes) / rate if rate else 0.0
    fits = (CHECKS + 1) * call_s <= seconds(stage_s, sizes, max(sizes))
    return sizes if fits else tuple(size for size in sizes if size <= IN_ALL)


def rate_of(entry: Mapping[str, Any], size: int | None) -> float | None:
    """A measured collective's rate at this size; None where it did not run."""
    detail = entry.get("detail") or {}
    if "size" not in detail or size is None:
        return entry["value"] if size in (None, FIGURES) else None
    if detail["size"] == size:
        return entry["value"]
    return (detail.get("by_size") or {}).get(str(size))
