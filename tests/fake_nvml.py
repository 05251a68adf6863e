"""A stand-in for `pynvml` and for the counters of one GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
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


class Timeout(Exception):
    """No event came."""


class Fields:
    """What `nvmlDeviceGetFieldValues` gives for one field: a 64-bit number."""

    valueType = 3

    def __init__(self, value: int | None):
        self.nvmlReturn = 3 if value is None else 0
        self.value = SimpleNamespace(ullVal=value)


class Gpu(Library):
    """A whole GPU: identity, errors, links, counters of time, events and a power limit.

    fields    by NVML's field name; what is not in it is not supported
    """

    NVMLError_Timeout = Timeout
    NVML_NVLINK_MAX_LINKS = 36
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_SYNC_BOOST = 0, 2
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, fields: dict[str, Any] | None = None, **counters: Any):
        super().__init__(**{
            "name": "NVIDIA H200", "driver": "580.95", "vbios": b"96.00", "uuid": "GPU-0a1b",
            "pci": SimpleNamespace(busId="00000000:3B:00.0"), "count": 8,
            "memory_info": SimpleNamespace(total=143_771 << 20), "limit": 700_000,
            "limits": (200_000, 700_000), "mig": (0, 0), "ecc_mode": 1, "ecc": 0,
            "remapped": (0, 0, False, False), "gen": 5, "lanes": 16, "replays": 0, "link": 0,
            "set": None, **counters,
        })  # fmt: skip
        self.fields = fields or {}
        self.xids: list[int] = []
        self.limits_set: list[float] = []

    def __getattr__(self, name: str) -> Any:
        """A field, or a kind of link error, is called by its own name."""
        if name.startswith(("NVML_FI_", "NVML_NVLINK_ERROR_DL_")):
            return name
        raise AttributeError(name)

    def NVMLError(self, code: int) -> Exception:
        return RuntimeError("Not Supported")

    def nvmlDeviceGetFieldValues(self, handle: Any, names: list[str]) -> list[Fields]:
        value = self.fields.get(names[0])
        return [Fields(value() if callable(value) else value)]

    def nvmlDeviceGetViolationStatus(self, handle: Any, policy: int) -> Any:
        return SimpleNamespace(violationTime=self._get(f"violation {policy}"))

    def nvmlDeviceGetNvLinkState(self, handle: Any, link: int) -> int:
        if link >= 18:
            raise RuntimeError("Invalid Argument")
        return 1

    def nvmlDeviceGetNvLinkErrorCounter(self, handle: Any, link: int, kind: str) -> Any:
        return self._get("link")

    def nvmlEventSetCreate(self) -> str:
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: str) -> None: ...

    def nvmlEventSetWait_v2(self, events: str, timeout: int) -> Any:
        if not self.xids:
            raise Timeout
        return SimpleNamespace(eventData=self.xids.pop(0))

    def nvmlDeviceSetPowerManagementLimit(self, handle: Any, milliwatts: int) -> None:
        self._get("set")
        self.values["limit"] = milliwatts
        self.limits_set.append(milliwatts / 1e3)


def _answers(counter: str) -> Callable[..., Any]:
    return lambda self, *arguments: self._get(counter)


for _function, _counter in {
    "nvmlDeviceGetName": "name", "nvmlSystemGetDriverVersion": "driver",
    "nvmlDeviceGetVbiosVersion": "vbios", "nvmlDeviceGetUUID": "uuid",
    "nvmlDeviceGetPciInfo": "pci", "nvmlDeviceGetCount": "count",
    "nvmlDeviceGetMemoryInfo": "memory_info",
    "nvmlDeviceGetPowerManagementLimit": "limit",
    "nvmlDeviceGetPowerManagementLimitConstraints": "limits", "nvmlDeviceGetMigMode": "mig",
    "nvmlDeviceGetCurrentEccMode": "ecc_mode", "nvmlDeviceGetTotalEccErrors": "ecc",
    "nvmlDeviceGetRemappedRows": "remapped", "nvmlDeviceGetCurrPcieLinkGeneration": "gen",
    "nvmlDeviceGetMaxPcieLinkGeneration": "gen", "nvmlDeviceGetCurrPcieLinkWidth": "lanes",
    "nvmlDeviceGetMaxPcieLinkWidth": "lanes", "nvmlDeviceGetPcieReplayCounter": "replays",
}.items():  # fmt: skip
    setattr(Gpu, _function, _answers(_counter))
