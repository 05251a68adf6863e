"""Two runs against each other: a verdict for each row, and none where none can be had.

A row is SLOWER or FASTER where its typical ratio is beyond the threshold and a rank test finds the
samples further apart than the noise floor; SAME where the interval of the ratio, widened by that
floor, stays within the threshold; AMBIGUOUS for the rest.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from aimills_kernels.harness import _stats
from aimills_kernels.harness._machine import (
    Record,
    Row,
    differences,
    kind,
    made_at,
    mapping,
    other_card,
    refusals,
    run_mode,
)
from aimills_kernels.harness._reading import ENOUGH

FASTER, SAME, SLOWER, AMBIGUOUS = "FASTER", "SAME", "SLOWER", "AMBIGUOUS"
BROKEN, MISSING, NEW, UNTIMED, REFUSED = "BROKEN", "MISSING", "NEW", "NOT TIMED", "REFUSED"
COMPARED = (SLOWER, AMBIGUOUS, SAME, FASTER)
THRESHOLD = 0.05
ALPHA = 0.01  # of one wrong FASTER or SLOWER among all rows of a comparison
FLOOR = {"cuda": 0.01, "cpu": 0.03}  # two runs of the same differ by this much, at the least
_OTHER_CARD = 0.05  # healthy cards of one kind do
ONLY_BASE = "only the base has it"
_NAME = ("op", "case", "provider", "device")
_FLAGGED = 0.1  # share of flawed samples from which the verdict has to hold without them too
# Clocks that were held down for these reasons say something of the machine, not of a kernel. A
# power cap is how a kernel that uses the whole GPU runs.
_THROTTLED = ("hw_slowdown", "hw_thermal", "hw_power_brake", "sw_thermal")
_CAPPED = "sw_power_cap"
_OTHER_CLOCK = 0.05  # of SM clocks, from which on they were not held alike


@dataclass(frozen=True)
class Verdict:
    """One row. `ratio` is the new time over the base's, with a 95 % interval; `p` is after Holm."""

    op: str
    case: str
    provider: str
    device: str
    verdict: str
    why: str = ""
    base_us: float | None = None
    new_us: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    floor: float | None = None

    def __str__(self) -> str:
        text = f"{self.op} {self.case} {self.provider} on {self.device}: {self.verdict}"
        if self.ratio is not None and self.low is not None and self.high is not None:
            text += f" {self.ratio - 1:+.1%} ({self.low - 1:+.1%} to {self.high - 1:+.1%})"
        return text + (f", {self.why}" if self.why else "")


@dataclass(frozen=True)
class Comparison:
    """`unread` holds a sentence for each file that is no record, `named` what differs between the
    runs without forbidding the comparison."""

    verdicts: tuple[Verdict, ...]
    threshold: float
    named: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        order = (BROKEN, *COMPARED, REFUSED, MISSING, NEW, UNTIMED)
        found = Counter(v.verdict for v in self.verdicts)
        return {name: found[name] for name in order if found[name]}

    @property
    def code(self) -> int:
        """1 where a row is SLOWER or wrong now, 2 where something could not be compared, else 0."""
        found = self.counts
        if found.get(SLOWER) or found.get(BROKEN):
            return 1
        lost = self.unread or found.get(REFUSED) or found.get(MISSING)
        return 2 if lost or not any(found.get(name) for name in COMPARED) else 0


@dataclass(frozen=True)
class _Entry:
    row: Row
    record: Record
    medians: tuple[float, ...] = ()  # of all runs of the same code on the same machine


@dataclass
class _Pair:
    """A row of which both sides have a time, before its verdict."""

    base: _Entry
    new: _Entry
    samples: tuple[Sequence[float], Sequence[float]]
    floor: float
    shift: _stats.Shift | None = None
    doubts: list[str] = field(default_factory=list)


