"""The command that times video_to_tensor beside its peers: what it takes, and what it says."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels._op import Case
from tools import video_peers as peers
from tools.page_part import Part
from tools.video_peers import FAST, OURS, Contestant, Result, Time

CPU = {"cpu": {"model": "a CPU", "usable_cores": 2}, "time": "2026-01-02T03:04:05"}
SMALL = dict(F=1, H=90, W=160, space="bt601", upsampling="nearest")
TOKENS = dict(h=28, w=56, store="patches", patch=(2, 14, 2))


def result(
    ours: float, peer: float, largest: float = 1.0, fast: float = 1e5, mean: float = 0.05
) -> Result:
    """`mean`: how far ours is off in the mode "fast", beside 0.1 of the peer."""
    found = [Contestant(OURS, lambda: None, 0, 0), Contestant("other", lambda: None, largest, 0.1),
             Contestant("far off", lambda: None, 9, 2.0),
             Contestant(FAST, lambda: None, 1, mean)]  # fmt: skip
    times = {
        (c.name, n): Time(us, 0.02, us, 5)
        for c, us in zip(found, (ours, peer, 1.0, fast), strict=True)
        for n in peers.THREADS
    }
    return Result("small", found, times)


def test_one_thread_has_the_time_that_it_ran_for() -> None:
    before = torch.get_num_threads()
    try:
        for threads, least, most in ((1, 0, 15e3), (2, 20e3, math.inf)):
            torch.set_num_threads(threads)
            assert least <= peers.Timer().sample(lambda: time.sleep(0.02)) < most
    finally:
        torch.set_num_threads(before)


def said(made: Result, load: float = 0.0) -> list[str]:
    beginnings = tuple(f"| small | {n} |" for n in peers.THREADS)
    return [line for line in peers.lines([made], CPU, load) if line.startswith(beginnings)]


@pytest.mark.parametrize(
    ("made", "load", "says"),
    [
        (result(1000, 1300), 0.1, "| other | this | 1.30 | met |"),
        (result(1000, 1290), 0.1, "| other | this | 1.29 | **not met** |"),
        (result(1000, 1300, largest=3.0), 0.1, "| - | - | - | no peer |"),
        (result(1000, 1300, fast=500), 0.1, "| other | this, mode fast | 2.60 | met |"),
        (result(1000, 1300, fast=500, mean=0.2), 0.1, "| other | this | 1.30 | met |"),
        (
            result(1000, 5000),
            6.0,
            "| other | this | 5.00 | not known, the machine was busy (met so) |",
        ),
    ],
)
def test_verdict(made: Result, load: float, says: str) -> None:
    lines = said(made, load)
    assert len(lines) == len(peers.THREADS)
    assert all(line.endswith(says) for line in lines)


def test_each_contestant_has_its_times_and_error() -> None:
    text = "\n".join(peers.lines([result(1000, 2500)], CPU, 0.0))
    assert "| small | this | 1.0 ms ±1% (1.0) | 1.0 ms ±1% (1.0) | 0 (0) |" in text
    assert "| small | other | 2.5 ms ±1% (2.5) | 2.5 ms ±1% (2.5) | 1 (0.1) |" in text
    assert "a CPU, 2 cores, 2026-01-02" in text


def test_few_samples_have_no_spread() -> None:
    assert peers._shown(Time(1e3, 0.0, 1e3, 4)) == "1.0 ms, few samples (1.0)"


def test_the_page_has_the_part() -> None:
    assert peers.PART.read()


@pytest.mark.parametrize("update", [False, True])
def test_part_is_printed_or_written(
    update: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- peers:begin -->\nold\n<!-- peers:end -->\nb\n")
    Part(page, "peers").give(update, lambda: ["new", "\\1"])
    assert ("new" in page.read_text()) == update
    if update:
        assert page.read_text() == "a\n<!-- peers:begin -->\nnew\n\\1\n<!-- peers:end -->\nb\n"
    else:
        assert capsys.readouterr().out == "new\n\\1\n\n"


def test_page_without_the_part_is_told_before_minutes_of_work(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")

    def never() -> list[str]:
        raise AssertionError

    with pytest.raises(SystemExit, match=r"page\.md: has no part between `peers:begin` and"):
        Part(page, "peers").give(True, never)


@pytest.fixture
def opencv_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(peers, "peers_of", lambda op: list(filter(
        lambda peer: peer.name in ("opencv+torch", "pillow"), every(op))))  # fmt: skip


every: Callable[[Any], list[Any]] = peers.peers_of


@pytest.mark.usefixtures("opencv_alone")
@pytest.mark.parametrize(
    ("mode", "names"),
    [("torch", {OURS, FAST, "opencv+torch", "pillow"}), ("pil13", {OURS, "pillow"})],
)
def test_peers_are_near(mode: str, names: set[str]) -> None:
    """The matrix and the filter of a case are theirs."""
    for dims in (TOKENS, dict(h=21, w=40)):
        found = list(peers.contestants(Case("small", **SMALL, **dims, mode=mode)))
        assert {c.name for c in found} == names
        assert all(c.largest <= peers.NEAR for c in found)
        assert next(c for c in found if c.name == OURS).mean < 1e-3


@pytest.mark.full
@pytest.mark.parametrize("dims", [TOKENS, dict(h=21, w=40)], ids=["tokens", "pictures"])
def test_transformers_processors_resize_as_pillow(dims: dict[str, Any]) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("transformers")
    found = {c.name: c for c in peers.contestants(Case("small", **SMALL, **dims, mode="pil13"))}
    assert {OURS, "pillow", "transformers"} <= set(found)
    one, other = found["pillow"].call(), found["transformers"].call()
    assert one.shape == other.shape
    assert float((one.float() - other.float()).abs().max()) <= 2**-7 * float(one.abs().max())


@pytest.mark.usefixtures("opencv_alone")
def test_another_matrix_is_far() -> None:
    other = {**SMALL, "space": "bt2020"}
    found = list(peers.contestants(Case("small", **other, h=21, w=40)))
    assert all(c.ours == (c.largest <= peers.NEAR) for c in found)


def test_ours_must_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    right = peers.torch_op("video_to_tensor")
    monkeypatch.setattr(peers, "torch_op", lambda name: lambda *args: right(*args).roll(1, -1))
    with pytest.raises(SystemExit, match="video_to_tensor is wrong for small"):
        list(peers.contestants(Case("small", **SMALL, h=21, w=40)))
