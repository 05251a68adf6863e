"""Criteria files, read strictly: what is not understood is an error that names file and key."""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from aimills_kernels.accept import units
from aimills_kernels.accept.criteria.model import (
    CEILING,
    EQUAL,
    FLOOR,
    ONE_OF,
    SAME,
    TESTS,
    Criteria,
    Outliers,
    Rule,
)
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.message_sizes import SIZES
from aimills_kernels.accept.metrics import HIGHER, METRICS, PROFILES, is_collective_rate

FOLDER = Path(__file__).parent
SCHEMA = 1
COMMON, UNKNOWN_GPU, CPU = "common", "unknown-gpu", "cpu"
_TOP = {"schema": int, "name": str, "version": str, "title": str, "type": str, "devices": list,
        "spec": str, "extends": str, "without": list, "sources": dict, "rules": dict,
        "outliers": dict, "unknown": dict}  # fmt: skip
_NEEDED = ("schema", "name", "version", "title")
_RULE = {"metric", "source", "warn", "of", "gpus", "nodes", "size", "since", "severity", *TESTS}
_OUTLIERS = {"metrics", "warn", "fail", "always", "deviations", "least", "source"}


class CriteriaError(ValueError):
    """A file that can't be used; the sentence names the file and the key."""


def names() -> list[str]:
    """The criteria that the package brings."""
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != COMMON)


def load(name: str | Path) -> Criteria:
    """Criteria by the name of those that the package brings, or by the path of a file."""
    path = find(name)
    return _shipped(path) if path.parent == FOLDER else _built(path)


@cache
def _shipped(path: Path) -> Criteria:
    return _built(path)


def choose(pod: Pod) -> Criteria:
    """Those for the devices that most of the pod's ranks have; for a GPU that no file knows, the
    rules that hold for every GPU."""
    shipped = [load(name) for name in names()]
    if pod.ranks and all(r.device.partition(":")[0] == "cpu" for r in pod.ranks):
        return next(c for c in shipped if c.name == CPU)
    for sku, _ in Counter(r.sku for r in pod.ranks).most_common():
        for criteria in shipped:
            if criteria.judges(sku, "cuda"):
                return criteria
    return next(c for c in shipped if c.name == UNKNOWN_GPU)


