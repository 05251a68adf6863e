"""The table of errors in kernels/video/README.md is what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("PIL")

from tools import video_errors as errors

CELLS = errors.cells()


def only(table: str, *row: str, column: str) -> errors.Cell:
    (found,) = (c for c in CELLS if (c.table, c.row, c.column) == (table, row, column))
    return found


FEW = [
    only("resize", "pil", "bicubic", "shrink", column="Pillow 12"),
    only("resize", "pil13", "area", "shrink", column="Pillow 13"),
    only("resize", "torch", "bicubic", "shrink", column="torch `F.interpolate`, f64"),
    only("resize", "torch", "bicubic, no antialias", "grow", column="OpenCV"),
    only("colours", "p010", "limited", "bt2020", column="swscale"),
    only("colours", "nv12", "full", "bt709", column="torch, f64"),
    only("both", "torch", "nv12", column="torch, f64"),
]


def test_committed_errors_are_those_measured_now() -> None:
    assert errors.stale(FEW) == [], "run `make tables`"


@pytest.mark.full
def test_all_committed_errors_are_those_measured_now() -> None:
    assert errors.stale(CELLS) == [], "run `make tables`"


def test_the_page_has_no_other_rows() -> None:
    known = {(c.table, c.row, c.column) for c in CELLS}
    assert set(errors.committed()) <= known


def test_each_mode_has_rows() -> None:
    """A new mode needs `make tables`."""
    found = {row[0] for table, row, _ in errors.committed() if table != "colours"}
    assert found == {*errors.MODES}


def one_level_off(levels: Tensor, *args: Any) -> Tensor:
    made = resized(levels, *args).clone()
    made[0, 0, 0] ^= 1
    return made


def other_matrix(planes: list[Tensor], format: str, space: str, *args: Any, **more: Any) -> Tensor:
    return coloured(planes, format, "bt601" if space != "bt601" else "bt709", *args, **more)


resized, coloured = errors._resized, errors._coloured


@pytest.mark.parametrize(
    ("name", "fault", "cells"),
    [
        ("_resized", one_level_off, FEW[:2]),
        ("_coloured", other_matrix, FEW[4:]),
    ],
)
def test_a_planted_error_is_found(
    name: str, fault: Any, cells: list[errors.Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, name, fault)
    assert len(errors.stale(cells)) == len(cells)


@pytest.mark.parametrize(
    ("old", "new"), [("| 0; 0 |", "| 1 (0.01); 0 |"), ("| 1 (0.004) |", "| 1 (0.1) |")]
)
def test_another_figure_on_the_page_is_found(old: str, new: str, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(errors.PAGE.read_text().replace(old, new))
    assert errors.stale(FEW, page) != []


def test_a_page_without_the_part_is_named(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"README\.md: has no part between `errors:begin`"):
        errors.committed(page)


def test_a_few_pictures_are_what_they_say() -> None:
    assert torch.equal(errors.noise(9, 8), errors.noise(9, 8))
    assert 60 < int(errors.smooth(90, 90).min()) < int(errors.smooth(90, 90).max()) < 200
