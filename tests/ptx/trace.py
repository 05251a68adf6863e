"""For a person who debugs: what each warp did, who changed what, where results first part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx import flow
from tests.ptx.machine import Active, Machine
from tests.ptx.memory import Memory
from tests.ptx.parse import Reg


@dataclass(frozen=True)
class Watch:
    """Bytes [start, start + size) of shared memory, or of an argument's tensor."""

    place: str  # "shared", or the number of an argument
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
            raise ValueError(f"--watch {text}: expected PLACE:OFFSET[:BYTES]") from None
        if place != "shared" and not place.isdigit():
            raise ValueError(f"--watch {text}: the place is 'shared' or an argument's number")
        return Watch(place, start, size)

    def bytes(self, memory: Memory) -> np.ndarray:
        if self.place == "shared":
            rows = memory.shared.reshape(-1, memory.row)
            return rows[:, self.start : self.start + self.size].copy()
        for held in memory.globals.allocations:
            if self.place in held.name.removeprefix("argument ").split(" and "):
                start = held.skew + self.start
                return held.bytes[start : start + self.size].copy()
        raise ValueError(f"--watch: there is no tensor in argument {self.place}")


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
    ):
        self.say, self.warps, self.lane, self.watch, self.every = say, warps, lane, watch, every
        self.seen: list[np.ndarray] = []

    def attach(self, machine: Machine, memory: Memory) -> None:
        self.seen = [w.bytes(memory) for w in self.watch]
        machine.trace = lambda s, pc: self.step(machine, memory, s, pc)

    def step(self, machine: Machine, memory: Memory, s: Active, pc: int) -> None:
        """After the instruction at `pc` ran for the lanes of `s`."""
        instr = machine.kernel.code[pc]
        if self.every:
            for warp in s.warps:
                if self.warps is None or int(machine.position_of[warp]) in self.warps:
                    made = self.results(machine, int(warp), pc)
                    lanes = int(s.mask[warp - s.lo].sum())
                    part = "" if lanes == 32 else f" ({lanes} lanes)"
                    self.say(f"{machine.who(warp)}{part} line {instr.line}: {instr.text}{made}")
        for index, watch in enumerate(self.watch):
            now = watch.bytes(memory)
            if not np.array_equal(now, self.seen[index]):
                at = np.argwhere(now != self.seen[index])[0]
                who = ", ".join(machine.who(w) for w in s.warps[:4])
                before, after = self.seen[index][tuple(at)], now[tuple(at)]
                self.say(
                    f"* {watch.place}:{watch.start + int(at[-1])} {before:#04x} -> {after:#04x} "
                    f"by {who}, line {instr.line}: {instr.text}"
                )
                self.seen[index] = now

    def results(self, machine: Machine, warp: int, pc: int) -> str:
        made = [self._value(machine, warp, reg) for reg in flow.writes(machine.kernel.code[pc])]
        return f"   -> {', '.join(made)}" if made else ""

    def _value(self, machine: Machine, warp: int, reg: Reg) -> str:
        value: Any = machine.registers[reg.name][warp, self.lane]
        if reg.type == "pred":
            return f"{reg.name}={bool(value)}"
        as_float = f" ({value.view(np.float32):.6g})" if value.dtype == np.uint32 else ""
        return f"{reg.name}={value:#x}{as_float}"


def first_difference(got: Any, expected: Any, name: str = "out") -> str:
    """One readable sentence about where two tensors part, by the largest difference too."""
    import torch

    a, b = got.detach().double(), expected.detach().double()
    wrong = ~((a == b) | (a.isnan() & b.isnan()))
    count = int(wrong.sum())
    if not count:
        return f"{name}: no difference"
    at = tuple(int(i) for i in torch.nonzero(wrong)[0])
    gap = (a - b).abs().nan_to_num(nan=float("inf"))
    worst = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), a.shape))
    return (
        f"{name}: {count} of {a.numel()} values differ; the first at {list(at)}: "
        f"{a[at].item():.8g}, expected {b[at].item():.8g}; the largest at {list(worst)}: "
        f"{a[worst].item():.8g}, expected {b[worst].item():.8g}"
    )
