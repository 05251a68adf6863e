"""The report: self-contained, escaped, well-formed, and the same facts for machines."""

from __future__ import annotations

import json
import re
import struct
import time
import zlib
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
import torch

from aimills_kernels._tolerance import Judgement
from aimills_kernels.accept import charts, evidence, page, png, report, schema
from aimills_kernels.accept.check import judged
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import Finding
from aimills_kernels.harness import _rows, timing
from aimills_kernels.report import bars, parts, words
from aimills_kernels.report.html import Html, el, join

HOSTILE = "<script>alert(\"1\")</script> & 'q' </style> \u2028 %s {0} <img src=x onerror=y>"
_VOID = {"meta", "img", "br"}


def _row(**more: Any) -> dict[str, Any]:
    row = {"op": "attention", "case": "prefill", "dims": {"B": 1}, "scaled": {}, "provider": "ours",
           "unit": "f16", "flops": 9.0, "about": None, "apart": None, "differing": None,
           "peer": False, "config": None, "device": "cpu", "median_us": 50.0, "q1_us": 45.0,
           "q3_us": 60.0, "n": 9, "sol": 0.4, "sol_bound": "bytes", "validated": True,
           "failure": None, "skipped": None, "suspect": None}  # fmt: skip
    return row | more


def _check(**more: Any) -> dict[str, Any]:
    row = {"stage": "correctness", "op": "attention", "case": "tiny", "dims": {"B": 1},
           "scaled": {}, "provider": "ours", "own": True, "device": "cpu", "seed": 0,
           "status": "right", "used": 0.5, "outputs": {"out": {"used": 0.5, "error": 1e-3,
           "bound": 2e-3, "text": "max error"}}, "failures": [], "skipped": None}  # fmt: skip
    return row | more


def _pod(text: str = "plain") -> Pod:
    """A rank in whose journal every text that comes from outside is `text`."""
    checks = [
        _check(op=text, case=text, provider=text, dims={text: text}, scaled={text: text}),
        _check(op=text, stage="model shapes", dims={text: 1}, scaled={text: 2}),
        _check(op=text, case=text, status="wrong", used=None, failures=[text], own=False),
        _check(op=text, status="not run", used=None, outputs={}, skipped=text),
    ]
    rows = [
        _row(op=text, case=text, provider=text, suspect=text, dims={text: text}),
        _row(op=text, case=text, provider="reference", peer=True, median_us=5e6, q3_us=6e6),
        _row(
            op=text,
            case=text,
            provider="other",
            peer=True,
            validated=False,
            sol=1.7,
            about=text,
            apart=text,
            differing=0.9,
        ),
        _row(median_us=None, q1_us=None, q3_us=None, sol=None, skipped=text),
        _row(median_us=None, q1_us=None, q3_us=None, sol=None, failure=text),
    ]
    clip = {"source": text, "frames": 2, "height": 4, "width": 6, "pitch": 8,
            "color_space": text, "color_range": text}  # fmt: skip
    levels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8)
    found: list[tuple[str, dict[str, Any]]] = [
        ("begin", {"node": text, "rank": 0, "world": 1, "device": "cpu", "sku": text,
                   "exclude": [text], "run": text, "profile": text, "criteria": {"name": text},
                   "environment": {"cpu": {"model": text, "threads": 2}, text: [text]}}),
        *[("stage", {"name": s, "title": text, "state": "end", "status": s, "seconds": 1.0,
                     "summary": text, "failure": text}) for s in ("passed", "failed")],
        *[("check", row) for row in checks],
        *[("not_run", {"name": text, "what": text, "reason": text, "gap": gap})
          for gap in (False, True)],
        ("bench", {"record": {"rows": rows, "ceilings": {"copy_gbps": 9.0,
                                                         "gemm_int8_tflops": 1.0}}}),
        ("event", {"name": text, "stage": text, "text": text}),
        ("event", {"name": "clip", "detail": clip}),
        ("event", {"name": "picture", **png.event(text, levels)}),
        ("event", {"name": "picture", "text": text, "detail": {"data": text, "width": 1,
                                                               "height": 1}}),
        ("checksum", {"name": text, "digest": text}),
    ]  # fmt: skip
    entries = [{"kind": k, "time": "2026-11-01T00:00:00.000+00:00", "clock": 1.0, **v}
               for k, v in found]  # fmt: skip
    return evidence.pod([evidence.Rank(tuple(entries))])


def _findings(text: str) -> list[Finding]:
    return [
        Finding(text, status, text, text, text, text, text, text, text)
        for status in ("fail", "warn", "unknown", "pass")
    ]


def _report(text: str = "plain") -> dict[str, Any]:
    return report.build(_pod(text), _findings(text))


def _page(text: str = "plain") -> str:
    return report.rendered(_pod(text), _findings(text))["report.html"]


