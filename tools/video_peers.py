"""The table of times in kernels/video/README.md: the CPU's provider of video_to_tensor beside other
libraries, with one thread and with two, in turns in one run.

    python -m tools.video_peers            measure and print it
    python -m tools.video_peers --update   measure it and write it between the markers

The peers are those of `bench/peers`, and the times are taken as `aimills-kernels bench` does it,
with cold caches; but one thread has the time that it ran for, which is the clock's where nothing
else runs, and less disturbed where something does. All cases are of BT.601 with the nearest chroma,
since OpenCV has no other colours: so peers compute the same picture. How far each is off is
measured too, on a smooth one: on noise OpenCV and Pillow cut off what ours and torch don't. A peer
is held against the fastest mode of ours that is no further off than it is.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._dispatch import use_provider
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op, torch_op
from aimills_kernels._tolerance import Levels
from aimills_kernels.harness import env
from aimills_kernels.harness._reading import ENOUGH
from aimills_kernels.harness._timers import CpuTimer
from aimills_kernels.harness.peers import peers_of
from aimills_kernels.harness.timing import NoTime, time_interleaved
from tools.page_part import Part
from tools.video_errors import yuv

PART = Part(Path(__file__).parents[1] / "kernels" / "video" / "README.md", "peers")
THREADS = (1, 2)
OURS = "this"
FAST = "this, mode fast"
BAR = 1.3
NEAR = 2.0  # levels off at most: one by other rounding of the colours, one by that of the resize
BUSY = 0.5  # a load average above it disturbs the times
TARGET = 0.03  # of half the 95 % interval, to the median
OP = get_op("video_to_tensor")
_HD: dict[str, Any] = dict(F=1, H=1080, W=1920, space="bt601", upsampling="nearest")
_TOKENS: dict[str, Any] = dict(h=560, w=1008, store="patches", patch=(2, 14, 2))
CASES = tuple(
    Case(f"{size}, mode {mode}", **_HD, **dims, mode=mode)
    for mode in ("torch", "pil13")
    for size, dims in (("224 x 224", dict(h=224, w=224)), ("560 x 1008 tokens", _TOKENS))
)
PACKAGES = {
    "torch": "torch", "OpenCV": "opencv-python-headless", "Pillow": "pillow", "PyAV": "av",
    "Transformers": "transformers",
}  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """`largest` and `mean`: levels off the exact picture."""

    name: str
    call: Callable[[], Any]
    largest: float
    mean: float

    @property
    def ours(self) -> bool:
        return self.name in (OURS, FAST)

    def no_worse(self, than: Contestant) -> bool:
        return self.largest <= than.largest and self.mean <= than.mean


@dataclass(frozen=True)
class Time:
    median_us: float
    noise: float  # of the interquartile range, to the median
    least_us: float
    samples: int


@dataclass(frozen=True)
class Result:
    """Of one case: who took part, and the times by name and number of threads."""

    case: str
    contestants: Sequence[Contestant]
    times: dict[tuple[str, int], Time]

    def ratio(self, threads: int) -> tuple[str, str, float] | None:
        """The fastest peer that is near enough, the fastest of ours that is no further off, and
        the peer's time over ours."""
        times = {c: self.times[c.name, threads].median_us
                 for c in self.contestants if (c.name, threads) in self.times}  # fmt: skip
        peers = [c for c in times if not c.ours and c.largest <= NEAR]
        best = min(peers, key=times.__getitem__, default=None)
        own = [c for c in times if c.ours and best is not None and c.no_worse(best)]
        if best is None or not own:
            return None
        mine = min(own, key=times.__getitem__)
        return best.name, mine.name, times[best] / times[mine]


class Timer(CpuTimer):
    """One thread by the time that it ran for, several by the clock."""

    def sample(self, call: Callable[[], Any], repeats: int = 1) -> float:
        if torch.get_num_threads() > 1:
            return super().sample(call, repeats)
        begin = time.thread_time_ns()
        for _ in range(repeats):
            call()
        return (time.thread_time_ns() - begin) / 1e3 / repeats


def _arguments(case: Case) -> tuple[Any, ...]:
    planes = yuv("nv12", "limited", case.H, case.W, "smooth")
    return planes, *OP.make_inputs(case, "cpu", 0)[1:]


