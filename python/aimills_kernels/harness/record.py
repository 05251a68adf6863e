"""The record of a benchmark run: one form for the CLI, pytest and acceptance.

What a record holds is declared here once. `schema()` gives it as a JSON Schema (2020-12), which
`load` holds every file against; `docs/record.schema.json` is what this module prints.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from aimills_kernels._files import write_whole

SCHEMA = 2
KIND = "bench"
WINDOW_S = 5.0  # of energy, at the least: NVML moves its counter some ten times a second

Spec = dict[str, Any]
TEXT: Spec = {"type": "string"}
FLAG: Spec = {"type": "boolean"}
COUNT: Spec = {"type": "integer", "minimum": 0}
FIGURE: Spec = {"type": "number"}
ABOVE_0: Spec = {"type": "number", "exclusiveMinimum": 0}
WORDS: Spec = {"type": "string", "minLength": 1}


def maybe(spec: Spec) -> Spec:
    """The same, or null where it was not had."""
    kinds = spec["type"] if isinstance(spec["type"], list) else [spec["type"]]
    return {**spec, "type": [*kinds, "null"]}


def about(text: str, spec: Spec) -> Spec:
    return {**spec, "description": text}


def array(items: Spec) -> Spec:
    return {"type": "array", "items": items}


def closed(fields: dict[str, Spec]) -> Spec:
    """With these fields and no other."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def opened(fields: dict[str, Spec]) -> Spec:
    """With these fields, and others that nobody has to know."""
    return {"type": "object", "properties": fields, "required": list(fields)}


_SPREAD: dict[str, Spec] = {
    "n": about("samples taken", COUNT),
    "median_us": maybe(FIGURE),
    "q1_us": maybe(FIGURE),
    "q3_us": maybe(FIGURE),
    "low_us": about("lower end of a 95 % interval of the median", maybe(FIGURE)),
    "high_us": about("upper end of it", maybe(FIGURE)),
    "min_us": maybe(FIGURE),
    "noise": about("interquartile range over the median", maybe(FIGURE)),
    "samples_us": about("every sample, in the order taken; none is left out", array(FIGURE)),
    "flags": about(
        "what was wrong with samples: name of the flaw to indices into samples_us",
        {"type": "object", "additionalProperties": array(COUNT)},
    ),
    "modes": about(
        "the modes of a distribution with more than one: median and share of the samples",
        array(closed({"median_us": FIGURE, "share": FIGURE})),
    ),
}

TELEMETRY = closed(
    {
        "source": about("nvml, or what stands in for it", TEXT),
        "sm_mhz": about("SM clock, median over the samples", maybe(FIGURE)),
        "sm_mhz_min": maybe(FIGURE),
        "sm_mhz_samples": about("of each sample", array(maybe(FIGURE))),
        "memory_mhz": maybe(FIGURE),
        "power_w": about("mean power while timed", maybe(FIGURE)),
        "temperature_c": about("highest GPU temperature while timed", maybe(FIGURE)),
        "throttle": about(
            "clocks event reason to its share of the samples, each bit on its own",
            {"type": "object", "additionalProperties": FIGURE},
        ),
        "reasons_samples": about("NVML's mask of them at each sample", array(maybe(COUNT))),
        "missing": about("counters that could not be read, and why", array(TEXT)),
    }
)

ENERGY = closed(
    {
        "joules": about("per call: energy over calls; never 0", ABOVE_0),
        "watts": about("mean over the window", ABOVE_0),
        "idle_watts": about("mean before it, nothing running", maybe(ABOVE_0)),
        "window_s": about("seconds, 5 at the least", {**FIGURE, "minimum": WINDOW_S}),
        "calls": {**COUNT, "minimum": 1},
        "level": about("what was measured, and with what counter", WORDS),
    }
)

GPU = opened(
    {
        "name": maybe(WORDS),
        "pci_device": about("with pci_subdevice what is sold under that name", maybe(TEXT)),
        "pci_subdevice": maybe(TEXT),
        "uuid": maybe(TEXT),
        "driver": maybe(TEXT),
        "power_limit_w": maybe(ABOVE_0),
        "clock_application_sm_mhz": maybe(ABOVE_0),
        "ecc": maybe(TEXT),
        "mig": maybe(TEXT),
    }
)

ENVIRONMENT = opened(
    {
        "package": about("the version of aimills-kernels", TEXT),
        "git": about("of the folder whose code is measured; null where it is in none",
                     maybe(opened({"commit": maybe(TEXT), "dirty": maybe(FLAG)}))),
        "python": TEXT,
        "torch": maybe(opened({"version": TEXT, "cuda": maybe(TEXT)})),
        "triton": maybe(TEXT),
        "cuda_driver": about("the newest CUDA that the driver serves", maybe(TEXT)),
        "cpu": opened({"model": maybe(TEXT), "usable_cores": maybe(COUNT),
                       "threads": maybe(COUNT)}),
        "gpus": array(GPU),
        "missing": about("facts that could not be had, and why", array(TEXT)),
    }
)  # fmt: skip

