"""Ranks at work: the entries that each would write, in simulated time."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aimills_kernels._version import __version__
from aimills_kernels.accept import culprits, evidence, journal, message_sizes, shortfall
from aimills_kernels.accept.criteria import Criteria, load
from aimills_kernels.accept.evidence import FOLDER, Pod, Rank
from aimills_kernels.accept.metrics import HIGHER, METRICS, THROTTLES
from aimills_kernels.accept.simulate.faults import Conditions, conditions
from aimills_kernels.accept.simulate.models import NOISE, SCATTER, Layout
from aimills_kernels.accept.simulate.schedule import Step, steps
from aimills_kernels.accept.timetable import SLOTS

Entry = dict[str, Any]

_BEGIN = datetime(2026, 1, 5, 8, tzinfo=UTC)
_SAMPLES = 24
_CHECKS = {
    "correctness": ("attention plain", "attention_varlen ragged", "matmul_fp8 square"),
    "video": ("video_to_tensor clip",),
}
_CHECKSUMS = ("attention", "matmul_fp8", "gemm bf16")
_TIME_OUT_S = 60.0
_TO_THE_HOST = ("link.h2d", "link.d2h", "link.wrong")
_FABRIC = 340e9  # bus bandwidth over nodes with a network card for each GPU
_PAIR_S, _FAR = 2e-4, 7.0  # of two GPUs of a node, and how much longer those of two nodes take
_NANS = 17
_HBM = "burn.temperature_memory"
_CAPPED = 0.62  # of a healthy GPU's burn at the power limit
_DRIVER, _VBIOS, _TOOLKIT = "580.95.05", "96.00.AF.00.01", "13.0"


class _Cut(Exception):
    """The process of this rank ends here."""


@dataclass
class _Device:
    """One rank: its own random numbers, its clocks, and what it has written."""

    pod: Layout
    rank: int
    profile: str
    bad: Conditions
    seed: int
    criteria: Criteria
    told: Entry  # what the first entry says besides
    entries: list[Entry] = field(default_factory=list)
    clock: float = 0.0
    jump: float = 0.0

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/{self.pod.name}/{self.pod.nodes}/{self.rank}")
        self.clock = 1000.0 + self.rng.uniform(0, 50)
        self.start = self.clock
        self.own = {kind: 1 + self.rng.gauss(0, sigma) for kind, sigma in SCATTER.items()}
        self.present = [r for r in range(self.pod.world) if r not in self.bad.absent]
        self.node, self.local = divmod(self.rank, self.pod.gpus)
        self.name = "cpu" if self.pod.model.cpu else f"cuda:{self.local}"

    @property
    def gpus(self) -> int:
        """Of this node."""
        return sum(r // self.pod.gpus == self.node for r in self.present)

    def write(self, kind: str, **data: Any) -> None:
        self.clock += 0.002
        time = _BEGIN + timedelta(seconds=self.clock - self.start + self.jump)
        self.entries.append({
            "n": len(self.entries), "time": time.isoformat(timespec="milliseconds"),
            "clock": round(self.clock, 6), "kind": kind, **data,
        })  # fmt: skip

    @property
    def alone(self) -> bool:
        return len(self.present) < 2

    # ---- what a device says

    def begin(self) -> None:
        uuid = hashlib.sha256(f"{self.pod.name}/{self.rank}".encode()).hexdigest()
        self.write(
            "begin", run=f"simulated-{self.pod.name}-{self.seed}", node=f"node-{self.node}",
            rank=self.present.index(self.rank), world=len(self.present), local_rank=self.local,
            local_world=self.gpus, device=self.name, uuid=f"SIM-{uuid[:32]}",
            sku=self.pod.model.sku, profile=self.profile, simulated=True, version=__version__,
            criteria={"name": self.criteria.name, "version": self.criteria.version,
                      "digest": self.criteria.digest},
            environment={"simulated": True}, resumed=False, seed=self.seed, exclude=[],
            ops=sorted(name.split()[0] for names in _CHECKS.values() for name in names),
            **self.told,
        )  # fmt: skip

    def stage(self, step: Step) -> bool:
        """Whether the run goes on after it."""
        if (jump := self.bad.jumps.get(self.node)) and jump[0] == step.name:
            self.jump = jump[1]
        self.write("stage", name=step.name, title=step.title, state="begin")
        waits = step.name in self.bad.hung and self.rank != self.bad.hung[step.name]
        if self.bad.cut.get(self.rank) == step.name:
            self.work(step, part=0.5)
            raise _Cut
        if waits:
            return self.waited(step)
        self.work(step)
        if step.name == "interconnect" and not self.alone:
            self.search(step)
        wrong = step.name == "correctness" and self.rank in self.bad.nans
        self.end(step, "wrong" if wrong else "passed", step.seconds[self.profile])
        return True

    def end(self, step: Step, status: str, seconds: float, failure: str | None = None) -> None:
        self.write("stage", name=step.name, title=step.title, state="end", status=status,
                   seconds=round(seconds, 3), failure=failure,
                   summary="simulated" + "; 1 check is wrong" * (status == "wrong"))  # fmt: skip

    def waited(self, step: Step) -> bool:
        self.clock += _TIME_OUT_S
        absent = self.bad.hung[step.name]
        node, local = divmod(absent, self.pod.gpus)
        text = f"rank {absent} (node-{node} cuda:{local}) gave no answer for {_TIME_OUT_S:g} s"
        self.write("event", stage=step.name, name="timeout", text=text, detail={"rank": absent})
        self.end(step, "failed", _TIME_OUT_S, text)
        self.write("end", state="stopped", reason=text)
        return False

    def work(self, step: Step, part: float = 1.0) -> None:
        seconds = step.seconds[self.profile] * (1 + abs(self.rng.gauss(0, 0.02))) * part
        if step.name == "burn":
            self.samples(step, seconds)
        else:
            self.clock += seconds
        if part < 1:
            return
        for metric in step.measures:
            self.metric(step.name, metric)
        self.checks(step.name)
        if step.name == "sdc":
            self.checksums()

    def search(self, step: Step) -> None:
        """As `Together` does after collectives that were slow; rank 0 tells."""
        rates = [e for e in self.entries if e["kind"] == "measure"]
        short = shortfall.of(self.criteria, self.pod.model.sku, self.profile, rates,
                             len(self.present), self.pod.nodes)  # fmt: skip
        if self.rank != self.present[0] or not short.why:
            return
        times: dict[tuple[int, int], float | None] = {
            pair: self.pair_seconds(*pair)
            for pairs in culprits.schedule(len(self.present)) for pair in pairs
        }  # fmt: skip
        found = culprits.blame(times, node=self.node_of)
        said = found.text(lambda r: f"rank {r} (node {self.node_of(r)})")
        text = f"{'; '.join(short.why)}; in pairs: {said} ({culprits.usual(times, self.node_of)})"
        self.write("event", stage=step.name, name="pairs", text=text,
                   detail={"bad": not found.nobody, "failed": 0, "floor": short.floor})  # fmt: skip

    def pair_seconds(self, a: int, b: int) -> float:
        """`a` and `b` are places among those present."""
        near = self.node_of(a) == self.node_of(b)
        slow = self.bad.links.get((self.present[a], self.present[b]), 1.0)
        noise = 1 + abs(self.rng.gauss(0, NOISE["link"]))
        return slow * noise * (_PAIR_S if near else _PAIR_S * _FAR)

    def node_of(self, place: int) -> str:
        return f"node-{self.present[place] // self.pod.gpus}"

    # ---- values

    def metric(self, stage: str, metric: str) -> None:
        value = self.bad.values.get((self.rank, metric), self.healthy(metric))
        if metric == "gemm.wrong" and self.rank in self.bad.nans:
            value = _NANS
        if value is None:
            if (self.rank, metric) in self.bad.values:
                self.write("not_run", stage=stage, name=metric, what=METRICS[metric].title,
                           reason="the driver does not let this counter be read",
                           device=self.name, gap=False)  # fmt: skip
            return
        self.measure(stage, metric, value * self.bad.factors.get((self.rank, metric), 1)
                     if METRICS[metric].better == HIGHER else value)  # fmt: skip

    def measure(self, stage: str, metric: str, value: Any) -> None:
        detail: dict[str, Any] = {}
        if metric.startswith("collective.") and METRICS[metric].unit == "B/s":
            stage_s = SLOTS["interconnect"].seconds[self.profile]
            name, model = metric.partition(".")[2], self.pod.model.sku
            sizes = message_sizes.of_profile(self.profile, stage_s, model, name, len(self.present))
            detail["detail"] = {
                "ranks": len(self.present), "bytes": max(sizes), "size": max(sizes),
                "by_size": {str(size): value for size in sizes},
            }  # fmt: skip
        self.write("measure", stage=stage, metric=metric, value=value,
                   unit=METRICS[metric].unit, **detail)  # fmt: skip

    def healthy(self, metric: str) -> Any:
        """What a device without a fault measures; None where it has no such thing."""
        model, kind = self.pod.model, metric.partition(".")[0]
        if kind in ("link", "collective") and self.alone and metric not in _TO_THE_HOST:
            return None
        if metric == "sdc.repeats" or metric == "sdc.differing" or metric.endswith(".wrong"):
            return 64 if metric == "sdc.repeats" else 0
        if model.cpu:
            return self.scattered(kind, model.values[metric]) if metric in model.values else None
        if kind == "collective" and self.pod.nodes > 1:
            return self.scattered("link", _FABRIC, own=False)
        if metric == "collective.all_reduce":
            near = min(model.all_reduce, key=lambda n: abs(n - self.gpus))
            return self.scattered("link", model.all_reduce[near], own=False)
        return self.derived(metric, kind)

    def derived(self, metric: str, kind: str) -> Any:
        model, value = self.pod.model, self.pod.model.values
        fixed = {
            "gpu.name": model.sku, "gpu.driver": _DRIVER, "gpu.vbios": _VBIOS,
            "gpu.toolkit": _TOOLKIT,
            "node.gpus": self.gpus, "node.cores": 112, "node.memory": 2 << 40,
            "mig.enabled": 0, "ecc.enabled": 1, "throttle.sw_power_cap": _CAPPED,
            **{f"throttle.{name}": 0.0 for name in THROTTLES if name != "sw_power_cap"},
            **{key.replace("__", "."): x for key, x in model.expect.items()},
        }  # fmt: skip
        if metric in fixed:
            return fixed[metric]
        if metric == "memory.copy_hot":
            return self.scattered("memory", 0.99 * value["memory.copy"])
        if metric == "energy.gemm":
            return self.scattered("burn", value["burn.rate"] / value["burn.power"])
        if metric.endswith("_energy"):
            rate = value.get(metric.removesuffix("_energy"))
            return rate and self.scattered("work", rate / (0.8 * value["burn.power"]))
        if metric == "nvlink.errors":
            return 0 if "nvlink__active" in model.expect else None
        if metric in value:
            if metric in ("gpu.memory", "clock.max", "power.limit"):
                return value[metric]
            if METRICS[metric].unit == "degC":
                return round(value[metric] + self.rng.gauss(0, 2.5), 1)
            return self.scattered(kind, value[metric])
        return 0 if METRICS[metric].unit == "1" and kind not in ("pcie", "nvlink") else (
            0 if metric == "pcie.replays" else None
        )  # fmt: skip

    def scattered(self, kind: str, value: float, *, own: bool = True) -> float:
        kind = {"energy": "burn", "collective": "link", "power": "link"}.get(kind, kind)
        share = self.own[kind] if own else 1.0
        return float(f"{value * share * (1 + self.rng.gauss(0, NOISE[kind])):.6g}")

    def checks(self, stage: str) -> None:
        for place, name in enumerate(_CHECKS.get(stage, ())):
            op, case = name.split()
            nan = stage == "correctness" and self.rank in self.bad.nans and place == 0
            self.write(
                "check", stage=stage, op=op, case=case, dims={}, scaled={},
                provider="triton", own=True, device=self.name, seed=self.seed,
                status="wrong" if nan else "right", used=None if nan else 0.4, outputs={},
                failures=[f"out: {_NANS} values are NaN"] if nan else [], skipped=None,
            )  # fmt: skip

    def checksums(self) -> None:
        for place, name in enumerate(_CHECKSUMS):
            odd = place == 0 and (self.rank in self.bad.flipped or self.rank in self.bad.nans)
            text = f"{self.pod.model.sku}/{name}/{self.rank if odd else ''}"
            digest = hashlib.sha256(text.encode()).hexdigest()
            self.write("checksum", stage="sdc", name=name, digest=digest, detail={})

    def samples(self, step: Step, seconds: float) -> None:
        value = self.pod.model.values
        mask, shares = self.bad.reasons.get(self.rank, 0x4), self.bad.values
        told = [x for (rank, m), x in shares.items() if rank == self.rank and "throttle" in m]
        slowed = max(told, default=_CAPPED)
        energy = 1e6 * (1 + self.rank)
        clock = value["burn.clock"] / 1e6 * self.bad.factors.get((self.rank, "burn.clock"), 1)
        hottest = self.bad.values.get((self.rank, _HBM), value[_HBM])
        for place in range(_SAMPLES):
            self.clock += seconds / _SAMPLES
            power = value["burn.power"] * (1 + self.rng.gauss(0, 0.004))
            energy += 1e3 * power * seconds / _SAMPLES
            warm = 1 - 0.5 ** (1 + place / 3)
            self.write("sample", stage=step.name, values={
                "sm_mhz": round(clock * (1 + self.rng.gauss(0, 0.004))),
                "memory_mhz": 2619, "power_w": round(power, 1),
                "reasons": mask if place < slowed * _SAMPLES else 0,
                "temperature_c": round(30 + warm * (value["burn.temperature"] - 30), 1),
                "memory_temperature_c": round(32 + warm * (hottest - 32), 1),
                "energy_mj": round(energy),
            })  # fmt: skip


def entries_of(
    pod: Layout,
    *,
    fault: str | None = None,
    seed: int = 0,
    profile: str = "quick",
    criteria: Criteria | None = None,
    criteria_file: Path | None = None,
) -> Iterator[tuple[int, list[Entry], bool]]:
    """(rank, entries, torn) of every rank that leaves a journal."""
    criteria = criteria or load(pod.model.criteria)
    told = {"criteria_file": str(criteria_file)} if criteria_file else {}
    bad = conditions(fault, pod, random.Random(f"{seed}/{fault}/{pod.name}"), profile)
    for rank in range(pod.world):
        if rank in bad.gone or rank in bad.absent:
            continue
        device = _Device(pod, rank, profile, bad, seed, criteria, told)
        device.begin()
        try:
            if all(device.stage(step) for step in steps(profile, pod.model.cpu)):
                device.write("end", state="done", reason=None)
        except _Cut:
            yield rank, device.entries, bad.torn
        else:
            yield rank, device.entries, False


def simulate(pod: Layout, **options: Any) -> Pod:
    """The pod as `evidence.read` would give it, without a disk."""
    return evidence.pod([Rank(tuple(entries)) for _, entries, _ in entries_of(pod, **options)])


def write(pod: Layout, folder: Path, **options: Any) -> list[Path]:
    """The journals in `folder`, each with its chain of hashes. FileExistsError where one is."""
    made = []
    for _, entries, torn in entries_of(pod, **options):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        begin = entries[0]
        path = folder / FOLDER / f"{begin['node']}-{begin['rank']}.jsonl"
        before, lines = journal.FIRST, []
        for entry in entries:
            lines.append(journal.encoded({**entry, "prev": before}))
            before = journal.digest(lines[-1])
        text = "".join(line + "\n" for line in lines) + (lines[-1][:40] if torn else "")
        with path.open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        made.append(path)
    return made
