"""For a person who debugs: what each warp did, who changed what, where results first part."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tests.ptx import flow
from tests.ptx.machine import LANES, Active, Machine
from tests.ptx.memory import Allocation, Memory, Written
from tests.ptx.parse import Instr, Reg


@dataclass(frozen=True)
class Watch:
    """Bytes [start, start + size) of shared memory, or of an argument's tensor."""

    place: str  # "shared", the number of an argument, or tensorN of launch.run's `tensors`
    start: int
    size: int

    @staticmethod
    def parse(text: str) -> Watch:
        """shared:1024, shared:1024:16, 3:0:4 (argument 3, its first four bytes)"""
        parts = text.split(":")
        try:
            place, start = parts[0], int(parts[1], 0)
            size = int(parts[2], 0) if len(parts) > 2 else 4
        except (IndexError, ValueError):
            raise ValueError(
                f"--watch {text}: expected PLACE:OFFSET[:BYTES], in whole numbers"
            ) from None
        if re.fullmatch(r"shared|(tensor)?[0-9]+", place) is None:
            raise ValueError(
                f"--watch {text}: the place is 'shared' or an argument's number, or tensorN for "
                "what a struct points to"
            )
        if start < 0 or size < 1:
            raise ValueError(f"--watch {text}: OFFSET is 0 or more, and BYTES 1 or more")
        return Watch(place, start, size)

    def __str__(self) -> str:
        return f"{self.place}:{self.start}:{self.size}"

    def find(self, memory: Memory) -> tuple[np.ndarray, int, int] | None:
        """The bytes it lies in, its first index there, and the bytes between a CTA's and the next
        one's; None where the launch has no such place."""
        if self.place == "shared":
            if self.start + self.size > memory.shared_size:
                return None
            return memory.shared, self.start, memory.row
        for held in memory.globals.allocations:
            names = held.name.removeprefix("argument ").replace("tensor ", "tensor")
            if self.place in names.split(" and "):
                if self.start + self.size > held.size:
                    return None
                return held.bytes, held.skew + self.start, 0
        return None


class _Seen:
    """A watched place in one launch."""

    def __init__(self, watch: Watch, memory: Memory, found: tuple[np.ndarray, int, int]):
        self.watch, self.m = watch, memory.m
        self.raw, self.first, self.row = found
        self.kept = self.raw.copy()

    def tell(self, written: Written, say: Callable[[str], None]) -> None:
        """A line for each warp that wrote there, about the first of the bytes."""
        if written.raw is not self.raw:
            return
        at = written.at % self.row if self.row else written.at
        hit = np.nonzero((at < self.first + self.watch.size) & (at + written.size > self.first))[0]
        warps, instr = written.lanes[0][hit], written.instr
        for warp in np.unique(warps):
            some = hit[warps == warp]
            one = some[np.argmin(at[some])]
            inside = max(int(at[one]), self.first)
            index = int(written.at[one]) + inside - int(at[one])
            say(
                f"* {self.watch.place}:{self.watch.start + inside - self.first} "
                f"{self.kept[index]:#04x} -> {self.raw[index]:#04x} by {self.m.who(int(warp))}, "
                f"lane {written.lanes[1][one]}, line {instr.line}: {instr.text}"
            )
        places = (written.at[hit][:, None] + np.arange(written.size)).reshape(-1)
        self.kept[places] = self.raw[places]


