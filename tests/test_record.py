"""The record's form, held against an implementation of JSON Schema that is not ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from aimills_kernels.harness import record

COMMITTED = Path(__file__).resolve().parents[1] / "docs" / "record.schema.json"


def timed(**more: Any) -> dict[str, Any]:
    row = record.blank(
        op="attention", case="tiny", provider="triton", device="cuda:0", unit="f16", flops=2e9,
        bytes=1e6, validated=True, mode="stream", clock="events", cold=True, n=3, median_us=2.0,
        q1_us=1.5, q3_us=2.5, low_us=1.0, high_us=3.0, min_us=1.0, noise=0.5,
        samples_us=[1.0, 2.0, 3.0], flags={"launch time": [2]},
    )  # fmt: skip
    return row | more


def whole(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": record.SCHEMA, "kind": record.KIND, "created": "2026-01-01T00:00:00+00:00",
        "options": {}, "environment": {}, "ceilings": {}, "rows": list(rows),
    }  # fmt: skip


WARM = {k: timed()[k] for k in record.ROW["properties"]["warm"]["properties"]}
TELEMETRY = {
    "source": "nvml", "sm_mhz": 1980, "sm_mhz_min": 1755, "memory_mhz": None, "power_w": 600.5,
    "temperature_c": 61, "throttle": {"sw_power_cap": 0.5}, "missing": ["memory clock: no"],
    "sm_mhz_samples": [1980, None], "reasons_samples": [4, None],
}  # fmt: skip
GOOD = [
    whole(),
    whole(timed()),
    whole(timed(warm=WARM, telemetry=TELEMETRY, modes=[{"median_us": 1.0, "share": 0.4}])),
    whole(record.blank(op="a", case="b", provider="c", device="cpu", unit="f32", flops=0,
                       bytes=0, skipped="no GPU")),
]  # fmt: skip


def test_the_committed_schema_is_the_declared_one() -> None:
    """`python -m aimills_kernels.harness.record` prints it."""
    assert json.loads(COMMITTED.read_text()) == record.schema()


@pytest.mark.parametrize("found", GOOD)
def test_good_records_pass_both(found: dict[str, Any], tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(record.schema())
    jsonschema.Draft202012Validator(record.schema()).validate(found)
    record.save(found, tmp_path / "r.json")
    assert record.load(tmp_path / "r.json") == found


def _broken() -> list[Any]:
    changes: dict[str, Any] = {
        r"rows\[0\] lacks 'unit'": lambda r: r.pop("unit"),
        r"rows\[0\] has an unknown field 'speed'": lambda r: r.update(speed=1),
        r"rows\[0\]\.median_us is 'fast', not number or null": lambda r: r.update(median_us="fast"),
        r"rows\[0\]\.peer is 1, not boolean": lambda r: r.update(peer=1),
        r"rows\[0\]\.n is True, not integer": lambda r: r.update(n=True),
        r"rows\[0\]\.n is -1, below 0": lambda r: r.update(n=-1),
        r"rows\[0\]\.mode is 'fast', not one of": lambda r: r.update(mode="fast"),
        r"rows\[0\]\.samples_us\[1\] is None": lambda r: r.update(samples_us=[1.0, None, 3.0]),
        r"rows\[0\]\.flags\.late\[0\] is 'x'": lambda r: r.update(flags={"late": ["x"]}),
        r"rows\[0\]\.warm lacks 'n'": lambda r: r.update(
            warm={k: v for k, v in WARM.items() if k != "n"}
        ),
        r"rows\[0\]\.telemetry\.throttle\.x is 'y'": lambda r: r.update(
            telemetry={**TELEMETRY, "throttle": {"x": "y"}}
        ),
        r"rows\[0\]\.energy lacks 'joules'": lambda r: r.update(energy={}),
    }
    return [pytest.param(change, says, id=says) for says, change in changes.items()]


@pytest.mark.parametrize(("change", "says"), _broken())
def test_bad_records_fail_both(change: Any, says: str, tmp_path: Path) -> None:
    found = copy.deepcopy(whole(timed()))
    change(found["rows"][0])
    (tmp_path / "r.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=says):
        record.load(tmp_path / "r.json")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(record.schema()).validate(found)


def test_what_the_schema_cannot_say_is_checked_too(tmp_path: Path) -> None:
    for row, says in (
        (timed(failure="NaN"), r"rows\[0\] has a time in spite of a failure"),
        (timed(n=4), r"rows\[0\] says n is 4 and holds 3 samples"),
        (timed(median_us=1.5), r"rows\[0\]\.median_us is 1\.5, and 2 by its samples"),
        (timed(min_us=0.5), r"rows\[0\]\.min_us is 0\.5, and 1 by its samples"),
        (timed(warm={**WARM, "median_us": 9.0}), r"rows\[0\]\.warm\.median_us is 9, and 2 by"),
        (timed(flags={"late": [3]}), r"rows\[0\]\.flags names sample 3 of 3"),
        (timed(case="tiny\x1b[2J"), r"has a name that can't be printed, 'tiny"),
    ):
        _refused(json.dumps(whole(row)), says, tmp_path)
    for text, says in (
        (
            json.dumps(whole(timed(), timed())),
            r"rows\[1\] is a second row of attention tiny triton",
        ),
        (json.dumps({**whole(), "created": "yesterday"}), "created is 'yesterday', not a time"),
        ("[" * 100_000, "it is nested too deeply"),
    ):
        _refused(text, says, tmp_path)


def _refused(text: str, says: str, folder: Path) -> None:
    (folder / "r.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        record.load(folder / "r.json")
