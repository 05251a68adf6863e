"""python -m tests.ptx run OP CASE: a kernel of the project on the executor, for a person."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Provider, as_tuple
from aimills_kernels._registry import OPS, get_op
from aimills_kernels.cli import _settle
from aimills_kernels.cli._errors import INTERRUPTED, NO_READER
from tests.ptx import counters, estimate, launch, project
from tests.ptx.errors import PtxError
from tests.ptx.trace import Tracer, Watch, Writers
from tests.ptx.triton import executing

RIGHT, WRONG, WRONG_USE = 0, 1, 2
_SM = 90


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    try:
        code = _command(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` for one
        code = NO_READER
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError as error:
        print(f"python -m tests.ptx: did not finish: {error}", file=sys.stderr)
        code = WRONG_USE
    _settle(sys.stdout)
    return code


def _command(argv: list[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.trace and (args.warp or args.lane is not None):
        parser.error("--warp and --lane choose what --trace shows, and it is not there")
    try:
        op = get_op(args.op)
        return _run(op, op.case(args.case).on("cpu"), args)
    except PtxError as error:
        print(f"FAIL: {type(error).__name__}: {error}")
        return WRONG
    except ValueError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m tests.ptx", description=__doc__)
    run = parser.add_subparsers(required=True, metavar="run").add_parser(
        "run", help="run one case of an op and hold the result against float64",
        description="Runs one case of an op on the executor. The exit code is 0 if the result is "
        "right, 1 if it is wrong or the executor found a fault, 2 if this can't be run.",
    )  # fmt: skip
    run.add_argument("op", help=", ".join(op.name for op in OPS))
    run.add_argument("case", nargs="?", default="tiny", help="a case of the op; tiny if not named")
    run.add_argument("--provider", help="the first own GPU kernel if not named")
    run.add_argument(
        "--seed", type=_whole(2**63 - 1), default=0, help="inputs and the order of warps"
    )
    run.add_argument("--trace", action="store_true", help="a line per warp and instruction")
    run.add_argument(
        "--warp", type=_whole(), action="append",
        help="trace this warp of each CTA only; may be given several times",
    )  # fmt: skip
    run.add_argument("--lane", type=_whole(31), help="whose values a trace shows; 0 if not named")
    run.add_argument(
        "--watch", type=_watch, action="append", default=[], metavar="PLACE",
        help="shared:OFFSET[:BYTES], ARGUMENT:OFFSET[:BYTES] or tensorN:OFFSET[:BYTES]: a line "
        "for each write there; may be given several times",
    )  # fmt: skip
    run.add_argument("--no-check", action="store_true", help="no race and fence checks")
    return parser


def _whole(most: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < 0 or (most is not None and value > most):
            upto = "on" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"a whole number from 0 {upto}, got {text!r}")
        return value

    return read


def _watch(text: str) -> Watch:
    try:
        return Watch.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("--watch ")) from None


def _run(op: Op, case: Case, args: argparse.Namespace) -> int:
    alone, provider = project.on_executor(op, _provider(op, args.provider))
    inputs = op.make_inputs(case, "cpu", args.seed)
    if (reason := project.why_not(alone, provider, inputs, _SM)) is not None:
        raise ValueError(f"{op.name} {case.name}: {provider.name} can't run it: {reason}")
    outs = poisoned(op.fake(*op.make_inputs(case, "meta", args.seed)))
    writers = Writers()
    tracer = Tracer(
        print, warps=set(args.warp) if args.warp else None, lane=args.lane or 0,
        watch=tuple(args.watch), every=args.trace, writers=writers,
    )  # fmt: skip
    options = dict(seed=args.seed, check=not args.no_check, count=True, tracer=tracer)
    began = time.perf_counter()
    done = launches(provider, outs, inputs, **options)
    took = time.perf_counter() - began
    if (missed := tracer.missed()) is not None:
        raise ValueError(missed)
    for result in done:
        _report(result)
    print(estimate.text(done))
    needed = op.cost(case)
    print(f"the op's least: {needed.bytes:.0f} bytes, {needed.flops:.0f} operations")
    loaded, stored = counters.device_bytes(done)
    if needed.bytes:
        moved = loaded + stored
        print(f"bytes moved: {moved}, {moved / needed.bytes:.2f} x the op's least")
    print(f"{took:.1f} s, compilation included")
    return _judged(op, case, args.seed, inputs, outs or op.written(inputs), writers)


def launches(
    provider: Provider, outs: tuple[torch.Tensor, ...], inputs: tuple, **options: Any
) -> list[launch.Result]:
    """A call of the provider on the executor; options: those of launch.run from `seed` on."""
    with executing(_SM, **options) as done:
        _dispatch.load(provider)(outs, *inputs)
    return done


def _judged(
    op: Op, case: Case, seed: int, inputs: tuple, outs: tuple[torch.Tensor, ...], writers: Writers
) -> int:
    untouched = op.make_inputs(case, "cpu", seed)
    trespasses = project.changed(op, untouched, inputs)
    verdicts = project.judge(op, untouched, outs)
    for verdict, out in zip(verdicts, outs, strict=True):
        print(verdict.text(writers.who, out))
    for line in trespasses:
        print(line)
    return RIGHT if not trespasses and all(v.judgement.ok for v in verdicts) else WRONG


def _provider(op: Op, name: str | None) -> Provider:
    own = project.own(op)
    if name is None:
        return own[0]
    for provider in own:
        if provider.name == name:
            return provider
    known = ", ".join(p.name for p in own)
    raise ValueError(f"--provider {name}: {op.name} has {known} to run here")


def poisoned(fakes: Any) -> tuple[torch.Tensor, ...]:
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
