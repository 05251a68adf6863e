"""The record's form, held against an implementation of JSON Schema that is not ours."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from aimills_kernels._op import Case
from aimills_kernels._registry import get_op
from aimills_kernels.accept import speed
from aimills_kernels.accept.session import Session, Settings
from aimills_kernels.cli import main
from aimills_kernels.harness import record
from tests import records

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
        "options": {}, "environment": copy.deepcopy(ENVIRONMENT), "ceilings": {},
        "rows": list(rows),
    }  # fmt: skip


ENVIRONMENT = records.record([])["environment"]
ENERGY = records.energy(0.002)


WARM = {k: timed()[k] for k in record.ROW["properties"]["warm"]["properties"]}
TELEMETRY = {
    "source": "nvml", "sm_mhz": 1980, "sm_mhz_min": 1755, "memory_mhz": None, "power_w": 600.5,
    "temperature_c": 61, "throttle": {"sw_power_cap": 0.5}, "missing": ["memory clock: no"],
    "sm_mhz_samples": [1980, None], "reasons_samples": [4, None],
}  # fmt: skip
GOOD = [
    whole(),
    whole(timed()),
    whole(timed(energy=ENERGY)),
    whole(timed(energy={**ENERGY, "window_s": 5, "idle_watts": None})),
    {**whole(), "environment": {**ENVIRONMENT, "gpus": [], "git": None, "triton": None}},
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
    for name, value, says in (
        ("joules", 0, "is 0, not above 0"), ("joules", -1.0, "is -1.0, not above 0"),
        ("window_s", 4.99, "is 4.99, below 5"), ("calls", 0, "is 0, below 1"),
        ("level", "", "is empty"), ("watts", 0, "is 0, not above 0"),
    ):  # fmt: skip
        broken = {**ENERGY, name: value}
        changes[rf"rows\[0\]\.energy\.{name} {says}"] = lambda r, e=broken: r.update(energy=e)
    return [pytest.param(change, says, id=says) for says, change in changes.items()]


HELD = {
    "op", "case", "provider", "peer", "error_used", "median_us", "q1_us", "q3_us", "low_us",
    "high_us", "samples_us", "sol", "sol_spec", "energy", "energy_missing", "telemetry",
}  # fmt: skip
OF_TELEMETRY = {"sm_mhz", "sm_mhz_samples", "memory_mhz", "power_w", "temperature_c", "throttle",
                "reasons_samples"}  # fmt: skip
OF_A_GPU = {"name", "pci_device", "pci_subdevice", "driver", "power_limit_w",
            "clock_application_sm_mhz"}  # fmt: skip


def test_no_record_goes_without_what_explains_a_time() -> None:
    """Each of these is required, whoever reads the schema."""
    environment = record.ENVIRONMENT["properties"]
    for spec, fields in (
        (record.ROW, HELD), (record.TELEMETRY, OF_TELEMETRY),
        (environment["gpus"]["items"], OF_A_GPU),
        (record.ENERGY, {"joules", "window_s", "level"}), (environment["git"], {"commit", "dirty"}),
        (environment["torch"], {"version", "cuda"}),
        (record.ENVIRONMENT, {"gpus", "cuda_driver", "torch", "triton", "git", "cpu"}),
    ):  # fmt: skip
        assert fields <= set(spec["required"])


@pytest.mark.parametrize(
    "lost",
    [("git",), ("git", "dirty"), ("torch", "cuda"), ("cuda_driver",), ("gpus", 0, "driver"),
     ("gpus", 0, "power_limit_w")],
    ids=str,
)  # fmt: skip
def test_an_environment_without_a_fact_fails_both(lost: tuple, tmp_path: Path) -> None:
    found = whole(timed())
    held = found["environment"]
    for step in lost[:-1]:
        held = held[step]
    del held[lost[-1]]
    _fails_both(found, rf"environment.* lacks '{lost[-1]}'", tmp_path)


# ---- what writes them


def _by_command(path: Path) -> None:
    words = ["--case", "tiny", "--device", "cpu", "--budget", "0.5"]
    assert main(["bench", "quantize_fp8", *words, "--out", str(path)]) in (0, 2)


def _by_acceptance(path: Path) -> None:
    op = get_op("quantize_fp8")
    tiny = Case("tiny", tags={"accept"}, **op.case("tiny").dims)
    op = dataclasses.replace(op, cases=(tiny,))
    session = Session(Settings((torch.device("cpu"),), (op,)), seconds=0.5)
    speed.run(session)
    (made,) = session.benches
    path.write_text(json.dumps(made, default=str))


@pytest.mark.parametrize("write", [_by_command, _by_acceptance])
def test_what_is_written_passes_both(write: Any, tmp_path: Path) -> None:
    write(tmp_path / "r.json")
    found = record.load(tmp_path / "r.json")
    jsonschema.Draft202012Validator(record.schema()).validate(found)
    assert any(row["median_us"] for row in found["rows"])


@pytest.mark.parametrize(("change", "says"), _broken())
def test_bad_records_fail_both(change: Any, says: str, tmp_path: Path) -> None:
    found = copy.deepcopy(whole(timed()))
    change(found["rows"][0])
    _fails_both(found, says, tmp_path)


def _fails_both(found: dict[str, Any], says: str, folder: Path) -> None:
    (folder / "r.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=says):
        record.load(folder / "r.json")
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
