"""The output folder: one run's evidence, never a second one's. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aimills_kernels.accept.evidence import FOLDER, REPORTS, SIGNATURE
from aimills_kernels.accept.journal import FIRST, Journal, digest, encoded, read
from aimills_kernels.accept.launch import Launch

_OF_A_RUN = ("world", "uuid", "profile", "stages", "ops", "exclude", "seed", "criteria", "version",
           "expect_gpus")  # fmt: skip


class Used(ValueError):
    """The folder holds a run already."""


class Unwritable(BaseException):
    """The journal can't be written, so that nothing that follows would be evidence. No `Exception`:
    a stage must not take it for a failure of its own."""


class RankJournal(Journal):
    """A journal that a signal or a full disk in the middle of an entry leaves whole."""

    def __init__(self, path: Path, *, new: bool = True):
        self._mine = threading.RLock()
        self.wrong = self.gaps = 0  # checks and gaps that were written
        try:
            super().__init__(path, new=new)
        except OSError as error:
            raise Unwritable(_sentence(path, error)) from error

    def append(self, kind: str, **data: Any) -> dict[str, Any]:
        with self._mine:
            try:
                entry = super().append(kind, **data)
            except OSError as error:
                self._mend()
                if _of_a_limit(error):
                    raise
                raise Unwritable(_sentence(self.path, error)) from error
            except BaseException:
                self._mend()
                raise
            self.wrong += kind == "check" and data.get("status") == "wrong"
            self.gaps += kind == "not_run" and bool(data.get("gap"))
            return entry

    def sync(self) -> None:
        try:
            super().sync()
        except OSError as error:
            if _of_a_limit(error):
                raise
            raise Unwritable(_sentence(self.path, error)) from error

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """What is written inside ends the journal: no other thread writes after it."""
        with self._mine:
            yield
            self.close()

    def _mend(self) -> None:
        """Go on after the last whole entry that is on the disk."""
        with contextlib.suppress(OSError):
            known = read(self.path, torn=True)
            os.truncate(self.path, sum(len(encoded(e).encode()) + 1 for e in known))
            self._count = len(known)
            self.head = digest(encoded(known[-1])) if known else FIRST


def _of_a_limit(error: OSError) -> bool:
    """A stage's time is up, which says nothing of the disk."""
    return isinstance(error, TimeoutError) and error.errno is None


def _sentence(path: Path, error: OSError) -> str:
    return (
        f"the journal {path} can't be written ({error.strerror or error}); what it and the "
        "journals of other ranks hold is kept"
    )


def path_of(folder: Path, launch: Launch) -> Path:
    return folder / FOLDER / f"{launch.node}-{launch.rank}.jsonl"


def journals(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("*.jsonl"))


def refuse_used(folder: Path, run: str | None) -> None:
    """`Used` where a run other than `run` is in it, or what the report would be written over."""
    if said := taken(folder, run):
        more = ", or go on with that run by --resume" if journals(folder) else ""
        raise Used(f"{folder} {said}: name another folder with --out{more}")


def taken(folder: Path, run: str | None) -> str | None:
    """What keeps a run out of it, as a clause: journals of another one, or a file under a name that
    the report's files have, whoever wrote it."""
    for path in journals(folder):
        if run is None or _run_of(path) not in (None, run):
            return f"holds a run already ({path.relative_to(folder)})"
    for name in (*REPORTS, SIGNATURE):
        if os.path.lexists(folder / name):
            return f"holds a file {name} already, which is not written over"
    return None


def refuse_other(path: Path, known: Iterable[dict[str, Any]], asked: dict[str, Any]) -> None:
    """`Used` where what is asked for is not what this journal was begun with: stages that it has
    behind it were run otherwise, or on another device, and would pass for what is asked."""
    begun = [e for e in known if e["kind"] == "begin"]
    for key in _OF_A_RUN if begun else ():
        if key in asked and begun[-1].get(key) != asked[key]:
            raise Used(
                f"--resume: {path} was begun with {key} {_short(begun[-1].get(key))}, and not with "
                f"{_short(asked[key])}: go on with it as it was begun, or name another folder with "
                "--out"
            )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = " ".join(str(value.get(k, "")) for k in ("name", "version"))
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def refuse_signed(folder: Path) -> None:
    """`Used` where its journals and report are signed, for whatever would change them."""
    if (folder / SIGNATURE).exists():
        raise Used(
            f"{folder} is signed, and what is signed is not changed: work on a copy without "
            f"{SIGNATURE}"
        )


def _run_of(path: Path) -> str | None:
    """None of one that is being begun."""
    with path.open("rb") as file:
        line = file.readline()
    with contextlib.suppress(ValueError):
        return str(json.loads(line).get("run"))
    return None if not line.endswith(b"\n") else ""


def opened(folder: Path, launch: Launch, resume: bool) -> RankJournal:
    """This rank's journal, new or gone on with."""
    path = path_of(folder, launch)
    try:
        return RankJournal(path, new=not (resume and path.exists()))
    except Unwritable as error:
        if isinstance(error.__cause__, BlockingIOError):
            text = "another process is writing it, so that run is not at its end"
            raise Used(f"{path}: {text}") from None
        if isinstance(error.__cause__, FileExistsError):
            raise Used(
                f"{path} exists already: two processes say that they are rank {launch.rank} of "
                f"{launch.node}"
            ) from None
        raise


def ended(path: Path) -> bool:
    """Whether the last entry is an end, at the price of one look at the file's tail."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            tail = file.read()
        return tail.endswith(b"\n") and json.loads(tail.splitlines()[-1])["kind"] == "end"
    return False


def done_stages(entries: Iterator[dict[str, Any]]) -> frozenset[str]:
    """Stages that came to their end; one that a stop cut short has not."""
    last = {e["name"]: e for e in entries if e["kind"] == "stage"}
    return frozenset(n for n, e in last.items() if e["state"] == "end" and not e.get("stopped"))