def compare_records(
    base: Record | Iterable[Record], new: Record | Iterable[Record], threshold: float = THRESHOLD
) -> Comparison:
    """The verdicts of `new` against `base`: records that `record.load` has read, one or several a
    side. Of several, a new row is taken from the newest that holds it, and a row of the base from
    the newest that has a time of it and may be compared. Three runs or more of the same code on the
    same machine show how much runs differ."""
    check_threshold(threshold)
    held = _by_row(base)
    now = {key: _of(entries, entries[-1]) for key, entries in _by_row(new).items()}
    old = {key: _of(entries, _base(entries, now.get(key))) for key, entries in held.items()}
    verdicts: dict[str, Verdict] = {}
    pairs: dict[str, _Pair] = {}
    named: list[str] = []
    tried = {key for key in old.keys() ^ now.keys() if (old | now)[key].row["config"]}
    if tried:
        named.append(f"left out are rows of tiles that only one side tried ({len(tried)})")
    for key in [*old, *(k for k in now if k not in old)]:
        if key in tried:
            continue
        early = _unpaired(old.get(key), now.get(key))
        if early is not None:
            verdicts[key] = early
            continue
        a, b = old[key], now[key]
        if reason := "; ".join(_why_not(a, b)):
            verdicts[key] = _verdict(b, REFUSED, reason)
            continue
        named += differences(a.record, b.record, b.row["device"])
        pairs[key] = _paired(a, b)
    verdicts |= dict(zip(pairs, _judged(list(pairs.values()), threshold), strict=True))
    order = [key for key in (*old, *now) if key in verdicts]
    return Comparison(
        tuple(verdicts[key] for key in dict.fromkeys(order)), threshold, tuple(dict.fromkeys(named))
    )


def comparable(base: Record, new: Record) -> bool:
    """Whether times of the first rows of the two may be compared."""
    return not _why_not(*(_Entry(record["rows"][0], record) for record in (base, new)))


def compare_samples(
    pairs: Sequence[tuple[Verdict, Sequence[float], Sequence[float]]],
    threshold: float = THRESHOLD,
    floor: float = 0.0,
) -> list[Verdict]:
    """Verdicts of samples that were taken in turns, so that a drift met both: a blank verdict that
    names the row, its times of the base and its new ones."""
    check_threshold(threshold)
    shifts = [_shift(a, b, floor) for _, a, b in pairs]
    adjusted = _adjusted(shifts)
    return [
        _final(blank, shift, p, floor, threshold, [] if shift else [_few(a, b)])
        for (blank, a, b), shift, p in zip(pairs, shifts, adjusted, strict=True)
    ]


def check_threshold(threshold: float) -> None:
    if not 0 < threshold < 10:
        raise ValueError(f"threshold must be a share above 0, such as 0.05, got {threshold!r}")


def percent(text: str) -> float:
    """A threshold as a user writes it, "5%" or "5"; ValueError for what is none."""
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not 0 < share < 10:
        raise ValueError(f"{text!r} is no share; write a number of percent above 0, such as 5%")
    return share


# ---- pairing


def _by_row(records: Record | Iterable[Record]) -> dict[str, list[_Entry]]:
    """Each row as all records have it, the newest last."""
    found = [records] if isinstance(records, dict) else list(records)
    runs: dict[str, list[_Entry]] = {}
    for record in sorted(found, key=made_at):
        mode = run_mode(record, record["rows"])
        for row in record["rows"]:
            runs.setdefault(_key(row, mode), []).append(_Entry(row, record))
    return runs


def _base(entries: Sequence[_Entry], new: _Entry | None) -> _Entry:
    """What a new row is held against; where nothing may be compared, what says why."""
    timed = [e for e in entries if e.row["median_us"] is not None]
    alike = [e for e in timed if new is not None and not _why_not(e, new)]
    return (alike or timed or entries)[-1]


def _key(row: Row, mode: str) -> str:
    return json.dumps([*(row[name] for name in _NAME), row["model"], row["mode"] or mode])


def _of(entries: Sequence[_Entry], chosen: _Entry) -> _Entry:
    """With the medians of all runs of its kind."""
    alike = [e for e in entries if e.row["median_us"] and _alike(e, chosen)]
    return replace(chosen, medians=tuple(e.row["median_us"] for e in alike))


