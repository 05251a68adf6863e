"""From benchmark records to tables of choices: which provider serves a problem that was recorded.

Of the providers that are right on a problem, the first in the op's order of preference within 3 %
of the fastest is chosen, each with its built-in tiles unless others are faster by more. Only what
the present sources measured counts: a record of a clean checkout whose files of that provider are
those of now.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aimills_kernels import _configs, _dispatch, _records, _tuned
from aimills_kernels._op import Case, Op, Problem, Provider
from aimills_kernels._registry import OPS
from aimills_kernels.harness import _problems, env
from aimills_kernels.harness._machine import Record, Row, facts, kind, mapping
from aimills_kernels.harness._reading import ENOUGH

NEAR = 1.03  # so close to the fastest, the order of preference decides


@dataclass(frozen=True)
class Chosen:
    """An entry of a table, and the case that it was measured on."""

    entry: _tuned.Entry
    case: str


@dataclass
class Tuning:
    """What the records say: new tables by file, the choices among them, and what was left out."""

    tables: dict[Path, list[_tuned.Entry]] = field(default_factory=dict)
    chosen: list[Chosen] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)  # reason to the rows

    def leave(self, reason: str, what: str) -> None:
        names = self.left.setdefault(reason, [])
        names += [what] if what not in names else []


def tune(sources: Sequence[tuple[str, Record]], ops: Sequence[Op] = OPS) -> Tuning:
    """The tables that follow from records by name, the oldest first: a newer one goes before an
    older one, and an entry that is there already stays unless it is stale or measured anew.
    ValueError where a table that is there can't be read: it is not written over."""
    made = Tuning()
    known = {op.name: op for op in ops}
    kept = {path: _tuned.read(path) for path in map(_tuned.table_file, ops) if path.exists()}
    fresh: dict[tuple[str, int, str], Chosen] = {}
    for name, record in sources:
        for (op_name, sm), rows in _by_op(made, name, record):
            if (op := known.get(op_name)) is None:
                made.leave("there is no such op", op_name)
                continue
            for chosen in _choices(made, op, sm, name, record, rows):
                fresh[op_name, sm, chosen.entry["problem"]] = chosen
    made.chosen = list(fresh.values())
    for op in ops:
        old = [e for e in kept.get(_tuned.table_file(op), []) if e["op"] == op.name]
        new = [c.entry for key, c in fresh.items() if key[0] == op.name]
        if new:
            entries = made.tables.setdefault(_tuned.table_file(op), [])
            entries += [*_still(made, op, old, fresh), *new]
    for path, entries in made.tables.items():  # the family's other ops are in the same file
        mine = {e["op"] for e in entries}
        entries += [e for e in kept.get(path, []) if e["op"] not in mine]
    return made


def _still(
    made: Tuning, op: Op, old: Iterable[_tuned.Entry], fresh: Iterable[tuple[str, int, str]]
) -> Iterator[_tuned.Entry]:
    """Entries that stay."""
    for entry in old:
        if (op.name, entry["sm"], entry["problem"]) in fresh:
            continue
        if stale := _tuned.why_stale(entry, op):
            made.leave(f"an entry of before is dropped: {stale}", f"{op.name} {entry['problem']}")
        else:
            yield entry


def _by_op(made: Tuning, name: str, record: Record) -> Iterator[tuple[tuple[str, int], list[Row]]]:
    """The rows of a record's GPUs by op and capability."""
    git = mapping(record, "environment", "git")
    if not git.get("commit") or git.get("dirty"):
        made.leave("not made by a clean checkout, so what it measured is not known", name)
        return
    if not mapping(record, "environment", "torch").get("version"):
        made.leave("it does not say its version of torch", name)
        return
    found: dict[tuple[str, int], list[Row]] = {}
    for row in record["rows"]:
        if kind(row["device"]) != "cuda":
            made.leave("not of a GPU: a CPU has one path of each op, and needs no table", name)
            continue
        sm = _capability(facts(record, row["device"]))
        if sm is None:
            made.leave("it does not say the GPU's compute capability", name)
            continue
        found.setdefault((row["op"], sm), []).append(row)
    yield from found.items()


def _capability(known: dict[str, Any]) -> int | None:
    if isinstance(sm := known.get("sm"), int):
        return sm
    try:
        return round(10 * float(known["compute_capability"]))
    except (KeyError, TypeError, ValueError):
        return None


def _choices(
    made: Tuning, op: Op, sm: int, name: str, record: Record, rows: Sequence[Row]
) -> Iterator[Chosen]:
    problems: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["mode"] in ("stream", None):
            problems.setdefault((row["case"], str(row["dims"])), []).append(row)
    for (case, _), mine in problems.items():
        try:
            problem = _problem(op, sm, case, mine[0]["dims"])
        except Exception as error:  # whatever dims of another time lead to
            made.leave(f"its problem can't be made: {env.first_line(error)}", f"{op.name} {case}")
            continue
        usable = _usable(made, op, problem, record, mine)
        if len(usable) < min(2, len(_able(op, problem))) or not usable:
            made.leave("fewer than two providers have a time that counts", f"{op.name} {case}")
            continue
        provider, row = _best(op, problem, usable)
        fastest = min(usable.values(), key=lambda r: r["median_us"])
        yield Chosen(
            {
                "op": op.name, "sm": sm, "problem": _tuned.signature(op, problem.args),
                "provider": provider.name, "config": row["config"],
                **_stamp(op, provider, record), "record": _name(name, record),
                "median_us": row["median_us"], "fastest": fastest["provider"],
                "fastest_us": fastest["median_us"],
            },
            case,
        )  # fmt: skip


