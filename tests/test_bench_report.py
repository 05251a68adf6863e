"""The benchmark report: all of the records, nothing made up, nothing from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels.cli import main
from aimills_kernels.harness import record as _record
from aimills_kernels.report import axes, bench_page, cells, chosen, markdown, parts, plots, words
from aimills_kernels.report.history import history
from tests import records

HOSTILE = "<script>alert(1)</script> & 'q' </style> | `x` *b* \u2028"
_VOID = {"meta", "img", "br"}


class _Reader(HTMLParser):
    """Holds that tags nest, and keeps texts, ids and what a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def _saved(tmp_path: Path, *made: dict[str, Any]) -> list[str]:
    names = []
    for index, one in enumerate(made):
        path = tmp_path / f"r{index}.json"
        _record.save(one, path)
        _record.load(path)
        names.append(str(path))
    return names


def _machines(tmp_path: Path, *made: dict[str, Any]) -> list[chosen.Machine]:
    sources, unread = chosen.read(_saved(tmp_path, *made))
    assert unread == []
    return chosen.machines(sources)


def _page(tmp_path: Path, *made: dict[str, Any]) -> str:
    return bench_page.render(_machines(tmp_path, *made), [])


def _table(machine: chosen.Machine, op: str = "attention") -> cells.Table:
    return next(t for t in cells.tables(machine.shown()) if t.op == op)


