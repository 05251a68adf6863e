"""`precompile`: what a model's shapes need is compiled before it serves."""

from __future__ import annotations

from argparse import Namespace

from aimills_kernels._op import Case, Op
from aimills_kernels.cli import _choose, _ui
from aimills_kernels.cli._errors import INCOMPLETE, OK, UsageError


def run(options: Namespace) -> int:
    from aimills_kernels import _dispatch

    if _dispatch.interpreting():
        raise UsageError("TRITON_INTERPRET=1 is set: the interpreter compiles nothing")
    sm = options.sm or _sm_here()
    chosen = _choose.ops(options.op)
    problems = _problems(options, chosen)
    made = {major // 10 for op in chosen for p in op.providers if p.interpret for major in p.sm}
    if made and sm // 10 not in made:
        raise UsageError(f"no kernel is made for sm_{sm}")
    folder = _choose.directory(options.out) if options.out is not None else None
    from aimills_kernels import _precompile

    with _ui.progress(f"precompile for sm_{sm}", len(problems)) as step:
        report = _precompile.precompile(problems, sm, folder, step)
    for why in report.left:
        _ui.say(f"left out: {why}")
    _ui.say(
        f"sm_{sm}: {report.compiled} kernels compiled, {report.found} were there; "
        f"{report.launchers} C modules built"
    )
    if folder:
        _ui.say(f"serve with TRITON_CACHE_DIR={folder.resolve()}, or from any place, read-only:")
        _ui.say(
            "TRITON_CACHE_MANAGER=aimills_kernels.precompiled:Cache "
            f"AIMILLS_PRECOMPILED={folder.resolve()}"
        )
    return OK if report.compiled + report.found else INCOMPLETE


def _sm_here() -> int:
    import torch

    from aimills_kernels import _dispatch

    if not torch.cuda.is_available():
        raise UsageError("there is no GPU here: name the capability to compile for, as --sm 90")
    sm = _dispatch.sm_of(torch.device("cuda", torch.cuda.current_device()))
    assert sm is not None
    return sm


def _problems(options: Namespace, chosen: tuple[Op, ...]) -> list[tuple[Op, Case]]:
    if options.model is None:
        if options.case is None:
            raise UsageError("name what to compile for: a --model, or ops with --case")
        cases = _choose.cases(chosen, options.case)
        return [(op, case) for op in chosen for case in cases[op.name]]
    if options.case is not None:
        raise UsageError("--case names an op's own cases; with --model, name ops and a --phase")
    from aimills_kernels.harness import model_bench

    found = []
    for batch in options.batch:
        found += model_bench.passes(
            options.model, options.phase, tp=options.tp, batch=batch, context=options.context
        )
    return [(op, c.case) for op in chosen for f in found for c in f.calls if c.op == op.name]
