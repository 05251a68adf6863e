"""What report.json holds, as a JSON Schema (2020-12); `docs/accept.schema.json` is what this module
prints. Needs no torch.
"""

from __future__ import annotations

import json
from typing import Any

from aimills_kernels.harness.record import (
    COUNT,
    FIGURE,
    FLAG,
    TEXT,
    Spec,
    about,
    array,
    closed,
    maybe,
)

_ANY: Spec = {"type": ["number", "string", "boolean", "null", "array", "object"]}
_OBJECT: Spec = {"type": "object"}


def _one_of(*words: str) -> Spec:
    return {"type": "string", "enum": list(words)}


def _by_name(items: Spec) -> Spec:
    return {"type": "object", "additionalProperties": items}


_MEASURE = closed({"value": about("that is judged", _ANY), "unit": TEXT, "n": COUNT,
                   "detail": _OBJECT})  # fmt: skip
_END = closed({"value": FIGURE, "where": TEXT})
_DEVICE = closed(
    {
        "where": about("as findings name it: node and device", TEXT),
        "node": TEXT,
        "rank": {"type": "integer"},
        "device": TEXT,
        "uuid": maybe(TEXT),
        "sku": about("the model, as the driver names it", TEXT),
        "ended": about("done or stopped; null: the process left no word", maybe(TEXT)),
        "journal": about("name of its file", maybe(TEXT)),
        "entries": COUNT,
        "head": about("hash of the journal's last line, which stands for all of them", TEXT),
        "measures": about("by metric", _by_name(_MEASURE)),
    }
)
_FINDING = closed(
    {
        "rule": TEXT,
        "status": _one_of("pass", "warn", "fail", "unknown"),
        "where": TEXT,
        "text": TEXT,
        "metric": maybe(TEXT),
        "measured": about("in `unit`; null: nothing was measured, or not a finite number", _ANY),
        "threshold": _ANY,
        "unit": maybe(TEXT),
        "source": about("where the threshold comes from", maybe(TEXT)),
    }
)
_COMPARED = closed(
    {
        "unit": TEXT,
        "n": about("devices", COUNT),
        "median": FIGURE,
        "mad": about("median absolute deviation from the median", FIGURE),
        "low": _END,
        "high": _END,
    }
)
_COLUMN = array(maybe(FIGURE))
_TRACE: Spec = {
    "type": "object",
    "properties": {
        "where": TEXT,
        "samples": about("readings in the journal; the columns are steps of equal length", COUNT),
        "seconds": about("middle of each step, from the first reading", array(FIGURE)),
        "power_w": about("mean", _COLUMN),
        "temperature_c": about("highest", _COLUMN),
        "memory_temperature_c": about("highest", _COLUMN),
        "sm_mhz": about("mean", _COLUMN),
        "cpu_mhz": about("mean, where the device is a CPU", _COLUMN),
        "cpu_share": about("of the CPU's cores that work, mean", _COLUMN),
        "throttle": about("reason to run slower: share of the samples", _by_name(_COLUMN)),
    },
    "required": ["where", "samples", "seconds", "throttle"],
    "additionalProperties": False,
}
_SUMS: dict[str, Spec] = {
    "idle_w": maybe(FIGURE),
    "load_w": maybe(FIGURE),
    "limit_w": maybe(FIGURE),
    "burn_joules": about("by the device's counter, during the burn", maybe(FIGURE)),
    "run_joules": about("the same, over all samples of the run", maybe(FIGURE)),
}
_ENERGY = closed(
    {
        "level": about("what was measured, and what not", TEXT),
        "devices": array(
            closed({"where": TEXT, **_SUMS,
                    "per_joule": about("metric to work per joule", _by_name(FIGURE))})
        ),
        "pod": about("sums; null where a device has no value", closed(_SUMS)),
        "sweep": about(
            "matmul at lower power limits, where that was asked for: FLOP/s and FLOP/J",
            array(closed({"where": TEXT, "limit_w": FIGURE, "rate": maybe(FIGURE),
                          "per_joule": maybe(FIGURE)})),
        ),
    }
)  # fmt: skip
_EU = closed(
    {
        "point": about("of the regulation, as Annex II, 1(e)", TEXT),
        "field": about("its symbol there, subscripts on the line; empty: it has none", TEXT),
        "title": TEXT,
        "unit": maybe(TEXT),
        "measured": _one_of("partly", "no"),
        "value": maybe(FIGURE),
        "note": TEXT,
    }
)
_EVENT = closed({"time": TEXT, "where": TEXT, "stage": maybe(TEXT), "name": TEXT, "text": TEXT})
_CHECKSUM = closed(
    {
        "stage": TEXT,
        "name": TEXT,
        "digests": array(closed({"digest": TEXT, "devices": COUNT, "where": TEXT})),
    }
)
_STAGE = closed(
    {
        "name": TEXT,
        "title": TEXT,
        "status": about("the worst of its devices; cut: it began and has no end", TEXT),
        "seconds": about("of the device that took longest", FIGURE),
        "summary": TEXT,
        "failure": maybe(TEXT),
        "devices": COUNT,
        "of": about("devices of the pod that left a journal", COUNT),
    }
)
_NOT_RUN = closed(
    {
        "name": about("what --exclude takes", TEXT),
        "what": TEXT,
        "reason": TEXT,
        "gap": about("acceptance needs it", FLAG),
        "device": TEXT,
        "count": COUNT,
    }
)
_CHECK: Spec = {
    "type": "object",
    "properties": {
        "stage": TEXT, "op": TEXT, "case": TEXT, "provider": TEXT, "device": TEXT,
        "dims": _OBJECT, "scaled": _OBJECT, "own": FLAG,
        "status": _one_of("right", "wrong", "not run"),
        "used": about("largest share of the tolerance", maybe(FIGURE)),
        "failures": array(TEXT), "skipped": maybe(TEXT),
        "devices": about("that gave the same answer; this is the one nearest to the tolerance",
                         COUNT),
    },
    "required": ["stage", "op", "case", "provider", "device", "status", "devices"],
}  # fmt: skip