def _over_time(count: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [
        records.full(index, 1 + 0.1 * index, f"2026-0{index + 1}-05T08:00:00+00:00", **more)
        for index in range(count)
    ]


# ---- the page as a whole


def test_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    found = _Reader(_page(tmp_path, *_over_time()))
    assert {*found.tags} & {"script", "link", "iframe", "object", "base", "form", "img"} == set()
    assert found.loads
    assert all(value.startswith("#") for value in found.loads)
    assert {value[1:] for value in found.loads} <= {*found.ids}
    assert "url(" not in parts.STYLE
    assert "@import" not in parts.STYLE
    assert re.search(r"https?:|//[a-z]", _page(tmp_path, records.full())) is None


def test_a_line_ends_between_numbers() -> None:
    assert cells._unbroken("n [8191, 1] of [2, 3]") == "n\u00a0[8191, 1] of\u00a0[2, 3]"


def test_page_is_made_for_phone_paper_and_the_dark() -> None:
    for needed in ("prefers-color-scheme: dark", "@media print", "@media screen and (max-width",
                   ".scroll { overflow-x: auto"):  # fmt: skip
        assert needed in parts.STYLE
    head = parts.document("x", [])
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in head
    assert head.count("<style>") == 1


def test_every_row_is_there_with_its_figures(tmp_path: Path) -> None:
    made = records.full()
    text, page = _Reader(_page(tmp_path, made)).text, _page(tmp_path, made)
    for row in made["rows"]:
        assert row["case"] in text
        assert row["provider"] in text
        if row["failure"]:
            assert row["failure"] in text
        elif row["skipped"]:
            assert row["skipped"] in text
        else:
            assert words.time_text(row["median_us"]) in text
            assert words.percent(row["error_used"]) in text
        if row["energy"]:
            assert words.energy_text(row["energy"]["joules"]) in text
        if row["suspect"]:
            assert row["suspect"] in text
    assert page.count('<path d="M') >= 20  # strips and marks
    assert "NVIDIA H100 80GB HBM3" in text
    assert "012345678" in text


def test_lines_hold_the_figures_of_the_record(tmp_path: Path) -> None:
    made = records.full()
    (machine,) = _machines(tmp_path, made)
    lines = {(e.row["case"], e.row["provider"]): cells.line(e, 1) for e in machine.shown()}
    ours = lines["prefill-4096", "triton"]
    row = next(r for r in made["rows"] if (r["case"], r["provider"]) == ("prefill-4096", "triton"))
    median, fastest = row["median_us"], made["rows"][10]["median_us"]
    assert made["rows"][10]["provider"] == "flash_attn"
    assert ours[2].text == f"{median:.3g} µs"
    assert ours[2].small == f"{row['low_us']:.3g} to {row['high_us']:.3g} µs"
    assert ours[3].text == f"{row['warm']['median_us']:.3g} µs"
    assert ours[4].text == f"{int(100 * row['sol'])} %"
    assert ours[5].text == f"{int(100 * row['sol_spec'])} %"
    assert ours[6].text == f"× {fastest / median:.3g}"
    assert ours[7].text == f"{1e3 * row['energy']['joules']:.3g} mJ"
    assert ours[8].text == "55 %"
    peer = lines["prefill-4096", "sdpa"]
    assert peer[6].text == words.NONE
    assert peer[9].text.startswith("2 modes: ")


def test_what_is_wrong_or_not_run_is_never_hidden(tmp_path: Path) -> None:
    found = _Reader(_page(tmp_path, records.full()))
    begin = "".join(found.texts).partition("Median with its")[0]
    assert "20 timed, 1 wrong, 2 not run" in begin
    assert "max error 0.5 where 0.01 is allowed" in found.text
    assert "cupy is not installed" in found.text


def test_times_to_be_read_with_care_are_marked(tmp_path: Path) -> None:
    (machine,) = _machines(tmp_path, records.full())
    lines = {(e.row["case"], e.row["provider"]): cells.line(e, 1) for e in machine.shown()}
    few = lines["gate-up-4096", "triton"]
    assert (few[2].mark, few[2].small, few[6].text) == ("with care", "n = 3", words.NONE)
    assert "M\u00a04096 of\u00a016384\u00a0(1/4)" in few[0].small
    assert "llama3-70b, 80 × in a forward pass" in few[0].small
    beyond = lines["decode", "triton"]
    assert beyond[4].text == "no ceiling"
    flagged = lines["prefill-1024", "triton"]
    assert flagged[9].text == "2 of 60 samples flagged: clock below 75 %"
    assert "throttled by sw_power_cap in 40 %" in lines["prefill-16384", "triton"][9].text


@pytest.mark.parametrize("text", ["plain", HOSTILE], ids=["plain", "hostile"])
def test_foreign_text_is_shown_and_not_run(text: str, tmp_path: Path) -> None:
    made = records.full(gpus=[records.H100 | {"name": text}], commit=text)
    for row in made["rows"]:
        row |= {"op": text, "case": row["case"] + text, "provider": row["provider"] + text}
        row["dims"] = {text: 1, **row["dims"]}
        for name in ("failure", "skipped", "suspect", "apart", "energy_missing", "model"):
            row[name] = text if row[name] else row[name]
    page = _page(tmp_path, made, made | {"created": "2026-02-01T00:00:00+00:00"})
    found = _Reader(page)
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert re.sub(r"\s+", " ", text).strip() in found.text


# ---- plots


def test_each_plot_has_title_description_axes_and_legend(tmp_path: Path) -> None:
    page = _page(tmp_path, *_over_time())
    figures = re.findall(r'<figure class="chart">.*?</figure>', page, re.S)
    assert len(figures) >= 8
    for figure in figures:
        assert len(re.findall(r"<title>[^<]+</title>", figure)) >= 1
        assert re.search(r"<desc>[^<]*</desc>", figure)
        assert figure.count('class="axis"') == 2
        assert figure.count('class="sample"') >= 1
    assert "Roofline of attention" in page
    assert "Time of attention against M = N" in page
    assert "History of attention prefill-4096" in page
    assert "Energy a call of attention" in page
    assert "Every sample of attention" in page


def test_roofline_stands_where_the_record_says(tmp_path: Path) -> None:
    (machine,) = _machines(tmp_path, records.full())
    plot = plots.roofline(_table(machine), axes.looks(machine.rows_of("attention")))
    assert isinstance(plot, axes.Plot)
    row = machine.shown()[0].row
    x, y = row["flops"] / row["bytes"], row["flops"] / row["median_us"] / 1e6
    drawn = "".join(plot.marks)
    assert f'x="{100 * plot.x.share(x):.2f}%" y="{100 * (1 - plot.y.share(y)):.2f}%"' in drawn
    roofs = [text for _, text in plot.legend[-2:]]
    assert roofs == ["measured: copy 2.95 TB/s, f16 650 TFLOP/s",
                     "specification: copy 3.35 TB/s, f16 989 TFLOP/s"]  # fmt: skip
    ridge = 1e3 * 650.0 / 2950.0
    assert f'x2="{100 * plot.x.share(ridge):.2f}%"' in drawn


def test_the_best_ratio_is_not_rounded_to_a_draw() -> None:
    rows = [records.row("triton", [400.0] * 9), records.row("sdpa", [381.0] * 9)]
    found = words.best_ratio(rows)
    assert found is not None
    assert found[0] == "× 0.953"


def test_sizes_are_joined_only_where_there_is_a_time(tmp_path: Path) -> None:
    made = records.full()
    lost = next(r for r in made["rows"] if (r["case"], r["provider"]) == ("prefill-1024", "sdpa"))
    lost |= records.without("sdpa", skipped="out of memory") | {
        k: lost[k] for k in ("case", "dims", "flops", "bytes")
    }
    (machine,) = _machines(tmp_path, made)
    (plot,) = plots.sizes(_table(machine), axes.looks(machine.rows_of("attention")))
    assert plot.x.title == "M = N (elements, log)"
    assert "sdpa has no time at M = N 1024." in plot.missing
    dashes = re.findall(r'class="curve peer" stroke-dasharray="([^"]+)"', "".join(plot.marks))
    assert sorted(dashes.count(d) for d in {*dashes}) == [1, 3]  # sdpa: 4096 to 16384 alone
    assert [r["case"] for r in plots.outside_sizes(_table(machine))] == ["prefill-1024", "decode"]


def test_history_is_of_one_machine_and_broken_at_a_gap(tmp_path: Path) -> None:
    made = _over_time(4)
    made[1]["rows"][0] |= {"failure": "wrong", "median_us": None, "samples_us": [], "n": 0}
    made[3]["environment"]["gpus"] = [records.H100 | {"driver": "999.0"}]
    other = records.full(9, created="2026-02-20T00:00:00+00:00", gpus=[records.H200])
    found = _machines(tmp_path, *made, other)
    assert [m.name for m in found] == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    assert [len(m.parts) for m in found] == [4, 1]
    first = found[0].shown()[0]
    key = first.part.problem(first.row)
    plot = history(found[0], key, axes.looks(found[0].rows_of("attention")))
    assert plot is not None
    assert any("r1.json" in text and "no time of triton: wrong" in text for text in plot.missing)
    assert any("r3.json" in text and "driver or card changed" in text for text in plot.missing)
    ours = re.findall(r'<line x1="([^"]+)" y1="[^"]+" x2="([^"]+)"[^>]*class="curve own"',
                      "".join(plot.marks))  # fmt: skip
    assert [pair for pair in ours if pair[0] != pair[1]] == []  # 0 to 2 and 2 to 3 are broken
    assert history(found[1], key, {}) is None


def test_a_provider_that_is_gone_stays_in_the_history(tmp_path: Path) -> None:
    made = _over_time(3)
    made[2]["rows"] = [r for r in made[2]["rows"] if r["provider"] != "sdpa"]
    (machine,) = _machines(tmp_path, *made)
    first = machine.shown()[0]
    plot = history(machine, first.part.problem(first.row),
                   axes.looks(machine.rows_of("attention")))  # fmt: skip
    assert plot is not None
    assert any("does not have sdpa" in text for text in plot.missing)


def test_who_was_never_timed_is_named_once_and_not_for_each_record(tmp_path: Path) -> None:
    made = _over_time(3)
    for each in made:
        case = {k: each["rows"][0][k] for k in ("op", "case", "dims", "device")}
        for name in ("fa3", "xformers"):
            each["rows"].append(records.without(name, skipped="not installed") | case)
    (machine,) = _machines(tmp_path, *made)
    first = machine.shown()[0]
    plot = history(machine, first.part.problem(first.row),
                   axes.looks(machine.rows_of("attention")))  # fmt: skip
    assert plot is not None
    assert plot.missing == ["No record here has a time of fa3, xformers: not run."]


def test_equal_lengths_of_a_batch_are_counted() -> None:
    said = words.dims_text({"n": [256, 100], "q": [7, 7, 7], "x": "q"}, {"n": [8192] * 16 + [1]})
    assert said == "n [256, 100] of [16 × 8192, 1]  q [7, 7, 7]  x q"


def test_missing_energy_is_a_sentence_and_no_bar(tmp_path: Path) -> None:
    found = _Reader(_page(tmp_path, records.full()))
    assert "not measured: the window would have been 2.1 s, 5 s is the least" in found.text
    assert "Energy of matmul_fp8: not measured." in found.text


def test_all_samples_are_in_a_strip(tmp_path: Path) -> None:
    made = records.record([records.row(taken=[100.0] * 8 + [99.0, 500.0], flags={"clock": [9]})])
    page = _page(tmp_path, made)
    strip = page.partition('class="group strips"')[2]
    assert strip.count("v8") == 9
    assert strip.count("v20") == 1
    assert "1 beyond, up to 500 µs, 1 flagged" in strip


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[1.0], [1e-9, 1e12], [3.0, 3.0], [0.99, 1.01], [1e-300, 1e300], [7.0, 8.0, 4e5]]
)
def test_axes_hold_their_values(values: list[float], log: bool) -> None:
    found = axes.axis("x", values, log=log)
    assert all(0 <= found.share(v) <= 1 for v in values)
    assert all(-1e-6 <= found.share(t) <= 1 + 1e-6 for t in found.ticks())
    assert 1 <= len(found.ticks()) <= 15


