"""Texts of the three producers with one random change: each stops with a sentence of the executor's
own, or runs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton

from tests.ptx import launch, producers
from tests.ptx.errors import Broken, PtxError, TooLong
from tests.ptx.triton import executing
from tests.test_ptx_async import compiled
from tests.test_ptx_producers import BF16, F32, drawn, three_warpgroups

pytestmark = pytest.mark.ptx

Launch = tuple[str, dict[str, Any]]  # PTX, and what launch.run takes besides
_WORD = re.compile(r"[%$.\w:]+|\S")


def _recorded(monkeypatch: pytest.MonkeyPatch, go: Callable[..., None]) -> Launch:
    """The text that `go(edit=...)` launches, and how."""
    texts: list[str] = []
    calls: list[dict[str, Any]] = []

    def note(source: Any, args: Any, grid: Any, **options: Any) -> Any:
        calls.append(dict(options, args=args, grid=grid))
        return launch.Result(source, np.zeros(0, np.int64), None)  # type: ignore[arg-type]

    def keep(text: str) -> str:
        texts.append(text)
        return text

    with monkeypatch.context() as patch:
        patch.setattr(launch, "run", note)
        go(edit=keep)
    return texts[0], calls[0]


def _triton(edit: Callable[[str], str]) -> None:
    a, b = drawn(16, 32, dtype=BF16), drawn(32, 32, dtype=BF16, seed=1)
    c = torch.zeros(16, 32, dtype=F32)
    with executing(edit=edit):
        producers.by_pointers[(1, 1)](
            a, b, c, 16, 32, 32, 32, 1, 16, 32, 16, num_warps=1, num_stages=2
        )


def _gluon(edit: Callable[[str], str]) -> None:
    q, k, v = (drawn(128, 64, dtype=BF16, seed=i) for i in range(3))
    three_warpgroups(torch.full_like(q, torch.nan), q, k, v, 32, edit=edit)


def _nvcc(monkeypatch: pytest.MonkeyPatch) -> Launch:
    data = np.zeros(1024, np.int32)
    how = dict(args=[data, data.copy()], grid=[1], block=[64], kernel="bulk")
    return compiled(), how


def _mutated(text: str, draw: random.Random) -> str:
    """One word of a random line dropped, doubled, cut or replaced by another of the text; or the
    line's end, up to its semicolon, dropped from a word on."""
    lines = text.split("\n")
    full = [i for i, line in enumerate(lines) if line.strip() and not line.strip().startswith("//")]
    at = draw.choice(full)
    word = draw.choice(list(_WORD.finditer(lines[at])))
    before, rest = lines[at][: word.start()], lines[at][word.end() :]
    other = draw.choice(_WORD.findall(lines[draw.choice(full)]))
    half = word[0][: len(word[0]) // 2]
    if draw.random() < 0.4 and ";" in rest:
        lines[at] = before.rstrip(", \t") + rest[rest.index(";") :]
    else:
        lines[at] = before + draw.choice(("", f"{word[0]} {word[0]}", other, half, "{", "9")) + rest
    return "\n".join(lines)


COUNTS = [("triton", 12), ("gluon", 4), ("nvcc", 12)]
LONG = [pytest.param(who, 40 * count, marks=pytest.mark.full) for who, count in COUNTS]


@pytest.mark.parametrize(("producer", "count"), [*COUNTS, *LONG])
def test_a_changed_text_stops_with_a_sentence(producer, count, monkeypatch, seed):
    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8))
    if producer == "nvcc":
        text, how = _nvcc(monkeypatch)
    else:
        text, how = _recorded(monkeypatch, {"triton": _triton, "gluon": _gluon}[producer])
    draw = random.Random(seed)
    stopped, late = list[str](), list[str]()
    args, grid = how.pop("args"), how.pop("grid")
    how["budget"] = 3000  # its first instructions, in some order
    for tried in range(count + 60):
        # Three texts in four are stopped, so that of four one may be, in one draw of twenty.
        if tried >= count and len(stopped) > count // 3:
            break
        changed = _mutated(text, draw)
        try:
            launch.run(changed, args, grid, **how)
        except Broken:
            raise AssertionError(changed) from None
        except PtxError as error:
            (late if isinstance(error, TooLong) else stopped).append(str(error))
    assert not [text for text in stopped + late if "\n" in text]
    assert not [text for text in stopped if not re.search(r" \[line \d+: ", text)]
    assert len(stopped) > count // 3