def _alike(a: _Entry, b: _Entry) -> bool:
    """Runs of the same code on the same machine: they differ by noise alone."""
    git = [mapping(e.record, "environment", "git") for e in (a, b)]
    same = git[0] == git[1] and git[0].get("commit") and not git[0].get("dirty")
    device = b.row["device"]
    return bool(same) and not _why_not(a, b) and not other_card(a.record, b.record, device)


def _unpaired(a: _Entry | None, b: _Entry | None) -> Verdict | None:
    """What is said of a row that only one side has timed; None where both have."""
    if b is None:
        assert a is not None
        return _verdict(a, MISSING, ONLY_BASE)
    if a is None:
        return _verdict(b, NEW, b.row["failure"] or "the base does not have it")
    before, after = a.row["median_us"], b.row["median_us"]
    if after is not None:
        return None if before is not None else _verdict(b, NEW, f"the base: {_untimed(a.row)}")
    if before is None:
        return _verdict(b, UNTIMED, _untimed(b.row))
    return _verdict(b, BROKEN if b.row["failure"] else MISSING, _untimed(b.row))


def _untimed(row: Row) -> str:
    if row["failure"]:
        return f"wrong: {row['failure']}"
    return f"not run: {row['skipped'] or 'no reason is given'}"


def _verdict(entry: _Entry, verdict: str, why: str = "") -> Verdict:
    return Verdict(**{name: entry.row[name] for name in _NAME}, verdict=verdict, why=why)


def _why_not(a: _Entry, b: _Entry) -> list[str]:
    found = refusals(a.record, b.record, b.row["device"])
    of_times = ("clock", "cold") if b.row["median_us"] is not None else ()
    for name in ("dims", "scaled", *of_times):
        old, now = a.row[name], b.row[name]
        if json.dumps(old, sort_keys=True) != json.dumps(now, sort_keys=True):
            found.append(f"another `{name}`: {old} and {now}")
    return found


def _paired(a: _Entry, b: _Entry) -> _Pair:
    device, rows = b.row["device"], (a.row, b.row)
    floor = max(
        FLOOR.get(kind(device), FLOOR["cpu"]),
        _OTHER_CARD * other_card(a.record, b.record, device),
        _stats.apart([_stats.drift(r["samples_us"]) for r in rows if _usable(r)]),
        *(_stats.between(e.medians) for e in (a, b)),
    )
    pair = _Pair(a, b, (a.row["samples_us"], b.row["samples_us"]), floor)
    for name, entry in (("base", a), ("new run", b)):
        pair.doubts += [f"{name}: {reason}" for reason in _throttle(entry.row)]
    return replace(pair, doubts=[*pair.doubts, *_other_clock(a.row, b.row)])


def _other_clock(base: Row, new: Row) -> list[str]:
    """Clocks that somebody locked (`nvidia-smi -lgc`) are no application clock, and stand in what
    was measured alone."""
    held = [mapping(row, "telemetry") for row in (base, new)]
    clocks = [telemetry.get("sm_mhz") or 0.0 for telemetry in held]
    low, high = sorted(clocks)
    capped = mapping(held[clocks.index(low)], "throttle").get(_CAPPED, 0.0)
    if low <= 0 or high <= (1 + _OTHER_CLOCK) * low or capped >= _FLAGGED:
        return []
    return [f"the SM clock was {clocks[0]:g} and {clocks[1]:g} MHz, which no power cap explains"]


def _throttle(row: Row) -> list[str]:
    shares = mapping(row, "telemetry", "throttle")
    return [
        f"clocks were held down in {share:.0%} of the samples ({reason})"
        for reason, share in shares.items()
        if share >= _FLAGGED and reason.lower().startswith(_THROTTLED)
    ]


def _usable(row: Row) -> bool:
    return len(row["samples_us"]) >= ENOUGH and min(row["samples_us"]) > 0


# ---- judging