# ---- odd records


def _odd() -> dict[str, dict[str, Any]]:
    one = records.record([records.row()])
    failed = records.record([records.without("triton", failure="no"),
                             records.without("sdpa", skipped="why not")])  # fmt: skip
    bare = records.row(ceilings=None, low_us=None, high_us=None, q1_us=None, q3_us=None,
                       noise=None, error_used=None, sol=None, sol_spec=None, sol_bound=None,
                       tflops=None, gbps=None, mode=None, clock=None, cold=None)  # fmt: skip
    many = [records.row(name, records.samples(50.0 + i, 7, seed=i), case=f"case-{i}",
                        dims={"B": i, "M": 7 * i, "causal": bool(i % 2)})
            for i in range(150) for name in ("triton", "sdpa")]  # fmt: skip
    extreme = [records.row(taken=[10.0**e] * 6, case=f"e{e}", flops=10.0**f, bytes=10.0 ** (f - 2))
               for e, f in ((-6, 1), (0, 12), (12, 22))]  # fmt: skip
    modes = [records.row("triton", mode=m, case="x") for m in ("stream", "graph", "host")]
    empty = records.record([records.row(device="cpu")], ceilings={}, gpus=[])
    known = empty["environment"]
    known |= dict.fromkeys(("git", "torch", "triton", "cuda_driver"))
    known["cpu"] = dict.fromkeys(known["cpu"])
    return {
        "one": one, "failed": failed, "bare": records.record([bare]),
        "many": records.record(many), "extreme": records.record(extreme),
        "modes": records.record(modes), "empty": empty,
        "no operations": records.record([records.row(flops=0.0, sol=None, sol_spec=None)]),
    }  # fmt: skip


