"""What `gpu` knows so far, and the files that say so: after every step they are whole."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._files import write_whole
from aimills_kernels._validate import Validation
from aimills_kernels.harness import _clocks, bench, env
from aimills_kernels.harness._worker import Worker

OK, WRONG, INCOMPLETE, NO_GPU = 0, 1, 2, 3
LATE = "the time budget ended before it"
_NAMED = 4  # of what did not run for one reason, in the table; summary.json has all
Progress = Callable[[str, int, int], None]


@dataclass
class State:
    out: Path
    progress: Progress
    gpus: list[torch.device]
    budget_s: float
    workers: dict[torch.device, Worker] = field(default_factory=dict)  # that do the work there
    begin: float = field(default_factory=time.monotonic)
    verdicts: list[Validation] = field(default_factory=list)
    records: dict[tuple, dict[str, Any]] = field(default_factory=dict)
    benches: dict[torch.device, dict[str, Any]] = field(default_factory=dict)
    sanitizer: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    not_run: list[tuple[str, str]] = field(default_factory=list)  # what, and why
    lost: dict[torch.device, str] = field(default_factory=dict)  # why nothing runs there any more

    def left_s(self) -> float:
        return self.begin + self.budget_s - time.monotonic()

    def barred(self, device: torch.device) -> str | None:
        """Why nothing more can run there."""
        return self.lost.get(device) or (LATE if self.left_s() <= 0 else None)

    def look_after(self, device: torch.device, culprit: str) -> None:
        """After an illegal access every later call fails too, and is not to blame for it. A worker
        looks itself, and is started anew."""
        if device not in {*self.lost, *self.workers} and not _clocks.alive(device):
            self.lost[device] = f"{device} can't be used any more, after {culprit}"

    def enter(self, result: Validation, device: torch.device) -> None:
        self.verdicts.append(result)
        what = f"{result.op} {result.case} {result.provider} on {device}"
        if result.failures:
            self.wrong.append(str(result))
            self.look_after(device, what)
        elif result.gap:
            self.not_run.append((what, str(result.skipped)))
        with (self.out / "validation.jsonl").open("a") as journal:
            journal.write(json.dumps(_line(result)) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    # ---- files

    def start(self) -> None:
        """An earlier run's files in this folder would pass for those of this one."""
        self.out.mkdir(parents=True, exist_ok=True)
        for old in ("validation.jsonl", "sanitizer*", "bench-*.json"):
            for path in self.out.glob(old):
                path.unlink()
        (self.out / "validation.jsonl").touch()
        self.write("environment.json", env.stamp("cuda"))
        self.save("the start")

    def save(self, done: str, *, complete: bool = False) -> None:
        found = list(self.records.values())
        self.write("records.json", {"records": [r for r in found if "wrong" not in r]})
        for device, record in self.benches.items():
            bench.save(record, self.out / f"bench-{device.index or 0}.json")
        if self.sanitizer:
            self.write("sanitizer.json", self.sanitizer)
        summary = {
            "complete": complete,
            "last_step": done,
            "seconds": round(time.monotonic() - self.begin, 1),
            "exit": self.code(complete),
            "checks": Counter(_status(v) for v in self.verdicts),
            "wrong": self.wrong,
            "not_run": [f"{what}: {why}" for what, why in self.not_run],
        }
        self.write("summary.json", summary)
        head = [] if complete else [f"INCOMPLETE: the run has come as far as {done}"]
        write_whole(self.out / "table.txt", "\n".join([*head, *self.table()]) + "\n")

    def write(self, name: str, value: Any) -> None:
        write_whole(self.out / name, json.dumps(value, indent=1, default=str) + "\n")

    def code(self, complete: bool = True) -> int:
        if self.wrong:
            return WRONG
        return INCOMPLETE if self.not_run or not complete else OK

    def table(self) -> list[str]:
        return [
            *(line for device in self.gpus for line in self._of(device)),
            *_made(self.records.values()),
            *(f"compute-sanitizer {s['tool']}: {s['text']}" for s in self.sanitizer),
            *(f"WRONG: {w}" for w in self.wrong),
            *_by_reason(self.not_run),
            f"files: {self.out}",
        ]

    def _of(self, device: torch.device) -> list[str]:
        lines = [f"{device}: {name_of(device)}"]
        counts: dict[str, dict[str, Counter[str]]] = {}
        for v in self.verdicts:
            if v.device == str(device):
                of_op = counts.setdefault(v.op, {})
                of_op.setdefault(v.provider, Counter())[_status(v)] += 1
        for op, providers in counts.items():
            parts = (
                f"{name} " + ", ".join(f"{n} {status}" for status, n in found.items())
                for name, found in providers.items()
            )
            lines.append(f"checks of {op}: " + "; ".join(parts))
        if device in self.benches:
            lines += _times(self.benches[device])
        return lines


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _status(v: Validation) -> str:
    return "not run" if v.skipped is not None else "wrong" if v.failures else "right"


def _line(result: Validation) -> dict[str, Any]:
    return {
        "op": result.op,
        "case": result.case,
        "provider": result.provider,
        "device": result.device,
        "seed": result.seed,
        "ok": result.ok,
        "skipped": result.skipped,
        "failures": result.failures,
        "error_used": {n: f"{j.used:.4g}" for n, j in result.judgements.items()},
        "text": {n: j.text for n, j in result.judgements.items()},
    }


def _times(record: dict[str, Any]) -> list[str]:
    lines = [list(bench.COLUMNS), *bench.table(record)]
    lines = [line for line in lines if not line[3].startswith("not run")]
    for line in lines:
        line[3] = line[3].partition(":")[0]  # what was wrong stands below the table
    widths = [max(len(line[i]) for line in lines) for i in range(len(bench.COLUMNS))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _made(records: Iterable[dict[str, Any]]) -> list[str]:
    names = [f"{r['op']} {r['provider']} sm_{r['sm']}" for r in records if "wrong" not in r]
    return [f"records: {', '.join(names)}"] if names else []


def _by_reason(not_run: list[tuple[str, str]]) -> list[str]:
    found: dict[str, list[str]] = {}
    for what, why in not_run:
        found.setdefault(why, []).append(what)
    lines = []
    for why, names in found.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"not run, {len(names)}: {why}: {', '.join(names[:_NAMED])}{more}")
    return lines