def find(name: str | Path) -> Path:
    """Where criteria of that name are; what is in the file is not looked at."""
    shipped = FOLDER / f"{name}.toml"
    if isinstance(name, str) and "/" not in name and shipped.is_file():
        return shipped
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir() and str(name):
        raise CriteriaError(f"{name}: it is a folder; name a criteria file")
    if path.suffix or path.parent != Path():
        raise CriteriaError(f"{name}: there is no such criteria file")
    close = difflib.get_close_matches(str(name), names(), 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise CriteriaError(f"unknown criteria {str(name)!r}; there are {', '.join(names())}{meant}")


# ---- the file and what it extends


def _merged(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file over what it extends: rules, sources and outliers by name, the rest as a whole."""
    if path in above:
        raise CriteriaError(f"{path}: extends: it extends itself")
    own = _parsed(path)
    base: dict[str, Any] = {}
    judged = [
        rule.get("metric") for rule in own.get("rules", {}).values() if isinstance(rule, dict)
    ]
    if (parent := own.pop("extends", None)) is not None:
        beside = path.parent / parent
        base = _merged(beside if beside.is_file() else find(parent), (*above, path))
        base["unknown"] = {k: v for k, v in base["unknown"].items() if k not in judged}
    for key in ("sources", "rules", "outliers", "unknown"):
        own[key] = {**base.get(key, {}), **own.get(key, {})}
    for name in own.pop("without", []):
        if not isinstance(name, str) or not {name} & {*own["rules"], *own["outliers"]}:
            raise CriteriaError(f"{path}: without: there is no rule {name!r} to leave out")
        own["rules"].pop(name, None)
        own["outliers"].pop(name, None)
    return {**{k: v for k, v in base.items() if k in _TOP}, **own}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CriteriaError(f"{path}: can't be read: {error}") from None
    except (ValueError, RecursionError) as error:  # numbers too long, tables too deep
        raise CriteriaError(f"{path}: is no TOML: {error}") from None
    for key, value in data.items():
        if key not in _TOP:
            raise CriteriaError(f"{path}: {key}: unknown key; there are {', '.join(_TOP)}")
        if type(value) is not _TOP[key]:
            raise CriteriaError(f"{path}: {key}: {value!r} should be {_kind(_TOP[key])}")
    for key in _NEEDED:
        if key not in data:
            raise CriteriaError(f"{path}: {key}: is missing")
        if not data[key]:
            raise CriteriaError(f"{path}: {key}: {data[key]!r} says nothing")
    if data["schema"] != SCHEMA:
        raise CriteriaError(f"{path}: schema: {data['schema']} should be {SCHEMA}")
    return data


def _built(path: Path) -> Criteria:
    data = _merged(path)
    kind = data.get("type", "gpu")
    if kind not in ("gpu", "cpu"):
        raise CriteriaError(f"{path}: type: {kind!r} should be gpu or cpu")
    sources = _texts(path, "sources", data["sources"])
    rules = [_rule(_At(path, f"rules.{i}", sources), i, r) for i, r in data["rules"].items()]
    outliers = [
        _outliers(_At(path, f"outliers.{i}", sources), i, o) for i, o in data["outliers"].items()
    ]
    unknown = _texts(path, "unknown", data["unknown"])
    for metric in unknown:
        if metric not in METRICS:
            raise CriteriaError(f"{path}: unknown.{metric}: is no metric")
    devices = data.get("devices", [])
    if not all(isinstance(d, str) and d for d in devices) or len({*devices}) < len(devices):
        raise CriteriaError(f"{path}: devices: {devices!r} should be a list of texts, each once")
    spec = data.get("spec", devices[0] if devices else None)
    return Criteria(
        data["name"], data["version"], data["title"], kind, tuple(devices), spec,
        tuple(rules), tuple(outliers), dict(sorted(unknown.items())),
    )  # fmt: skip


def _texts(path: Path, key: str, found: Mapping[str, Any]) -> dict[str, str]:
    for name, value in found.items():
        if not isinstance(value, str) or not value.strip():
            raise CriteriaError(f"{path}: {key}.{name}: {value!r} should be a text")
    return dict(found)


# ---- one rule


class _At:
    """The place in a file that an error names."""

    def __init__(self, path: Path, key: str, sources: Mapping[str, str]):
        self.path, self.key, self.sources = path, key, sources

    def error(self, key: str, text: str) -> CriteriaError:
        return CriteriaError(f"{self.path}: {self.key}.{key}: {text}")

    def table(self, found: Any, known: set[str]) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise CriteriaError(f"{self.path}: {self.key}: {found!r} should be a table")
        for key in found:
            if key not in known:
                raise self.error(key, f"unknown key; there are {', '.join(sorted(known))}")
        return found

    def source(self, found: Mapping[str, Any]) -> str:
        name = found.get("source")
        if name is None:
            raise self.error("source", "is missing; every figure states where it comes from")
        if not isinstance(name, str) or name not in self.sources:
            raise self.error("source", f"{name!r} is not one of [sources]")
        return self.sources[name]

    def quantity(self, key: str, value: Any, unit: str) -> tuple[float, bool]:
        """In `unit`, and whether it was written in %."""
        if isinstance(value, dict):
            if set(value) != {"value", "unit"}:
                raise self.error(key, f"{value!r} should be a table of value and unit")
            value = f"{value['value']} {value['unit']}"
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if unit == "1" and abs(value) <= sys.float_info.max:
                return float(value), False
            if unit == "1":
                raise self.error(key, f"{value!r:.60} is not finite")
            raise self.error(key, f"{value!r} has no unit; it should be in {unit}")
        if not isinstance(value, str):
            raise self.error(key, f"{value!r} should be a number with its unit, in {unit}")
        try:
            number, got = units.parse(value)
        except ValueError as error:
            raise self.error(key, str(error)) from None
        if got != unit:
            raise self.error(key, f"{value!r} is not in {unit}")
        return number, value.rstrip().endswith("%")


def _rule(at: _At, name: str, raw: Any) -> Rule:
    found = at.table(raw, _RULE)
    metric = found.get("metric")
    if not _is_metric(metric):
        close = difflib.get_close_matches(str(metric), METRICS, 1)
        raise at.error("metric", f"{metric!r} is no metric" + f"; near it: {close}" * bool(close))
    unit = METRICS[metric].unit
    tests = [t for t in TESTS if t in found]
    if len(tests) != 1:
        raise at.error("metric", f"needs one of {', '.join(TESTS)}, and has {len(tests)}")
    test = tests[0]
    of = _of(at, found, unit) if "of" in found else None
    limit, percent = _limit(at, test, found[test], "1" if of is not None else unit)
    warn = None
    if "warn" in found:
        if test not in (FLOOR, CEILING):
            raise at.error("warn", "goes with a floor or a ceiling")
        warn, _ = at.quantity("warn", found["warn"], "1" if of is not None else unit)
        if (warn < limit) if test == FLOOR else (warn > limit):
            raise at.error("warn", f"{found['warn']!r} warns only after {test} has failed")
    if of is not None and test not in (FLOOR, CEILING):
        raise at.error("of", "goes with a floor or a ceiling")
    return Rule(
        name, metric, test, limit, at.source(found), warn, of, _count(at, found, "gpus"),
        _one(at, "since", found.get("since", PROFILES[0]), PROFILES),
        _one(at, "severity", found.get("severity", "fail"), ("fail", "warn")), percent,
        _nodes(at, found, metric), _size(at, found, metric),
    )  # fmt: skip


def _is_metric(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and name in METRICS


def _limit(at: _At, test: str, value: Any, unit: str) -> tuple[Any, bool]:
    if test == SAME:
        if value is not True:
            raise at.error(SAME, f"{value!r} should be true")
        return None, False
    if test == ONE_OF:
        if not isinstance(value, list) or not value:
            raise at.error(ONE_OF, f"{value!r} should be a list")
        return tuple(_limit(at, EQUAL, v, unit)[0] for v in value), False
    if unit == "text":
        if test != EQUAL or not isinstance(value, str):
            raise at.error(test, f"{value!r}: a metric of texts takes equal, one_of or same")
        return value, False
    return at.quantity(test, value, unit)


def _of(at: _At, found: Mapping[str, Any], unit: str) -> float | str:
    value = found["of"]
    if isinstance(value, str) and value in METRICS:
        if METRICS[value].unit != unit:
            raise at.error("of", f"{value!r} is in {METRICS[value].unit}, not in {unit}")
        return value
    number, _ = at.quantity("of", value, unit)
    if number <= 0:
        raise at.error("of", f"{value!r} should be above 0")
    return number


def _count(at: _At, found: Mapping[str, Any], key: str) -> tuple[int, int | None] | None:
    value = found.get(key)
    if value is None:
        return None
    if type(value) is int and value > 0:
        return value, value
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,6}\+", value):
        return int(value[:-1]), None
    raise at.error(key, f'{value!r} should be a number of {key}, or as "2+"')


def _nodes(at: _At, found: Mapping[str, Any], metric: str) -> tuple[int, int | None] | None:
    if "nodes" in found and not is_collective_rate(metric):
        raise at.error("nodes", "goes with the bandwidth of a collective")
    return _count(at, found, "nodes")


def _size(at: _At, found: Mapping[str, Any], metric: str) -> int | None:
    if "size" not in found:
        return None
    if not is_collective_rate(metric):
        raise at.error("size", "goes with the bandwidth of a collective")
    value = round(at.quantity("size", found["size"], "B")[0])
    known = sorted({*SIZES["full"], *SIZES["gate"]})
    if value not in known:
        said = ", ".join(f"{size >> 20} MiB" for size in known)
        raise at.error("size", f"{found['size']!r} is none that is measured; there are {said}")
    return value


def _one(at: _At, key: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise at.error(key, f"{value!r} should be one of {', '.join(known)}")
    return str(value)


def _outliers(at: _At, name: str, raw: Any) -> Outliers:
    found = at.table(raw, _OUTLIERS)
    for key in sorted(_OUTLIERS - {"source"}):
        if key not in found:
            raise at.error(key, "is missing")
    metrics = found["metrics"]
    if not isinstance(metrics, list) or not metrics:
        raise at.error("metrics", f"{metrics!r} should be a list of metrics")
    for metric in metrics:
        if not _is_metric(metric) or METRICS[metric].better != HIGHER:
            raise at.error("metrics", f"{metric!r} is no metric of which more is better")
    share: Callable[[str], float] = lambda key: at.quantity(key, found[key], "1")[0]  # noqa: E731
    warn, fail, always = share("warn"), share("fail"), share("always")
    if not 0 < warn <= fail <= always < 1:
        raise at.error("warn", "warn, fail and always should be shares that grow in this order")
    least = found["least"]
    if type(least) is not int or least < 3:
        raise at.error("least", f"{least!r} should be a number of devices from 3 on")
    deviations = share("deviations")
    if deviations <= 0:
        raise at.error("deviations", f"{deviations!r} should be above 0")
    return Outliers(
        name, tuple(metrics), warn, fail, always, deviations, least, at.source(found)
    )  # fmt: skip


def _kind(type_: type) -> str:
    return {int: "a whole number", str: "a text", list: "a list", dict: "a table"}[type_]
