"""What a record says of the machine that a row is of, and which rows may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Record = dict[str, Any]
Row = dict[str, Any]

# Facts of which another value makes other times, whatever the kernel: such rows aren't compared.
_GPU = {
    "name": "GPU", "pci_device": "SKU of that name", "driver": "driver",
    "power_limit_w": "power limit", "clock_application_sm_mhz": "application clock",
    "ecc": "ECC mode", "mig": "MIG mode",
}  # fmt: skip
_CPU = {"model": "CPU", "usable_cores": "usable cores", "threads": "threads"}
_NEEDED = frozenset({"name", "driver", "model", "usable_cores", "threads"})
_LIMITS = ("power_limit_w", "clock_application_sm_mhz")
_MINORS = ("torch", "triton")  # another minor version compiles and calls other code: refused
_NAMED = ("python", "torch", "triton", "nvcc", "kernel", "package")


def kind(device: str) -> str:
    return device.partition(":")[0]


def mapping(value: Any, *path: str) -> dict[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def facts(record: Record, device: str) -> dict[str, Any]:
    """What the record says of one of its devices."""
    if kind(device) == "cpu":
        return mapping(record, "environment", "cpu")
    index = device.partition(":")[2]
    gpus = record["environment"].get("gpus")
    listed = [g for g in gpus if isinstance(g, dict)] if isinstance(gpus, list) else []
    place = int(index) if index.isdecimal() else 0
    known = [g for g in listed if g.get("torch_index") == place]
    if known or any("torch_index" in g for g in listed):
        return known[0] if known else {}
    return listed[place] if place < len(listed) else {}


def kinds_of(gpus: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What tells GPUs apart of which times may not be compared, once for each kind."""
    kinds = [{name: gpu.get(name) for name in _GPU} for gpu in gpus]
    return sorted((k for i, k in enumerate(kinds) if k not in kinds[:i]), key=str)


def other_kinds(base: Any, new: Any) -> list[str]:
    """Why times on these kinds of GPUs can't be compared; empty where they can."""
    if base == new:
        return []
    sides = [[k for k in kinds if isinstance(k, dict)] for kinds in (base, new)]
    if all(len(side) == 1 for side in sides):
        mine, other = sides[0][0], sides[1][0]
        return [
            f"another {words}: {_text(mine.get(name))} and {_text(other.get(name))}"
            for name, words in _GPU.items()
            if mine.get(name) != other.get(name)
        ]
    names = [", ".join(str(k.get("name")) for k in side) or "none" for side in sides]
    return [f"other GPUs: {names[0]} and {names[1]}"]


def made_at(record: Record) -> datetime:
    """When, to sort by; a time without a zone is in UTC."""
    found = datetime.fromisoformat(record["created"])
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def run_mode(record: Record, rows: Sequence[Row]) -> str:
    """How the run timed, for a row that has no time of its own."""
    asked = record["options"].get("mode")
    return str(asked or next((r["mode"] for r in rows if r["mode"]), "stream"))


def refusals(base: Record, new: Record, device: str) -> list[str]:
    """Why times of this device in the two records can't be compared; empty where they can."""
    mine, other = facts(base, device), facts(new, device)
    found = []
    for name, words in (_CPU if kind(device) == "cpu" else _GPU).items():
        a, b = mine.get(name), other.get(name)
        if a != b:
            found.append(f"another {words}: {_text(a)} and {_text(b)}")
        elif a is None and name in _NEEDED:
            found.append(f"neither record says its {words}")
    return found + minor_versions(base, new)


def minor_versions(base: Record, new: Record) -> list[str]:
    """Minor versions that differ and make other code of the same kernel."""
    found = []
    for name in _MINORS:
        a, b = _version(base, name), _version(new, name)
        if _minor(a) != _minor(b):
            found.append(f"another {name}: {_text(a)} and {_text(b)}")
    return found


def differences(base: Record, new: Record, device: str) -> list[str]:
    """What differs and does not forbid a comparison."""
    found = []
    for name in _NAMED:
        a, b = _version(base, name), _version(new, name)
        if a != b:
            found.append(f"{name} {_text(a)} and {_text(b)}")
    if kind(device) != "cpu":
        mine, other = facts(base, device), facts(new, device)
        for name in _LIMITS:
            if mine.get(name) is None and other.get(name) is None:
                found.append(f"perhaps the {_GPU[name]}, which neither record says")
    if other_card(base, new, device):
        found.append("another card of the same kind")
    return found


def other_card(base: Record, new: Record, device: str) -> bool:
    return facts(base, device).get("uuid") != facts(new, device).get("uuid")


def _version(record: Record, name: str) -> Any:
    held = record["environment"].get(name)
    return held.get("version") if isinstance(held, dict) else held


def _minor(version: Any) -> Any:
    return None if version is None else str(version).split(".")[:2]


def _text(value: Any) -> str:
    return "not stated" if value is None else str(value)
