"""`criteria show | diff | lint`: what a pod must reach, and whether a file of it is sound."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from aimills_kernels.cli import _ui
from aimills_kernels.cli._errors import OK, WRONG, UsageError

_VERBS = {
    "show": "what criteria ask for, with sources and gaps; without a name, which there are",
    "diff": "what differs between two",
    "lint": "hold criteria against physical peaks; without a name, all that the package brings",
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "verb", choices=_VERBS, metavar="show|diff|lint",
        help="; ".join(f"{verb}: {text}" for verb, text in _VERBS.items()),
    )  # fmt: skip
    parser.add_argument("name", nargs="*", metavar="NAME|FILE", help="of the package, or a file")


def run(options: Namespace) -> int:
    verb = {"show": _show, "diff": _diff, "lint": _lint}[options.verb]
    return verb(options.name)


def _show(wanted: list[str]) -> int:
    from aimills_kernels.accept.criteria import diff, load, names

    if not wanted:
        rows = [
            [c.name, c.version, c.title, f"{len(c.rules)}", f"{len(c.unknown)}"]
            for c in map(load, names())
        ]
        _ui.table("criteria", ["name", "version", "for", ">rules", ">gaps"], rows)
        return OK
    for name in wanted:
        found = load(name)
        _ui.say(f"{found.name} {found.version}: {found.title}, sha256 {found.digest}")
        rows = [[r.id, *diff.rule(r).rsplit("; ", 1)] for r in found.rules]
        rows += [[o.id, *diff.outliers(o).rsplit("; source ", 1)] for o in found.outliers]
        _ui.table("", ["rule", "asks for", "source"], rows)
        _ui.table("without a rule", ["metric", "why"], list(found.unknown.items()))
    return OK


def _diff(wanted: list[str]) -> int:
    from aimills_kernels.accept.criteria import diff, load

    if len(wanted) != 2:
        raise UsageError(f"criteria diff: takes two names or files, and got {len(wanted)}")
    rows = diff.diff(load(wanted[0]), load(wanted[1]))
    if not rows:
        _ui.say("they ask for the same")
    else:
        _ui.table("", ["what", *wanted], rows)
    return OK


def _lint(wanted: list[str]) -> int:
    from aimills_kernels.accept.criteria import CriteriaError, find, load, names
    from aimills_kernels.accept.criteria.lint import lint

    for name in wanted:  # a name that is nobody's is a wrong use, and no flaw of a file
        find(name)
    wrong = 0
    for name in wanted or names():
        try:
            found = lint(load(name))
        except CriteriaError as error:
            found = [str(error)]
        for text in found:
            _ui.say(text, "red")
        wrong += bool(found)
        if not found:
            _ui.say(f"{name}: no figure is beyond physics")
    return WRONG if wrong else OK
