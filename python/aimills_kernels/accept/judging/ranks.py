"""Did every process do its work, to the end, and say so?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import FAIL, PASS, UNKNOWN, WARN, Finding
from aimills_kernels.accept.judging.view import Entry, View, is_number
from aimills_kernels.accept.units import show
from aimills_kernels.harness.reasons import BITS, REASONS
from aimills_kernels.harness.reasons import UNKNOWN as UNNAMED

_JUMP_S = 1.0  # wall clock against monotonic clock; NTP slews less than the share
_SLEW = 0.001
# Share of the samples beyond what the counter of time says: one of them is wrong.
_DISAGREE = 0.1
_SOFT = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "sync_boost",
    "display_clock_setting",
    "reliability",
)  # of a healthy GPU, too
_HARD = [name for name in REASONS if name not in _SOFT]
_SHARED = ("run", "world", "profile", "simulated")
_MOST = 12  # wrong checks of one device that are named
_EVENTS = {  # what an event says by itself; others only tell the story
    "xid": FAIL,
    "crash": FAIL,
    "hang": FAIL,
    "timeout": FAIL,
    "missing": FAIL,
    "sdc": FAIL,
    "link": FAIL,
    "stopped": UNKNOWN,
    "telemetry": UNKNOWN,
    "resumed": WARN,
}


def judge(pod: Pod, views: list[View]) -> Iterator[Finding]:
    if not views:
        yield Finding("pod.empty", UNKNOWN, "pod", "the pod has no journal: nothing was measured")
    yield from _complete(pod, views)
    yield from _one_run(views)
    for view in views:
        yield from _ended(view)
        yield from _stages(view)
        yield from _checks(view)
        yield from _gaps(view)
        yield from _events(view)
        yield from _clock(view)
        yield from _counters(view)
        yield from _reasons(view)


# ---- all ranks of one run


def _complete(pod: Pod, views: list[View]) -> Iterator[Finding]:
    for rank in pod.missing:
        node, said = _node_of(rank, views)
        text = f"rank {rank} of {pod.world} ({said}) left no journal"
        yield Finding("rank.missing", FAIL, node or "pod", text)
    counts = Counter(v.rank.rank for v in views)
    for rank, count in counts.items():
        if count > 1:
            text = f"{count} journals say that they are of rank {rank}"
            yield Finding("rank.twice", FAIL, "pod", text)
    yield from _covered(pod, views)


def _covered(pod: Pod, views: list[View]) -> Iterator[Finding]:
    """GPUs of a node that no rank was given: nobody knows how they are."""
    for node, ranks in pod.by_node().items():
        told = [v.value("node.gpus") for v in views
                if v.rank.node == node and v.rank.device.startswith("cuda")]  # fmt: skip
        gpus, here = max(filter(is_number, told), default=0), len(ranks)
        if gpus > here:
            text = (
                f"{node} has {gpus} GPUs, of which {here} were tested: a run of some of them, by "
                "--device or CUDA_VISIBLE_DEVICES, is no acceptance of the node"
            )
            yield Finding("pod.coverage", UNKNOWN, node, text, "node.gpus", here, gpus, "1")


def _node_of(rank: int, views: list[View]) -> tuple[str | None, str]:
    """Its name, where a rank of it left a journal, and the words for it."""
    blocks = _blocks(views)
    name = next((node for node, ranks in blocks.items() if rank in ranks), None)
    widths = {len(ranks) for ranks in blocks.values()}
    if name is not None or len(widths) != 1:
        return name, name or "its node is unknown"
    return None, f"node number {rank // widths.pop()}, name unknown"


def _blocks(views: list[View]) -> dict[str, range]:
    """The ranks of each node, as its journals state them; none where they are dealt out in turn."""
    found: dict[str, range] = {}
    for view in views:
        width, local = (view.rank.begin.get(k) for k in ("local_world", "local_rank"))
        if not (isinstance(width, int) and width > 0 and isinstance(local, int)):
            continue
        first = view.rank.rank - local
        if found.setdefault(view.rank.node, range(first, first + width)).start != first:
            return {}
    return found


def _one_run(views: list[View]) -> Iterator[Finding]:
    for key in _SHARED:
        values = Counter(str(v.rank.begin.get(key)) for v in views)
        if len(values) > 1:
            said = ", ".join(f"{value} ({count})" for value, count in values.most_common())
            text = f"the journals are not of one run: they disagree about {key}: {said}"
            yield Finding(f"run.{key}", FAIL, "pod", text)


# ---- one rank


def _ended(view: View) -> Iterator[Finding]:
    begins = view.of("begin")
    if not begins:
        text = f"{view.rank.path or 'a journal'}: nobody says whose it is"
        yield Finding("rank.begin", FAIL, view.where, text)
    if len(begins) > 1 or view.rank.begin.get("resumed"):
        text = f"{view.where}: the run was interrupted and resumed; what came before stays here"
        yield Finding("rank.resumed", WARN, view.where, text)
    if (deaths := _deaths(view)) > 1:
        text = (
            f"{view.where}: the process died {deaths} times before the run passed, which is no "
            "pass: begin a new run"
        )
        yield Finding("rank.deaths", UNKNOWN, view.where, text)
    if view.rank.ended == "done":
        yield Finding("rank.end", PASS, view.where, f"{view.where}: the run came to its end")
    elif view.rank.ended is None:
        last = next((s for s, e in view.rank.stages().items() if e["status"] == "cut"), None)
        during = f" during {last}" if last else ""
        text = f"{view.where}: the process died{during} and left no word"
        yield Finding("rank.died", FAIL, view.where, text)
    else:
        reason = next((e.get("reason") for e in reversed(view.of("end"))), None)
        text = f"{view.where}: the run was stopped before its end: {reason or 'no reason given'}"
        yield Finding("rank.stopped", UNKNOWN, view.where, text)


def _deaths(view: View) -> int:
    """How often it was gone on with after an end without a word."""
    pairs = itertools.pairwise(view.rank.entries)
    return sum(later["kind"] == "begin" and e["kind"] != "end" for e, later in pairs)


def _stages(view: View) -> Iterator[Finding]:
    stages = view.rank.stages()
    if not any(e["status"] == "passed" for e in stages.values()):
        text = f"{view.where}: no stage passed"
        yield Finding("stage.any", UNKNOWN, view.where, text)
    # Those that `_gaps` tells, with reasons.
    told = {e.get("stage") for e in view.rank.now("not_run") if e.get("gap")}
    for name, entry in stages.items():
        status, rule = entry["status"], f"stage.{name}"
        title = entry.get("title") or name
        if status == "wrong":
            said = entry.get("failure") or entry.get("summary") or "its results are wrong"
            yield Finding(rule, FAIL, view.where, f"{view.where}: {title}: {said}")
        elif status == "cut":
            text = f"{view.where}: {title} began and never ended"
            yield Finding(rule, FAIL, view.where, text)
        elif status == "excluded":
            text = f"{view.where}: {title} was left out by name"
            yield Finding(rule, WARN, view.where, text)
        elif status != "passed" and not (status == "not run" and name in told):
            said = entry.get("failure") or entry.get("summary") or status
            yield Finding(rule, UNKNOWN, view.where, f"{view.where}: {title} {status}: {said}")


def _checks(view: View) -> Iterator[Finding]:
    rows = view.of("check")
    right = sum(r["status"] == "right" for r in rows)
    wrong = [r for r in rows if r["status"] == "wrong"]
    for row in wrong[:_MOST]:
        said = "; ".join(map(str, row.get("failures") or [])) or "the result is wrong"
        text = f"{view.where}: {row.get('op')} {row.get('case')} {row.get('provider')}: {said}"
        yield Finding("check.wrong", FAIL, view.where, text)
    if len(wrong) > _MOST:
        text = f"{view.where}: {len(wrong) - _MOST} more checks are wrong"
        yield Finding("check.wrong", FAIL, view.where, text, None, len(wrong), 0, "1")
    if not right and not wrong:
        text = f"{view.where}: no check of a kernel's results ran"
        yield Finding("check.any", UNKNOWN, view.where, text, None, 0, 1, "1")
    elif not wrong:
        text = f"{view.where}: {right} checks of kernels' results are right"
        yield Finding("check.right", PASS, view.where, text, None, right, 1, "1")
    for entry in view.of("bench"):
        for row in entry["record"].get("rows", []):
            if row.get("failure"):
                what = f"{row.get('op')} {row.get('case')} {row.get('provider')}, timed"
                text = f"{view.where}: {what}: {row['failure']}"
                yield Finding("bench.wrong", FAIL, view.where, text)


def _gaps(view: View) -> Iterator[Finding]:
    for entry in view.rank.now("not_run"):
        if entry.get("gap", True):
            text = f"{view.where}: {entry.get('what')} not run: {entry.get('reason')}"
            yield Finding(f"gap.{entry.get('stage', 'run')}", UNKNOWN, view.where, text)


def _events(view: View) -> Iterator[Finding]:
    """A rank that was missed before the run was resumed is judged by its own journal since, and
    what a stage left unknown by the run of it that followed."""
    now = {id(entry) for entry in view.rank.now("event")}
    for entry in view.of("event"):
        if status := _EVENTS.get(entry["name"]):
            text = f"{view.where}: {entry.get('text')}"
            if id(entry) not in now and (status == UNKNOWN or entry["name"] == "missing"):
                status, text = WARN, f"{text}; that was before the run was resumed"
            yield Finding(f"event.{entry['name']}", status, view.where, text)
        elif entry["name"] == "pairs" and id(entry) in now:
            yield from _pairs(entry)


def _pairs(entry: Entry) -> Iterator[Finding]:
    """The search after a collective that was slow, which rank 0 tells of for the pod. Who is to
    blame is told beside the floor that rejects; without one it is a warning, as how far links of a
    healthy pod are apart depends on how it is wired. A pair that can't talk, while the collective
    of all can, is a contradiction."""
    detail = entry.get("detail") or {}
    if detail.get("bad") or detail.get("failed"):
        status = FAIL if detail.get("floor") else UNKNOWN if detail.get("failed") else WARN
        yield Finding("event.pairs", status, "pod", str(entry.get("text")))


def _clock(view: View) -> Iterator[Finding]:
    """The wall clock against the one that nobody sets, since the process began."""
    first: tuple[float, float] | None = None
    for entry in view.rank.entries:
        if "time" not in entry or "clock" not in entry:
            continue
        now = (datetime.fromisoformat(entry["time"]).timestamp(), float(entry["clock"]))
        if first is None or entry["kind"] == "begin":
            first = now
            continue
        ran, passed = now[1] - first[1], now[0] - first[0]
        if ran < 0 or abs(passed - ran) > _JUMP_S + _SLEW * abs(ran):
            yield _jumped(view, entry, passed - ran)
            return


def _jumped(view: View, entry: Entry, by: float) -> Finding:
    text = (
        f"{view.where}: the clock jumped by {by:+.1f} s before entry {entry.get('n', '?')}; times "
        "in this evidence can't be trusted: set the clock and run again"
    )
    return Finding("clock.jump", UNKNOWN, view.where, text, None, by, _JUMP_S, "s")


def _counters(view: View) -> Iterator[Finding]:
    """A counter that only grows, and does not, was lost."""
    before: Any = None
    for entry in view.rank.entries:
        if entry["kind"] == "begin":
            before = None
        if entry["kind"] != "sample":
            continue
        energy = (entry.get("values") or {}).get("energy_mj")
        if is_number(before) and is_number(energy) and energy < before:
            text = f"{view.where}: the energy counter went from {before} back to {energy} mJ"
            yield Finding("counter.energy", UNKNOWN, view.where, text, None, energy, before)
            return
        before = energy if is_number(energy) else before


def _reasons(view: View) -> Iterator[Finding]:
    """The samples of the burn bear out what the counters of time say, bit by bit."""
    samples = [e.get("values") or {} for e in view.of("sample") if e.get("stage") == "burn"]
    masks = [int(s["reasons"]) for s in samples if is_number(s.get("reasons"))]
    if odd := [m & BITS[UNNAMED] for m in masks if m & BITS[UNNAMED]]:
        text = (
            f"{view.where}: {len(odd)} of the burn's {len(masks)} samples have reasons for low "
            f"clocks that have no name here: {', '.join(f'{bits:#x}' for bits in sorted({*odd}))}"
        )
        yield Finding("counter.reasons", UNKNOWN, view.where, text, None, len(odd), 0, "1")
    for name in _HARD if masks else ():
        metric = f"throttle.{name}"
        told, seen = view.value(metric), sum(bool(m & REASONS[name]) for m in masks) / len(masks)
        if is_number(told) and seen > told + _DISAGREE:
            text = (
                f"{view.where}: {show(seen, '1', share=True)} of the burn's samples have {name}, "
                f"and its counter says {show(told, '1', share=True)} of the time"
            )
            yield Finding("counter.reasons", UNKNOWN, view.where, text, metric, seen, told, "1")
