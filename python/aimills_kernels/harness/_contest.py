"""Contestants of a benchmark: own inputs and outputs for each, and the checks around the clock.

What a contestant could get wrong only while it is timed is looked at here: its outputs are
poisoned before every sample, and afterwards the last timed output, the inputs and one more call on
fresh data under the same pointers are checked.
"""

from __future__ import annotations

import math
import secrets
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _dispatch, _validate
from aimills_kernels._op import (
    PLAIN,
    Case,
    Op,
    Provider,
    as_tuple,
    map_tensors,
    span,
    tensors_of,
)
from aimills_kernels.harness._clocks import Cuda
from aimills_kernels.harness._timers import Timer
from aimills_kernels.harness.peers import Peer, Prepared

_MAX_SETS = 6
_SEED_STEP = 1000  # apart from the seeds of `validate`, which are two neighbours
_PAIRS = 8  # of a call on unseen data and one on the same again
_REUSE = 2.0  # so many times longer is the one for who computes nothing in the other
_MEMORY_SHARE = 0.3  # of the free memory that all sets of inputs may take

Expected = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class Stage:
    """The inputs of one op and case: several sets of different data, and what they should give."""

    def __init__(self, op: Op, case: Case, device: torch.device, seed: int, cache_bytes: int):
        self.op, self.case, self.device, self.seed = op, case, device, seed
        first = self._make(0)
        size = _bytes_of(tensors_of(first))
        self.sets = [first, *(self._make(i) for i in range(1, _sets(size, cache_bytes, device)))]
        self.fresh = self._make(_MAX_SETS)
        self._unseen: tuple | None = None
        self._expected: dict[int, Expected] = {}

    def _make(self, index: int) -> tuple:
        return self.op.make_inputs(self.case, self.device, self.seed + _SEED_STEP * (index + 1))

    def unseen(self, index: int) -> tuple:
        """Data that no seed tells; the first is kept for all contestants."""
        if index:
            return self._random()
        self._unseen = self._unseen or self._random()
        return self._unseen

    def _random(self) -> tuple:
        return self.op.make_inputs(self.case, self.device, secrets.randbits(31))

    def expected(self, index: int) -> Expected:
        """(oracle, the reference in the op's dtypes) for a set; -1 is the fresh one."""
        if index not in self._expected:
            args = self.fresh if index < 0 else self.sets[index]
            self._expected[index] = (self.op.oracle(args), self.op.results(args))
        return self._expected[index]

    def judge(
        self, outs: tuple[Tensor, ...], index: int, whole: bool = True
    ) -> tuple[float, list[str]]:
        """The largest share of a tolerance that `outs` uses, and what is wrong with them. `whole`:
        none may be missing."""
        args = self.fresh if index < 0 else self.sets[index]
        oracle, rounded = self.expected(index)
        used, wrong = 0.0, [] if outs else ["there is none"]
        if whole and outs and len(outs) != len(rounded):
            wrong.append(f"it returns {len(outs)} outputs and should return {len(rounded)}")
        for name, tolerance, got, want, own in zip(
            self.op.outputs, self.op.tolerance, outs, oracle, rounded, strict=False
        ):
            if said := _another_kind(got, own):
                wrong.append(f"{name} {said}")
                continue
            judgement = tolerance.judge(got, want, own, args)
            used = max(used, judgement.used)
            if not judgement.ok:
                wrong.append(f"{name}: {judgement.text}")
        return used, wrong


def _another_kind(got: object, own: Tensor) -> str | None:
    """What is wrong with an output before its values are looked at. A subclass could put the work
    off until then, and a view without memory of its own leaves it to who reads it."""
    if type(got) not in PLAIN:
        return f"is of type {type(got).__name__} and should be torch.Tensor"
    assert isinstance(got, Tensor)
    for words in (_validate._shape, lambda t: str(t.device), lambda t: str(t.layout)):
        if words(got) != words(own):
            return f"is {words(got)} and should be {words(own)}"
    if span(got) < got.numel() <= span(own):
        return "is an expanded view, of which the elements share memory"
    return None


