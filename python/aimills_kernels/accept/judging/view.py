"""One rank's journal as the judge reads it: by metric, and with a name for a person."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from aimills_kernels.accept.evidence import Rank
from aimills_kernels.accept.metrics import HIGHER, LOWER, METRICS

Entry = dict[str, Any]


@dataclass
class View:
    rank: Rank
    measures: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    kinds: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for entry in self.rank.entries:
            self.kinds[entry["kind"]].append(entry)
            if entry["kind"] == "measure":
                self.measures[entry["metric"]].append(entry)

    @property
    def where(self) -> str:
        return self.rank.where

    def of(self, kind: str) -> list[Entry]:
        return self.kinds.get(kind, [])

    def value(self, metric: str, entries: list[Entry] | None = None) -> Any:
        """The value that counts; None where there is none. The worst of several: who measures
        again until it fits, has not passed. Of several sizes (`bytes`) the best, since small ones
        are slow by nature; counts of work add up."""
        entries = self.measures.get(metric, []) if entries is None else entries
        if not entries:
            return None
        known, values = METRICS.get(metric), [e["value"] for e in entries]
        better = known.better if known else None
        if not all(is_number(v) for v in values):
            return next(v for v in values if not is_number(v))
        if known and better == HIGHER and known.unit == "1":
            return sum(values)
        if better == HIGHER:
            sizes: dict[Any, Any] = {}
            for entry in entries:
                size = (entry.get("detail") or {}).get("bytes")
                sizes[size] = min(entry["value"], sizes.get(size, math.inf))
            return max(sizes.values())
        return max(values) if better == LOWER else values[-1]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