def _problem(op: Op, sm: int, name: str, dims: dict[str, Any]) -> Problem:
    case = Case(name)
    case.dims |= {k: tuple(v) if isinstance(v, list) else v for k, v in dims.items()}
    return Problem(op, _problems.arguments(op, case), "cuda", sm)


def _usable(
    made: Tuning, op: Op, problem: Problem, record: Record, rows: Sequence[Row]
) -> dict[str, Row]:
    """By provider: the row whose time counts. Peers that can't serve, and what is wrong, do not."""
    times: dict[str, dict[str | None, Row]] = {}
    names, able = {p.name for p in op.all_providers}, _able(op, problem)
    for row in rows:
        provider = row["provider"].removesuffix(f" {row['config']}")
        if provider not in names or row["median_us"] is None or not row["validated"]:
            continue
        what = f"{op.name} {row['case']} {row['provider']}"
        if row["n"] < ENOUGH:
            made.leave(f"fewer than {ENOUGH} samples", what)
        elif row["suspect"]:
            made.leave("its time is suspect", what)
        elif provider not in able:
            made.leave("it does not take this problem now", what)
        elif changed := _changed(op.provider(provider), _commit(record)):
            made.leave(changed, what)
        else:
            times.setdefault(provider, {})[row["config"]] = row
    found = {}
    for name, mine in times.items():
        if (best := _with_best_tiles(made, op.provider(name), problem, mine)) is not None:
            found[name] = best
    return found


def _able(op: Op, problem: Problem) -> set[str]:
    """Who takes the problem: only one where the others can't promise what is asked for."""
    return {p.name for p in op.all_providers if not _dispatch.refuses(p, problem)}


def _with_best_tiles(
    made: Tuning, provider: Provider, problem: Problem, rows: dict[str | None, Row]
) -> Row | None:
    """The row of the built-in tiles, unless others are faster by more than `NEAR`."""
    for config, row in list(rows.items()):
        if config is None:
            continue
        what = f"{row['op']} {row['case']} {row['provider']}"
        if _configs.named(provider, problem, config) is None:
            made.leave("there are no such tiles for this problem now", what)
            del rows[config]
        elif None not in rows:
            made.leave("the built-in tiles have no time that counts beside them", what)
    if None not in rows:
        return None
    least = min(row["median_us"] for row in rows.values())
    return next(row for row in _in_order(rows) if row["median_us"] <= NEAR * least)


def _in_order(rows: dict[str | None, Row]) -> list[Row]:
    """The built-in tiles first, then the fastest."""
    return sorted(rows.values(), key=lambda r: (r["config"] is not None, r["median_us"]))


def _best(op: Op, problem: Problem, usable: dict[str, Row]) -> tuple[Provider, Row]:
    least = min(row["median_us"] for row in usable.values())
    order = [p for p in op.all_providers if p.name in usable]
    near = [p for p in order if usable[p.name]["median_us"] <= NEAR * least]
    provider = (order if _tuned.invariant(problem) else near)[0]  # rows must not decide who serves
    return provider, usable[provider.name]


def _stamp(op: Op, provider: Provider, record: Record) -> dict[str, str]:
    """As of the record, not of this machine."""
    known = _tuned.stamp(op, provider)
    torch_version = mapping(record, "environment", "torch")["version"]
    triton = record["environment"].get("triton") or "none"
    return {
        "sources": known["sources"],
        "triton": _tuned.minor(triton) if provider.interpret else "",
        "torch": _tuned.minor(torch_version),
    }


def _name(name: str, record: Record) -> str:
    day, commit = str(record["created"])[:10], _commit(record)[:9]
    gpus = {str(facts(record, r["device"]).get("name")) for r in record["rows"]}
    return f"{name} ({day}, {commit}, {', '.join(sorted(gpus))})"


def _commit(record: Record) -> str:
    return str(mapping(record, "environment", "git")["commit"])


@cache
def _changed(provider: Provider, commit: str) -> str | None:
    """Why what was measured at `commit` does not hold for the provider of now."""
    digest = hashlib.sha256()
    for path in _records.source_files(provider):
        if not path.resolve().is_relative_to(env.ROOT):
            return f"{path.name} is no file of this checkout"
        name = path.resolve().relative_to(env.ROOT).as_posix()
        done = subprocess.run(
            ["git", "-C", str(env.ROOT), "show", f"{commit}:{name}"],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return f"{name} can't be had as of {commit[:9]}"
        digest.update(path.name.encode() + b"\0" + done.stdout)
    if digest.hexdigest()[:16] != _records.source_hash(provider):
        return f"the sources of {provider.name!r} changed since {commit[:9]}"
    return None