def _sets(size: int, cache_bytes: int, device: torch.device) -> int:
    """So many that together they don't fit into the cache, and at least two."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 4 << 30
    wanted = math.ceil(2 * cache_bytes / max(size, 1)) + 1
    affordable = int(_MEMORY_SHARE * free / max(size, 1) / 8)
    return max(2, min(wanted, affordable, _MAX_SETS))


def _own(t: Tensor) -> Tensor:
    return _validate.Fenced(t, copy=True).tensor


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(span(t) * t.element_size() for t in tensors)


class Contestant:
    """A provider with its own copies of the inputs, and outputs that are allocated once."""

    external = False  # timed though it is less exact than the op allows

    def __init__(self, stage: Stage, name: str, peer: bool):
        self.stage, self.name, self.peer = stage, name, peer
        self.sets = [tuple(map_tensors(_own, a) for a in s) for s in stage.sets]
        self.pristine = list(stage.sets)  # what each set held before the call
        self.current = 0
        self._replays: list[Callable[[], None]] = []

    def rotate(self, round_: int) -> None:
        """On to the next inputs, with poisoned outputs."""
        self.current = round_ % len(self.sets)
        self.poison()

    def capture(self, cuda: Cuda) -> None:
        """From now on a call replays a CUDA graph; each set of inputs has its own."""
        for index in range(len(self.sets)):
            self.current = index
            self._replays.append(cuda.capture(lambda: self.launch(self.sets[self.current])))
            self.captured(index)

    def captured(self, index: int) -> None:
        """Where the graph of this set leaves its outputs, for who does not know it."""

    def make_ahead(self, index: int) -> None:
        """What is made of a set's inputs outside of the time."""

    def poison(self) -> None:
        raise NotImplementedError

    def outputs(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def launch(self, args: tuple) -> None:
        raise NotImplementedError

    def _views(self) -> list[str]:
        """Outputs in the memory of inputs, where the reference's are not: nobody wrote them."""
        return []

    def __call__(self) -> None:
        if self._replays:
            self._replays[self.current]()
        else:
            self.launch(self.sets[self.current])

    def touched_bytes(self, samples: int) -> int:
        """Of the inputs and outputs that so many samples went through."""
        args = [t for s in self.sets[:samples] for t in tensors_of(s)]
        return _bytes_of(args) + self.written_bytes()

    def written_bytes(self) -> int:
        """Of the outputs of one call."""
        return _bytes_of(self.outputs())

    def check(self, timer: Timer, known_us: float = math.inf) -> tuple[float, list[str]]:
        """After the timed loop, in which a call took `known_us`: the largest share of the tolerance
        used, and all that is wrong."""
        used, wrong = self._judged("the last timed output", self.outputs(), self.current)
        wrong += self._changed_inputs()
        wrong = wrong or self._views()
        self._give(self.stage.fresh)
        for label in ("on fresh data after timing", "called again on the same data"):
            again, more = self._call_in_order(label, timer)
            used, wrong = max(used, again), wrong + more
        return used, wrong or self._reuses(timer, known_us)

    def _give(self, args: tuple) -> None:
        """Other data, under the pointers of the current set."""
        self.poison()
        for old, new in zip(tensors_of(self.sets[self.current]), tensors_of(args), strict=True):
            _validate._overwrite(old, new)
        self.pristine[self.current] = args
        self.make_ahead(self.current)

    def _call_in_order(self, label: str, timer: Timer) -> tuple[float, list[str]]:
        """What there is right behind the call, for the stream of the clock or for the host, is
        judged: it must be all of the outputs."""
        timer.hold()
        self.poison()
        self()
        outs = self.outputs()
        seen = tuple(o.clone() if type(o) in PLAIN else o for o in outs)
        timer.synchronize()
        if not all(_validate._same_bits(a, b) for a, b in zip(seen, outs, strict=True)
                   if type(a) in PLAIN):  # fmt: skip
            return 0.0, [f"{label}: its outputs came after its end: it works on a stream or a "
                         "thread that the clock does not see"]  # fmt: skip
        return self._judged(label, seen, -1)

    def _reuses(self, timer: Timer, known_us: float) -> list[str]:
        """Whether data that it has not seen takes it far longer than the same data again. Drawn by
        chance, so that nobody can have seen it; asked again where it seems so, since a busy machine
        stops any call for a while. Before both there is the same other work: a process that has
        just worked for long is the one that a busy machine stops, and its threads sleep."""
        unseen, seen = list[float](), list[float]()
        for index in range(_PAIRS):
            self._give(self.stage.unseen(index))
            unseen.append(self._sample(timer))
            args = self.stage.unseen(index)
            for t in tensors_of(args):
                t.clone()
            seen.append(self._sample(timer))
            if min(unseen) <= _REUSE * min(known_us, *seen):
                return []
        if min(unseen) <= _REUSE * statistics.median(seen):
            return []
        return [
            f"it reuses results: {min(unseen):.3g} us at the least on data that it has not seen, "
            f"{statistics.median(seen):.3g} us on the same data again"
        ]

    def _sample(self, timer: Timer) -> float:
        self.poison()
        timer.flush()
        return timer.sample(self)

    def _judged(self, label: str, outs: tuple[Tensor, ...], index: int) -> tuple[float, list[str]]:
        used, wrong = self.stage.judge(outs, index, whole=not self.external)
        return used, [f"{label}: {w}" for w in wrong]

    def _changed_inputs(self) -> list[str]:
        written = self.stage.op.written
        for mine, pristine in zip(self.sets, self.stage.sets, strict=True):
            free = {id(t) for t in written(mine)}
            for a, b in zip(tensors_of(mine), tensors_of(pristine), strict=True):
                if id(a) not in free and not _validate._same_bits(a, b):
                    return [f"an input was written to while timing ({_validate._shape(a)})"]
        return []


class OfProvider(Contestant):
    def __init__(self, stage: Stage, provider: Provider):
        super().__init__(stage, provider.name, provider.vendor)
        self._launch = _dispatch.raw_launch(provider)
        fakes = as_tuple(stage.op.fake(*self.sets[0]))
        self._buffers = [_validate._poisoned(o) for o in fakes]
        self._outs = tuple(out for _, out, _ in self._buffers)
        self._filled = self._outs
        if provider.workspace is not None:
            scratch = torch.empty(provider.workspace(*self.sets[0]), device=stage.device)
            self._filled = (*self._outs, scratch)
        self.poison()

    def poison(self) -> None:
        for buffer, _, _ in self._buffers:
            _validate._bytes(buffer).fill_(_validate._POISON_BYTE)
        written, current = self.stage.op.written, self.current
        for own, pristine in zip(
            written(self.sets[current]), written(self.pristine[current]), strict=True
        ):
            _validate._overwrite(own, pristine)

    def outputs(self) -> tuple[Tensor, ...]:
        return self._outs or self.stage.op.written(self.sets[self.current])

    def launch(self, args: tuple) -> None:
        self._launch(self._filled, *args)


class OfPeer(Contestant):
    """Someone else's function, which makes its own outputs: that is part of its time."""

    def __init__(self, stage: Stage, peer: Peer):
        super().__init__(stage, peer.name, not peer.gated)
        self.external = not peer.gated
        self._function = peer.function
        self._result: tuple[Tensor, ...] = ()
        self._of_set: dict[int, tuple[Tensor, ...]] = {}
        self._made: dict[int, tuple[Any, ...]] = {}

    def make_ahead(self, index: int) -> None:
        """Into the tensors that are there, which a captured graph reads. What is no tensor, as
        lengths that the host reads, is taken anew; a graph would keep the ones before."""
        if not isinstance(self._function, Prepared):
            return
        made = self._function.ahead(*self.sets[index])
        before = self._made.setdefault(index, made)
        if before is made:
            return
        now = []
        for old, new in zip(before, made, strict=True):
            if isinstance(old, Tensor):
                now.append(old if old is new else old.copy_(new))
                continue
            if self._replays and old != new:
                raise NotImplementedError("it reads lengths on the host: a CUDA graph keeps others")
            now.append(new)
        self._made[index] = tuple(now)

    def poison(self) -> None:
        if not self._replays:
            self._result = ()
            return
        self._result = self._of_set[self.current]
        for out in self._result:
            kind = out.dtype
            out.fill_(math.nan if kind.is_floating_point else torch.iinfo(kind).max)

    def captured(self, index: int) -> None:
        self._of_set[index] = self._result

    def outputs(self) -> tuple[Tensor, ...]:
        return self._result

    def launch(self, args: tuple) -> None:
        if isinstance(self._function, Prepared):
            self._result = as_tuple(self._function.call(self._made[self.current], *args))
        else:
            self._result = as_tuple(self._function(*args))

    @property
    def about(self) -> str | None:
        """What it computes, in its own words."""
        return (self._function.__doc__ or "").strip().partition("\n")[0] or None

    def differing(self) -> float:
        """The share of values that are not the reference's, beyond the rounding of their dtype."""
        _, reference = self.stage.expected(0)
        off = total = 0
        for got, want in zip(self.outputs(), reference, strict=False):
            if (
                type(got) not in PLAIN
                or got.shape != want.shape
                or not want.dtype.is_floating_point
            ):
                continue
            step = torch.finfo(want.dtype).eps
            close = torch.isclose(got.float(), want.float(), rtol=step, atol=0.0, equal_nan=True)
            off, total = off + int((~close).sum()), total + close.numel()
        return off / total if total else 0.0

    def try_out(self) -> tuple[float, list[str]]:
        """One call on the first inputs, before any timing. What it raises is the caller's."""
        for index in range(len(self.sets)):
            self.make_ahead(index)
        self.launch(self.sets[0])
        used, wrong = self._judged("against float64", self._result, 0)
        if self.external:
            return used, wrong
        return used, wrong or self._changed_inputs() or self._views()

    def _views(self) -> list[str]:
        if self.external:
            return []
        mine = _of_inputs(self._result, self.sets[self.current])
        theirs = _of_inputs(self.stage.expected(self.current)[1], self.stage.sets[self.current])
        return [
            f"{name} is a view of an input, and the reference's is not"
            for name, view, fine in zip(self.stage.op.outputs, mine, theirs, strict=True)
            if view and not fine
        ]


def _of_inputs(outs: tuple[Tensor, ...], args: tuple) -> list[bool]:
    """Which outputs lie in the memory of an argument."""
    held = {t.untyped_storage().data_ptr() for t in tensors_of(args)}
    return [out.numel() > 0 and out.untyped_storage().data_ptr() in held for out in outs]
