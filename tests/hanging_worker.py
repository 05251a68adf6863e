"""The worker of `isolated`, with attention's providers in it that hang or end the process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from aimills_kernels import _registry
from aimills_kernels.harness import bench, ceilings, isolated
from tests import late_faults


def hangs() -> None:
    time.sleep(1000)


def crashes() -> None:
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leaves() -> None:
    os._exit(7)


BEHAVIOURS: dict[str, Callable[[], None]] = {f.__name__: f for f in (hangs, crashes, leaves)}


def main(name: str, argv: list[str]) -> int:
    """`name` may end in how many calls are right, as in `hangs:0`."""
    name, _, right = name.partition(":")
    late_faults.GATE_CALLS = int(right or late_faults.GATE_CALLS)

    def planted(op: str, outs: Any, args: tuple) -> None:
        late_faults._right(op, outs, args)
        if late_faults._late():
            BEHAVIOURS[name]()

    late_faults.OTHERS["planted"] = planted
    get_op = _registry.get_op
    bench.get_op = lambda op: late_faults.plant(op, "planted") if op == "attention" else get_op(op)
    ceilings.measure = lambda device: {"copy_gbps": 10.0, "gemm_f32_tflops": 0.1, "spec": None}
    return isolated.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
