"""The report in Prometheus's text format, for the textfile collector of node_exporter. What was not
measured has no sample: there is no NaN, and 0 is only written where 0 was measured. Needs no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from aimills_kernels.accept.metrics import METRICS
from aimills_kernels.accept.values import is_share, title

Row = dict[str, Any]

PREFIX = "aimills_accept_"
_STATUSES = ("pass", "warn", "fail", "unknown")
# Base units as Prometheus names them.
_SUFFIXES = {
    "B/s": "_bytes_per_second", "B": "_bytes", "FLOP/s": "_flops", "FLOP/J": "_flop_per_joule",
    "W": "_watts", "Hz": "_hertz", "degC": "_celsius", "1/s": "_per_second", "1/J": "_per_joule",
    "1": "",
}  # fmt: skip


def render(data: Row) -> str:
    lines: list[str] = []
    for name, text, samples in _families(data):
        known = [(labels, value) for labels, value in samples if _finite(value)]
        if known:
            lines += [f"# HELP {name} {_help(text)}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in known]
    return "\n".join(lines) + "\n"


def name_of(metric: str) -> str:
    """ "memory.copy" in B/s is aimills_accept_memory_copy_bytes_per_second."""
    unit = METRICS[metric].unit if metric in METRICS else "1"
    suffix = "_ratio" if is_share(metric) else _SUFFIXES[unit]
    return PREFIX + re.sub("[^a-zA-Z0-9_]", "_", metric) + suffix


Sample = tuple[dict[str, Any], Any]


def _families(data: Row) -> Iterator[tuple[str, str, Iterable[Sample]]]:
    """The mark stands on every sample, so that none can be taken for a pod's that is not."""
    mark = {"hardware": data["hardware"]}
    criteria = data["criteria"] or {}
    about = mark | {"run": data["run"], "profile": data["profile"], "version": data["version"],
                    "verdict": data["verdict"], "criteria": criteria.get("name"),
                    "criteria_digest": criteria.get("digest")}  # fmt: skip
    yield f"{PREFIX}info", "what was judged, and by what", [(about, 1)]
    text = "0 accepted, 1 rejected, 2 incomplete"
    yield f"{PREFIX}exit_code", text, [(mark, data["exit_code"])]
    created = _seconds(data["created"])
    yield f"{PREFIX}created_timestamp_seconds", "time of the last entry", [(mark, created)]
    counts = [
        (mark | {"status": s}, sum(f["status"] == s for f in data["findings"])) for s in _STATUSES
    ]
    yield f"{PREFIX}findings", "findings by their status", counts
    yield f"{PREFIX}devices_missing", "ranks without a journal", [(mark, len(data["missing"]))]
    for metric in METRICS:
        if METRICS[metric].unit != "text":
            yield name_of(metric), title(metric), _measured(data, metric, mark)


def _measured(data: Row, metric: str, mark: dict[str, str]) -> Iterator[Sample]:
    for device in data["devices"]:
        if metric in device["measures"]:
            labels = {k: device[k] for k in ("node", "device", "uuid", "sku")}
            yield mark | labels | {"rank": device["rank"]}, device["measures"][metric]["value"]


def _finite(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) and math.isfinite(value)


def _number(value: Any) -> str:
    return repr(int(value) if isinstance(value, bool) else value)


def _seconds(created: str) -> float | None:
    return datetime.fromisoformat(created).timestamp() if created else None


def _labels(labels: dict[str, Any]) -> str:
    pairs = [f'{k}="{_escaped(str(v))}"' for k, v in labels.items() if v is not None]
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