_REPORT: dict[str, Spec] = {
    "headline": about("the verdict with the devices, and whether they were a pod's", TEXT),
    "schema": {"type": "integer", "const": 2},
    "kind": {"type": "string", "const": "accept"},
    "verdict": _one_of("accepted", "rejected", "incomplete"),
    "exit_code": {"type": "integer", "enum": [0, 1, 2]},
    "hardware": about(
        "what was under test: only a report of `pod` says anything of a pod",
        _one_of("pod", "cpu", "simulated", "unknown"),
    ),
    "simulated": FLAG,
    "reasons": about("rules that are broken, then those that could not be asked", array(TEXT)),
    "warnings": array(TEXT),
    "not_checked": about("what a reader might take for checked", array(TEXT)),
    "created": about("time of the last entry of the journals, ISO 8601, UTC", TEXT),
    "seconds": about("of the device that took longest, over its stages", FIGURE),
    "version": about("of the library at the run", TEXT),
    "run": maybe(TEXT),
    "profile": maybe(TEXT),
    "world": about("devices that there had to be", COUNT),
    "missing": about("ranks without a journal", array(COUNT)),
    "criteria": about(
        "what it was judged by; `at_the_run` is the digest that the run stated, `from` whether the "
        "package brings these criteria or a file did",
        maybe(closed({k: maybe(TEXT) for k in ("name", "version", "digest", "at_the_run")}
                     | {"from": _one_of("package", "file")})),
    ),
    "devices": array(_DEVICE),
    "findings": about("every rule on every device, node or pod", array(_FINDING)),
    "comparison": about("by metric, where two devices at the least have it", _by_name(_COMPARED)),
    "traces": about("of the burn, by device", array(_TRACE)),
    "energy": _ENERGY,
    "eu_2024_1364": about("fields of Delegated Regulation (EU) 2024/1364", array(_EU)),
    "events": about("crashes, resumptions, silence", array(_EVENT)),
    "checksums": about("bits of results, by the devices that made them", array(_CHECKSUM)),
    "ops": array(TEXT),
    "excluded": about("what was left out by name", array(TEXT)),
    "seed": COUNT,
    "stages": array(_STAGE),
    "not_run": array(_NOT_RUN),
    "clip": about("the video that was decoded", maybe(_OBJECT)),
    "validations": about("checks of correctness; wrong ones each", array(_CHECK)),
    "bench": about("records of times, as record.schema.json describes them, of the first devices",
                   array(_OBJECT)),
    "bench_left_out": about("records of further devices, in their journals", COUNT),
    "environment": about("of the first rank", _OBJECT),
    "environment_differs": about(
        "facts that are not the same on all nodes",
        array(closed({"fact": TEXT, "values": _by_name(TEXT)})),
    ),
}  # fmt: skip


def schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "aimills-kernels acceptance report, version 2",
        **closed(_REPORT),
    }


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