_WHAT: dict[str, Spec] = {
    "op": TEXT,
    "case": TEXT,
    "dims": {"type": "object"},
    "scaled": about("dims that are smaller on this device, as declared", {"type": "object"}),
    "provider": about("the contestant; a candidate's name ends with its tiles", TEXT),
    "config": about("the tiles of a candidate; null for the built-in ones, and for what has none",
                     maybe(TEXT)),
    "peer": about("someone else's implementation", FLAG),
    "device": TEXT,
    "model": about("the model that the case is a layer of", maybe(TEXT)),
    "count": about("calls of it in one forward pass of the model", maybe(COUNT)),
    "flops": about("least operations of the op", FIGURE),
    "bytes": about("least bytes it moves", FIGURE),
    "unit": about("the arithmetic whose peak the operations are held against", TEXT),
}  # fmt: skip

_VERDICT: dict[str, Spec] = {
    "validated": FLAG,
    "failure": about("why there is no time: something was wrong", maybe(TEXT)),
    "skipped": about("why there is no time: it did not run", maybe(TEXT)),
    "gap": about("skipped, though it could have run", FLAG),
    "suspect": about("why the time may not be what it seems", maybe(TEXT)),
    "note": maybe(TEXT),
    "about": maybe(TEXT),
    "apart": maybe(TEXT),
    "differing": maybe(FIGURE),
    "error_used": about("largest share of the tolerance that the error takes", maybe(FIGURE)),
}

_TIME: dict[str, Spec] = {
    "mode": about(
        "stream: queued calls; graph: replayed in a CUDA graph; host: what the host spends",
        {"type": ["string", "null"], "enum": ["stream", "graph", "host", None]},
    ),
    "clock": {"type": ["string", "null"], "enum": ["events", "monotonic", None]},
    "cold": about("caches were flushed before each sample", maybe(FLAG)),
    **_SPREAD,
    "warm": about("the same without a flush, back to back", maybe(closed(_SPREAD))),
    "host_us": about("median time that the host spends on a call", maybe(FIGURE)),
    "touched_bytes": about("of all sets of inputs and outputs that the samples went through",
                            maybe(COUNT)),
    "tflops": maybe(FIGURE),
    "gbps": maybe(FIGURE),
    "sol": about("least time by the ceilings of this run over the median", maybe(FIGURE)),
    "sol_spec": about("the same by the maker's figures", maybe(FIGURE)),
    "sol_bound": {"type": ["string", "null"], "enum": ["flops", "bytes", None]},
    "telemetry": maybe(TELEMETRY),
    "energy": maybe(ENERGY),
    "energy_missing": about("why there is no energy though the case asks for it", maybe(TEXT)),
}  # fmt: skip

ROW = closed({**_WHAT, **_VERDICT, **_TIME})
RECORD = closed(
    {
        "schema": {"type": "integer", "const": SCHEMA},
        "kind": {"type": "string", "const": KIND},
        "created": about("ISO 8601, UTC", TEXT),
        "options": about("what the run was asked for: budget, seed, mode", {"type": "object"}),
        "environment": about("the machine; what could not be had is null", ENVIRONMENT),
        "ceilings": about("measured in this run; `spec` is the maker's", {"type": "object"}),
        "rows": array(ROW),
    }
)  # fmt: skip


def schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"aimills-kernels benchmark record, version {SCHEMA}",
        **RECORD,
    }