@pytest.mark.parametrize("name", _odd())
def test_odd_records_make_a_page(name: str, tmp_path: Path) -> None:
    made = _odd()[name]
    found = _machines(tmp_path, made)
    page, text = bench_page.render(found, []), markdown.render(found, [])
    reader = _Reader(page)
    assert not re.search(r"\b(nan|inf|None)\b", reader.text)
    for row in made["rows"]:
        assert row["case"] in reader.text
        assert row["case"] in text


def test_a_graph_run_in_which_all_failed_hides_the_older_times(tmp_path: Path) -> None:
    before = records.record([records.row(mode="graph")], "2026-01-01T00:00:00+00:00")
    after = records.record([records.without("triton", failure="wrong")],
                           "2026-01-02T00:00:00+00:00")  # fmt: skip
    after["options"]["mode"] = "graph"
    (machine,) = _machines(tmp_path, before, after)
    assert [chosen.outcome(e.row) for e in machine.shown()] == ["wrong"]


def test_cards_of_one_sku_are_machines_of_their_own(tmp_path: Path) -> None:
    cards = [records.H100, records.H100 | {"uuid": "GPU-2", "torch_index": 1}]
    rows = [records.row(device="cuda:0"), records.row(device="cuda:1")]
    assert len(_machines(tmp_path, records.record(rows, gpus=cards))) == 2
    sources, _ = chosen.read([str(tmp_path / "r0.json")])
    (sku,) = chosen.machines(sources, by_card=False)
    assert len(sku.parts) == 2


