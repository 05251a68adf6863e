"""What a call costs before any work is done: the figures of docs/measured.md, measured again.

.venv/bin/python tools/measure_overheads.py             costs below the library, and each op's
.venv/bin/python tools/measure_overheads.py matmul      the ops with this word in their name alone
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pybind11
import torch
from torch import Tensor

from aimills_kernels._registry import OPS
from aimills_kernels.harness import overhead

CALLS, ROUNDS = 1_000, 60

BINDING = """
#include <cstdint>
#include <pybind11/pybind11.h>
static int launch(std::uintptr_t, std::uintptr_t, std::uintptr_t, int64_t, int64_t, int64_t,
                  std::uintptr_t) { return 0; }
PYBIND11_MODULE(probe, m) { m.def("launch", &launch); }
"""


def microseconds(call: Callable[[], Any]) -> float:
    """Time of one call in the least disturbed round, the empty loop taken off."""

    def once(function: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        for _ in range(CALLS):
            function()
        return (time.perf_counter() - begin) / CALLS * 1e6

    once(call)
    empty = min(once(lambda: None) for _ in range(ROUNDS))
    return min(once(call) for _ in range(ROUNDS)) - empty


def bound_function(folder: Path) -> Callable[..., int]:
    """A function that takes three pointers, three sizes and a stream, and does nothing."""
    source = folder / "probe.cpp"
    source.write_text(BINDING)
    module = folder / f"probe{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    flags = ["-O3", "-shared", "-fPIC", "-std=c++17", "-fvisibility=hidden"]
    subprocess.run(["c++", *flags, *include, str(source), "-o", str(module)], check=True)
    spec = importlib.util.spec_from_file_location("probe", module)
    assert spec
    assert spec.loader
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    return probe.launch


def reference_6(
    a: Tensor, b: Tensor, c: Tensor, x: float = 1.0, n: int = 1, f: bool = False
) -> Tensor:
    return a


def reference_14(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, e: Tensor | None = None,
    n: int = 1, m: int = 1, k: int = 1, x: float = 1.0, y: float = 1.0, z: float = 1.0,
    f: bool = False, g: bool = False, h: bool = False,
) -> Tensor:  # fmt: skip
    return a


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.aimills_probe.no_op_6.default(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return (grad, None, None, None, None, None)


def op_costs() -> dict[str, float]:
    """Every op returns a fresh torch.empty(4); its cost is taken off."""
    library = torch.library.Library("aimills_probe", "FRAGMENT")

    def kernel(*_: Any) -> Tensor:
        return torch.empty(4)

    for name, reference in (("no_op_6", reference_6), ("no_op_14", reference_14)):
        library.define(name + torch.library.infer_schema(reference, mutates_args=()))
        library.impl(name, kernel, "CPU")
    custom = torch.library.custom_op("aimills_probe::custom", mutates_args=())(fresh_output)
    six = torch.ops.aimills_probe.no_op_6.default
    fourteen = torch.ops.aimills_probe.no_op_14.default
    t = torch.ones(4)
    args = (t, t, t, 1.0, 1, False)
    more = (t, t, t, None, None, 1, 1, 1, 1.0, 1.0, 1.0, False, False, False)
    needs = (t.clone().requires_grad_(), *args[1:])
    calls = {
        "op by define/impl, 6 arguments": lambda: six(*args),
        "op by define/impl, 14 arguments": lambda: fourteen(*more),
        "op by define/impl, 6, in an autograd.Function": lambda: Identity.apply(*needs),
        "op by custom_op, 6 arguments": lambda: custom(*args),
    }
    empty = microseconds(kernel)
    return {name: microseconds(call) - empty for name, call in calls.items()}


def fresh_output(
    a: Tensor, b: Tensor, c: Tensor, x: float = 1.0, n: int = 1, f: bool = False
) -> Tensor:
    return torch.empty(4)


def import_seconds(code: str, runs: int = 3) -> float:
    def once() -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return float(done.stdout)

    return statistics.median(once() for _ in range(runs))


def import_costs() -> dict[str, float]:
    timed = "import time; {0}; t = time.perf_counter(); {1}; print(time.perf_counter() - t)"
    return {
        "import torch": import_seconds(timed.format("0", "import torch")),
        "import aimills_kernels after torch": import_seconds(
            timed.format("import torch", "import aimills_kernels")
        ),
        "import aimills_kernels and its first op after torch": import_seconds(
            timed.format("import torch", "import aimills_kernels as a; a.attention")
        ),
    }


def public_costs(word: str = "", rounds: int = overhead.ROUNDS) -> dict[str, dict[str, Any]]:
    """Of each op: its public function with nothing to launch, and an op of its schema that does
    nothing but allocate its outputs, in turns."""
    found = {}
    for op in (op for op in OPS if word in op.name):
        with overhead.contestants(op, "cpu") as calls:
            if not calls:
                raise SystemExit(f"{op}: its public function takes other arguments than its schema")
            found[op.name] = overhead.compare(calls, rounds)
    return found


def show_public_costs(word: str) -> None:
    if why := overhead.busy():
        print(f"these say little: {why}")
    print(f"    call   no-op  beyond it (quartiles apart; the target is {overhead.TARGET_US} us)")
    for name, row in public_costs(word).items():
        public, noop, beyond, apart = (
            row[key] for key in ("public_us", "noop_us", "extra_us", "extra_iqr_us")
        )
        print(f"{public:8.2f}{noop:8.2f}{beyond:8.2f} us ({apart:.2f})  {name}")


def main() -> None:
    torch.set_num_threads(1)
    if words := sys.argv[1:]:
        for word in words:
            if not any(word in op.name for op in OPS):
                raise SystemExit(
                    f"no op has {word!r} in its name; there are: {', '.join(map(str, OPS))}"
                )
            show_public_costs(word)
        return
    with tempfile.TemporaryDirectory() as folder:
        launch = bound_function(Path(folder))
        bound = microseconds(lambda: launch(1, 2, 3, 4, 5, 6, 7))
    print(f"{bound:8.2f} us  pybind11 call with 7 integers")
    for name, cost in op_costs().items():
        print(f"{cost:8.2f} us  {name}")
    for name, seconds in import_costs().items():
        print(f"{seconds * 1e3:8.1f} ms  {name}")
    show_public_costs("")


if __name__ == "__main__":
    main()
