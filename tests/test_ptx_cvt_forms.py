"""The executor has every `cvt` that ptxas assembles for sm_90a, and no other."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from tests.aot import TOOLS
from tests.ptx import grammar, launch, ops  # noqa: F401  (launch registers the instructions)
from tests.ptx.bind import Binder
from tests.ptx.errors import PtxError
from tests.ptx.machine import Machine, Shape
from tests.ptx.memory import Global, Memory
from tests.ptx.parse import WIDTH, parse

pytestmark = pytest.mark.ptx

PLAIN = [*(s + w for s in "us" for w in ("8", "16", "32", "64")), "f16", "bf16", "f32", "f64"]
PACKED = ["f16x2", "bf16x2", "e4m3x2", "e5m2x2", "tf32", "f16", "bf16"]
CLAMPS = ["", ".relu", ".satfinite", ".relu.satfinite", ".satfinite.relu"]
MODES = ["", ".rni", ".rzi", ".rmi", ".rpi", ".rn", ".rz", ".rm", ".rp", ".rna"]
HEAD = """.version 8.7
.target sm_90a
.address_size 64
.visible .entry k()
.reqntid 32
{
.reg .b16 %b16_<4>; .reg .b32 %b32_<4>; .reg .f32 %f32_<4>; .reg .b64 %b64_<4>; .reg .f64 %f64_<4>;
"""


def _register(type_: str, index: int) -> str:
    kind = type_ if type_ in ("f32", "f64") else f"b{8 * max(WIDTH[type_], 2)}"
    return f"%{kind}_{index}"


def _line(words: str, to: str, from_: str) -> str:
    count = 2 if from_ == "f32" and to.endswith("x2") else 1
    sources = [_register(from_, i + 1) for i in range(count)]
    return f"cvt{words}.{to}.{from_} {', '.join([_register(to, 0), *sources])};"


def _lines() -> list[str]:
    plain = product(MODES, ["", ".ftz"], ["", ".sat"], PLAIN, PLAIN)
    packed = product(MODES, CLAMPS, PACKED, ["f32", "f64", *PACKED])
    found = [_line(mode + ftz + sat, to, from_) for mode, ftz, sat, to, from_ in plain]
    found += [_line(mode + clamp, to, from_) for mode, clamp, to, from_ in packed]
    return list(dict.fromkeys(found))


def _assembled(lines: list[str], text: str, folder: Path) -> set[str]:
    source = folder / "forms.ptx"
    source.write_text(text)
    done = subprocess.run(
        [TOOLS / "ptxas", "-arch=sm_90a", str(source), "-o", str(folder / "forms.cubin")],
        capture_output=True, text=True,
    )  # fmt: skip
    wrong = {int(n) - HEAD.count("\n") - 1 for n in re.findall(r"line (\d+); error", done.stderr)}
    assert wrong, done.stderr
    return {line for n, line in enumerate(lines) if n not in wrong}


def _known(lines: list[str], text: str) -> set[str]:
    kernel = parse(text).kernel()
    machine = Machine(kernel, Shape((1, 1, 1), (32, 1, 1)), range(1))
    binder = Binder(machine, Memory(machine, Global(), b"", 0, 0), {})
    found = set()
    for line, instr in zip(lines, kernel.code, strict=False):
        binder.instr = instr
        try:
            ops.decode(instr, binder)
        except PtxError:
            continue
        found.add(line)
    return found


def test_the_forms_are_those_of_ptxas(tmp_path):
    lines = _lines()
    text = HEAD + "\n".join(lines) + "\nret;\n}\n"
    wanted, got = _assembled(lines, text, tmp_path), _known(lines, text)
    assert len(wanted) > 800
    assert sorted(got - wanted) == []
    assert sorted(wanted - got) == []
