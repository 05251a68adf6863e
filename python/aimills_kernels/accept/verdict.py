"""The verdict. It follows from what was recorded, and what is missing never counts as right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aimills_kernels.accept.session import FAILED, WRONG, Session

ACCEPTED, REJECTED, INCOMPLETE = 0, 1, 2
_WORDS = {ACCEPTED: "accepted", REJECTED: "rejected", INCOMPLETE: "incomplete"}
_NAMED = 6  # exclusions in the headline
_LATER = (
    "a sustained load: temperature, power, clocks and throttling over hours",
    "memory errors (ECC, remapped rows) and errors in the driver's log",
    "links between GPUs and between nodes",
)


@dataclass(frozen=True)
class Verdict:
    code: int
    headline: str
    reasons: tuple[str, ...]
    not_checked: tuple[str, ...]

    @property
    def word(self) -> str:
        return _WORDS[self.code]


def conclude(session: Session) -> Verdict:
    wrong = wrong_results(session)
    open_ = [f"{n.what} not run: {n.reason}" for n in session.gaps]
    open_ += [f"{s.title} failed: {s.failure}" for s in session.stages if s.status == FAILED]
    right = sum(c["status"] == "right" for c in session.checks)
    if not right and not wrong:
        open_.append("nothing was found right: no check ran")
    code = REJECTED if wrong else INCOMPLETE if open_ else ACCEPTED
    without = _without(session) if code == ACCEPTED else ""
    return Verdict(
        code,
        f"{_WORDS[code]}{without} ({where(session.settings.devices)})",
        tuple(wrong + open_),
        tuple(not_checked(session)),
    )


def wrong_results(session: Session) -> list[str]:
    found = [
        f"{c['op']} {c['case']} {c['provider']} on {c['device']}: {'; '.join(c['failures'])}"
        for c in session.checks
        if c["status"] == WRONG
    ]
    for record in session.benches:
        found += [
            f"{r['op']} {r['case']} {r['provider']} on {r['device']}, timed: {r['failure']}"
            for r in record["rows"]
            if r["failure"]
        ]
    return found


def where(devices: Sequence[torch.device]) -> str:
    """The devices under test: "2 x NVIDIA H200", or that it was no pod hardware."""
    if all(d.type == "cpu" for d in devices):
        return "CPU, not pod hardware"
    names = [torch.cuda.get_device_name(d) for d in devices]
    return ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names))


def not_checked(session: Session) -> list[str]:
    """What a reader might take for checked and what was not."""
    if any(d.type == "cuda" for d in session.settings.devices):
        return [*_excluded(session), *_later(session)]
    kernels = [
        f"{op.name} ({', '.join(p.name for p in op.providers if _gpu_only(p))})"
        for op in session.settings.ops
        if any(_gpu_only(p) for p in op.providers)
    ]
    found = [f"the GPU kernels: {', '.join(kernels)}"] if kernels else []
    return [
        *_excluded(session),
        *found,
        "the speed of a GPU against its roofline",
        *_later(session),
    ]


def _gpu_only(provider: object) -> bool:
    return not provider.vendor and "cpu" not in provider.devices  # type: ignore[attr-defined]


def _without(session: Session) -> str:
    names = sorted(session.settings.exclude)
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" without {', '.join(names[:_NAMED])}{more}"


def _excluded(session: Session) -> list[str]:
    names = ", ".join(sorted(session.settings.exclude))
    return [f"what was excluded by name: {names}"] if names else []


def _later(session: Session) -> list[str]:
    measured = any(row.get("energy") for record in session.benches for row in record["rows"])
    return [*_LATER, *([] if measured else ["energy per operation"])]
