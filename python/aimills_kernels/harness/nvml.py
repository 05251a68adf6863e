"""A GPU's own counters, by NVML: clocks, why they are low, power, temperature, energy.

What can't be read is None, and the reason stands in `missing`: a driver without NVML costs a
record these facts and nothing else.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from aimills_kernels.harness._nvml_reads import Reads, further
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.reasons import REASONS

# A sample with one of the others is not slow for it: a user's setting, or nothing to do.
_HARMLESS = {"gpu_idle", "applications_clocks_setting", "display_clock_setting"}
_LOW = 0.75  # of the largest SM clock; a clock below it is flagged
_SLOW_EVERY_S = 0.1  # NVML averages power for longer than that, and temperatures move slower
_MOST_XIDS = 1000  # that one call takes from the driver
_SM, _MEMORY, _GPU_TEMPERATURE = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU

_now = time.monotonic


def names_of(mask: int) -> list[str]:
    """The reasons in a mask; a bit that has no name yet is called by its value."""
    known = [name for name, bit in REASONS.items() if mask & bit]
    rest = mask & ~sum(REASONS.values())
    return known + [f"bit {1 << i:#x}" for i in range(rest.bit_length()) if rest >> i & 1]


class Counters(Protocol):
    """What is asked of a GPU. `read` gives None for what can't be had, with a line in `missing`."""

    source: str
    missing: list[str]

    def read(self, name: str) -> float | None: ...

    def text(self, name: str) -> str | None: ...


class Nvml:
    """The counters of one GPU, each by a name of ours; further ones in `_nvml_reads`."""

    source = "nvml"

    def __init__(self, library: Any, handle: Any):
        self._library, self._handle = library, handle
        self._xid_events: Any = None
        self.missing: list[str] = []
        self._absent: set[str] = set()
        reasons = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
        reasons = reasons or library.nvmlDeviceGetCurrentClocksThrottleReasons
        self._reads: Reads = {
            **further(library, handle),
            "sm_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, _SM),
            "memory_mhz": lambda: library.nvmlDeviceGetClockInfo(handle, _MEMORY),
            "max_sm_mhz": lambda: library.nvmlDeviceGetMaxClockInfo(handle, _SM),
            "reasons": lambda: reasons(handle),
            "power_w": lambda: library.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, _GPU_TEMPERATURE),
            "energy_mj": lambda: library.nvmlDeviceGetTotalEnergyConsumption(handle),
        }

    def read(self, name: str) -> float | None:
        return self._get(name)

    def text(self, name: str) -> str | None:
        found = self._get(name)
        return found.decode() if isinstance(found, bytes) else found

    def _get(self, name: str) -> Any:
        if name in self._absent:
            return None
        try:
            return self._reads[name]()
        except Exception as error:  # NVML's errors, and names that an old library lacks
            self._absent.add(name)
            self.missing.append(f"{name}: {first_line(error)}")
            return None

    def watch_xids(self) -> None:
        """From now on the driver keeps XIDs for `new_xids`; where it can't, `missing` says so."""
        try:
            events = self._library.nvmlEventSetCreate()
            kind = self._library.nvmlEventTypeXidCriticalError
            self._library.nvmlDeviceRegisterEvents(self._handle, kind, events)
            self._xid_events = events
        except Exception as error:
            self._absent.add("xid")
            self.missing.append(f"xid: {first_line(error)}")

    def new_xids(self) -> list[int] | None:
        """XIDs since the last call; None where they can't be had."""
        if self._xid_events is None:
            return None
        found: list[int] = []
        try:
            while len(found) < _MOST_XIDS:
                event = self._library.nvmlEventSetWait_v2(self._xid_events, 0)
                found.append(int(event.eventData))
        except Exception as error:
            if not isinstance(error, getattr(self._library, "NVMLError_Timeout", ())):
                self._xid_events = None
                self.missing.append(f"xid: {first_line(error)}")
                return found or None
        return found

    def set_power_limit(self, watts: float) -> None:
        """Raises NVML's error, for want of permission as a rule."""
        self._library.nvmlDeviceSetPowerManagementLimit(self._handle, round(1e3 * watts))


class NoCounters:
    """Stands in where there is no NVML, or whatever the counters are `of`; `why` is a clause."""

    source = "none"

    def __init__(self, why: str, of: str = "nvml"):
        self.missing = [f"{of}: {why}"]

    def read(self, name: str) -> float | None:
        return None

    def text(self, name: str) -> str | None:
        return None


def counters_of(device: torch.device) -> Counters | None:
    """NVML's counters of a GPU, which it knows by UUID; None for a CPU, which has none."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return NoCounters("the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except Exception as error:  # no driver, a MIG slice, no right to ask
        return NoCounters(first_line(error))


class Watch:
    """The telemetry of one contestant, which is looked at once a sample."""

    def __init__(self, counters: Counters):
        self._counters = counters
        self._sm: list[float | None] = []
        self._reasons: list[int | None] = []
        self._slow: dict[str, list[float]] = {"memory_mhz": [], "power_w": [], "temperature_c": []}
        self._next = -math.inf

    def sm_mhz(self) -> float | None:
        return self._counters.read("sm_mhz")

    def look(self) -> None:
        self._sm.append(self._counters.read("sm_mhz"))
        mask = self._counters.read("reasons")
        self._reasons.append(None if mask is None else int(mask))
        if (now := _now()) < self._next:
            return
        self._next = now + _SLOW_EVERY_S
        for name, values in self._slow.items():
            if (value := self._counters.read(name)) is not None:
                values.append(value)

    def flags(self) -> dict[str, list[int]]:
        """What slowed which samples."""
        found: dict[str, list[int]] = {}
        most = self._counters.read("max_sm_mhz")
        for index, (mask, sm) in enumerate(zip(self._reasons, self._sm, strict=True)):
            for name in names_of(mask or 0):
                if name not in _HARMLESS:
                    found.setdefault(name, []).append(index)
            if most and sm is not None and sm < _LOW * most:
                found.setdefault(f"SM clock below {_LOW:.0%} of its most", []).append(index)
        return found

    def telemetry(self) -> dict[str, Any]:
        """As `record.TELEMETRY` declares it."""
        sm = [clock for clock in self._sm if clock is not None]
        slow = self._slow
        return {
            "source": self._counters.source,
            "sm_mhz": statistics.median(sm) if sm else None,
            "sm_mhz_min": min(sm, default=None),
            "sm_mhz_samples": list(self._sm),
            "memory_mhz": statistics.median(slow["memory_mhz"]) if slow["memory_mhz"] else None,
            "power_w": statistics.fmean(slow["power_w"]) if slow["power_w"] else None,
            "temperature_c": max(slow["temperature_c"], default=None),
            "throttle": dict(self._shares()),
            "reasons_samples": list(self._reasons),
            "missing": list(self._counters.missing),
        }

    def _shares(self) -> Iterator[tuple[str, float]]:
        masks = [mask for mask in self._reasons if mask is not None]
        counts = Counter(name for mask in masks for name in names_of(mask))
        for name, count in counts.items():
            yield name, count / len(masks)
