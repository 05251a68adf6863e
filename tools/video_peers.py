"""The table of times in kernels/video/README.md: the CPU's provider of video_to_tensor beside other
libraries, with one thread and with two.

    python -m tools.video_peers            measure and print it; some minutes
    python -m tools.video_peers --update   measure it and write it between the markers

The times are of `aimills-kernels bench`, the peers those of `bench/peers`. All cases are of BT.601
with the nearest chroma, as OpenCV has no other colours, so that peers compute the same picture.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aimills_kernels._files import write_whole
from aimills_kernels._op import Case, Op
from aimills_kernels._registry import get_op
from aimills_kernels.harness import bench
from aimills_kernels.harness.peers import Peer, peers_of

PAGE = Path(__file__).parents[1] / "kernels" / "video" / "README.md"
PART = re.compile(r"(?<=<!-- peers:begin -->\n).*?(?=<!-- peers:end -->)", re.S)
THREADS = (1, 2)
OURS = "cpu"
BAR = 1.3
NEAR = 2.0  # levels: the colours round to one, and a peer's resize to another
_HD: dict[str, Any] = dict(F=1, H=1080, W=1920, space="bt601", upsampling="nearest")
_TOKENS: dict[str, Any] = dict(h=560, w=1008, store="patches", patch=(2, 14, 2))
CASES = tuple(
    Case(f"{size}, mode {mode}", tags={"bench"}, **_HD, **dims, mode=mode)
    for mode in ("torch", "pil13")
    for size, dims in (("224 x 224", dict(h=224, w=224)), ("560 x 1008 tokens", _TOKENS))
)
Row = dict[str, Any]


def op_of(cases: Sequence[Case] = CASES) -> Op:
    return replace(get_op("video_to_tensor"), cases=tuple(cases))


def error_of(op: Op, case: Case, peer: Peer) -> float | None:
    """Levels that it is off at most, on noise; None where it does not take the case."""
    if peer.absent is not None:
        return None
    args = op.make_inputs(case, "cpu", 0)
    try:
        got = peer.function(*args)
    except NotImplementedError:
        return None
    return op.tolerance[0].judge(got, op.oracle(args)[0], op.results(args)[0], args).error


def measured(budget_s: float) -> tuple[dict[int, dict[str, Any]], dict[tuple[str, str], float]]:
    """The record of each number of threads, and the largest error of each case and peer."""
    op = op_of()
    records = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        records[threads] = bench.run(
            ops=[op], device="cpu", budget_s=budget_s,
            progress=lambda label, done, total: print(f"{label} ({done}/{total})", flush=True),
        )  # fmt: skip
    errors = {
        (case.name, peer.name): error
        for case in op.cases
        for peer in peers_of(op)
        if (error := error_of(op, case, peer)) is not None
    }
    return records, errors


# ---- the table


def lines(
    records: dict[int, dict[str, Any]], errors: dict[tuple[str, str], float]
) -> Iterator[str]:
    yield from ("", f"{_machine(records)}. Half the 95 % interval of a median in brackets.", "")
    yield _line(["output of 1080p", "", *(_threads(n) for n in records), "levels off"])
    yield _line(["---"] * 2 + ["---:"] * (len(records) + 1))
    cases = list(dict.fromkeys(row["case"] for row in next(iter(records.values()))["rows"]))
    for case in cases:
        rows = {n: _timed(record, case) for n, record in records.items()}
        for name in _order(rows):
            error = "" if name == OURS else f"{errors[case, name]:.2g}"
            times = [_time(found.get(name)) for found in rows.values()]
            yield _line([case, "this" if name == OURS else name, *times, error])
    yield from ("", f"Against the fastest of those that are at most {NEAR:g} levels off:", "")
    yield _line(["output of 1080p", "threads", "fastest peer", "ratio", f"{BAR:g} times"])
    yield _line(["---", "---:", "---", "---:", "---"])
    for case in cases:
        for n, record in records.items():
            yield _line([case, str(n), *_verdict(_timed(record, case), case, errors)])
    absent = {r["provider"]: r["skipped"] for r in _rows(records) if "installed" in _why(r)}
    yield from ("", *(f"Not run: {name}, {why}." for name, why in absent.items()), "")


def _verdict(
    rows: dict[str, Row], case: str, errors: dict[tuple[str, str], float]
) -> tuple[str, str, str]:
    equal = [r for name, r in rows.items() if name != OURS and errors[case, name] <= NEAR]
    if not equal or OURS not in rows:
        return "-", "-", "not known"
    best = min(equal, key=lambda row: row["median_us"])
    ratio = best["median_us"] / rows[OURS]["median_us"]
    return best["provider"], f"{ratio:.2f}", "met" if ratio >= BAR else "**not met**"


def _rows(records: dict[int, dict[str, Any]]) -> list[Row]:
    return [row for record in records.values() for row in record["rows"]]


def _why(row: Row) -> str:
    return row["skipped"] or ""


def _timed(record: dict[str, Any], case: str) -> dict[str, Row]:
    """By contestant; without the reference, which is made to be right."""
    return {
        row["provider"]: row
        for row in record["rows"]
        if row["case"] == case and row["median_us"] and row["provider"] != "reference"
    }


def _order(rows: dict[int, dict[str, Row]]) -> list[str]:
    """Ours first, then by the time with the fewest threads."""
    first = next(iter(rows.values()))
    names = dict.fromkeys(name for found in rows.values() for name in found)
    return sorted(
        names, key=lambda n: (n != OURS, first[n]["median_us"] if n in first else float("inf"))
    )


def _time(row: Row | None) -> str:
    return "-" if row is None else f"{row['median_us'] / 1e3:.3g} ms (±{row['noise'] / 2:.0%})"


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def _machine(records: dict[int, dict[str, Any]]) -> str:
    """Where it was measured, and with what."""
    from importlib import metadata

    found = next(iter(records.values()))["environment"]
    cpu = found["cpu"]
    versions = ", ".join(
        f"{shown} {metadata.version(package)}"
        for shown, package in (
            ("torch", "torch"), ("OpenCV", "opencv-python-headless"), ("Pillow", "pillow"),
            ("PyAV", "av"), ("Transformers", "transformers"),
        )
    )  # fmt: skip
    return f"{cpu['model']}, {cpu['usable_cores']} cores, {found['time'][:10]}; {versions}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Times of video_to_tensor beside its peers.")
    parser.add_argument("--update", action="store_true", help=f"write them into {PAGE.name}")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each thread count")
    options = parser.parse_args()
    made = "\n".join(lines(*measured(options.budget))) + "\n"
    if not options.update:
        print(made)
        return
    text = PAGE.read_text()
    if PART.search(text) is None:
        raise SystemExit(f"{PAGE}: has no part between `peers:begin` and `peers:end`")
    write_whole(PAGE, PART.sub(lambda _: made, text))


if __name__ == "__main__":
    main()
