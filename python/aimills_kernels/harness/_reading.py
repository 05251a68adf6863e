"""What is read off the rows and the ceilings of a record. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNITS = ("f32", "f16", "fp8", "int8")  # ever narrower: a wider one can serve a narrower op
ABOVE = 1.10  # beyond a ceiling by more than this is no rounding and no boost clock
ENOUGH = 5  # samples, below which times are not compared


def fastest_peer(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What "against peer" means, wherever it is said: the fastest of others' implementations on the
    same problem, a less exact one too. The reference is made to be right, so it is none."""
    key = ("op", "case", "device")
    peers = [
        other
        for other in rows
        if other is not row and all(other[k] == row[k] for k in key)
        and other["peer"] and other["provider"] != "reference" and other["median_us"]
    ]  # fmt: skip
    return min(peers, key=lambda peer: peer["median_us"], default=None)


def ahead(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float | None:
    """The time of the fastest peer over that of this one; None where either is of few samples."""
    peer = fastest_peer(row, rows)
    if peer is None or not row["median_us"] or min(row["n"], peer["n"]) < ENOUGH:
        return None
    return peer["median_us"] / row["median_us"]


def serving_unit(ceilings: dict[str, Any] | None, unit: str) -> str | None:
    """The arithmetic of that rate. A GEMM in `unit` itself is no ceiling where another is faster:
    a CPU without instructions for bf16 is so."""
    wider = UNITS[: UNITS.index(unit) + 1] if unit in UNITS else (unit,)
    if unit == "int8":
        wider = ("f32", "f16", "int8")
    rates = {u: (ceilings or {}).get(f"gemm_{u}_tflops") for u in wider}
    known = {u: rate for u, rate in rates.items() if rate}
    return max(known, key=lambda u: known[u], default=None)


def own_share(seconds: Mapping[str, float]) -> float | None:
    """The harness's own time in the timed loops, cache flushes aside, over what the clocks ran for;
    of `options.seconds` of a record. None where nothing was timed."""
    timed = seconds.get("timed", 0.0)
    if timed <= 0:
        return None
    return max(seconds.get("spent", 0.0) - timed - seconds.get("flushed", 0.0), 0.0) / timed


def own_share_text(seconds: Mapping[str, float]) -> str | None:
    share = own_share(seconds)
    if share is None:
        return None
    return (
        f"the harness's own part: {share:.1%} of the {seconds['timed']:.2f} s that were timed; "
        f"cache flushes aside, which took {seconds.get('flushed', 0.0):.2f} s"
    )
