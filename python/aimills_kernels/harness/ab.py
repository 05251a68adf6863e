"""A/B in one run: two checkouts, or two providers, take turns on the same inputs.

Each checkout has a process of its own; the two are asked for blocks of samples in shuffled order,
so that a drift of clocks or load meets both. What is compared are the medians of the blocks: the
samples of one block are not independent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aimills_kernels._op import Case, Op, Provider
from aimills_kernels.harness import bench, env
from aimills_kernels.harness._machine import differences, kind, minor_versions
from aimills_kernels.harness.compare import (
    BROKEN,
    MISSING,
    NEW,
    REFUSED,
    THRESHOLD,
    UNTIMED,
    Comparison,
    Verdict,
    compare_samples,
)

_WORKER = Path(__file__).with_name("_ab_worker.py")
_BLOCK, _LEAST_BLOCKS, _MOST_BLOCKS = 5, 10, 60
_BLOCK_US = 1e6  # blocks of slow calls are shorter, so that sides still change
_FLOOR = {"cuda": 0.005, "cpu": 0.01}  # two processes of the same: other addresses
_PATIENCE_S = 900.0  # for one answer; a large case on a CPU is validated in minutes
_BUILT = ("csrc", "CMakeLists.txt")
Progress = Callable[..., None]


class Unusable(RuntimeError):
    """What a side was asked for it can't do; the text is a sentence for the user."""


class Ended(Unusable):
    """The process of a side ended, or had to be."""


# ---- checkouts


@dataclass(frozen=True)
class Tree:
    """A checkout and how to run it: its own Python, or ours with the extension in `extension`."""

    name: str
    folder: Path
    python: str
    extension: str = ""


@contextlib.contextmanager
def checkout(name: str) -> Iterator[Tree]:
    """The checkout that a folder or a commit of this one names; ValueError where it is neither."""
    if not (env.ROOT / ".git").exists():
        raise ValueError("checkouts are compared from a checkout, and this is an installed package")
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "python" / "aimills_kernels").is_dir():
            raise ValueError(f"{name!r} is a folder, but no checkout of aimills-kernels")
        with _runnable(name, folder.resolve()) as tree:
            yield tree
        return
    packed = _git("archive", "--format=tar", _commit(name))
    with tempfile.TemporaryDirectory(prefix="aimills-ab-") as made:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(made, filter="data")
        with _runnable(name, Path(made)) as tree:
            yield tree


@contextlib.contextmanager
def _runnable(name: str, folder: Path) -> Iterator[Tree]:
    own = folder / ".venv" / "bin" / "python"
    if folder == env.ROOT or own.exists():
        python = sys.executable if folder == env.ROOT else str(own)
        yield Tree(name, folder, python)
        return
    if _hash(folder) != _hash(env.ROOT):
        raise ValueError(
            f"{name!r} has other C++ sources than this checkout: check it out into a folder, run "
            "`make setup` there, and name the folder"
        )
    with tempfile.TemporaryDirectory(prefix="aimills-ab-") as extension:
        for path in _extensions():
            Path(extension, path.name).symlink_to(path)
        yield Tree(name, folder, sys.executable, extension)


def _extensions() -> list[Path]:
    import aimills_kernels

    return [p.resolve() for d in aimills_kernels.__path__ for p in Path(d).glob("_C*.so")]


def _hash(folder: Path) -> str:
    """Of all that the extension is built from."""
    digest = hashlib.sha256()
    for name in _BUILT:
        for path in sorted([folder / name, *(folder / name).rglob("*")]):
            if path.is_file():
                digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _commit(name: str) -> str:
    try:
        found = _git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
    except ValueError:
        raise ValueError(f"{name!r} is neither a folder nor a commit of this checkout") from None
    return found.decode().strip()


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(env.ROOT), *words], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").strip() or "git failed")
    return done.stdout


# ---- the two processes


class Worker:
    """The process of one checkout, started anew where it ended."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process: subprocess.Popen[str] | None = None

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The answer. Unusable where the checkout can't give one, Ended where its process is no
        more."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **more}), file=process.stdin, flush=True)
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE_S)
        if not ready:
            self._end()
            raise Ended(f"{self.tree.name}: no answer in {_PATIENCE_S:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise Ended(f"{self.tree.name}: its process ended ({self._end()})")
        answer: dict[str, Any] = json.loads(line)
        if error := answer.get("error"):
            raise Unusable(f"{self.tree.name}: {error}")
        return answer

    def _started(self) -> subprocess.Popen[str]:
        words = [self.tree.python, str(_WORKER), str(self.tree.folder), self.tree.extension]
        return subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            cwd=self.tree.folder, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    def _end(self) -> str:
        """End the process; its last word, or its exit code."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        code, self._process = self._process.returncode, None
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit {code}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()
        self._errors.close()


