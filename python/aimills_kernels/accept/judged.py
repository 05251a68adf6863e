"""From journals alone to findings and the report's files: by a rank, the parent, or offline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimills_kernels.accept import evidence
from aimills_kernels.accept.criteria import choose, load
from aimills_kernels.accept.criteria.lint import sound
from aimills_kernels.accept.evidence import Pod, Rank
from aimills_kernels.accept.evidence_folder import refuse_signed
from aimills_kernels.accept.findings import FAIL, UNKNOWN, Finding, code_of
from aimills_kernels.accept.judge import judge
from aimills_kernels.accept.report import rendered, write

# What entries raise that are chained as a journal's are, and are no run's.
NO_RUN = (KeyError, TypeError, AttributeError, IndexError, OverflowError)


def no_run(folder: Path, error: Exception) -> str:
    text = f"what the journals in {folder} hold was written by no run, or by one of another version"
    return f"{text} ({type(error).__name__}: {error})".replace("\n", " ")


@dataclass(frozen=True)
class Outcome:
    code: int
    report: dict[str, Any]
    findings: tuple[Finding, ...]
    signed: Path | None = None
    unsigned: str = ""  # why not, where it should have been


def criteria_for(begin: dict[str, Any], named: str | None) -> Any:
    """Those named by the user, or those of the device that a begin entry tells of."""
    return load(named) if named else choose(evidence.pod([Rank(({"kind": "begin", **begin},))]))


def told(criteria: Any) -> dict[str, Any]:
    """As a begin entry states them."""
    names = ("name", "version", "digest")
    return {n: str(v) for n in names if (v := getattr(criteria, n, None)) is not None}


def merge(folder: Path, named: str | None = None) -> Outcome:
    """Read the journals in `folder`, judge them, write the report's files beside them. `Used` where
    they are signed."""
    refuse_signed(folder)
    pod = evidence.read(folder)
    criteria = sound(named) if named else _of_the_run(pod)
    findings = findings_of(pod, criteria)
    files = rendered(pod, findings, criteria)
    try:
        write(files, folder)
    except OSError as error:
        why = error.strerror or error
        text = f"the report in {folder} can't be written ({why}); the journals are kept, and"
        raise OSError(error.errno, f"{text} `accept merge` makes it from them") from error
    return Outcome(code_of(findings), json.loads(files["report.json"]), tuple(findings))


def findings_of(pod: Pod, criteria: Any) -> list[Finding]:
    return [*judge(pod, criteria), *_twice(pod), *_other_criteria(pod, criteria)]


def _of_the_run(pod: Pod) -> Any:
    """Criteria of a file are not chosen by the device."""
    paths = {str(r.begin["criteria_file"]) for r in pod.ranks if r.begin.get("criteria_file")}
    for path in sorted(p for p in paths if Path(p).is_file()):
        return load(path)
    return choose(pod)


def _twice(pod: Pod) -> list[Finding]:
    """A launcher that binds badly gives one GPU to two ranks, and another to none."""
    seen: dict[str, str] = {}
    found = []
    for rank in pod.ranks:
        where, uuid = rank.where, rank.begin.get("uuid")
        if uuid and uuid in seen:
            text = f"{where} and {seen[uuid]} are one and the same GPU ({uuid})"
            found.append(Finding("rank.device", FAIL, where, text))
        elif uuid:
            seen[uuid] = where
    return found


def _other_criteria(pod: Pod, criteria: Any) -> list[Finding]:
    """The criteria that the run began with, and these, must be the same."""
    now = told(criteria).get("digest")
    said = (r.begin.get("criteria") or {} for r in pod.ranks)
    then = {str(criteria["digest"]) for criteria in said if criteria.get("digest")}
    if now is None or then <= {now}:
        return []
    text = (
        "the criteria at hand are not those that the run began with: name the right file with "
        "--criteria"
    )
    return [Finding("criteria.changed", UNKNOWN, "pod", text, None, now, ", ".join(sorted(then)))]