def contestants(case: Case) -> Iterator[Contestant]:
    """Ours, also in the mode "fast" where colours come first as in "torch", and each peer that is
    here and takes the case; SystemExit where ours is wrong."""
    args = _arguments(case)
    oracle = OP.oracle(args)[0]
    tolerance = OP.tolerance[0]
    assert isinstance(tolerance, Levels)
    steps = tolerance.size(args)
    own, ours = torch_op(OP.name), {OURS: args}
    if case.get("mode", "torch") == "torch":
        ours[FAST] = _arguments(Case(case.name, **{**case.dims, "mode": "fast"}))
    calls = {name: partial(own, *given) for name, given in ours.items()}
    calls |= {p.name: partial(p.function, *args) for p in peers_of(OP) if p.absent is None}
    for name, call in calls.items():
        try:
            got = call()
        except NotImplementedError:
            continue
        if name in ours:
            _check(got, tolerance, ours[name], f"{case} ({name})")
        levels = ((got.double() - oracle).abs() / steps).round()
        yield Contestant(name, call, float(levels.max()), float(levels.mean()))


def _check(got: torch.Tensor, tolerance: Levels, args: tuple[Any, ...], where: str) -> None:
    judged = tolerance.judge(got, OP.oracle(args)[0], OP.results(args)[0], args)
    if not judged.ok:
        raise SystemExit(f"video_to_tensor is wrong for {where}: {judged.text}")


def measured(case: Case, budget_s: float) -> Result:
    with use_provider(OP.name, "cpu"):
        found = list(contestants(case))
        lanes = {f"{c.name}\n{n}": c.call for c in found for n in THREADS}
        made = time_interleaved(
            lanes, "cpu", budget_s=budget_s, target=TARGET, warm=False, timer=Timer(),
            rotate=lambda name, _: torch.set_num_threads(int(name.partition("\n")[2])),
        )  # fmt: skip
    times = {}
    for key, timing in made.items():
        name, _, threads = key.partition("\n")
        if not isinstance(timing, NoTime):
            times[name, int(threads)] = Time(
                timing.median_us, timing.noise, timing.min_us, timing.n
            )
    return Result(case.name, found, times)


# ---- the table


def lines(results: Sequence[Result], stamp: dict[str, Any], load: float) -> Iterator[str]:
    cpu, busy = stamp["cpu"], load > BUSY
    versions = ", ".join(f"{name} {metadata.version(p)}" for name, p in PACKAGES.items())
    shared = ", so shared with other work" if busy else ""
    about = (
        f"{cpu['model']}, {cpu['usable_cores']} cores, {stamp['time'][:10]}; {versions}; "
        f"load before {load:.1f}{shared}. Of one thread the time that it ran for, of two that of "
        "the clock: median, half the interquartile range, and the least of all samples in brackets."
    )
    yield from ("", *textwrap.wrap(about, 110), "")
    yield _line(["1080p NV12 to", "by", *(_threads(n) for n in THREADS), "levels off (mean)"])
    yield _line(["---", "---", *["---:"] * (len(THREADS) + 1)])
    for result in results:
        for c in sorted(result.contestants, key=lambda c: _rank(result, c)):
            times = [_shown(result.times.get((c.name, n))) for n in THREADS]
            yield _line([result.case, c.name, *times, f"{c.largest:.0f} ({c.mean:.1g})"])
    yield from (
        "",
        f"By the medians, the fastest peer that is at most {NEAR:g} levels off, and the fastest of "
        "ours that is no further off:",
        "",
    )
    yield _line(["1080p NV12 to", "threads", "fastest peer", "ours", "times as fast",
                 f"{BAR:g} times"])  # fmt: skip
    yield _line(["---", "---:", "---", "---", "---:", "---"])
    for result in results:
        for n in THREADS:
            name, mine, ratio = result.ratio(n) or ("-", "-", 0.0)
            verdict = "no peer" if not ratio else "met" if ratio >= BAR else "**not met**"
            if busy:
                verdict = f"not known, the machine was busy ({verdict} so)"
            shown = f"{ratio:.2f}" if ratio else "-"
            yield _line([result.case, str(n), name, mine, shown, verdict])
    yield ""
    for peer in peers_of(OP):
        if peer.absent:
            yield f"- Not run: {peer.name}, {peer.absent}."
    yield ""


def _rank(result: Result, c: Contestant) -> tuple[bool, float]:
    """Ours first, then by the time with the fewest threads."""
    time = result.times.get((c.name, THREADS[0]))
    return not c.ours, time.median_us if time else float("inf")


def _shown(time: Time | None) -> str:
    if time is None:
        return "-"
    spread = f" ±{time.noise / 2:.0%}" if time.samples >= ENOUGH else ", few samples"
    return f"{time.median_us / 1e3:.1f} ms{spread} ({time.least_us / 1e3:.1f})"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of video_to_tensor beside its peers.")
    PART.add_option(parser)
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for each case")
    options = parser.parse_args()
    stamp, load = env.stamp("cpu"), os.getloadavg()[0]
    PART.give(
        options.update,
        lambda: lines([measured(case, options.budget) for case in CASES], stamp, load),
    )


if __name__ == "__main__":
    main()