def _judged(pairs: Sequence[_Pair], threshold: float) -> list[Verdict]:
    for pair in pairs:
        pair.shift = _shift(*pair.samples, pair.floor)
        if pair.shift is None:
            pair.doubts.append(_few(*pair.samples))
    found = []
    for pair, p in zip(pairs, _adjusted([pair.shift for pair in pairs]), strict=True):
        times = pair.base.row["median_us"], pair.new.row["median_us"]
        blank = replace(_verdict(pair.new, AMBIGUOUS), base_us=times[0], new_us=times[1])
        verdict = _final(blank, pair.shift, p, pair.floor, threshold, pair.doubts)
        found.append(_held_without_flaws(pair, verdict, threshold))
    return found


def _shift(base: Sequence[float], new: Sequence[float], floor: float) -> _stats.Shift | None:
    if min(len(base), len(new)) < ENOUGH or min(*base, *new) <= 0:
        return None
    return _stats.shift(base, new, floor)


def _few(base: Sequence[float], new: Sequence[float]) -> str:
    if base and new and min(*base, *new) <= 0:
        return "a time is not above 0"
    return f"{len(base)} and {len(new)} samples, {ENOUGH} are the least"


def _adjusted(shifts: Sequence[_stats.Shift | None]) -> list[float]:
    known = iter(_stats.holm([s.p for s in shifts if s is not None]))
    return [1.0 if s is None else next(known) for s in shifts]


def _final(
    blank: Verdict,
    shift: _stats.Shift | None,
    p: float,
    floor: float,
    threshold: float,
    doubts: Sequence[str],
) -> Verdict:
    if shift is None:
        return replace(blank, verdict=AMBIGUOUS, why="; ".join(doubts))
    verdict, why = _rule(shift, p, floor, threshold)
    if doubts and verdict != AMBIGUOUS:
        verdict, why = AMBIGUOUS, f"{verdict} by its samples, but {'; '.join(doubts)}"
    return replace(
        blank, verdict=verdict, why=why, ratio=shift.ratio, low=shift.low, high=shift.high, p=p,
        floor=floor,
    )  # fmt: skip


def _rule(shift: _stats.Shift, p: float, floor: float, threshold: float) -> tuple[str, str]:
    upper, wide = 1 + threshold, 1 + floor
    beyond = SLOWER if shift.ratio > upper else FASTER if shift.ratio < 1 / upper else None
    if beyond:
        if p <= ALPHA:
            return beyond, ""
        return AMBIGUOUS, f"not shown to be beyond the noise floor of {floor:.1%} (p = {p:.2g})"
    if 1 / upper <= shift.low / wide and shift.high * wide <= upper:
        return SAME, ""
    return AMBIGUOUS, f"with a noise floor of {floor:.1%} it may be beyond {threshold:.1%}"


def _held_without_flaws(pair: _Pair, verdict: Verdict, threshold: float) -> Verdict:
    """A verdict stands where flawed samples don't make it."""
    kept = [_unflawed(pair.base.row), _unflawed(pair.new.row)]
    sides = zip(kept, pair.samples, strict=True)
    if all(len(few) > (1 - _FLAGGED) * len(every) for few, every in sides):
        return verdict
    shift = _shift(kept[0], kept[1], pair.floor)
    again = AMBIGUOUS if shift is None else _rule(shift, shift.p, pair.floor, threshold)[0]
    if again == verdict.verdict or verdict.verdict == AMBIGUOUS:
        return verdict
    why = f"{verdict.verdict} by all samples, {again} without the flawed: {_flaws(pair)}"
    return replace(verdict, verdict=AMBIGUOUS, why=why)


def _unflawed(row: Row) -> list[float]:
    flawed = {index for indices in row["flags"].values() for index in indices}
    return [t for index, t in enumerate(row["samples_us"]) if index not in flawed]


def _flaws(pair: _Pair) -> str:
    found = []
    for name, entry in (("base", pair.base), ("new", pair.new)):
        n = entry.row["n"]
        found += [f"{name} {len(at)} of {n} {flaw}" for flaw, at in entry.row["flags"].items()]
    return ", ".join(found)