def test_problems_come_from_the_newest_record_that_has_them(tmp_path: Path) -> None:
    old = records.record([records.row(case="a"), records.row(case="b")])
    new = records.record([records.row(case="a")], "2026-06-01T00:00:00+00:00")
    (machine,) = _machines(tmp_path, old, new)
    assert {e.row["case"]: e.part.source.name for e in machine.shown()} == {
        "a": "r1.json",
        "b": "r0.json",
    }
    text = _Reader(bench_page.render([machine], [])).text
    assert "From r0.json" in text
    assert "From r1.json" in text


@pytest.mark.parametrize(("faster", "plots"), [(1.04, 1), (1.06, 2)])
def test_what_is_said_of_several_records_is_said_once(
    faster: float, plots: int, tmp_path: Path
) -> None:
    old = records.record([records.row(case="a"), records.row(case="b")])
    other = {**records.CEILINGS, "copy_gbps": faster * records.CEILINGS["copy_gbps"]}
    new = records.record([records.row(case="a")], "2026-06-01T00:00:00+00:00", ceilings=other)
    page = _page(tmp_path, old, new)
    text = _Reader(page).text
    for said in (
        "Time of a call, from 0; whiskers",
        "A tick is a sample",
        "Energy of attention: not",
    ):
        assert text.count(said) == 1, said
    captions = re.findall(r"<figcaption>.*?</figcaption>", page)
    rooflines = [c for c in captions if "Roofline of attention" in c]
    assert len(rooflines) == plots
    assert sum("A mark is a case by a provider" in c for c in rooflines) == 1
    assert all(("r0.json" in c or "r1.json" in c) == (plots == 2) for c in rooflines)
    assert ("The ceilings are those of r1.json" in text) == (plots == 1)


# ---- reading


def _damaged() -> dict[str, tuple[str, str]]:
    made = records.record([records.row()])
    whole = json.dumps(made)
    row = made["rows"][0]
    zero = json.dumps(made | {"rows": [row | records.spread([0.0, 1.0, 1.0])]})
    joules = json.dumps(made | {"rows": [row | {"energy": records.energy(0.0)}]})
    big = json.dumps(made | {"rows": [row | {"flops": 10**400}]})
    small = json.dumps(made | {"rows": [row | {"bytes": 1e-300}]})
    half = json.dumps(made | {"rows": [row | {"note": "\ud800"}]})
    ceiling = json.dumps(made | {"ceilings": {"copy_gbps": "fast"}})
    none = json.dumps(made | {"rows": [row | {"n": 0, "samples_us": []}]})
    return {
        "cut short": (whole[:-40], "not JSON, or cut short"),
        "schema 1": (whole.replace('"schema": 2', '"schema": 1'), "has schema 1, not 2"),
        "NaN": (whole.replace(str(row["median_us"]), "NaN", 1), "NaN is no number"),
        "infinity": (whole.replace(str(row["median_us"]), "1e999", 1), "1e999 is no number"),
        "a whole number of 400 digits": (big, "is no number that a run can give"),
        "a time of 1e-300 us": (small, "1e-300 is no number that a run can give"),
        "half a character": (half, "surrogates not allowed"),
        "no time": (zero, "rows[0] has a time that is not above 0"),
        "no energy": (joules, "rows[0].energy.joules is 0.0"),
        "no sample": (none, "rows[0].median_us stands for no sample"),
        "a ceiling": (ceiling, "ceilings.copy_gbps is 'fast', not a rate"),
        "a list": ("[]", "not a benchmark record"),
    }


