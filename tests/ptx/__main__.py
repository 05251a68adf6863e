"""python -m tests.ptx run OP CASE: a kernel of the project on the executor, for a person."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, as_tuple
from aimills_kernels._registry import OPS, get_op
from tests.ptx import counters, cuda, estimate, launch
from tests.ptx.errors import PtxError
from tests.ptx.trace import Tracer, Watch, first_difference
from tests.ptx.triton import executing


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        op = get_op(args.op)
        case = op.case(args.case).on("cpu")
        return _run(op, case, args)
    except (PtxError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.ptx", description=__doc__)
    run = parser.add_subparsers(required=True).add_parser("run", help="run a kernel")
    run.add_argument("op", help=", ".join(op.name for op in OPS))
    run.add_argument("case", nargs="?", default="tiny")
    run.add_argument("--provider", help="the first own GPU kernel if not named")
    run.add_argument("--seed", type=int, default=0, help="inputs and the order of warps")
    run.add_argument("--trace", action="store_true", help="a line per warp and instruction")
    run.add_argument("--warp", type=int, action="append", help="trace this warp of each CTA only")
    run.add_argument("--lane", type=int, default=0, help="whose values a trace shows")
    run.add_argument(
        "--watch", type=Watch.parse, action="append", default=[],
        help="shared:OFFSET[:BYTES] or ARGUMENT:OFFSET[:BYTES]: who changes it",
    )  # fmt: skip
    run.add_argument("--no-check", action="store_true", help="no race and fence checks")
    return parser


def _run(op: Op, case: Case, args: argparse.Namespace) -> int:
    provider = _provider(op, args.provider)
    inputs = op.make_inputs(case, "cpu", args.seed)
    outs = _poisoned(op.fake(*op.make_inputs(case, "meta", args.seed)))
    expected, got = op.results(inputs), outs or op.written(inputs)
    tracer = None
    if args.trace or args.watch:
        warps = set(args.warp) if args.warp else None
        tracer = Tracer(
            print, warps=warps, lane=args.lane, watch=tuple(args.watch), every=args.trace
        )
    options = dict(seed=args.seed, check=not args.no_check, count=True, tracer=tracer)
    began = time.perf_counter()
    with executing(90, **options) as done:
        if provider.interpret:
            _dispatch.load(provider)(outs, *inputs)
        else:
            cuda.OPTIONS.update(options)
            cuda.RESULTS.clear()
            cuda.video_to_tensor(outs, *inputs)
            done.extend(cuda.RESULTS)
    took = time.perf_counter() - began
    for result in done:
        _report(result)
    print(estimate.text(done))
    needed = op.cost(case)
    print(f"the op's least: {needed.bytes:.0f} bytes, {needed.flops:.0f} operations")
    print(f"{took:.1f} s, compilation included")
    lines = [first_difference(o, e, n) for o, e, n in zip(got, expected, op.outputs, strict=True)]
    print("against the reference in the input's dtype (roundings may differ):")
    print("\n".join(f"  {line}" for line in lines))
    return 0


def _provider(op: Op, name: str | None) -> Any:
    own = [p for p in op.providers if p.interpret or p.name == "nvrtc"]
    if name is None:
        return own[0]
    for provider in own:
        if provider.name == name:
            return provider
    raise ValueError(f"--provider {name}: {op} has {', '.join(p.name for p in own)} to run here")


def _poisoned(fakes: Any) -> tuple[torch.Tensor, ...]:
    outs = []
    for fake in as_tuple(fakes):
        out = torch.empty(fake.shape, dtype=fake.dtype)
        out.view(torch.uint8).fill_(0xFF) if out.numel() else None
        outs.append(out)
    return tuple(outs)


def _report(result: launch.Result) -> None:
    found = result.counters
    assert found is not None
    print(f"{result.kernel.name}: {int(result.executed.sum())} warp instructions")
    classes = counters.by_class(result.kernel, result.executed)
    print("  " + ", ".join(f"{n} {c}" for n, c in classes.items() if c))
    for what, table in (("loaded", found.loaded), ("stored", found.stored)):
        print(f"  bytes {what}: " + ", ".join(f"{s} {b}" for s, b in sorted(table.items())))
    if found.shared_least:
        ratio = found.shared_cycles / found.shared_least
        print(f"  shared memory: {found.shared_cycles} cycles, {ratio:.2f} x the least")
    if result.cubin is not None:
        print(f"  machine code: {estimate.machine_code(result.cubin)}")
    for held in result.memory.allocations:
        if held.loaded or held.stored:
            print(f"  {held.name}: {held.size} bytes, loaded {held.loaded}, stored {held.stored}")


if __name__ == "__main__":
    sys.exit(main())
