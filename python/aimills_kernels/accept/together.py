"""What this rank does with the others: it meets them, joins them, and tells who is missed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from aimills_kernels.accept import shortfall
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.criteria import Criteria
from aimills_kernels.accept.evidence_folder import RankJournal
from aimills_kernels.accept.launch import Launch

if TYPE_CHECKING:
    from aimills_kernels.accept.meeting import Meeting, Met
    from aimills_kernels.accept.pairs import Found, Talk

_PAIR_S = 10.0
_PATIENCE = 2.0  # times the seconds of its profile, then a stage of all ranks is slow


class Together:
    """Of one run. `lost` says why stages of all ranks can't run any more."""

    def __init__(self, launch: Launch, device: torch.device, journal: RankJournal, wait_s: float):
        self.launch, self.device, self.journal, self.wait_s = launch, device, journal, wait_s
        self.meeting: Meeting | None = None
        self.group: Any = None
        self.lost: str | None = None
        self._done_by_all: frozenset[str] = frozenset()
        self._nodes: dict[int, str] = {}
        self._criteria: Criteria | None = None
        self._sku = ""
        self._over: Talk | None = None

    def start(self, done: frozenset[str], criteria: Criteria | None = None, sku: str = "") -> None:
        """Meet all ranks and join them. `done` are the stages that this one has behind it; by the
        criteria of its `sku` it is known which collectives are slow."""
        self._criteria, self._sku = criteria, sku
        if self.launch.world == 1:
            return
        from aimills_kernels.accept import group

        begin = time.monotonic()
        try:
            self.meeting = group.reach(self.launch, self.wait_s)
            self.meeting.say("node", self.launch.node)
            self.meeting.say("done", sorted(done))
            met = self.meeting.meet("start")
            self._nodes = self.meeting.heard("node")
            said = self.meeting.heard("done").values()
            self._done_by_all = frozenset.intersection(*map(frozenset, said))
            if met.missing:
                self._miss(met, "the start", begin)
            else:
                self.group = group.join(self.meeting, self.launch, self.device)
        except RuntimeError as error:
            self._lose("timeout", f"the ranks could not be joined: {_first_line(error)}")

    def is_done(self, spec: StageSpec, done: frozenset[str]) -> bool:
        return spec.name in (self._done_by_all if spec.together and self.meeting else done)

    def guarded(self, spec: StageSpec) -> Callable[[Context], str]:
        """The stage's work between two meetings of all ranks."""

        def work(ctx: Context) -> str:
            if self.lost is None:
                self._met(f"{spec.name}/begin", spec)
            if self.lost is not None:
                ctx.not_run(spec.name, spec.title, self.lost)
                return f"not run: {self.lost}"
            begin, failure, summary = time.monotonic(), None, ""
            try:
                summary = spec.work(ctx)
            except Exception as error:
                failure = error
            slow = time.monotonic() - begin > _PATIENCE * ctx.seconds + _PAIR_S
            if failure is None and not slow:
                failure = self._tell_shortfall(spec, ctx)
            self._met(f"{spec.name}/end", spec, ok=failure is None and not slow)
            if failure is not None:
                raise failure
            if self.lost is None:
                self._look_further(spec)
            return summary

        return work

    def _met(self, name: str, spec: StageSpec, *, ok: bool = True) -> None:
        assert self.meeting is not None
        begin = time.monotonic()
        with self._of_the_store(spec):
            # A rank that failed at once waits for those whose collective ends by its time-out.
            met = self.meeting.meet(name, ok=ok, wait_s=2 * self.wait_s)
            if met.missing:
                self._miss(met, spec.title, begin)
            elif met.failed:
                self._search(met, spec)

    @contextlib.contextmanager
    def _of_the_store(self, spec: StageSpec) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.lost is None:
                self._lose("timeout", f"{spec.title}: the ranks can't meet: {_first_line(error)}")

    # ---- collectives that were slow

    def _tell_shortfall(self, spec: StageSpec, ctx: Context) -> Exception | None:
        """Before the meeting at the stage's end, so that all ranks know of it after that. What goes
        wrong is given back: the others wait at that meeting."""
        assert self.meeting is not None
        if self._criteria is None:
            return None
        ranks, nodes = self.launch.world, len({*map(self._node, range(self.launch.world))})
        try:
            found = shortfall.of(self._criteria, self._sku, ctx.profile, ctx.measured, ranks, nodes)
        except Exception as error:
            return error
        if found.why:
            with self._of_the_store(spec):
                self.meeting.tell(_key(ctx.stage), asdict(found))
        return None

    def _look_further(self, spec: StageSpec) -> None:
        """The pod goes on, whatever the pairs say."""
        assert self.meeting is not None
        with self._of_the_store(spec):
            if short := self.meeting.told(_key(spec.name)):
                found = self._pairs(spec)
                if self.launch.rank == 0:
                    text = f"{'; '.join(short['why'])}; in pairs: {found.text}"
                    detail = {**_detail(found), "floor": short["floor"]}
                    self.journal.append("event", stage=spec.name, name="pairs", text=text,
                                        detail=detail)  # fmt: skip

    def _miss(self, met: Met, where: str, begin: float) -> None:
        """Told by the first of those that came."""
        waited = time.monotonic() - begin
        text = f"{self._names(met.missing)}: no report; not at {where} after {waited:.0f} s"
        first = next(r for r in range(self.launch.world) if r not in met.missing)
        self._lose("missing" if self.launch.rank == first else "alone", text)

    def _search(self, met: Met, spec: StageSpec) -> None:
        """Everyone came, and some failed or were slow: which link or device is it?"""
        found = self._pairs(spec)
        text = (
            f"{spec.title} failed or was slow on {self._names(met.failed)}; in pairs: {found.text}"
        )
        self._lose("timeout" if self.launch.rank == 0 else "alone", text, _detail(found))

    def _pairs(self, spec: StageSpec) -> Found:
        from aimills_kernels.accept import pairs

        assert self.meeting is not None
        # A later search talks in the communicators of the first.
        over = self._over = self._over or pairs.talk_over(self.group, self.device, _PAIR_S)

        def talk(peer: int) -> float | None:
            """Each word keeps this rank from being taken for a hung one."""
            self.journal.append("event", stage=spec.name, name="pair", text=self._name(peer),
                                detail={})  # fmt: skip
            return over(peer)

        return pairs.search(
            self.meeting, talk, f"{spec.name}/pairs", 3 * _PAIR_S, self._name, self._node,
            pairs.slow_of(self.device),
        )  # fmt: skip

    def _lose(self, name: str, text: str, detail: dict[str, Any] | None = None) -> None:
        self.lost = text
        self.journal.append("event", stage="", name=name, text=text, detail=detail or {})

    def _names(self, ranks: Iterable[int]) -> str:
        return ", ".join(map(self._name, ranks))

    def _name(self, rank: int) -> str:
        return f"rank {rank} (node {self._node(rank)})"

    def _node(self, rank: int) -> str:
        """By its own word, or that of a rank beside it."""
        if rank in self._nodes:
            return self._nodes[rank]
        width = self.launch.local_world
        beside = (n for r, n in sorted(self._nodes.items()) if r // width == rank // width)
        return next(beside, f"unknown, number {rank // width}")


def _key(stage: str) -> str:
    return f"{stage}/slow"


def _detail(found: Found) -> dict[str, Any]:
    return {"bad": found.bad, "failed": found.failed, "pairs": found.pairs, "times": found.times}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
