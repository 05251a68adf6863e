"""Rows of a record: one contestant on one case, with its time or the reason why it has none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aimills_kernels._op import Case, Cost, Op
from aimills_kernels.harness import record
from aimills_kernels.harness._reading import ABOVE, ENOUGH, ahead
from aimills_kernels.harness._timers import AFTER_ITS_END
from aimills_kernels.harness.ceilings import peak_tflops
from aimills_kernels.harness.timing import Spread, Timing

COLUMNS = (
    "op", "case", "provider", "median", "±iqr", "rate", "of roofline", "against peer", "error used",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the rows are made: the device, its ceilings, and the size of its last-level cache."""

    device: str
    ceilings: dict[str, Any]
    cache_bytes: int


def blank(
    op: Op, case: Case, name: str, place: Place, peer: bool, config: str | None = None
) -> dict[str, Any]:
    """A row without a time; `config` where the contestant is a candidate."""
    cost = op.cost(case)
    return record.blank(
        op=op.name, case=case.name, dims=dict(case.dims), scaled=scaled(op, case), provider=name,
        config=config, peer=peer, device=place.device, flops=cost.flops, bytes=cost.bytes,
        unit=cost.unit,
    )  # fmt: skip


def scaled(op: Op, case: Case) -> dict[str, Any]:
    """The dims that are smaller on this device, as they are declared."""
    full = next((c.dims for c in op.cases if c.name == case.name), {})
    return {k: full[k] for k, v in case.dims.items() if k in full and full[k] != v}


def share(used: float) -> float | None:
    """A share of the tolerance as JSON can hold it; one that is infinite is told in words."""
    return round(used, 4) if math.isfinite(used) else None


def put_time(
    row: dict[str, Any],
    timing: Timing,
    cost: Cost,
    place: Place,
    cold: str | None = None,
    written: float = math.inf,
) -> None:
    """Enter a time that has passed its checks, held against both rooflines. `cold` says why the
    caches were not cold though they should have been, `written` how many bytes it writes."""
    on_host = timing.mode == "host"
    if not on_host and (impossible := _faster_than_hardware(cost, timing, place, written)):
        row["failure"] = impossible
        return
    best = timing.median_us
    row |= {
        "mode": timing.mode, "clock": timing.clock, "cold": timing.cold and cold is None,
        "warm": _spread(timing.warm) if timing.warm else None, "host_us": timing.host_us,
        "telemetry": timing.telemetry, **_spread(timing),
    }  # fmt: skip
    if not on_host:
        row |= {"tflops": cost.flops / best / 1e6, "gbps": cost.bytes / best / 1e3}
        floor, row["sol_bound"] = floor_us(cost, place.ceilings)
        row["sol"] = floor / best if floor is not None else None
        spec_floor, _ = floor_us(cost, place.ceilings.get("spec"))
        row["sol_spec"] = spec_floor / best if spec_floor is not None else None
    row["suspect"] = "; ".join([*_suspicions(row, timing), *([cold] if cold else [])]) or None


def _spread(found: Spread) -> dict[str, Any]:
    """As the record has it."""
    names = ("n", "median_us", "q1_us", "q3_us", "low_us", "high_us", "min_us", "noise", "flags",
             "modes")  # fmt: skip
    made = {name: getattr(found, name) for name in names}
    return made | {"samples_us": [round(s, 3) for s in found.samples_us]}


def floor_us(cost: Cost, ceilings: dict[str, Any] | None) -> tuple[float | None, str | None]:
    """The least time that the ceilings allow, and which of them sets it."""
    peak, copy = peak_tflops(ceilings, cost.unit), (ceilings or {}).get("copy_gbps")
    if not copy or (cost.flops and not peak):
        return None, None
    by_flops = cost.flops / peak / 1e6 if peak else 0.0
    by_bytes = cost.bytes / copy / 1e3
    return max(by_flops, by_bytes), "flops" if by_flops > by_bytes else "bytes"


def _faster_than_hardware(cost: Cost, timing: Timing, place: Place, written: float) -> str | None:
    """Beyond the specification. Bytes count only where the caches are cold, and those written only
    beyond what a cache holds: writes that are still in it when the clock stops are honest."""
    spec = place.ceilings.get("spec")
    moved = max(cost.bytes - min(written, place.cache_bytes), 0.0) if timing.cold else 0.0
    floor, _ = floor_us(Cost(cost.flops, moved, cost.unit), spec)
    by_flops, _ = floor_us(Cost(cost.flops, 0, cost.unit), spec)
    if floor is None or by_flops is None:
        return None
    runs = [("", timing.min_us, floor)]
    if timing.warm:
        runs.append((" with warm caches", timing.warm.min_us, by_flops))
    for label, time_us, least in runs:
        if least > ABOVE * time_us:
            return (
                f"faster than the hardware{label}: {time_us:.3g} us, its specification allows "
                f"{least:.3g} us"
            )
    return None


def _suspicions(row: dict[str, Any], timing: Timing) -> Iterator[str]:
    if row["sol"] is not None and row["sol"] > ABOVE:
        why = "; data served from a cache?" if row["sol_bound"] == "bytes" else ""
        yield f"{row['sol']:.2f} times the measured ceiling of {row['sol_bound']}{why}"
    if row["sol_spec"] is not None and row["sol_spec"] > 1:
        yield f"{row['sol_spec']:.2f} times what the specification allows"
    if timing.exposed:
        yield f"{timing.exposed} of {timing.n} samples hold launch time"
    if late := len(timing.flags.get(AFTER_ITS_END, ())):
        yield f"after {late} of {timing.n} samples the device was still busy"
    if not timing.settled:
        calls = timing.warmup_calls
        yield f"the warm-up of {calls} call{'s' * (calls != 1)} had not settled"
    if timing.n < ENOUGH:
        yield f"only {timing.n} sample{'s' * (timing.n > 1)}"


def table(found: dict[str, Any]) -> list[list[str]]:
    """The record as rows of text under `COLUMNS`."""
    rows = found["rows"]
    return [_line(row, ahead(row, rows)) for row in rows]


def _line(row: dict[str, Any], ratio: float | None) -> list[str]:
    head = [row["op"], row["case"], row["provider"]]
    if row["median_us"] is None:
        why = f"WRONG: {row['failure']}" if row["failure"] else f"not run: {row['skipped']}"
        return [*head, why, "", "", "", "", _percent(row["error_used"])]
    against = f"x{ratio:.2f}" if ratio is not None else "-"
    used = _percent(row["error_used"]) if row["validated"] else "beyond"
    return [
        *head,
        time_text(row["median_us"]),
        f"±{row['noise'] / 2:.1%}" if row["n"] >= ENOUGH else f"n = {row['n']}",
        rate_text(row),
        _percent(row["sol"]),
        against,
        used,
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def time_text(us: float) -> str:
    if us < 1e3:
        return f"{us:.3g} us"
    return f"{us / 1e3:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def rate_text(row: dict[str, Any]) -> str:
    """In the terms of what bounds the op."""
    if row["gbps"] is None:
        return "-"
    if row["sol_bound"] == "flops":
        return f"{row['tflops']:.3g} T{'OP' if row['unit'] == 'int8' else 'FLOP'}/s"
    return f"{row['gbps']:.3g} GB/s"
