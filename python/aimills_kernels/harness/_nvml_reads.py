"""What NVML says of a GPU beyond its clocks: identity, health, links, time spent slowed down.

A name that the library lacks is missing when it is asked for, as a counter that the GPU lacks is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

Reads = dict[str, Callable[[], Any]]

# Counters of time, in ns, by NVML's field names. The other reasons have none: `hw_slowdown` is the
# union of the two `hw_` ones and of a few that have no name.
_THROTTLE_FIELDS = {
    "sw_power_cap": "NVML_FI_DEV_PERF_POLICY_POWER",
    "sync_boost": "NVML_FI_DEV_PERF_POLICY_SYNC_BOOST",
    "board_limit": "NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT",
    "reliability": "NVML_FI_DEV_PERF_POLICY_RELIABILITY",
    "sw_thermal_slowdown": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hw_thermal_slowdown": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "hw_power_brake_slowdown": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
# The older call, for the same time in ns, where the field is not served.
_POLICIES = {
    "sw_power_cap": "NVML_PERF_POLICY_POWER",
    "sync_boost": "NVML_PERF_POLICY_SYNC_BOOST",
    "board_limit": "NVML_PERF_POLICY_BOARD_LIMIT",
    "reliability": "NVML_PERF_POLICY_RELIABILITY",
}
TIMED = tuple(_THROTTLE_FIELDS)
# By nvmlFieldValue_t.valueType.
_VALUE = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
_VOLATILE, _AGGREGATE = 0, 1  # since the driver was loaded, ever
_CORRECTED, _UNCORRECTED = 0, 1
_LINK_ERRORS = ("REPLAY", "RECOVERY", "CRC_FLIT", "CRC_DATA")


def further(library: Any, handle: Any) -> Reads:
    return {
        **_identity(library, handle),
        **_health(library, handle),
        **_links(library, handle),
        **{f"throttle_s.{n}": partial(_throttled_s, library, handle, n) for n in _THROTTLE_FIELDS},
        "memory_temperature_c": lambda: _field(library, handle, "NVML_FI_DEV_MEMORY_TEMP"),
    }


def _identity(library: Any, handle: Any) -> Reads:
    return {
        "name": lambda: library.nvmlDeviceGetName(handle),
        "driver": lambda: library.nvmlSystemGetDriverVersion(),
        "vbios": lambda: library.nvmlDeviceGetVbiosVersion(handle),
        "uuid": lambda: library.nvmlDeviceGetUUID(handle),
        "pci": lambda: library.nvmlDeviceGetPciInfo(handle).busId,
        "gpus": lambda: library.nvmlDeviceGetCount(),
        "memory_bytes": lambda: library.nvmlDeviceGetMemoryInfo(handle).total,
        "power_limit_w": lambda: library.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
        "power_limit_min_w": lambda: (
            library.nvmlDeviceGetPowerManagementLimitConstraints(handle)[0] / 1e3
        ),
        "mig": lambda: _mig(library, handle),
    }


def _mig(library: Any, handle: Any) -> int:
    """A GPU that has no MIG says so, and is not divided."""
    try:
        return library.nvmlDeviceGetMigMode(handle)[0]
    except Exception as error:
        if not isinstance(error, getattr(library, "NVMLError_NotSupported", ())):
            raise
        return 0


def _health(library: Any, handle: Any) -> Reads:
    def ecc(kind: int, since: int) -> Callable[[], Any]:
        return lambda: library.nvmlDeviceGetTotalEccErrors(handle, kind, since)

    def remapped(place: int) -> Callable[[], Any]:
        return lambda: int(library.nvmlDeviceGetRemappedRows(handle)[place])

    return {
        "ecc": lambda: library.nvmlDeviceGetCurrentEccMode(handle),
        "ecc_uncorrected": ecc(_UNCORRECTED, _VOLATILE),
        "ecc_uncorrected_ever": ecc(_UNCORRECTED, _AGGREGATE),
        "ecc_corrected": ecc(_CORRECTED, _VOLATILE),
        "remap_uncorrected": remapped(1),
        "remap_pending": remapped(2),
        "remap_failed": remapped(3),
    }


def _links(library: Any, handle: Any) -> Reads:
    return {
        "pcie_generation": lambda: library.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "pcie_generation_max": lambda: library.nvmlDeviceGetMaxPcieLinkGeneration(handle),
        "pcie_width": lambda: library.nvmlDeviceGetCurrPcieLinkWidth(handle),
        "pcie_width_max": lambda: library.nvmlDeviceGetMaxPcieLinkWidth(handle),
        "pcie_replays": lambda: library.nvmlDeviceGetPcieReplayCounter(handle),
        "nvlink_active": lambda: len(_active_links(library, handle)),
        "nvlink_errors": lambda: _link_errors(library, handle),
    }


def _active_links(library: Any, handle: Any) -> list[int]:
    """NVML refuses the number of a link that the GPU does not have, and so ends the list."""
    active: list[int] = []
    for link in range(library.NVML_NVLINK_MAX_LINKS):
        try:
            state = library.nvmlDeviceGetNvLinkState(handle, link)
        except Exception:
            if link == 0:
                raise
            break
        if state:
            active.append(link)
    return active


def _link_errors(library: Any, handle: Any) -> int:
    kinds = [getattr(library, f"NVML_NVLINK_ERROR_DL_{kind}") for kind in _LINK_ERRORS]
    return sum(
        library.nvmlDeviceGetNvLinkErrorCounter(handle, link, kind)
        for link in _active_links(library, handle)
        for kind in kinds
    )


def _throttled_s(library: Any, handle: Any, name: str) -> float:
    try:
        return _field(library, handle, _THROTTLE_FIELDS[name]) / 1e9
    except Exception:
        if name not in _POLICIES:
            raise
        policy = getattr(library, _POLICIES[name])
        return library.nvmlDeviceGetViolationStatus(handle, policy).violationTime / 1e9


def _field(library: Any, handle: Any, name: str) -> Any:
    (found,) = library.nvmlDeviceGetFieldValues(handle, [getattr(library, name)])
    if found.nvmlReturn:
        raise library.NVMLError(found.nvmlReturn)
    return getattr(found.value, _VALUE[found.valueType])
