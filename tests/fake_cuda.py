"""A GPU that isn't there: a queue with a clock of its own, in the place of `_clocks.Cuda`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Work = tuple[Callable[[], None], float]


class FakeCuda:
    """What is launched runs at once and takes the time that it says; what is launched on a side
    stream runs when the device is waited for, and no event of the current stream sees it."""

    device = torch.device("cpu")
    cycles_per_us = 1000.0

    def __init__(self) -> None:
        self.now_us = 0.0
        self.side: list[Callable[[], None]] = []
        self.graph: list[Work] | None = None
        self.dead = self.slow_host = False
        self.spins = self.replays = 0

    # ---- what kernels do

    def launch(self, work: Callable[[], None], us: float, side: bool = False) -> None:
        if side:
            self.side.append(work)
        elif self.graph is not None:
            self.graph.append((work, us))
        else:
            work()
            self.now_us += us

    def capturing(self) -> bool:
        return self.graph is not None

    def kill(self) -> None:
        self.dead = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    # ---- what the harness asks

    def cache_bytes(self) -> int:
        return 1 << 16

    def event(self) -> list[float]:
        return [0.0]

    def record(self, event: list[float]) -> None:
        event[0] = self.now_us

    def reached(self, event: list[float]) -> bool:
        return self.slow_host

    def wait(self, event: list[float]) -> None:
        self._check()

    def between_us(self, begin: list[float], end: list[float]) -> float:
        return end[0] - begin[0]

    def spin(self, cycles: int) -> None:
        self.spins += 1
        self.now_us += cycles / self.cycles_per_us

    def synchronize(self) -> None:
        self._check()
        side, self.side = self.side, []
        for work in side:
            work()

    def usable(self) -> bool:
        return not self.dead

    def forget_persisting(self) -> None: ...

    def capture(self, call: Callable[[], Any]) -> Callable[[], None]:
        self.graph = []
        try:
            call()
            works = self.graph
        finally:
            self.graph = None

        def replay() -> None:
            self.replays += 1
            for work, us in works:
                self.launch(work, us)

        return replay

    def _check(self) -> None:
        if self.dead:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