class Writers:
    """Who wrote each byte of global memory last."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Allocation, np.ndarray]] = {}  # by byte: write and thread
        self.writes: list[tuple[str, Instr]] = []
        self.warps: list[str] = []

    def attach(self, memory: Memory) -> None:
        for held in memory.globals.allocations:
            if id(held.bytes) not in self.held:
                self.held[id(held.bytes)] = held, np.full((2, len(held.bytes)), -1, np.int64)
        first = len(self.warps)
        self.warps += [memory.m.who(warp) for warp in range(memory.m.warps)]
        memory.observers.append(partial(self.tell, first=first, kernel=memory.m.kernel.name))

    def tell(self, written: Written, first: int, kernel: str) -> None:
        if (found := self.held.get(id(written.raw))) is None:
            return
        number, thread = found[1]
        of = (written.lanes[0] + first) * LANES + written.lanes[1]
        for byte in range(written.size):
            number[written.at + byte] = len(self.writes)
            thread[written.at + byte] = of
        self.writes.append((kernel, written.instr))

    def who(self, address: int) -> str:
        """Who wrote the byte at this address of the host last."""
        for held, (number, thread) in reversed(self.held.values()):
            at = address - held.origin.ctypes.data + held.skew
            if 0 <= at < len(held.bytes) and number[at] >= 0:  # also what a view over it wrote
                kernel, instr = self.writes[number[at]]
                warp, lane = divmod(int(thread[at]), LANES)
                by = f"lane {lane} of {self.warps[warp]}"
                return f"stored by {by}, line {instr.line} of {kernel}: {instr.text}"
        return "which nothing stored"


class Tracer:
    """Writes a line per warp and instruction, for warps and lanes that are wanted."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        warps: set[int] | None = None,
        lane: int = 0,
        watch: tuple[Watch, ...] = (),
        every: bool = True,
        writers: Writers | None = None,
    ):
        self.say, self.warps, self.lane, self.watch, self.every = say, warps, lane, watch, every
        self.writers = writers
        self.nowhere = list(watch)  # what no launch had
        self.most = 0  # warps of a CTA

    def attach(self, machine: Machine, memory: Memory) -> None:
        self.most = max(self.most, machine.shape.warps)
        for watch in self.watch:
            if (found := watch.find(memory)) is not None:
                self.nowhere = [w for w in self.nowhere if w != watch]
                memory.observers.append(partial(_Seen(watch, memory, found).tell, say=self.say))
        if self.writers is not None:
            self.writers.attach(memory)
        if self.every:
            machine.trace = lambda s, pc: self.step(machine, s, pc)

    def missed(self) -> str | None:
        """What was asked for and no launch had."""
        if self.nowhere:
            watch = self.nowhere[0]
            place = "shared memory"
            if watch.place != "shared":
                place = f"a tensor in argument {watch.place}"
            if watch.place.startswith("tensor"):
                place = f"a struct with {watch.place}"
            return f"--watch {watch}: no kernel has {place} of {watch.start + watch.size} bytes"
        if self.warps and max(self.warps) >= self.most > 0:
            return f"--warp {max(self.warps)}: the CTAs have {self.most} warps, from 0 on"
        return None

    def step(self, machine: Machine, s: Active, pc: int) -> Callable[[], None]:
        """Before the instruction at `pc` runs for the lanes of `s`, which may change its guard."""
        guard, mask = machine.kernel.code[pc].guard, s.mask
        if guard is not None:
            wanted = machine.registers[guard[0].name][s.sl].astype(bool)
            mask = mask & (~wanted if guard[1] else wanted)
        chosen = [
            int(warp)
            for warp in s.warps
            if self.warps is None or int(machine.warp_of[warp]) in self.warps
        ]

        def tell() -> None:
            for warp in chosen:
                self._line(machine, warp, pc, mask[warp - s.lo])

        return tell

    def _line(self, machine: Machine, warp: int, pc: int, lanes: np.ndarray) -> None:
        """About a warp of which `lanes` did what the instruction says."""
        instr, count = machine.kernel.code[pc], int(lanes.sum())
        part = "" if count == LANES else f" ({count} of {LANES} lanes)"
        made = self.results(machine, warp, pc) if lanes[self.lane] else ""
        if not count:
            part = " (passed over: its guard is off)"
        self.say(f"{machine.who(warp)}{part} line {instr.line}: {instr.text}{made}")

    def results(self, machine: Machine, warp: int, pc: int) -> str:
        made = [self._value(machine, warp, reg) for reg in flow.writes(machine.kernel.code[pc])]
        return f"   -> {', '.join(made)}" if made else ""

    def _value(self, machine: Machine, warp: int, reg: Reg) -> str:
        value: Any = machine.registers[reg.name][warp, self.lane]
        if reg.type == "pred":
            return f"{reg.name}={bool(value)}"
        as_float = f" ({value.view(np.float32):.6g})" if value.dtype == np.uint32 else ""
        return f"{reg.name}={value:#x}{as_float}"