@pytest.mark.parametrize("name", _damaged())
def test_damaged_records_are_named_and_the_others_shown(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, why = _damaged()[name]
    (good,) = _saved(tmp_path, records.full())
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    out = tmp_path / "out"
    assert main(["bench", "report", str(bad), good, "--out", str(out)]) == 2
    said = capsys.readouterr().out
    assert str(bad) in said
    assert why in said
    page = _Reader((out / "report.html").read_text()).text
    assert why in page
    assert "NVIDIA H100" in page
    assert f"Not read: {markdown.escape(str(bad))}" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["good.json"], 0, "20 timed, 1 wrong, 2 not run"),
        (["."], 0, "20 timed"),
        (["good.json", "absent.json"], 2, "absent.json: can't be read: No such file"),
        (["absent.json"], 2, "nothing is written"),
        (["empty"], 2, "empty: a folder without a record"),
        ([], 3, "name a RECORD"),
        (["good.json", "--out", "good.json"], 3, "can't write to the folder"),
        (["good.json", "--update", "x.md"], 3, "name no RECORD with it"),
        (["--update", "x.md"], 3, "x.md: can't be read"),
        (["--update", "x.md", "--results", "absent"], 3, "--results 'absent' is no folder"),
        (["--colour"], 3, "--colour"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    _record.save(records.full(), "good.json")
    for name in ("empty", "bench/results"):
        Path(name).mkdir(parents=True)
    assert main(["bench", "report", *arguments]) == code
    said = capsys.readouterr()
    assert says in said.out + said.err
    assert "Traceback" not in said.err
    written = code == 0 or (code == 2 and "good.json" in arguments)
    assert Path("reports/bench/report.html").exists() == written
    assert Path("reports/bench/report.md").exists() == written


def test_the_same_record_twice_is_one(tmp_path: Path) -> None:
    names = _saved(tmp_path, records.full(), records.full())
    sources, unread = chosen.read(names)
    assert [s.name for s in sources] == ["r0.json"]
    assert unread == []


# ---- Markdown


def test_markdown_has_the_tables_of_the_page(tmp_path: Path) -> None:
    found = _machines(tmp_path, records.full())
    text = markdown.render(found, [])
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert len(tables) == 3
    assert text.count("\n| 1. prefill-256") == 4
    assert "| **wrong** |" in text
    assert "- Not run: nvrtc, 1 case (hidden): cupy is not installed" in text
    assert text == markdown.render(found, [])


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a|b", r"a\|b"), ("matmul_fp8", "matmul_fp8"), ("_x_", r"\_x\_"), ("<b>&", "&lt;b&gt;&amp;"),
     ("two\nlines", "two lines"), ("`*[", r"\`\*\[")],
)  # fmt: skip
def test_markdown_is_escaped(text: str, escaped: str) -> None:
    assert markdown.escape(text) == escaped


# ---- words


@pytest.mark.parametrize(
    ("us", "text"),
    [(1e-5, "1e-05 µs"), (0.5, "0.5 µs"), (12.34, "12.3 µs"), (999.4, "999 µs"), (999.6, "1 ms"),
     (1.5e6, "1.5 s"), (1.2345e9, "1\u202f234 s"), (1e15, "1e+09 s")],
)  # fmt: skip
def test_times_have_a_unit_that_fits(us: float, text: str) -> None:
    assert words.time_text(us) == text


def test_ranges_say_a_unit_once() -> None:
    assert words.range_text(10.0, 20.0) == "10 to 20 µs"
    assert words.range_text(10.0, 2000.0) == "10 µs to 2 ms"
