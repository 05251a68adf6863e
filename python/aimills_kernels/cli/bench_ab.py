"""`bench ab`: two checkouts, or two providers, in turns."""

from __future__ import annotations

import argparse
from argparse import Namespace
from typing import TYPE_CHECKING

from aimills_kernels.cli._errors import INCOMPLETE, UsageError

if TYPE_CHECKING:
    from aimills_kernels._op import Case, Op
    from aimills_kernels.cli import _ui
    from aimills_kernels.harness.compare import Comparison

_EPILOG = (
    "A checkout is a folder, with a .venv of its own or the same C++ sources as this one, or a "
    "commit of this one. Exit codes: 0 no row is SLOWER, 1 one is, or is wrong in NEW alone, 2 "
    "something could not be compared, 3 wrong use"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    from aimills_kernels.cli import _parser
    from aimills_kernels.cli.bench_compare import add_threshold

    parser.epilog = _EPILOG
    _parser.chosen_arguments(parser)
    parser.add_argument("--base", metavar="CHECKOUT", help="what is compared against")
    parser.add_argument("--new", metavar="CHECKOUT", help="what is compared; this one by default")
    parser.add_argument(
        "--providers", nargs=2, metavar=("BASE", "NEW"), help="two providers, and no checkouts"
    )
    parser.add_argument(
        "--budget", type=_parser.seconds, default=120.0,
        help="seconds (default 120); a row gets ten turns a side in any case",
    )  # fmt: skip
    add_threshold(parser)
    parser.add_argument("--json", action="store_true", help="the verdicts as JSON")


def run(options: Namespace) -> int:
    from aimills_kernels.cli import _choose, _ui, bench_compare
    from aimills_kernels.harness import ab

    if (options.base is None) == (options.providers is None):
        raise UsageError("name what to compare: --base CHECKOUT, or --providers BASE NEW")
    if options.providers and (options.new or options.provider):
        raise UsageError("--providers names both sides; --new and --provider go with --base")
    chosen = _choose.ops(options.op)
    _choose.cases(chosen, options.case)
    places = _choose.devices(options.device)
    if len(places) > 1:
        raise UsageError(f"--device should name one device, {', '.join(map(str, places))} are here")
    todo = [
        (op, case)
        for op in chosen
        for case in op.cases
        if (case.name in options.case if options.case else "bench" in case.tags)
    ]
    try:
        with _ui.progress("ab") as step:
            found, title = _compared(options, todo, str(places[0]), step)
    except ab.Unusable as error:
        _ui.say(str(error), "yellow")
        return INCOMPLETE
    if options.json:
        print(bench_compare.as_json(found))
    else:
        bench_compare.show(found, title)
    return found.code


def _compared(
    options: Namespace, todo: list[tuple[Op, Case]], device: str, step: _ui.Step
) -> tuple[Comparison, str]:
    from aimills_kernels.cli import _choose
    from aimills_kernels.harness import ab, env

    given = {"budget_s": options.budget, "seed": options.seed, "threshold": options.threshold,
             "progress": step}  # fmt: skip
    ops = list(dict.fromkeys(op for op, _ in todo))
    if options.providers:
        base, new = options.providers
        _choose.providers(ops, options.providers)
        both = [(op, c) for op, c in todo if {base, new} <= {p.name for p in op.all_providers}]
        if not both or base == new:
            raise UsageError(f"no op here has both {base!r} and {new!r} as two providers")
        return ab.providers(base, new, both, device, **given), f"{new} against {base}"
    of = _choose.providers(ops, options.provider)
    rows = [(op, case, p) for op, case in todo for p in of[op.name]]
    new = options.new or str(env.ROOT)
    return ab.trees(options.base, new, rows, device, **given), f"{new} against {options.base}"
