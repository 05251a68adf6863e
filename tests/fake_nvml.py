"""A stand-in for `pynvml` and for the counters of one GPU."""

from __future__ import annotations

from typing import Any


class Library:
    """Answers as `pynvml` does; a counter whose value is an exception raises it."""

    def __init__(self, **counters: Any):
        self.asked: list[str] = []
        self.values = {
            "sm": 1755, "memory": 2619, "most": 1980, "reasons": 0, "power": 612_500,
            "temperature": 64, "energy": 10_000, **counters,
        }  # fmt: skip

    def _get(self, name: str) -> Any:
        self.asked.append(name)
        value = self.values[name]
        if callable(value):
            value = value()
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlInit(self) -> None:
        self._get("init") if "init" in self.values else None

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: Any, which: int) -> Any:
        return self._get({1: "sm", 2: "memory"}[which])

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, which: int) -> Any:
        return self._get({1: "most"}[which])

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> Any:
        return self._get("reasons")

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> Any:
        return self._get("power")

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> Any:
        return self._get({0: "temperature"}[sensor])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> Any:
        return self._get("energy")
