"""The report as data, and its files. All of it follows from the journals and the findings, with no
clock and no machine asked, so that anyone can make it anew. Needs no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aimills_kernels._files import write_together
from aimills_kernels._version import __version__
from aimills_kernels.accept import eu, facts, junit, page, prometheus, traces
from aimills_kernels.accept.criteria import load as shipped
from aimills_kernels.accept.criteria import names
from aimills_kernels.accept.evidence import DATA, REPORTS, Pod
from aimills_kernels.accept.findings import (
    ACCEPTED,
    FAIL,
    INCOMPLETE,
    REJECTED,
    UNKNOWN,
    WARN,
    Finding,
    code_of,
)
from aimills_kernels.accept.metrics import METRICS

SCHEMA = 2
KIND = "accept"
FILES = REPORTS
WORDS = {ACCEPTED: "accepted", REJECTED: "rejected", INCOMPLETE: "incomplete"}
_NAMED = 6  # exclusions in the headline
_PLACES = 8  # devices in a reason, as many as a node has GPUs


def build(pod: Pod, findings: Sequence[Finding], criteria: Any = None) -> dict[str, Any]:
    """The report of a pod, as `accept.schema` describes it.

    criteria    what the findings were judged by; None where nothing was known of the device
    """
    first = pod.ranks[0].begin if pod.ranks else {}
    code = code_of(findings)
    devices = facts.devices(pod)
    kept, left = facts.benches(pod)
    used = traces.energy(pod, devices)
    hardware = facts.hardware(pod)
    found = {
        "headline": _headline(pod, code, hardware),
        "schema": SCHEMA,
        "kind": KIND,
        "verdict": WORDS[code],
        "exit_code": code,
        "hardware": hardware,
        "simulated": hardware == facts.SIMULATED,
        "reasons": _texts(findings, FAIL) + _texts(findings, UNKNOWN),
        "warnings": _texts(findings, WARN),
        "not_checked": _not_checked(pod, findings, criteria),
        "created": max((e["time"] for r in pod.ranks for e in r.entries), default=""),
        "seconds": round(_seconds(pod), 3),
        "version": str(first.get("version") or __version__),
        "run": facts.text_or_none(first.get("run")),
        "profile": facts.text_or_none(first.get("profile")),
        "world": pod.world,
        "missing": pod.missing,
        "criteria": criteria_of(pod, criteria),
        "devices": devices,
        "findings": [_finding(f) for f in findings],
        "comparison": facts.comparison(devices),
        "traces": traces.traces(pod),
        "energy": used,
        "eu_2024_1364": eu.fields(used["pod"]),
        "events": facts.events(pod),
        "checksums": facts.checksums(pod),
        "ops": list(first.get("ops") or []),
        "excluded": _excluded(pod),
        "seed": int(first.get("seed") or 0),
        "stages": facts.stages(pod),
        "not_run": facts.not_run(pod),
        "clip": (facts.first_event(pod, "clip") or {}).get("detail"),
        "validations": facts.checks(pod),
        "bench": kept,
        "bench_left_out": left,
        "environment": first.get("environment") or {},
        "environment_differs": facts.differing(pod),
    }
    return json.loads(json.dumps(found, default=str))


def rendered(pod: Pod, findings: Sequence[Finding], criteria: Any = None) -> dict[str, str]:
    """The text of each file by its name. `report.json` comes last: where it is, the others are."""
    data = build(pod, findings, criteria)
    texts = {
        "report.html": page.render(data, pictures(pod)),
        "junit.xml": junit.render(data),
        "metrics.prom": prometheus.render(data),
        DATA: json.dumps(data, indent=1, allow_nan=False) + "\n",
    }
    # A host's name need be no UTF-8, and half a character can't be written.
    return {name: text.encode(errors="replace").decode() for name, text in texts.items()}


def write(files: dict[str, str], folder: Path) -> dict[str, Path]:
    """All of them or none."""
    write_together({folder / name: text for name, text in files.items()})
    return {name: folder / name for name in files}


def pictures(pod: Pod) -> list[dict[str, Any]]:
    """What the video op made: events named "picture", with `data` as a data URI of a PNG."""
    return [
        {"caption": str(e.get("text", "")), **(e.get("detail") or {})}
        for rank in pod.ranks[:1]
        for e in rank.of("event")
        if e["name"] == "picture"
    ]


# ---- the parts


def _headline(pod: Pod, code: int, hardware: str) -> str:
    without = _without(_excluded(pod)) if code == ACCEPTED else ""
    return f"{WORDS[code]}{without} ({_what(pod, hardware)})"


def _what(pod: Pod, hardware: str) -> str:
    """The devices under test: "2 x NVIDIA H200", or that it was no pod hardware."""
    if hardware == facts.CPU:
        return "CPU, not pod hardware"
    names = [r.sku for r in pod.ranks]
    said = ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names)) or "no device"
    if pod.missing:
        said += f", {len(pod.missing)} of {pod.world} missing"
    return f"SIMULATED {said}, not pod hardware" if hardware == facts.SIMULATED else said


def _excluded(pod: Pod) -> list[str]:
    return sorted({str(name) for r in pod.ranks for name in r.begin.get("exclude") or ()})


def _without(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" without {', '.join(names[:_NAMED])}{more}"


def _texts(findings: Sequence[Finding], status: str) -> list[str]:
    """One sentence each, with the place where it does not name it; what several devices have in the
    same words is one."""
    places: dict[tuple[str, str], list[str]] = {}
    for f in findings:
        if f.status == status:
            said = f.text.removeprefix(f"{f.where}: ")
            named = f.where == "pod" or (said == f.text and _names(f.text, f.where))
            places.setdefault((f.rule, said), []).extend([] if named else [f.where])
    return [
        f"{facts.listed(dict.fromkeys(names), _PLACES)}: {said}" if names else said
        for (_, said), names in places.items()
    ]


def _names(text: str, place: str) -> bool:
    """As a whole: who names cuda:10 does not name cuda:1."""
    return re.search(rf"(?<!\w){re.escape(place)}(?!\w)", text) is not None


def _finding(found: Finding) -> dict[str, Any]:
    row = asdict(found)
    return row | {k: _finite(row[k]) for k in ("measured", "threshold")}


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN; the finding's text says what happened."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def criteria_of(pod: Pod, criteria: Any) -> dict[str, Any] | None:
    """What the pod was judged by. `from`: whose name anybody can write into a file of their own."""
    said = pod.ranks[0].begin.get("criteria") if pod.ranks else None
    if criteria is None and not said:
        return None
    said = said if isinstance(said, dict) else {"name": said}
    return {
        "name": facts.text_or_none(getattr(criteria, "name", None) or said.get("name")),
        "version": facts.text_or_none(getattr(criteria, "version", None) or said.get("version")),
        "digest": (digest := facts.text_or_none(getattr(criteria, "digest", said.get("digest")))),
        "at_the_run": facts.text_or_none(said.get("digest")),
        "from": "package" if digest in {shipped(n).digest for n in names()} else "file",
    }


def _seconds(pod: Pod) -> float:
    """Of the device that took longest, over its stages."""
    return max(
        (sum(float(s.get("seconds") or 0.0) for s in r.stages().values()) for r in pod.ranks),
        default=0.0,
    )


# What a reader might take for checked, and the metrics of which one at least tells of it.
_PARTS = (
    ("memory errors (ECC, remapped rows) and errors in the driver's log", ("ecc.", "xid.")),
    ("bandwidth of the device memory", ("memory.copy", "memory.read", "memory.write")),
    ("arithmetic at speed", ("gemm.",)),
    ("a sustained load: temperature, power, clocks and throttling", ("burn.",)),
    ("silent data corruption: repeats bit by bit", ("sdc.",)),
    ("links between GPUs and between nodes", ("link.p2p", "collective.")),
    ("real workloads: training, decoding, video", ("work.",)),
    ("energy per operation", ("energy.", "work.train_energy", "work.decode_energy")),
)
_NO_FIGURE = ("outlier.", "physics.", "collective.all_reduce.rule")  # these say how good nothing is
_NEVER = "power at the wall, cooling, and whatever no rule or check below names"


def _not_checked(pod: Pod, findings: Sequence[Finding], criteria: Any) -> list[str]:
    names = _excluded(pod)
    found = [f"what was excluded by name: {', '.join(names)}"] if names else []
    told = (e for r in pod.ranks for e in r.of("event") if e["name"] == "not checked")
    found += dict.fromkeys(str(e.get("text", "")) for e in told)
    metrics = {e["metric"] for r in pod.ranks for e in r.of("measure")}
    found += [text for text, starts in _PARTS if not any(m.startswith(starts) for m in metrics)]
    judged = {f.metric for f in findings if not f.rule.startswith(_NO_FIGURE)}
    unknown = [m for m in (criteria.unknown if criteria else ()) if m in metrics - judged]
    if unknown:
        titles = "; ".join(METRICS[m].title for m in unknown)
        found.append(f"whether these are good, for want of a rule ({titles})")
    return [*found, _NEVER]
