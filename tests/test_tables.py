"""The generated parts of documentation are what the committed records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from aimills_kernels._registry import OPS
from aimills_kernels.cli import main
from aimills_kernels.harness import record as _record
from aimills_kernels.report import docs
from tests import records
from tests.test_docs import PAGES, ROOT

RESULTS = ROOT / "bench" / "results"
WITH_PARTS = [page for page in PAGES if docs.has_part(page.read_text())]


def test_committed_parts_are_up_to_date() -> None:
    found = docs.stale(WITH_PARTS, RESULTS)
    assert found == [], "run `make tables`"


def test_each_family_has_its_part() -> None:
    families = {op.reference.__module__.split(".")[-2] for op in OPS}
    pages = {ROOT / "kernels" / family / "README.md" for family in families}
    assert pages <= {*WITH_PARTS}
    assert {p.name for p in RESULTS.glob("*.svg")} <= {
        name for page in WITH_PARTS for name in _pictures(page)
    }


def _pictures(page: Path) -> list[str]:
    return [part.rpartition("/")[2] for part in page.read_text().replace(")", "(").split("(")
            if part.endswith(".svg")]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A page with a part, and a folder with records."""
    page, results = tmp_path / "kernels" / "README.md", tmp_path / "results"
    page.parent.mkdir()
    results.mkdir()
    page.write_text("# top\n\n<!-- bench:begin attention -->\nold\n<!-- bench:end -->\n\nend\n")
    for index in range(2):
        made = records.full(index, created=f"2026-0{index + 1}-01T00:00:00+00:00")
        _record.save(made, results / f"h100-{index}.json")
    return page, results


def _update(page: Path, results: Path) -> int:
    return main(["bench", "report", "--update", str(page), "--results", str(results)])


def test_update_writes_table_and_pictures_and_then_nothing(place: tuple[Path, Path]) -> None:
    page, results = place
    assert docs.stale([page], results) != []
    assert _update(page, results) == 0
    text = page.read_text()
    assert text.startswith("# top\n\n<!-- bench:begin attention -->\n\n**attention** on NVIDIA")
    assert text.endswith("\n\n<!-- bench:end -->\n\nend\n")
    assert "h100-1.json" in text
    assert "old" not in text.split()
    assert "matmul_fp8" not in text
    pictures = sorted(p.name for p in results.glob("*.svg"))
    assert pictures == ["attention.1.svg", "attention.2.svg"]
    assert all(f"](../results/{name})" in text for name in pictures)
    before = {p: p.read_bytes() for p in [page, *results.iterdir()]}
    assert docs.stale([page], results) == []
    assert _update(page, results) == 0
    assert {p: p.read_bytes() for p in [page, *results.iterdir()]} == before


def test_pictures_stand_alone(place: tuple[Path, Path]) -> None:
    _update(*place)
    for path in place[1].glob("*.svg"):
        text = path.read_text()
        assert text.startswith("<svg ")
        assert 'xmlns="http://www.w3.org/2000/svg"' in text
        assert "prefers-color-scheme: dark" in text
        assert "href" not in text
        assert "<script" not in text


@pytest.mark.parametrize("touch", ["record", "page", "picture", "lost picture", "extra picture"])
def test_whatever_is_stale_is_found(touch: str, place: tuple[Path, Path]) -> None:
    page, results = place
    _update(page, results)
    assert docs.stale([page], results) == []
    if touch == "record":
        made = _record.load(results / "h100-1.json")
        made["rows"][0] |= records.spread([2 * s for s in made["rows"][0]["samples_us"]])
        _record.save(made, results / "h100-1.json")
    elif touch == "page":
        page.write_text(page.read_text().replace(" µs", " ns", 1))
    elif touch == "picture":
        (results / "attention.1.svg").write_text("<svg/>")
    elif touch == "lost picture":
        (results / "attention.2.svg").unlink()
    else:
        (results / "attention.9.svg").write_text("<svg/>")
    assert len(docs.stale([page], results)) >= 1
    assert _update(page, results) == 0
    assert docs.stale([page], results) == []


def test_without_a_record_the_part_says_so(place: tuple[Path, Path]) -> None:
    page, results = place
    _update(page, results)
    for path in results.glob("*.json"):
        path.unlink()
    assert _update(page, results) == 0
    assert docs.NONE in page.read_text()
    assert list(results.iterdir()) == []


def test_a_damaged_record_stops_the_update(
    place: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = place
    before = page.read_text()
    (results / "bad.json").write_text("{")
    assert _update(page, results) == 2
    assert "bad.json" in capsys.readouterr().out
    assert page.read_text() == before
    assert any("bad.json" in text for text in docs.stale([page], results))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "has no line `<!-- bench:begin NAME ... -->`"),
        ("<!-- bench:begin attention -->\n", "has no line `<!-- bench:end -->` after it"),
        ("<!-- bench:begin attntion -->\n<!-- bench:end -->\n", "unknown op 'attntion'"),
        ("<!-- bench:begin  -->\n<!-- bench:end -->\n", "names no op"),
        ("<!-- bench:begin video -->\n<!-- bench:begin matmul -->\n<!-- bench:end -->\n",
         "`<!-- bench:begin video -->` has no line"),
    ],
)  # fmt: skip
def test_a_wrong_page_is_named(
    text: str, says: str, place: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = place
    page.write_text(text)
    assert _update(page, results) == 3
    said = capsys.readouterr().err
    assert str(page) in said
    assert says in said
    assert page.read_text() == text


def test_cards_of_a_sku_share_a_table(place: tuple[Path, Path]) -> None:
    page, results = place
    other = records.full(7, created="2026-05-01T00:00:00+00:00",
                         gpus=[records.H100 | {"uuid": "GPU-7"}])  # fmt: skip
    _record.save(other, results / "h100-7.json")
    _update(page, results)
    assert page.read_text().count("**attention** on ") == 1
    assert "h100-7.json" in page.read_text()
