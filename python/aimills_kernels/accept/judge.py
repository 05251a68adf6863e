"""From evidence and criteria to findings: what is wrong, what is unknown, what is right.

Pure: it reads no file and measures nothing, so the same journals give the same findings on any
machine. Whatever a rule needs and nobody measured is unknown, never a pass. Needs no torch.
"""

from __future__ import annotations

from aimills_kernels.accept.criteria import Criteria
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import FAIL, UNKNOWN, WARN, Finding
from aimills_kernels.accept.judging import pod as of_pod
from aimills_kernels.accept.judging import ranks as of_ranks
from aimills_kernels.accept.judging import rules as of_rules
from aimills_kernels.accept.judging.view import View


def judge(pod: Pod, criteria: Criteria) -> list[Finding]:
    """Every finding on every device, node and the pod as a whole, the gravest first."""
    views = [View(rank) for rank in pod.ranks]
    found = [
        *of_ranks.judge(pod, views),
        *_devices(views, criteria),
        *of_rules.judge(pod, views, criteria),
        *of_pod.judge(views, criteria),
    ]
    order = {FAIL: 0, UNKNOWN: 1, WARN: 2}
    return sorted(found, key=lambda f: order.get(f.status, 3))


def _devices(views: list[View], criteria: Criteria) -> list[Finding]:
    """Whether the criteria speak of these devices at all."""

    def judges(view: View) -> bool:
        return criteria.judges(view.rank.sku, view.rank.device)

    if criteria.type == "cpu" and views and all(judges(v) for v in views):
        text = "CPU, not pod hardware: only right and wrong are judged, no speed"
        return [Finding("device.kind", WARN, "pod", text)]
    found = []
    for view in views:
        if judges(view):
            continue
        said = f"{view.where}: {view.rank.sku!r}"
        if criteria.devices or criteria.type == "cpu":
            text = f"{said} is not the {criteria.title} that the criteria {criteria.name} judge"
            found.append(Finding("device.model", FAIL, view.where, text, "gpu.name", view.rank.sku,
                                 ", ".join(criteria.devices), "text"))  # fmt: skip
        else:
            text = (
                f"{said} has no criteria: it was measured, and nobody has said what it must reach"
            )
            found.append(Finding("device.model", UNKNOWN, view.where, text, "gpu.name",
                                 view.rank.sku, unit="text"))  # fmt: skip
    return found
