"""The report as JUnit XML: a test case for each finding, and one for the checks of each op. What is
unknown is an error, since a CI would take a skipped case for a pass. Needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

Row = dict[str, Any]

# What XML 1.0 does not allow, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(data: Row) -> str:
    suites = [_rules(data)]
    if data["validations"]:
        suites.append(_checks(data["validations"]))
    for suite in suites:
        suite.set("timestamp", data["created"][:19] or "1970-01-01T00:00:00")
        suite.insert(0, _properties(data))
    root = Element("testsuites", name=clean(f"aimills-kernels accept: {data['headline']}"))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(s.get(name, "0")) for s in suites)))
    root.set("time", f"{data['seconds']:.3f}")
    root.extend(suites)
    indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _properties(data: Row) -> Element:
    criteria = data["criteria"] or {}
    known = {
        "verdict": data["verdict"], "exit_code": data["exit_code"], "hardware": data["hardware"],
        "simulated": str(data["simulated"]).lower(), "run": data["run"],
        "profile": data["profile"], "version": data["version"],
        "criteria": criteria.get("name"), "criteria_digest": criteria.get("digest"),
    }  # fmt: skip
    made = Element("properties")
    for name, value in known.items():
        if value is not None:
            SubElement(made, "property", name=name, value=clean(str(value)))
    return made


def _rules(data: Row) -> Element:
    cases = [_finding(f) for f in data["findings"]]
    if not cases:
        case = Element("testcase", classname="pod", name="findings", time="0")
        _because(case, "error", "unknown", "no rule was asked, so nothing is known")
        cases = [case]
    return _suite("rules", cases)


def _finding(found: Row) -> Element:
    case = Element("testcase", classname=clean(found["where"]), name=clean(found["rule"]), time="0")
    if found["status"] == "fail":
        _because(case, "failure", "fail", found["text"])
    elif found["status"] == "unknown":
        _because(case, "error", "unknown", found["text"])
    else:
        SubElement(case, "system-out").text = clean(f"{found['status']}: {found['text']}")
    return case


def _checks(rows: Sequence[Row]) -> Element:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["stage"], row["op"]), []).append(row)
    return _suite("checks", [_group(*key, found) for key, found in groups.items()])


def _group(stage: str, op: str, rows: Sequence[Row]) -> Element:
    case = Element("testcase", classname=clean(f"checks.{stage}"), name=clean(op), time="0")
    wrong = [r for r in rows if r["status"] == "wrong"]
    right = sum(r["devices"] for r in rows if r["status"] == "right")
    if wrong:
        told = [
            f"{r['case']} {r['provider']} on {r['device']}: {'; '.join(r['failures'])}"
            for r in wrong
        ]
        _because(case, "failure", "wrong", "\n".join(told))
    elif not right:
        reasons = dict.fromkeys(str(r["skipped"]) for r in rows)
        SubElement(case, "skipped", message=clean("; ".join(reasons)))
    else:
        SubElement(case, "system-out").text = f"{right} right"
    return case


def _because(case: Element, tag: str, kind: str, text: str) -> None:
    first = clean(text).split("\n", 1)[0]
    SubElement(case, tag, type=kind, message=first).text = clean(text)


def _suite(name: str, cases: Sequence[Element]) -> Element:
    made = Element("testsuite", name=name, tests=str(len(cases)))
    for tag, key in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        made.set(key, str(sum(case.find(tag) is not None for case in cases)))
    made.set("time", "0")
    made.extend(cases)
    return made
