"""What a device says of itself while it works: NVML for a GPU, psutil for a CPU.

A counter that can't be read is None, and the journal says once why.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from aimills_kernels.accept.journal import Journal
from aimills_kernels.harness._nvml_reads import TIMED
from aimills_kernels.harness.env import first_line
from aimills_kernels.harness.nvml import Counters, NoCounters, Nvml, counters_of
from aimills_kernels.harness.reasons import BITS

GPU_SAMPLE = (
    "sm_mhz", "memory_mhz", "power_w", "temperature_c", "memory_temperature_c", "reasons",
    "energy_mj",
)  # fmt: skip
CPU_SAMPLE = ("cpu_mhz", "cpu_share", "temperature_c", "host_memory_used_b", "power_w", "energy_mj")
_PATIENCE_S = 10.0  # for the thread's last look; a driver whose GPU is lost may never answer
_MOST_SHARE = 1.05  # of a time that was slowed: above it the counter counts something else

_now = time.monotonic


class CpuCounters:
    """A CPU by psutil, which knows neither power nor energy."""

    source = "psutil"

    def __init__(self, library: Any):
        self.missing: list[str] = []
        self._absent: set[str] = set()
        with contextlib.suppress(Exception):
            library.cpu_percent(None)  # the share since the call before, and 0 where there is none
        self._reads: dict[str, Callable[[], float]] = {
            "cpu_mhz": lambda: library.cpu_freq().current,
            "cpu_share": lambda: library.cpu_percent(None) / 100,
            "temperature_c": lambda: _warmest(library.sensors_temperatures()),
            "host_memory_used_b": lambda: library.virtual_memory().used,
        }

    def read(self, name: str) -> float | None:
        if name in self._absent:
            return None
        try:
            return self._reads[name]()
        except Exception as error:
            self._absent.add(name)
            why = "psutil has no such counter" if name not in self._reads else _why(error)
            self.missing.append(f"{name}: {why}")
            return None

    def text(self, name: str) -> str | None:
        self.read(name)
        return None


def _warmest(sensors: dict[str, Any]) -> float:
    return max(chip.current for chips in sensors.values() for chip in chips)


def _why(error: Exception) -> str:
    """psutil gives None, or nothing, for what this machine does not tell."""
    told = isinstance(error, (AttributeError, ValueError, TypeError))
    return "this machine does not tell" if told else first_line(error)


@dataclass
class Window:
    """A stretch of time that was sampled. Its end is set when the block ends."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    first: dict[str, float | None] = field(default_factory=dict)
    last: dict[str, float | None] = field(default_factory=dict)
    xids: list[int] | None = field(default_factory=list)  # None: the driver did not tell them all

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def values(self, name: str) -> list[float]:
        return [s[name] for s in self.samples if s.get(name) is not None]

    def joules(self) -> float | None:
        """By the counter of energy, which an NVIDIA GPU moves some ten times a second."""
        before, after = self.first.get("energy_mj"), self.last.get("energy_mj")
        if before is None or after is None or after <= before:
            return None
        return (after - before) / 1e3

    def slowed(self, name: str) -> tuple[float, str] | None:
        """The share of the time in which this reason slowed the clocks, and how that is known:
        from a counter of time, else from how many samples had its bit."""
        before, after = self.first.get(f"throttle_s.{name}"), self.last.get(f"throttle_s.{name}")
        if before is not None and after is not None and after >= before:
            share = (after - before) / max(self.seconds, 1e-9)
            if share <= _MOST_SHARE:
                return min(share, 1.0), "counter"
        masks = [int(mask) for mask in self.values("reasons")]
        if not masks:
            return None
        return sum(bool(mask & BITS[name]) for mask in masks) / len(masks), "samples"


class Telemetry:
    """The counters of one device, and their trace in the journal."""

    def __init__(self, counters: Counters, sample: tuple[str, ...]):
        self.counters = counters
        self._sample = sample
        self._told: set[str] = set()
        if isinstance(counters, Nvml):
            counters.watch_xids()

    def read(self, name: str) -> float | None:
        return self.counters.read(name)

    def text(self, name: str) -> str | None:
        return self.counters.text(name)

    def why(self, name: str) -> str:
        """Why a counter was None, as a clause."""
        for line in self.counters.missing:
            said, _, reason = line.partition(": ")
            if said in (name, "nvml", "psutil"):
                return reason
        return "it is not reported"

    @contextlib.contextmanager
    def sampling(self, journal: Journal, stage: str, every_s: float = 1.0) -> Iterator[Window]:
        """Samples into the journal from a thread while the block runs, one at its begin and one at
        its end. What goes wrong in the thread is an event; where even that could not be written,
        the block's end raises it."""
        window, stop = Window(), threading.Event()
        lost: list[BaseException] = []

        def work() -> None:
            try:
                while True:
                    self._look(journal, stage, window)
                    if stop.wait(every_s):
                        break
                self._look(journal, stage, window)
            except BaseException as error:  # a journal that can't be written may be no Exception
                text = f"the telemetry ended: {type(error).__name__}: {first_line(error)}"
                try:
                    journal.append("event", stage=stage, name="telemetry", text=text, detail={})
                except BaseException as worse:
                    lost.append(worse)

        window.first, window.began = self._cumulative(), _now()
        thread = threading.Thread(target=work, name="telemetry", daemon=True)
        thread.start()
        try:
            yield window
        finally:
            try:
                window.ended, window.last = _now(), self._cumulative()
            finally:  # a stage's alarm may come in the counters: nobody samples beyond the block
                stop.set()
                thread.join(_PATIENCE_S)
        if thread.is_alive():
            text = f"the telemetry gave no answer for {_PATIENCE_S:g} s"
            journal.append("event", stage=stage, name="telemetry", text=text, detail={})
        if lost:
            raise lost[0]

    def _cumulative(self) -> dict[str, float | None]:
        names = ["energy_mj"]
        if isinstance(self.counters, Nvml):
            names += [f"throttle_s.{n}" for n in TIMED]
        return {name: self.read(name) for name in names}

    def _look(self, journal: Journal, stage: str, window: Window) -> None:
        values = {name: self.read(name) for name in self._sample}
        journal.append("sample", stage=stage, values=values)
        window.samples.append(values)
        xids = self.tell_xids(journal, stage)
        window.xids = None if xids is None or window.xids is None else window.xids + xids
        self._tell(journal, stage)

    def tell_xids(self, journal: Journal, stage: str) -> list[int] | None:
        """An event for each XID since the last look, which may lie stages back; None where the
        driver does not tell."""
        xids = self.counters.new_xids() if isinstance(self.counters, Nvml) else None
        for xid in xids or []:
            text = f"the driver reported XID {xid}"
            journal.append("event", stage=stage, name="xid", text=text, detail={"xid": xid})
        return xids

    def _tell(self, journal: Journal, stage: str) -> None:
        for line in list(self.counters.missing):
            if line not in self._told:
                self._told.add(line)
                text = f"a counter can't be read: {line}"
                journal.append("event", stage=stage, name="counter", text=text, detail={})


def telemetry_of(device: torch.device) -> Telemetry:
    """Never raises: where there is nothing to read, every counter is None and `why` says why."""
    counters = counters_of(device)
    if counters is not None:
        return Telemetry(counters, GPU_SAMPLE)
    try:
        import psutil
    except ImportError:
        why = "the package psutil is not installed"
        return Telemetry(NoCounters(why, of="psutil"), CPU_SAMPLE)
    return Telemetry(CpuCounters(psutil), CPU_SAMPLE)
