"""What a rule found. The verdict follows from findings and from nothing else. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PASS, WARN, FAIL, UNKNOWN = "pass", "warn", "fail", "unknown"
HAS_TO_BE = "has to be: "  # in a text, before the threshold in words
ACCEPTED, REJECTED, INCOMPLETE = 0, 1, 2


@dataclass(frozen=True)
class Finding:
    """One rule on one device, node or pod.

    rule       its id in the criteria, as "memory.copy.floor"
    status     UNKNOWN: the rule could not be asked, which is never a pass
    where      "node-3 cuda:5", a node, or "pod"
    measured   in `unit`; None where nothing was measured
    threshold  what it was held against, in `unit`
    source     where the threshold comes from
    text       one sentence for a person, with the figures
    """

    rule: str
    status: str
    where: str
    text: str
    metric: str | None = None
    measured: Any = None
    threshold: Any = None
    unit: str | None = None
    source: str | None = None


def code_of(findings: Iterable[Finding]) -> int:
    """A failure rejects; what is unknown, or no finding at all, leaves it incomplete."""
    states = {f.status for f in findings}
    if FAIL in states:
        return REJECTED
    return INCOMPLETE if UNKNOWN in states or not states else ACCEPTED
