"""Records of correctness: what lets a GPU kernel of our own serve unasked.

A record says that one provider was right on every case that it takes, on every GPU of one compute
capability in a machine, for one state of its sources and one Triton minor version. Committed
records ship as `records.json`; those that `aimills-kernels validate` makes on this machine are kept
in the user's cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aimills_kernels._files import write_whole
from aimills_kernels._op import Op, Provider

if TYPE_CHECKING:
    from aimills_kernels._validate import Validation

UNPROVEN = "no record"
_PACKAGE = Path(__file__).parent


def missing(op: Op, provider: Provider, sm: int | None) -> str | None:
    """Why `provider` may not serve unasked on capability `sm`; None where a record allows it."""
    known = [r for r in _all() if r["op"] == op.name and r["provider"] == provider.name]
    here = [r for r in known if r["sm"] == sm]
    if any("wrong" in r for r in here):  # stands in the cache, also against a committed record
        return f"{UNPROVEN} counts on this machine, where it was found wrong on sm_{sm}"
    if any(_same(r, key(op, provider, sm)) for r in here):
        return None
    command = f"run `aimills-kernels validate {op.name} --provider {provider.name}` on it"
    if here:
        return f"{UNPROVEN} for these sources on sm_{sm} (an older one is stale); {command}"
    return f"{UNPROVEN} shows it correct on sm_{sm} yet; {command}"


def key(op: Op, provider: Provider, sm: int | None) -> dict[str, Any]:
    return {
        "op": op.name,
        "provider": provider.name,
        "sm": sm,
        "sources": source_hash(provider),
        "triton": _triton_minor() if provider.interpret else "",
    }


def conclude(
    op: Op, provider: Provider, sm: int | None, gpus: Mapping[str, str], found: Iterable[Validation]
) -> dict[str, Any] | str:
    """What a run says of `provider` on capability `sm`: a record, a denial, or why neither.

    gpus   all of this capability in the machine, by device: their names
    found  the run's validations; those of other providers and devices are left aside
    """
    mine = [v for v in found if (v.op, v.provider) == (op.name, provider.name) and v.device in gpus]
    for v in mine:
        if v.failures:
            return denial(op, provider, sm, str(v))
    for gpu in gpus:
        of = {v.case: v for v in mine if v.device == gpu}
        for case in op.cases:
            if case.name not in of:
                return f"{case} on {gpu} was not checked"
            if of[case.name].gap:
                return f"{case} on {gpu}: {of[case.name].skipped}"
        if not any(v.ok for v in of.values()):
            return f"it takes no case on {gpu}"
    right = [v for v in mine if v.ok]
    return {
        **key(op, provider, sm),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpus": sorted(set(gpus.values())),
        "cases": sorted({v.case for v in right}),
        "seed": right[0].seed,
        "worst_error_used": round(max(v.used for v in right), 4),
        "torch": torch.__version__,
    }


def denial(op: Op, provider: Provider, sm: int | None, why: str) -> dict[str, Any]:
    """In place of a record: this provider was found wrong here."""
    return {"op": op.name, "provider": provider.name, "sm": sm, "wrong": why}


def _same(record: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(record.get(k) == v for k, v in wanted.items())


@cache
def source_hash(provider: Provider) -> str:
    """Hash of the files that make the provider: its module and what it names in `sources`."""
    digest = hashlib.sha256()
    for path in source_files(provider):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def source_files(provider: Provider) -> list[Path]:
    spec = importlib.util.find_spec(provider.target.partition(":")[0])
    files = [Path(spec.origin)] if spec and spec.origin else []
    for name in provider.sources:
        # The path also works in an editable install, where kernels/ and csrc/ are mapped.
        for root in _roots():
            if matches := sorted(root.glob(name)):
                files += matches
                break
        else:
            raise FileNotFoundError(f"provider {provider.name!r} names a missing source {name!r}")
    return files


def _roots() -> list[Path]:
    import aimills_kernels

    return [Path(p) for p in aimills_kernels.__path__]


@lru_cache(maxsize=1)
def _triton_minor() -> str:
    try:
        return ".".join(metadata.version("triton").split(".")[:2])
    except metadata.PackageNotFoundError:
        return "none"


def cache_file() -> Path:
    base = os.environ.get("AIMILLS_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "aimills_kernels"
    )
    return Path(base) / "records.json"


@lru_cache(maxsize=1)
def _all() -> tuple[dict[str, Any], ...]:
    return tuple(_read(_PACKAGE / "records.json") + _read(cache_file()))


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        entries = list(json.loads(path.read_text())["records"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        warnings.warn(f"{path} is no record file and is not used", stacklevel=2)
        return []
    found = [r for r in entries if _is_record(r)]
    if wrong := len(entries) - len(found):
        warnings.warn(f"{path}: {wrong} entries are no records and are not used", stacklevel=2)
    return found


def _is_record(entry: Any) -> bool:
    kinds = {"op": str, "provider": str, "sm": int}
    return isinstance(entry, dict) and all(isinstance(entry.get(k), t) for k, t in kinds.items())


def add(records: list[dict[str, Any]]) -> Path:
    """Put records into the user's cache, in place of those they renew."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    renewed = {(r["op"], r["provider"], r["sm"]) for r in records}
    kept = [r for r in _read(path) if (r["op"], r["provider"], r["sm"]) not in renewed]
    write_whole(path, json.dumps({"records": kept + records}, indent=1) + "\n")
    _all.cache_clear()
    from aimills_kernels import _dispatch  # which imports this module

    _dispatch._plans.clear()  # they were made without these records
    return path