class _Reader(HTMLParser):
    """Checks that tags nest, and keeps what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.loads.append(value or "")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


# ---- the page


@pytest.mark.parametrize("text", ["plain", HOSTILE], ids=["plain", "hostile"])
def test_page_is_well_formed_and_loads_nothing(text: str) -> None:
    found = _read(_page(text))
    assert {*found.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    assert found.loads
    assert all(value.startswith(("data:image/png;base64,", "#source-")) for value in found.loads)
    style = parts.STYLE
    assert "url(" not in style
    assert "@import" not in style
    pictured = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
    assert re.search(r"//[a-z]", pictured.sub("", _page("plain"))) is None


def test_hostile_text_is_shown_and_not_run() -> None:
    text = _page(HOSTILE)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("</style>") == 1
    assert HOSTILE in "".join(_read(text).text)


def test_first_line_is_the_verdict_and_then_what_was_not_checked() -> None:
    words = [t.strip() for t in _read(_page()).text if t.strip()]
    body = words.index("rejected")
    assert words[body + 1] == "(CPU, not pod hardware)"
    assert "of a tolerance used at most" not in words, "of those that are right, beside wrong ones"
    assert words.index("Not checked:") < words.index("Stages")


@pytest.mark.parametrize("scheme", ["prefers-color-scheme: dark", "@media print", "max-width"])
def test_style_is_made_for(scheme: str) -> None:
    assert scheme in parts.STYLE


def test_empty_report_is_a_page_too() -> None:
    data = report.build(evidence.pod([]), [])
    assert data["exit_code"] == 2
    _read(page.render(data))


def test_elements_escape_by_default() -> None:
    assert el("p", "<b>", el("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert el("td", None, cls=None) == "<td>None</td>"
    assert join(["<", Html("<br>")]) == "&lt;<br>"


# ---- pictures


def test_times_are_sorted_cut_off_and_held_against_the_fastest_peer() -> None:
    rows = [
        _row(provider="reference", peer=True, median_us=900.0, q1_us=880.0, q3_us=990.0),
        _row(provider="vendor", peer=True, median_us=100.0, q1_us=90.0, q3_us=120.0),
        _row(),
    ]
    made = bars.times(rows)
    order = [made.index(f">{name}<") for name in ("ours", "vendor", "reference")]
    assert order == sorted(order)
    assert made.count('class="cut"') == 1
    assert "× 2<" in made


def test_against_peer_means_the_same_everywhere() -> None:
    """A less exact peer counts, the reference does not: in the bench table, chart and headline."""
    rest = {"noise": 0.1, "error_used": 0.5, "gbps": 1.0, "tflops": 1.0}
    rows = [
        _row(provider="reference", peer=True, median_us=10.0, **rest),
        _row(provider="vendor", peer=True, median_us=200.0, **rest),
        _row(provider="coarse", peer=True, median_us=100.0, validated=False, **rest),
        _row(**rest),
    ]
    table = {line[2]: line[7] for line in _rows.table({"rows": rows})}
    assert table["ours"] == "x2.00"
    assert table["coarse"] == "x2.00"
    assert "× 2<" in bars.times(rows)
    best = "the fastest peer (coarse, less exact) at best: attention prefill, n\u00a0=\u00a09"
    assert words.best_ratio(rows) == ("× 2", best)
    assert _rows.table({"rows": [rows[0], rows[3]]})[1][7] == "-"
    assert "×" not in bars.times([rows[0], rows[3]])


@pytest.mark.parametrize("few", ["ours", "vendor"])
def test_few_samples_are_not_compared(few: str) -> None:
    rest = {"noise": 0.1, "error_used": 0.5, "gbps": 1.0, "tflops": 1.0}
    rows = [_row(**rest), _row(provider="vendor", peer=True, median_us=100.0, q3_us=110.0, **rest)]
    made = bars.times(rows)
    assert made.count("n = 9  ") == 2
    assert "× 2<" in made
    rows = [r | {"n": _rows.ENOUGH - 1} if r["provider"] == few else r for r in rows]
    made = bars.times(rows)
    assert made.count(f"n = {_rows.ENOUGH - 1}  ") == 1
    assert "×" not in made
    assert made.count('class="whisker"') == 3  # of one row, with its two ends
    assert words.best_ratio(rows) is None
    assert {line[7] for line in _rows.table({"rows": rows})} == {"-"}


@pytest.mark.parametrize("least", [1, 5])
def test_no_budget_is_too_short_for_the_least_samples(
    least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_GRACE_S", 0.0)
    calls = {"a": lambda: time.sleep(0.02), "b": lambda: time.sleep(0.01)}
    found = timing.time_interleaved(calls, "cpu", budget_s=0.001, least=least)
    assert {t.n for t in found.values()} == {least}


@pytest.mark.parametrize(
    ("differing", "says", "note"),
    [(0.979, "computes something else: 97 % of", "another result"),
     (0.0002, "is less exact: &lt; 1 % of", "less exact")],
)  # fmt: skip
def test_a_peer_with_another_result_is_measured(differing: float, says: str, note: str) -> None:
    peer = _row(provider="cv", peer=True, validated=False, differing=differing,
                apart="136 levels off at most", about="OpenCV's, in BT.601.")  # fmt: skip
    made = bars.times([_row(), peer])
    assert f"n = 9  {note}" in made
    assert f"cv {says} the values differ from the reference&#x27;s; 136 levels" in made
    assert "It is OpenCV&#x27;s, in BT.601." in made


def test_a_ceiling_is_the_best_arithmetic_and_says_so() -> None:
    slow = {"copy_gbps": 9.0, "gemm_f32_tflops": 0.144, "gemm_f16_tflops": 0.0014}
    rows = [_row(), _row(unit="fp8"), _row(unit="f32")]
    text = parts.ceilings_text({"ceilings": slow, "rows": rows})
    assert "GEMM f32 0.144 TFLOP/s" in text
    assert "GEMM f16" not in text
    assert "no ceiling of its own for f16, so that of f32 (its GEMM reached 0.0014 TFLOP/s)" in text
    assert "no ceiling of its own for fp8, so that of f32 (its GEMM was not measured)" in text
    native = slow | {"gemm_f16_tflops": 2.0}
    assert parts.ceilings_text({"ceilings": native, "rows": rows[:1]}) == (
        "copy 9 GB/s, GEMM f16 2 TFLOP/s"
    )


def test_what_is_beyond_a_ceiling_has_none() -> None:
    made = charts.roofline([_row(sol=1.7)])
    assert ">no ceiling<" in made
    assert "memory: 1.7 times it" in made
    assert ">170 %<" not in made


def test_dims_that_were_scaled_down_say_from_what() -> None:
    call = _check(stage="model shapes", dims={"N": 96, "K": 512, "shape": "(64, 8)", "B": 1},
                  scaled={"N": 6144, "K": 4096, "shape": "(512, 8)"})  # fmt: skip
    assert words.dims_text(call["dims"], call["scaled"]) == (
        "N 96 of 6144 (1/64)  K 512 of 4096 (1/8)  shape (64, 8) of (512, 8)  B 1"
    )
    data = _report() | {"validations": [call | {"devices": 1}]}
    text = "".join(_read(page.render(data)).text)
    assert "N 96 of 6144 (1/64)" in text.partition("Shapes of real models")[2]


def test_a_picture_out_of_proportion_says_so() -> None:
    clip = {"width": 1920, "height": 1080}
    text = page._reshaped(clip, 224, 224)
    assert "from 1.8:1 to 1.0:1" in text
    assert page._reshaped(clip, 560, 1008) == ""
    assert page._reshaped({}, 5, 7) == ""
    assert "Out of proportion" in _page()


def test_what_did_not_run_is_explained_beside_the_gaps() -> None:
    text = " ".join(_read(_page()).text)
    assert "gap: due, and not run" in text
    assert "A gap is something else: a check that acceptance needs and did not get." in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0.0, "0 %"), (0.004, "< 1 %"), (0.57, "57 %"), (0.9999, "99 %"), (1.0, "100 %"),
     (1.3, "130 %")],
)  # fmt: skip
def test_percent_never_rounds_up(share: float | None, text: str) -> None:
    assert words.percent(share) == text


def test_wrong_checks_stand_beyond_the_line() -> None:
    made = charts.tolerance([_check(), _check(status="wrong", used=None), _check(used=1e9)])
    places = [float(x) for x in re.findall(r'cx="([\d.]+)%"', made)]
    limit = float(re.search(r'<line x1="([\d.]+)%"[^>]*class="limit"', made)[1])
    assert sorted(places)[0] < limit < sorted(places)[1] <= 100
    assert 'class="dot wrong"' in made


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 48)])
def test_png_holds_the_levels(shape: tuple[int, int]) -> None:
    levels = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    data = png.encode(levels)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, body, header = 8, b"", b""
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + chunk
        )
        header, body = (chunk, body) if kind == b"IHDR" else (header, body + chunk)
        at += 12 + length
    assert struct.unpack(">II", header[:8]) == (shape[1], shape[0])
    rows = torch.frombuffer(bytearray(zlib.decompress(body)), dtype=torch.uint8).view(shape[0], -1)
    assert rows[:, 0].eq(2).all()
    undone = rows[:, 1:].to(torch.int64).cumsum(0).remainder(256).to(torch.uint8)
    assert torch.equal(undone.view(*shape, 3), levels)


# ---- the data


def test_report_is_json_with_all_of_it() -> None:
    """As `accept.schema` describes it, field by field, also with texts that are no words."""
    pod, data = _pod(HOSTILE), _report(HOSTILE)
    json.dumps(data, allow_nan=False)
    jsonschema.Draft202012Validator(schema.schema()).validate(data)
    mine = {"devices", "kind", "n", "prev", "time", "clock"}
    stated = [{k: v for k, v in e.items() if k not in mine} for e in pod.ranks[0].of("check")]
    assert [{k: v for k, v in c.items() if k not in mine} for c in data["validations"]] == stated


def test_infinite_figures_are_null() -> None:
    wrong = Judgement(float("inf"), float("nan"), 0.0, "NaN where the reference has none")
    found = judged({"out": wrong, "lse": Judgement(0.1, 0.1, 1.0, "fine")})
    assert found["used"] is None
    assert found["outputs"]["out"] == {
        "used": None, "error": None, "bound": 0.0, "text": "NaN where the reference has none",
    }  # fmt: skip
    json.dumps(found, allow_nan=False)
