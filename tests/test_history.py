"""`bench history`: steps between records, their causes, and a slide of small steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimills_kernels.cli import main
from aimills_kernels.harness import record as _record
from aimills_kernels.report import chosen, steps
from tests import records


def history(*rows: dict[str, Any] | None, **more: list[Any]) -> list[chosen.Source]:
    """A record a day and commit, each with one row, or none; `more` is given one by one."""
    made = []
    for i, row in enumerate(rows):
        given = {name: values[i] for name, values in more.items()}
        record = records.record(
            [] if row is None else [row], f"2026-01-{i + 1:02}T08:00:00+00:00",
            commit=f"{i}" * 40, **given,
        )  # fmt: skip
        made.append(chosen.Source(f"{i}.json", record))
    return made


def timed(factor: float, seed: int, **more: Any) -> dict[str, Any]:
    return records.row("triton", records.samples(400 * factor, seed=100 * seed), **more)


def past(sources: list[chosen.Source]) -> steps.Past:
    (machine,) = chosen.machines(sources)
    (found,) = steps.pasts(machine)
    return found


def words(found: steps.Past) -> list[str]:
    return [s.verdict.verdict if s.verdict else "first" for s in found.steps]


def test_steps() -> None:
    found = past(history(timed(1, 0), timed(1, 1), timed(1.2, 2), timed(1.2, 3), timed(0.9, 4)))
    assert words(found) == ["first", "SAME", "SLOWER", "SAME", "FASTER"]
    assert [s.point for s in found.steps] == [False, False, True, False, True]
    assert found.steps[3].since is not None
    assert found.steps[3].since.ratio == pytest.approx(1.2, abs=0.01)


def test_what_broke_is_compared_with_the_last_time() -> None:
    wrong = records.without("triton", failure="out: max error 0.5")
    found = past(history(timed(1, 0), wrong, timed(1.2, 2)))
    assert words(found) == ["first", "BROKEN", "SLOWER"]


@pytest.mark.parametrize("mode", ["stream", "graph"])
def test_a_row_without_a_time_has_the_mode_of_the_others(mode: str) -> None:
    gone = records.without("triton", skipped="no memory")
    sources = history(timed(1, 0, mode=mode), gone)
    for source in sources:
        source.record["options"]["mode"] = mode
    assert words(past(sources)) == ["first", "MISSING"]


def test_another_driver_starts_a_new_stretch() -> None:
    gpus = [[records.H100]] * 2 + [[records.H100 | {"driver": "590.1"}]] * 2
    found = past(history(*(timed(f, i) for i, f in enumerate((1, 1, 1.3, 1.3))), gpus=gpus))
    assert words(found) == ["first", "SAME", "REFUSED", "SAME"]
    last = found.steps[-1].since
    assert last is not None
    assert last.verdict == "SAME"


def test_a_step_is_from_the_last_time_that_may_be_compared() -> None:
    """A record of another driver in between is refused, and the next one goes on from before."""
    gpus = [[records.H100], [records.H100 | {"driver": "590.1"}]] * 2
    found = past(history(*(timed(f, i) for i, f in enumerate((1, 2, 1.2, 2))), gpus=gpus))
    assert words(found) == ["first", "REFUSED", "SLOWER", "SAME"]
    assert found.steps[2].start is found.steps[0].part


def test_a_slide_of_small_steps_is_seen() -> None:
    found = past(history(*(timed(1.025**i, i) for i in range(6))))
    assert words(found) == ["first", *["SAME"] * 5]
    assert [s.slide for s in found.steps] == [False] * 3 + [True] * 3


def test_a_card_that_was_at_another_index() -> None:
    other = records.H100 | {"torch_index": 1, "uuid": records.H200["uuid"]}
    second = history(None, timed(1, 1, device="cuda:1"))[1]
    second.record["environment"]["gpus"] = [other, records.H100 | {"torch_index": 1}]
    second.record["environment"]["gpus"][0]["torch_index"] = 0
    assert words(past([history(timed(1, 0))[0], second])) == ["first", "SAME"]


# ---- the command


def saved(sources: list[chosen.Source], folder: Path) -> str:
    for source in sources:
        _record.save(source.record, folder / source.name)
    return str(folder)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = [[records.H100]] * 2 + [[records.H100 | {"driver": "590.1"}]]
    folder = saved(history(timed(1, 0), timed(1.2, 1), timed(1.2, 2), gpus=gpus), tmp_path)
    plot = tmp_path / "plot.svg"
    assert main(["bench", "history", folder, "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "attention prefill triton on NVIDIA H100 80GB HBM3" in said
    assert "2026-01-02: SLOWER +" in said
    assert "at 111111111, after 000000000" in said
    assert "2026-01-03: REFUSED at 222222222, after 111111111: another driver: 580.0 and 590.1" in (
        said
    )
    assert "<svg" in plot.read_text()
    assert main(["bench", "history", folder, "--provider", "sdpa"]) == 3
    assert "there are: attention prefill triton" in capsys.readouterr().err


def test_a_slide_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(history(*(timed(1.025**i, i) for i in range(4))), tmp_path)
    assert main(["bench", "history", folder]) == 0
    assert "slower than at 000000000, by small steps up to 333333333" in capsys.readouterr().out


def test_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(history(timed(1, 0)), tmp_path)
    assert main(["bench", "history", folder]) == 2
    assert "no row is in two records" in capsys.readouterr().out
    assert main(["bench", "history", str(tmp_path / "nowhere")]) == 2
    assert "not read: " in capsys.readouterr().out
    saved(history(None, timed(1, 1)), tmp_path)
    (tmp_path / "cut.json").write_text("{")
    assert main(["bench", "history", folder]) == 2
    assert "cut.json: not JSON" in capsys.readouterr().out
