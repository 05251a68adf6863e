"""The journal: nothing said is lost, and nothing changed goes unseen."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from aimills_kernels.accept import evidence, journal
from aimills_kernels.accept.evidence_folder import RankJournal, Unwritable
from aimills_kernels.accept.findings import (
    ACCEPTED,
    FAIL,
    INCOMPLETE,
    PASS,
    REJECTED,
    UNKNOWN,
    WARN,
    Finding,
    code_of,
)  # fmt: skip
from tests import journal_overhead


def _written(path: Path, count: int = 4) -> list[dict[str, Any]]:
    writer = journal.Journal(path)
    for place in range(count):
        writer.append("event", name=f"e{place}", text="something")
    writer.close()
    return journal.read(path)


def test_entries_follow_from_each_other(tmp_path: Path) -> None:
    entries = _written(tmp_path / "j.jsonl")
    assert [e["n"] for e in entries] == [0, 1, 2, 3]
    assert entries[0]["prev"] == journal.FIRST
    assert entries[1]["prev"] == journal.head_of(entries[:1])


@pytest.mark.parametrize("change", ["byte", "drop", "swap", "add", "cut"])
def test_a_changed_journal_is_damaged(tmp_path: Path, change: str) -> None:
    path = tmp_path / "j.jsonl"
    _written(path)
    lines = path.read_text().splitlines(keepends=True)
    lines = {
        "byte": [lines[0].replace("e0", "e9"), *lines[1:]],
        "drop": [lines[0], *lines[2:]],
        "swap": [lines[0], lines[2], lines[1], lines[3]],
        "add": [*lines[:2], lines[1], *lines[2:]],
        "cut": [*lines[:3], lines[3][:-9]],
    }[change]
    path.write_text("".join(lines))
    with pytest.raises(journal.Damaged, match=r"j\.jsonl: line [1-4]"):
        journal.read(path)


def test_gathered_entries_are_written_at_once_and_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "j.jsonl", []
    monkeypatch.setattr(journal, "_SYNC_S", 600.0)  # none of the other thread, however slow this is
    monkeypatch.setattr(journal.os, "fsync", lambda file: synced.append(len(journal.read(path))))
    writer = journal.Journal(path)
    with writer.gathered():
        for place in range(3):
            writer.append("check", op=f"{place}")
            assert len(journal.read(path)) == place + 1
        assert synced == []
        other = threading.Thread(target=lambda: writer.append("sample", values={}))
        other.start()
        other.join()
        assert synced == [4]
    assert synced == [4, 4]
    writer.append("check", op="3")
    assert synced == [4, 4, 5]
    with pytest.raises(ValueError, match="no entries of kind"), writer.gathered():
        writer.append("no such kind", op="4")
    assert synced == [4, 4, 5, 5]
    assert writer.spent_s > 0


def test_gathered_entries_are_synced_while_the_block_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = threading.Event()
    monkeypatch.setattr(journal, "_SYNC_S", 0.01)
    monkeypatch.setattr(journal.os, "fsync", lambda file: synced.set())
    with journal.Journal(tmp_path / "j.jsonl").gathered():
        assert synced.wait(60)


def test_a_disk_that_fails_under_gathered_entries_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next entry, though the system would tell of it only once."""
    failed = threading.Event()

    def fsync(file: int) -> None:
        if not failed.is_set():
            failed.set()
            raise OSError("No space left on device")

    monkeypatch.setattr(journal, "_SYNC_S", 0.01)
    monkeypatch.setattr(journal.os, "fsync", fsync)
    writer = RankJournal(tmp_path / "j.jsonl")

    def write() -> None:
        with writer.gathered():
            assert failed.wait(60)
            while True:
                writer.append("check", op="0")

    with pytest.raises(Unwritable, match="No space left"):
        write()


def test_a_resumed_journal_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    entries = _written(path)
    path.write_text(path.read_text() + '{"clock":3,"ki')
    again = journal.Journal(path, new=False)
    again.append("event", name="resumed", text="after a crash")
    again.close()
    found = journal.read(path)
    assert found[:4] == entries
    assert found[4]["name"] == "resumed"


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    _written(tmp_path / "j.jsonl")
    with pytest.raises(FileExistsError):
        journal.Journal(tmp_path / "j.jsonl")


def test_nan_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    writer = journal.Journal(tmp_path / "j.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        writer.append("measure", value=float("nan"))
    with pytest.raises(ValueError, match="'guess'"):
        writer.append("guess")
    writer.append("event", name="a", text="b")
    assert len(journal.read(tmp_path / "j.jsonl")) == 1


def test_a_pod_knows_who_is_missing(tmp_path: Path) -> None:
    for rank in (0, 2):
        writer = journal.Journal(tmp_path / "journal" / f"n{rank}.jsonl")
        writer.append("begin", node=f"n{rank}", rank=rank, world=4, device="cpu")
        writer.append("stage", name="memory", state="begin")
    pod = evidence.read(tmp_path)
    assert pod.missing == [1, 3]
    assert list(pod.by_node()) == ["n0", "n2"]
    assert pod.ranks[0].stages()["memory"]["status"] == "cut"
    assert pod.ranks[0].ended is None


def test_what_is_unknown_is_no_pass() -> None:
    def code(*states: str) -> int:
        return code_of(Finding("a.rule", s, "pod", "text") for s in states)

    assert code() == INCOMPLETE
    assert code(PASS, WARN) == ACCEPTED
    assert code(PASS, UNKNOWN) == INCOMPLETE
    assert code(UNKNOWN, FAIL, PASS) == REJECTED


def test_an_entry_is_written_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    _written(path, 1)
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry) + "\n")  # the same content with other spaces
    with pytest.raises(journal.Damaged, match="line 1"):
        journal.read(path)


@pytest.mark.full
@pytest.mark.parametrize("profile", ["gate", "quick", "full"])
def test_the_journal_costs_less_than_a_hundredth_of_its_run(tmp_path: Path, profile: str) -> None:
    """By CPU time and by how often the disk is waited for, neither of which a busy host changes."""
    cost = journal_overhead.written(profile, tmp_path)
    assert len(journal.read(tmp_path / f"{profile}.jsonl")) == cost.entries > 100
    assert cost.share < 0.01, cost
