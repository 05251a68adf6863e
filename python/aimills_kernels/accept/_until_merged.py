"""Stands in for criteria, judge and report until they are merged; then this file goes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aimills_kernels.accept import page, report
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import FAIL, PASS, UNKNOWN, Finding, code_of
from aimills_kernels.accept.session import NotRun, Session, Stage
from aimills_kernels.accept.verdict import _WORDS, Verdict, _without

_FATAL = ("missing", "hang", "timeout", "crash")


def choose(pod: Pod) -> Any:
    return None


def load(name: str) -> Any:
    raise ValueError(f"--criteria {name}: this build knows no criteria")


def judge(pod: Pod, criteria: Any) -> list[Finding]:
    found = [
        Finding("rank.missing", FAIL, "pod", f"rank {r} of {pod.world} left no journal")
        for r in pod.missing
    ]
    for rank in pod.ranks:
        found += _rank(rank, f"{rank.node} {rank.device}")
    return found


def _rank(rank: Any, where: str) -> list[Finding]:
    def said(rule: str, status: str, text: str) -> Finding:
        return Finding(rule, status, where, text)

    found = [said("stage", UNKNOWN, f"{s['title']} {s['status']}: {s.get('failure')}")
             for s in rank.stages().values() if s["status"] in ("failed", "cut")]  # fmt: skip
    found += [said("check", FAIL, f"{c['op']} {c['case']} {c['provider']} on {c['device']}: "
                   f"{'; '.join(c['failures'])}")
              for c in rank.of("check") if c["status"] == "wrong"]  # fmt: skip
    found += [said("bench", FAIL, f"{r['op']} {r['case']} {r['provider']} on {r['device']}, timed: "
                   f"{r['failure']}")
              for b in rank.of("bench") for r in b["record"]["rows"] if r["failure"]]  # fmt: skip
    found += [said("gap", UNKNOWN, f"{n['what']} not run: {n['reason']}")
              for n in rank.of("not_run") if n["gap"]]  # fmt: skip
    found += [said(e["name"], FAIL, e["text"]) for e in rank.of("event") if e["name"] in _FATAL]
    if rank.ended is None:
        found.append(said("end", FAIL, f"{where}: the process died and left no word"))
    elif rank.ended == "stopped":
        reason = rank.entries[-1].get("reason")
        found.append(said("end", UNKNOWN, f"{where}: the run was stopped: {reason}"))
    if any(c["status"] == "right" for c in rank.of("check")):
        found.append(said("check", PASS, f"{where}: there are right checks"))
    elif not any(f.status == FAIL for f in found):
        found.append(said("check", UNKNOWN, "nothing was found right: no check ran"))
    return found


def rendered(pod: Pod, findings: list[Finding], criteria: Any = None) -> dict[str, str]:
    first, code = pod.ranks[0].begin, code_of(findings)
    cpu = all(r.device == "cpu" for r in pod.ranks)
    where = "CPU, not pod hardware" if cpu else ", ".join(sorted({r.sku for r in pod.ranks}))
    settings = SimpleNamespace(
        devices=[r.device for r in pod.ranks], exclude=set(first["exclude"]), seed=first["seed"],
        ops=[SimpleNamespace(name=n) for n in first["ops"]],
    )  # fmt: skip
    session = Session(settings)  # type: ignore[arg-type]
    session.environment = first["environment"]
    told: dict[str, int] = {}
    for rank in pod.ranks:
        session.checks += [_data(e) for e in rank.of("check")]
        session.benches += [e["record"] for e in rank.of("bench")]
        session.not_run += [NotRun(**_of(NotRun, e)) for e in rank.of("not_run")]
        session.stages += [Stage(**_of(Stage, e)) for e in rank.stages().values()]
        told |= {e["text"]: 1 for e in rank.of("event") if e["name"] == "not checked"}
        session.clip |= next((e["detail"] for e in rank.of("event") if e["name"] == "clip"), {})
    without = _without(session) if code == 0 else ""
    reasons = tuple(f.text for s in (FAIL, UNKNOWN) for f in findings if f.status == s)
    left = ", ".join(sorted(settings.exclude))
    not_checked = (*([f"what was excluded by name: {left}"] if left else []), *told)
    verdict = Verdict(code, f"{_WORDS[code]}{without} ({where})", reasons, not_checked)
    data = report.build(session, verdict)
    text = json.dumps(data, indent=1, allow_nan=False, default=str) + "\n"
    return {"report.html": page.render(json.loads(text)), "report.json": text}


def write(files: dict[str, str], folder: Path) -> None:
    from aimills_kernels._records import write_whole

    for name, text in files.items():
        write_whole(folder / name, text)


def _data(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in ("n", "prev", "time", "clock", "kind")}


def _of(kind: type, entry: dict[str, Any]) -> dict[str, Any]:
    return {f.name: entry[f.name] for f in fields(kind) if f.name in entry}
