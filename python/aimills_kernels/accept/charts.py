"""Pictures of the acceptance report: shares of the roofline and of the tolerance."""

from __future__ import annotations

from collections.abc import Sequence

from aimills_kernels.harness._reading import ABOVE
from aimills_kernels.report.bars import at, bar, line, row, svg
from aimills_kernels.report.html import Html, el, join
from aimills_kernels.report.words import Row, bound_text, kind, percent

_TOP = 1.25  # share of the tolerance at the right edge of the strip


# ---- share of the roofline


def roofline(rows: Sequence[Row]) -> Html:
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        if r["sol"] is not None:
            groups.setdefault((r["device"], r["op"]), []).append(r)
    made = []
    for (_, op), found in groups.items():
        head = el("h4", op)
        made.append(el("div", head, *[_roof_row(r) for r in found], cls="group long"))
    return join(made)


def _roof_row(found: Row) -> Html:
    share, bound = found["sol"], bound_text(found)
    picture = svg(
        f"{found['case']} {found['provider']}: {percent(share)} of the measured roofline",
        *[line(f"{x}%", "grid") for x in (25, 50, 75)],
        line("100%", "limit"),
        bar(share, kind(found)),
    )
    label = join([found["case"], " ", el("small", found["provider"])])
    if share > ABOVE:
        return row(label, picture, "no ceiling", f"{bound}: {share:.2g} times it", kind(found))
    return row(label, picture, percent(share), bound, kind(found))


# ---- error against tolerance


def tolerance(checks: Sequence[Row]) -> Html:
    """A strip for each op and provider, a dot for each check that ran."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for check in checks:
        if check["status"] != "not run":
            groups.setdefault((check["op"], check["provider"]), []).append(check)
    blocks = []
    for op in dict.fromkeys(op for op, _ in groups):
        rows = [_strip(p, found) for (o, p), found in groups.items() if o == op]
        blocks.append(el("div", el("h4", op), *rows, cls="group"))
    return join(blocks)


def _strip(provider: str, checks: list[Row]) -> Html:
    used = [c["used"] for c in checks if c["used"] is not None]
    wrong = sum(c["status"] == "wrong" for c in checks)
    colour = "own" if checks[0]["own"] else "reference" if provider == "reference" else "peer"
    picture = svg(
        f"{provider}: {len(checks)} checks, {percent(max(used, default=None))} at most",
        el("line", x1="0", x2="100%", y1="50%", y2="50%", cls="grid"),
        line(at(1 / _TOP), "limit"),
        *[_dot(c, colour) for c in sorted(checks, key=lambda c: c["status"] == "wrong")],
    )
    worst = f"{wrong} wrong" if wrong else percent(max(used, default=None))
    count = f"{len(checks)} check{'s' * (len(checks) != 1)}"
    return row(provider or "–", picture, worst, count, f"{colour}{' wrong' * bool(wrong)}")


def _dot(check: Row, colour: str) -> Html:
    used = check["used"]
    wrong = check["status"] == "wrong"
    place = _TOP if used is None and wrong else min(used or 0.0, _TOP)
    name = f"{check['case']} on {check['device']}: {percent(used) if used is not None else 'wrong'}"
    # Half a dot of room at both ends.
    x = f"{1 + 98 * place / _TOP:.2f}%"
    return el("circle", el("title", name), cx=x, cy="50%", r=4,
              cls=f"dot {'wrong' if wrong else colour}")  # fmt: skip
