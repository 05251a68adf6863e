"""The README's tables name each case of a producer and each planted fault, and no other."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests import (
    test_ptx_async,
    test_ptx_cutlass,
    test_ptx_mma,
    test_ptx_planted,
    test_ptx_producers,
    test_ptx_wgmma,
)
from tests.ptx import errors, measured

pytestmark = pytest.mark.ptx

MODULES = (test_ptx_producers, test_ptx_mma, test_ptx_async, test_ptx_cutlass)
README = (Path(__file__).parent / "ptx" / "README.md").read_text()
KERNELS = {
    "P": test_ptx_planted.pointers,
    "D": test_ptx_planted.descriptors,
    "G": test_ptx_planted.warpgroups,
}
# What is planted in each of the README's kernels, and the error that finds it, None: wrong values.
PLANTED: dict[str, dict[str, type[errors.PtxError] | None]] = {
    **{k: {f.name: f.error for f in test_ptx_planted.FAULTS[of]} for k, of in KERNELS.items()},
    "C": {fault.name: fault.error for fault in test_ptx_cutlass.FAULTS},
    "N": {name: kind for name, (_, _, kind, _) in test_ptx_async.PLANTED.items()},
    "T": {f"no {dropped}": kind for dropped, (kind, _) in test_ptx_async.DROPPED.items()},
    "S": {name: kind for name, (_, kind, _) in test_ptx_async.BETWEEN.items()},
    "W": {name: kind for name, (_, _, kind, _) in test_ptx_wgmma.FAULTS.items()},
}


def table(heading: str) -> list[list[str]]:
    """The cells of each row of the first table under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def cases(test) -> set[str]:
    """What stands in brackets behind a test's name, orders of warps left out."""
    parts = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name != "parametrize" or mark.args[0] == "seed":
            continue
        ids, values = mark.kwargs.get("ids"), list(mark.args[1])
        if ids is None or callable(ids):
            rows = [v if isinstance(v, tuple) else (v,) for v in values]
            parts.append(["-".join((ids or str)(v) for v in row) for row in rows])
        else:
            parts.append(list(ids))
    return {"-".join(chosen) for chosen in itertools.product(*parts)}


PRODUCERS = {
    name: cases(test)
    for module in MODULES
    for name, test in vars(module).items()
    if measured.NAMED.match(name)
}


def named() -> dict[str, set[str]]:
    """The cases of each test in the README; where the error is 0, a row may stand for all."""
    found: dict[str, set[str]] = {}
    test = ""
    for _, name, case, error, *_ in table("Checked against"):
        test = name or test
        whole = PRODUCERS.get(test, set()) if (case, error) == ("all", "0") else {case}
        whole = {""} if case == "the only one" else whole
        found.setdefault(test, set()).update(whole)
    return found


def test_each_case_of_a_producer_has_a_row():
    assert named() == PRODUCERS
    assert {Path(module.__file__).stem for module in MODULES} == {
        f"test_ptx_{name}" for name in measured.FILES
    }


def test_each_planted_fault_has_a_row():
    rows = [(k, name) for name, kernels, _ in table("Planted faults") for k in kernels.split()]
    assert sorted(rows) == sorted((k, name) for k, names in PLANTED.items() for name in names)


def test_what_a_planted_fault_is_found_as():
    for name, kernels, found in table("Planted faults"):
        words = found.replace("`", "").split(", ")
        kinds = [None if word == "wrong values" else getattr(errors, word) for word in words]
        for kernel in kernels.split():
            error = PLANTED[kernel][name]
            assert any(k is None if error is None else k and issubclass(k, error) for k in kinds)
