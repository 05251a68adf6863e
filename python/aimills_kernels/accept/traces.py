"""Telemetry over time, thinned for the report, and the energy that it tells of. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from aimills_kernels.accept.evidence import Pod, Rank
from aimills_kernels.accept.facts import where
from aimills_kernels.accept.values import number
from aimills_kernels.harness import reasons

Row = dict[str, Any]

BURN = "burn"  # the stage whose traces are shown
POINTS, LEAST = 240, 30  # of a trace; fewer where there are many devices
_ALL = 20_000  # points of all traces together, about
# NVML's clocks event reasons that slow a GPU down, by name; at the burn's begin it is idle.
BITS = {name: mask for name, mask in reasons.BITS.items() if name != "gpu_idle"}
CURVES = ("power_w", "temperature_c", "memory_temperature_c", "sm_mhz", "cpu_mhz", "cpu_share")


def traces(pod: Pod) -> list[Row]:
    """By device, the burn in steps of equal length: means, the highest temperatures, and the share
    of each step's samples with each reason to be slow."""
    points = max(LEAST, min(POINTS, _ALL // max(len(pod.ranks), 1)))
    made = [_trace(rank, points) for rank in pod.ranks]
    return [t for t in made if t is not None]


def _trace(rank: Rank, points: int) -> Row | None:
    samples = _samples(rank)
    if len(samples) < 2:
        return None
    start, end = samples[0]["clock"], samples[-1]["clock"]
    step = max((end - start) / points, 1e-9)
    steps: dict[int, list[Row]] = {}
    for sample in samples:
        steps.setdefault(min(int((sample["clock"] - start) / step), points - 1), []).append(
            sample["values"]
        )
    places = sorted(steps)
    columns = {
        name: [_joined([v.get(name) for v in steps[i]], name) for i in places] for name in CURVES
    }
    words = [[v.get("reasons") for v in steps[i]] for i in places]
    throttle = {name: [_share(found, bit) for found in words] for name, bit in BITS.items()}
    return {
        "where": where(rank),
        "samples": len(samples),
        "seconds": [round((i + 0.5) * step, 3) for i in places],
        **{k: v for k, v in columns.items() if any(x is not None for x in v)},
        "throttle": {k: v for k, v in throttle.items() if any(v)},
    }


def _samples(rank: Rank) -> list[Row]:
    """Of the last run of the burn: a resumed one begins again, and so may its clock."""
    found: list[Row] = []
    for entry in rank.entries:
        if entry["kind"] == "stage" and entry["name"] == BURN and entry["state"] == "begin":
            found = []
        elif entry["kind"] == "sample" and entry.get("stage") == BURN:
            if found and entry["clock"] < found[-1]["clock"]:
                found = []
            found.append(entry)
    return found


def _joined(values: Sequence[Any], name: str) -> float | None:
    known = [v for v in map(number, values) if v is not None]
    if not known:
        return None
    joined = max(known) if name.endswith("temperature_c") else sum(known) / len(known)
    return round(joined, 3)


def _share(words: Sequence[Any], bit: int) -> float | None:
    known = [w for w in words if isinstance(w, int)]
    return round(sum(bool(w & bit) for w in known) / len(known), 4) if known else None


# ---- energy

# Where a device's power and its work per joule are measured.
_WATTS = {"idle_w": "power.idle", "load_w": "burn.power", "limit_w": "power.limit"}
_PER_JOULE = ("energy.gemm", "work.train_energy", "work.decode_energy", "work.video_energy")


def energy(pod: Pod, devices: Sequence[Row]) -> Row:
    """Watts and joules by device, and their sums over the pod where all devices have them."""
    found = [_energy(rank, device) for rank, device in zip(pod.ranks, devices, strict=True)]
    sums = {
        name: _sum([d[name] for d in found], pod.world)
        for name in (*_WATTS, "burn_joules", "run_joules")
    }
    return {"level": _LEVEL, "devices": found, "pod": sums, "sweep": _sweep(pod)}


def _sweep(pod: Pod) -> list[Row]:
    """Where the power limit was swept: at each limit the rate and the work per joule."""
    made = []
    for rank in pod.ranks:
        steps: dict[float, Row] = {}
        for entry in rank.of("measure"):
            if column := _SWEPT.get(entry["metric"]):
                watts = float(entry["detail"]["watts"])
                steps.setdefault(watts, dict.fromkeys(_SWEPT.values()))[column] = entry["value"]
        made += [{"where": where(rank), "limit_w": watts, **steps[watts]}
                 for watts in sorted(steps, reverse=True)]  # fmt: skip
    return made


_SWEPT = {"sweep.rate": "rate", "sweep.energy": "per_joule"}
_LEVEL = (
    "counters of the devices alone; no host, network, cooling or losses, and no meter at the wall"
)


def _energy(rank: Rank, device: Row) -> Row:
    known = device["measures"]

    def value(metric: str) -> float | None:
        return number(known[metric]["value"]) if metric in known else None

    return {
        "where": device["where"],
        **{name: value(metric) for name, metric in _WATTS.items()},
        "burn_joules": _counted(_samples(rank)),
        "run_joules": _counted(list(rank.of("sample"))),
        "per_joule": {m: value(m) for m in _PER_JOULE if value(m) is not None},
    }


def _counted(samples: Sequence[Row]) -> float | None:
    """Joules between the first and the last reading of the device's counter. None where it was not
    read twice, or fell: a reboot starts it anew."""
    read = [number(s["values"].get("energy_mj")) for s in samples]
    known = [mj for mj in read if mj is not None]
    if len(known) < 2 or any(b < a for a, b in pairwise(known)):
        return None
    return round((known[-1] - known[0]) / 1e3, 3)


def _sum(values: Sequence[float | None], world: int) -> float | None:
    known = [v for v in values if v is not None]
    return round(sum(known), 3) if known and len(known) == len(values) == world else None