def trees(
    base: str,
    new: str,
    todo: Sequence[tuple[Op, Case, Provider]],
    device: str,
    *,
    budget_s: float,
    seed: int = 0,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> Comparison:
    """Compare what two checkouts make of the same problems, each a folder or a commit."""
    progress = progress or (lambda *_: None)
    with contextlib.ExitStack() as stack:
        workers = []
        for name in (base, new):
            workers.append(Worker(stack.enter_context(checkout(name))))
            stack.callback(workers[-1].stop)
        stamps = [worker.ask("hello")["environment"] for worker in workers]
        named = _named(stamps[0], stamps[1], device)
        taken, order = [], random.Random(seed)
        end = time.monotonic() + budget_s
        for index, (op, case, provider) in enumerate(todo):
            progress(f"{op.name} {case.name} {provider.name}", index, len(todo))
            until = time.monotonic() + (end - time.monotonic()) / (len(todo) - index)
            blank = Verdict(op.name, case.name, provider.name, device, UNTIMED)
            taken.append(_row(workers, blank, seed, until, order))
    floor = _FLOOR.get(kind(device), _FLOOR["cpu"])
    return Comparison(_verdicts(taken, threshold, floor), threshold, named)


Taken = tuple[Verdict, list[float], list[float]]


def _row(
    workers: Sequence[Worker], blank: Verdict, seed: int, until: float, order: random.Random
) -> Taken:
    """The medians of the blocks of both sides; none, and the verdict says why, if one can't."""
    asked = {"op": blank.op, "case": blank.case, "provider": blank.provider}
    opened = [_asked(w, "open", **asked, device=blank.device, seed=seed) for w in workers]
    if any(map(_reason, opened)):
        return _unpaired(blank, opened), [], []
    if opened[0] != opened[1]:
        other = "dims" if opened[0]["dims"] != opened[1]["dims"] else "inputs"
        why = f"the two checkouts give the case other {other}"
        return replace(blank, verdict=REFUSED, why=why), [], []
    medians: tuple[list[float], list[float]] = ([], [])
    turn, size = [0, 1], 1
    while len(medians[0]) < _LEAST_BLOCKS or (
        time.monotonic() < until and len(medians[0]) < _MOST_BLOCKS
    ):
        order.shuffle(turn)
        for side in turn:
            answer = _asked(workers[side], "block", n=size)
            if _reason(answer):
                return _unpaired(blank, [answer if side == i else {} for i in (0, 1)]), [], []
            medians[side].append(statistics.median(answer["samples_us"]))
        size = max(1, min(_BLOCK, int(_BLOCK_US / max(medians[0][-1], 1.0))))
    closed = [_asked(worker, "close") for worker in workers]
    if any(map(_reason, closed)):
        return _unpaired(blank, closed), [], []
    middle = [statistics.median(side) for side in medians]
    return replace(blank, base_us=middle[0], new_us=middle[1]), *medians


def _asked(worker: Worker, do: str, **more: Any) -> dict[str, Any]:
    """An answer; that there is none is one too."""
    try:
        return worker.ask(do, **more)
    except Ended as error:
        return {"failure": str(error)}
    except Unusable as error:
        return {"skipped": str(error)}


def _reason(answer: dict[str, Any]) -> str:
    if failure := answer.get("failure"):
        return f"wrong: {failure}"
    return f"not run: {answer['skipped']}" if answer.get("skipped") else ""


def _unpaired(blank: Verdict, answers: Sequence[dict[str, Any]]) -> Verdict:
    """The verdict where a side has no time."""
    base, new = map(_reason, answers)
    if base:
        return replace(blank, verdict=UNTIMED if new else NEW, why=base)
    return replace(blank, verdict=BROKEN if answers[1].get("failure") else MISSING, why=new)


def _verdicts(taken: Sequence[Taken], threshold: float, floor: float) -> tuple[Verdict, ...]:
    """In the order of `taken`; those with samples are judged, as one family."""
    judged = iter(compare_samples([t for t in taken if t[1]], threshold, floor))
    return tuple(next(judged) if samples else blank for blank, samples, _ in taken)


def _named(base: dict[str, Any], new: dict[str, Any], device: str) -> tuple[str, ...]:
    """What differs between the two processes. Both run on this machine, at this time, so versions
    are all that can, and they may be what is compared."""
    sides = {"environment": base}, {"environment": new}
    return tuple(dict.fromkeys([*minor_versions(*sides), *differences(*sides, device)]))


# ---- two providers


def providers(
    base: str,
    new: str,
    todo: Sequence[tuple[Op, Case]],
    device: str,
    *,
    budget_s: float,
    seed: int = 0,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two providers of the same ops, in one process, sample by sample in shuffled order."""
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + budget_s
    measured: dict[str, Any] | None = None
    for index, (op, case) in enumerate(todo):
        if progress:
            progress(f"{op.name} {case.name}", index, len(todo))
        left = (end - time.monotonic()) / (len(todo) - index)
        found = bench.run(
            ops=[op], cases=[case.name], providers=[base, new], device=device, seed=seed,
            budget_s=max(left, 1.0), peers=False, measured=measured, least=_LEAST_BLOCKS,
        )  # fmt: skip
        measured = found["ceilings"]
        rows += found["rows"]
    taken = [_of_providers(op, case, base, new, rows) for op, case in todo]
    return Comparison(_verdicts(taken, threshold, 0.0), threshold)


def _of_providers(op: Op, case: Case, base: str, new: str, rows: Sequence[dict[str, Any]]) -> Taken:
    mine = {r["provider"]: r for r in rows if (r["op"], r["case"]) == (op.name, case.name)}
    a, b = mine[base], mine[new]
    blank = Verdict(op.name, case.name, f"{new} against {base}", a["device"], UNTIMED)
    if any(map(_reason, (a, b))):
        return _unpaired(blank, (a, b)), [], []
    blank = replace(blank, base_us=a["median_us"], new_us=b["median_us"])
    return blank, a["samples_us"], b["samples_us"]