def blank(**known: Any) -> dict[str, Any]:
    """A row with these fields, and all others empty."""
    empty = {"array": list, "object": dict, "integer": int, "boolean": bool}
    row: dict[str, Any] = {}
    for name, spec in ROW["properties"].items():
        kind = spec["type"]
        row[name] = empty[kind]() if isinstance(kind, str) and kind in empty else None
    return row | known


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of those that a session made on one device: rows one after the other, and what
    was spent on all of them. The rest is that of the first."""
    seconds: dict[str, float] = {}
    for part in parts:
        for name, value in part["options"]["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
    options = {
        **parts[0]["options"],
        "budget_s": sum(part["options"]["budget_s"] for part in parts),
        "seconds": seconds,
        "lost": next((why for part in parts if (why := part["options"]["lost"])), None),
    }
    return {**parts[0], "options": options, "rows": [row for part in parts for row in part["rows"]]}


def save(record: dict[str, Any], path: Path | str) -> None:
    """Write a record as JSON, whole or not at all."""
    text = json.dumps(record, indent=1, allow_nan=False, default=str)
    write_whole(Path(path), text + "\n")


def load(path: Path | str) -> dict[str, Any]:
    """Read a record; ValueError with the path and the field where it is none."""
    path = Path(path)
    try:
        record = json.loads(
            path.read_text(), parse_constant=_figure, parse_float=_figure, parse_int=_whole
        )
        json.dumps(record, ensure_ascii=False).encode()  # half a character is no text
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON, or cut short: {error}") from error
    except RecursionError:
        raise ValueError(f"{path}: not a benchmark record: it is nested too deeply") from None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise ValueError(f"{path}: not a benchmark record")
    if record.get("schema") != SCHEMA:
        raise ValueError(f"{path}: has schema {record.get('schema')!r}, not {SCHEMA}")
    if wrong := mistake_in(record, RECORD, ""):
        raise ValueError(f"{path}: {wrong}")
    if wrong := _contradiction(record):
        raise ValueError(f"{path}: {wrong}")
    return record


_LEAST, _MOST = 1e-100, 1e100  # far beyond what is measured, and their products are numbers
_CONTROLS = set(map(chr, (*range(32), *range(127, 160))))  # they steer a terminal
_KEY = ("op", "case", "provider", "device", "model", "mode")


def _contradiction(record: dict[str, Any]) -> str | None:
    """What no schema can say: that a record was changed by hand or put together wrongly."""
    try:
        datetime.fromisoformat(record["created"])
    except ValueError:
        return f"created is {record['created']!r:.60}, not a time as ISO 8601 has it"
    seen: set[tuple[Any, ...]] = set()
    for index, row in enumerate(record["rows"]):
        where, key = f"rows[{index}]", tuple(row[name] for name in _KEY)
        if unprintable := [name for name in key if _CONTROLS & set(name or "")]:
            return f"{where} has a name that can't be printed, {unprintable[0]!r:.60}"
        if key in seen:
            return f"{where} is a second row of {' '.join(key[:3])} on {row['device']}"
        seen.add(key)
        if row["failure"] and row["median_us"] is not None:
            return f"{where} has a time in spite of a failure"
        if said := _other_figures(where, row):
            return said
        if row["warm"] is not None and (said := _other_figures(f"{where}.warm", row["warm"])):
            return said
    return None


def _other_figures(where: str, spread: dict[str, Any]) -> str | None:
    """Statistics that don't follow from their samples."""
    taken = spread["samples_us"]
    if spread["median_us"] is None:
        return None
    if spread["n"] != len(taken):
        return f"{where} says n is {spread['n']} and holds {len(taken)} samples"
    if taken:
        for name, value in (("median_us", statistics.median(taken)), ("min_us", min(taken))):
            held = spread[name]
            if held is not None and not math.isclose(held, value, rel_tol=1e-4, abs_tol=2e-3):
                return f"{where}.{name} is {held:g}, and {value:g} by its samples"
    beyond = [i for at in spread["flags"].values() for i in at if i >= len(taken)]
    if beyond:
        return f"{where}.flags names sample {beyond[0]} of {len(taken)}"
    return None


def _figure(text: str) -> float:
    """JSON has no NaN and no infinity, and a record no number of which one could be made."""
    value = float(text)
    if value == 0 or _LEAST <= abs(value) <= _MOST:
        return value
    raise ValueError(f"{text:.40} is no number that a run can give")


def _whole(text: str) -> int:
    _figure(text)
    return int(text)


_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list,), "object": (dict,), "null": (type(None),),
}  # fmt: skip


def mistake_in(value: Any, spec: Spec, where: str) -> str | None:
    """What is wrong with `value`, in the terms of JSON Schema that are used above and for the
    report of acceptance; None where nothing is."""
    name = where or "the record"
    kinds = spec["type"] if isinstance(spec["type"], list) else [spec["type"]]
    allowed = tuple(t for kind in kinds for t in _KINDS[kind])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        return f"{name} is {value!r:.60}, not {' or '.join(kinds)}"
    if "enum" in spec and value not in spec["enum"]:
        return f"{name} is {value!r:.60}, not one of {', '.join(map(str, spec['enum']))}"
    if "const" in spec and value != spec["const"]:
        return f"{name} is {value!r:.60}, not {spec['const']!r}"
    if "minimum" in spec and value is not None and value < spec["minimum"]:
        return f"{name} is {value!r}, below {spec['minimum']:g}"
    if "exclusiveMinimum" in spec and value is not None and value <= spec["exclusiveMinimum"]:
        return f"{name} is {value!r}, not above {spec['exclusiveMinimum']}"
    if "minLength" in spec and value == "":
        return f"{name} is empty"
    if isinstance(value, list):
        items = spec.get("items")
        each = ((v, items, f"{where}[{i}]") for i, v in enumerate(value) if items)
        return _first(mistake_in(*one) for one in each)
    if isinstance(value, dict):
        return _mistake_in_fields(value, spec, where)
    return None


def _mistake_in_fields(value: dict[str, Any], spec: Spec, where: str) -> str | None:
    fields = spec.get("properties", {})
    for name in spec.get("required", ()):
        if name not in value:
            return f"{where or 'the record'} lacks {name!r}"
    dot, others = f"{where}." if where else "", spec.get("additionalProperties", True)
    for name, held in value.items():
        if name in fields:
            found = mistake_in(held, fields[name], f"{dot}{name}")
        elif others is False:
            found = f"{where or 'the record'} has an unknown field {name!r}"
        else:
            found = None if others is True else mistake_in(held, others, f"{dot}{name}")
        if found:
            return found
    return None


def _first(found: Any) -> str | None:
    return next((text for text in found if text), None)


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
