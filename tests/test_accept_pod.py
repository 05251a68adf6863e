"""The pod: who is launched as what, who waits for whom, and what a crash leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from aimills_kernels.accept import (
    evidence_folder,
    judged,
    launch,
    limit,
    preflight,
    rank,
    run,
)
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.evidence_folder import RankJournal, Unwritable, Used
from aimills_kernels.accept.findings import FAIL, UNKNOWN
from aimills_kernels.accept.journal import read
from aimills_kernels.accept.meeting import DEAD, Meeting
from aimills_kernels.accept.session import Settings
from aimills_kernels.cli import main
from aimills_kernels.cli._parser import build_parser, joined
from aimills_kernels.harness import nvml
from tests import fake_nvml

CPU = torch.device("cpu")
CRITERIA = str(Path(__file__).parent / "library_alone.toml")
ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "acceptance" / "examples"
_HANG_S = 1200  # against a hang alone: on a busy machine four ranks take minutes to start

# ---- launch contracts

_TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
             "MASTER_ADDR": "a", "MASTER_PORT": "9", "TORCHELASTIC_RUN_ID": "x"}  # fmt: skip
_SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0",
          "SLURM_STEP_TASKS_PER_NODE": "2(x4)", "SLURM_STEP_NODELIST": "gpu[07-09,12]",
          "SLURM_JOB_ID": "41"}  # fmt: skip
_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "a"}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "contract", "place"),
    [
        (_TORCHRUN, "torchrun", ("a", 9)),
        (_SLURM, "slurm", ("gpu07", 20041)),
        (_MPI, "openmpi", ("a", 29500)),
        ({**_SLURM, **_TORCHRUN}, "torchrun", ("a", 9)),
        ({**_MPI, **_SLURM}, "slurm", ("a", 20041)),
        ({**_TORCHRUN, launch.RUN: "r"}, "parent", ("a", 9)),
    ],
)
def test_the_first_contract_that_holds(
    environ: dict[str, str], contract: str, place: tuple[str, int]
) -> None:
    found = launch.find(environ)
    assert found is not None
    assert (found.contract, found.rank, found.world) == (contract, 3, 8)
    assert (found.local_rank, found.local_world) == (1, 2)
    assert (found.address, found.port) == place


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {k: v for k, v in _SLURM.items() if k != "SLURM_STEP_ID"},  # a batch script
        {**_SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_STEP_TASKS_PER_NODE": "1"},
    ],
)  # fmt: skip
def test_no_launcher(environ: dict[str, str]) -> None:
    assert launch.find(environ) is None


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({**_TORCHRUN, "RANK": "8"}, "rank 8 of 8"),
        ({**_TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        ({k: v for k, v in _MPI.items() if k != "MASTER_ADDR"}, "MASTER_ADDR names no host"),
    ],
)
def test_a_launcher_that_is_wrong(environ: dict[str, str], says: str) -> None:
    with pytest.raises(launch.LaunchError, match=says):
        launch.find(environ)


@pytest.mark.parametrize(
    ("nodes", "first"), [("n1", "n1"), ("n[1-3],m", "n1"), ("a,b", "a"), ("r[01]-g,x", "r01-g")]
)
def test_first_host(nodes: str, first: str) -> None:
    assert launch.first_host(nodes) == first


# ---- meetings


def _meetings(world: int, wait_s: float) -> list[Meeting]:
    store = dist.HashStore()
    return [Meeting(store, r, world, wait_s) for r in range(world)]


def test_a_meeting_names_who_is_missing_and_who_failed() -> None:
    meetings, met = _meetings(3, 2.0), {}

    def come(which: int) -> None:
        met[which] = meetings[which].meet("x", ok=which != 1)

    threads = [threading.Thread(target=come, args=(r,)) for r in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {(m.missing, m.failed) for m in met.values()} == {((2,), (1,))}


def test_a_dead_rank_is_not_waited_for() -> None:
    meeting = _meetings(2, 600.0)[0]
    meeting.store.set(DEAD, "[1]")
    assert meeting.meet("x").missing == (1,)


# ---- one rank


def _right(ctx: Context) -> str:
    ctx.options["session"].check(
        {"stage": ctx.stage, "op": "none", "case": "none", "dims": {}, "scaled": {}, "own": True,
         "provider": "none", "device": "cpu", "seed": 0, "status": "right", "used": 0.1,
         "outputs": {}, "failures": [], "skipped": None}
    )  # fmt: skip
    return "looked at"


def _plan(folder: Path, *works: Any, **more: Any) -> rank.Plan:
    specs = [StageSpec(f"s{i}", f"Stage {i}", w, {"quick": 1.0}) for i, w in enumerate(works)]
    more.setdefault("criteria", CRITERIA)
    return rank.Plan(Settings((CPU,), ()), folder, tuple(specs), **more)


def _entries(folder: Path) -> list[dict[str, Any]]:
    (path,) = evidence_folder.journals(folder)
    return read(path)


def test_sigterm_leaves_evidence_and_a_report_and_resume_goes_on(tmp_path: Path) -> None:
    def killed(ctx: Context) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came late")

    outcome = run.accept(_plan(tmp_path, _right, killed, _right))
    assert outcome is not None
    assert outcome.code == 2
    assert "SIGTERM" in " ".join(outcome.report["reasons"])
    last = _entries(tmp_path)[-1]
    assert (last["kind"], last["state"], last["reason"]) == ("end", "stopped", "SIGTERM")

    ran: list[str] = []
    plan = _plan(tmp_path, *[lambda ctx: ran.append(ctx.stage) or _right(ctx)] * 3, resume=True)
    outcome = run.accept(plan)
    assert outcome is not None
    assert ran == ["s1", "s2"]
    assert outcome.code == 0
    (event,) = [e for e in _entries(tmp_path) if e["kind"] == "event" and e["name"] == "resumed"]
    assert "stopped" in event["text"]
    assert [e["resumed"] for e in _entries(tmp_path) if e["kind"] == "begin"] == [False, True]


def _first_ends_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have the time that a busy disk takes."""
    monkeypatch.setattr(limit, "limit", lambda spec, *_: seconds if spec.name == "s0" else 60.0)


def test_a_stage_beyond_its_limit_fails_and_the_next_ones_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _first_ends_after(0.3, monkeypatch)

    def hangs(ctx: Context) -> str:
        time.sleep(600)
        return ""

    outcome = run.accept(_plan(tmp_path, hangs, _right))
    assert outcome is not None
    assert outcome.code == 2
    assert "Stage 0 failed: TimeoutError: no answer after 0.3 s" in _reasons(outcome.report)
    ends = [e["status"] for e in _entries(tmp_path) if e["kind"] == "stage" and "status" in e]
    assert ends == ["failed", "passed"]
    assert _entries(tmp_path)[-1]["state"] == "done"


def _reads(seen: list[BaseException]) -> None:
    """As telemetry and health do: a counter that raises is one that can't be read."""
    library = fake_nvml.Gpu(power=lambda: time.sleep(30))
    nvml.Nvml(library, "gpu").read("power_w")


def _swallows(seen: list[BaseException]) -> None:
    with contextlib.suppress(Exception):
        time.sleep(30)


def _swallows_all_once(seen: list[BaseException]) -> None:
    """As a destructor or a callback, out of which nothing is raised."""
    try:
        time.sleep(30)
    except BaseException as error:
        if seen:
            raise
        seen.append(error)
    time.sleep(30)


def _swallows_all_and_returns(seen: list[BaseException]) -> None:
    """Before the alarm comes again."""
    try:
        time.sleep(30)
    except BaseException as error:
        seen.append(error)


@pytest.mark.parametrize(
    ("swallow", "again_s", "lost"),
    [(_reads, 0.3, 0), (_swallows, 0.3, 0), (_swallows_all_once, 0.3, 1),
     (_swallows_all_and_returns, 30.0, 1)],
)  # fmt: skip
def test_a_stage_that_swallows_its_alarm_ends_all_the_same(
    swallow: Callable[[list[BaseException]], None], again_s: float, lost: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _first_ends_after(0.3, monkeypatch)
    monkeypatch.setattr(limit, "_AGAIN_S", again_s)
    seen: list[BaseException] = []

    def work(ctx: Context) -> str:
        swallow(seen)
        return "went on as if nothing were"

    outcome = run.accept(_plan(tmp_path, work, _right))
    assert outcome is not None
    ends = [(e["status"], e["failure"]) for e in _entries(tmp_path)
            if e["kind"] == "stage" and "status" in e]  # fmt: skip
    assert ends == [("failed", "TimeoutError: no answer after 0.3 s"), ("passed", None)]
    assert len(seen) == lost
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_stage_beyond_its_limit_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _first_ends_after(5.0, monkeypatch)

    def asks(ctx: Context) -> str:
        code = "import time; time.sleep(300)"
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        return ""

    run.accept(_plan(tmp_path, asks))
    assert _left(tmp_path) == []
    assert _entries(tmp_path)[-2]["failure"] == "TimeoutError: no answer after 5 s"


def test_a_second_run_on_a_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.accept(_plan(tmp_path, _right))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert main(["accept", "--device", "cpu", "--out", str(tmp_path)]) == 3
    assert "holds a run already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with pytest.raises(Used):
        evidence_folder.refuse_used(tmp_path, "another run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"profile": "burn-in"}, "begun with profile gate, and not with burn-in"),
        ({"criteria": None}, "begun with criteria library-alone 2026.11, and not with cpu"),
        ({"settings": Settings((CPU,), (), seed=1)}, "begun with seed 0, and not with 1"),
        ({"settings": Settings((CPU,), (), frozenset({"s0"}))}, "begun with exclude none, and no"),
        ({"stages": ()}, "begun with stages s0, and not with none"),
    ],
)
def test_a_run_is_gone_on_with_as_it_was_begun(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    """Else the minute of a gate would pass for the hours of a burn-in."""
    plan = _plan(tmp_path, _right, profile="gate")
    run.accept(plan)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(Used, match=says):
        run.accept(dataclasses.replace(plan, **{"resume": True, **change}))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_is_gone_on_with_on_the_same_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = ["GPU-1"]
    monkeypatch.setattr(rank, "_identity", lambda *_: {"uuid": uuid[0], "sku": "a CPU"})
    plan = _plan(tmp_path, _right)
    run.accept(plan)
    uuid[0] = "GPU-2"
    with pytest.raises(Used, match="begun with uuid GPU-1, and not with GPU-2"):
        run.accept(dataclasses.replace(plan, resume=True))


def test_the_command_goes_on_with_no_other_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["accept", "--device", "cpu", "--stages", "inventory", "--out", str(tmp_path)]
    main([*words, "--profile", "gate"])
    assert (
        "profile gate: meant to take 0 s on a GPU; a CPU may take longer" in capsys.readouterr().out
    )
    for more, says in ((["--profile", "full"], "profile"), (["--profile", "gate", "--ranks", "2"],
                       "world")):  # fmt: skip
        assert main([*words, *more, "--resume"]) == 3
        assert f"was begun with {says}" in capsys.readouterr().err
    assert len(evidence_folder.journals(tmp_path)) == 1


def test_resume_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accept", "--device", "cpu", "--resume", "--out", str(tmp_path)]) == 3
    assert "there is no journal in" in capsys.readouterr().err


def test_a_full_disk_is_said_and_the_journal_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = os.write, [40]

    def full(file: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        part, left[0] = data[: left[0]], 0
        return write(file, part)

    def work(ctx: Context) -> str:
        monkeypatch.setattr(os, "write", full)
        ctx.event("x", "does not fit")
        return ""

    with pytest.raises(Unwritable, match="No space left on device"):
        run.accept(_plan(tmp_path, _right, work))
    assert _entries(tmp_path)[-1]["kind"] == "stage"
    monkeypatch.undo()
    assert judged.merge(tmp_path).code != 0


def test_a_full_disk_ends_the_command_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    out = tmp_path / "out"
    assert main(["accept", "--device", "cpu", "--stages", "shapes", "--out", str(out)]) == 2
    assert "can't be written (No space left on device)" in capsys.readouterr().err


def test_a_signal_in_an_entry_leaves_the_chain_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RankJournal(tmp_path / "j.jsonl")

    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append("event", name="x", text="")
    journal.append("end", state="stopped", reason="")
    assert [e["kind"] for e in read(journal.path)] == ["event", "end"]


def test_a_node_of_7_gpus_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "gpus_here", lambda: 7)
    monkeypatch.setenv("NODE_NAME", "node-3")
    outcome = run.accept(_plan(tmp_path, _right, expect_gpus=8))
    assert outcome is not None
    assert outcome.code == 1
    assert "node node-3 has 7 GPUs, 8 were expected" in " ".join(outcome.report["reasons"])
    assert not any(e["kind"] == "stage" for e in _entries(tmp_path))


def test_a_stage_left_out_by_name(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _right, _right)
    settings = Settings((CPU,), (), frozenset({"s1"}))
    run.accept(rank.Plan(settings, tmp_path, plan.stages))
    states = {e["name"]: e["status"] for e in _entries(tmp_path) if e.get("state") == "end"
              and e["kind"] == "stage"}  # fmt: skip
    assert states == {"s0": "passed", "s1": "excluded"}


def test_merge_of_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accept", "merge", str(tmp_path)]) == 3
    assert "there is no journal" in capsys.readouterr().err


# ---- real processes


def _start(out: Path, *words: str, fault: str = "", torchrun: int = 0) -> subprocess.Popen[str]:
    start = [sys.executable, "-m"]
    if torchrun:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}", "-m"]
    start += ["tests.pod_rank", "accept", "--device", "cpu", "--criteria", CRITERIA]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "AIMILLS_TEST_FAULT": fault or "none:0:none"}
    return subprocess.Popen([*start, "--out", str(out), *words], cwd=ROOT, env=environ, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip


def _end(process: subprocess.Popen[str], out: Path) -> tuple[int, dict[str, Any]]:
    """Its exit code and report. Nobody it started is left."""
    try:
        _, said = process.communicate(timeout=_HANG_S)
        assert (out / "report.json").exists(), said
        end = time.monotonic() + 120  # a launcher's own helpers may be on their way out
        while _left(out) and time.monotonic() < end:
            time.sleep(0.1)
        assert _left(out) == []
        return process.returncode, json.loads((out / "report.json").read_text())
    finally:
        process.kill()
        for pid in _left(out):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _left(out: Path) -> list[int]:
    """Processes whose command names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(str(out)) in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _pod(out: Path, *words: str, fault: str = "", torchrun: int = 0) -> tuple[int, dict[str, Any]]:
    return _end(_start(out, *words, fault=fault, torchrun=torchrun), out)


def _until_in(process: subprocess.Popen[str], out: Path, stage: str, ranks: int) -> None:
    """Until so many ranks have begun this stage."""
    end = time.monotonic() + _HANG_S
    word = f'"name":"{stage}"'
    while time.monotonic() < end and process.poll() is None:
        told = [p.read_text().replace(" ", "") for p in evidence_folder.journals(out)]
        if sum(word in text for text in told) >= ranks:
            return
        time.sleep(0.1)
    raise AssertionError(f"the ranks did not come to {stage}")


def _reasons(report: dict[str, Any]) -> str:
    """What is broken or unknown, a line for each device."""
    bad = [f for f in report["findings"] if f["status"] in (FAIL, UNKNOWN)]
    return "\n".join(f["text"] for f in bad)


def test_two_ranks_by_torchrun(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, torchrun=2)
    assert (code, report["exit_code"]) == (0, 0)
    journals = [read(p) for p in evidence_folder.journals(tmp_path)]
    assert [j[0]["launch"] for j in journals] == ["torchrun"] * 2
    sums = [e["summary"] for j in journals for e in j if e.get("name") == "sum" and "summary" in e]
    assert sums == ["2 ranks"] * 2


@pytest.mark.full
def test_a_killed_rank_is_named_and_the_pod_can_be_resumed(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, "--ranks", "3", fault="kill:1:sum")
    assert code == report["exit_code"] == 1
    assert "rank 1 (node " in _reasons(report)
    assert "no report" in _reasons(report)
    journals = evidence_folder.journals(tmp_path)
    assert [evidence_folder.ended(p) for p in journals] == [True, False, True]
    code, report = _pod(tmp_path, "--ranks", "3", "--resume")
    assert (code, report["exit_code"]) == (0, 0), _reasons(report)
    told = [e["name"] for e in report["events"]]
    assert (told.count("missing"), told.count("resumed")) == (1, 3)
    killed = read(journals[1])
    (event,) = [e for e in killed if e["kind"] == "event" and e["name"] == "resumed"]
    assert "crashed or was killed in Sum of all ranks" in event["text"]
    assert killed[-1]["state"] == "done"
    assert sum(e["kind"] == "stage" and e["name"] == "first" for e in killed) == 2


@pytest.mark.full
def test_a_rank_killed_under_torchrun_leaves_a_report(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, torchrun=4, fault="kill:1:sum")
    assert code != 0
    assert report["exit_code"] == 1
    assert "(rank 1): the process died during sum" in _reasons(report)


@pytest.mark.full
def test_a_rank_that_hangs_under_torchrun_is_named(tmp_path: Path) -> None:
    """torchrun itself ends it, once the others have ended with their verdict."""
    code, report = _pod(tmp_path, "--wait", "8", torchrun=3, fault="hang:1:sum")
    assert code != 0
    assert report["exit_code"] == 1
    assert "rank 1 (node " in _reasons(report)
    ended = [evidence_folder.ended(p) for p in evidence_folder.journals(tmp_path)]
    assert ended == [True, False, True]


@pytest.mark.full
@pytest.mark.parametrize("torchrun", [0, 3])
def test_sigterm_to_whoever_started_the_ranks(tmp_path: Path, torchrun: int) -> None:
    words = [] if torchrun else ["--ranks", "3"]
    process = _start(tmp_path, *words, torchrun=torchrun, fault="nap:1:sum")
    _until_in(process, tmp_path, "sum", 3)
    process.terminate()
    code, report = _end(process, tmp_path)
    assert code != 0 if torchrun else code == 2
    assert report["exit_code"] == 2
    assert _reasons(report).count("stopped before its end: SIGTERM") == 3
    ends = [read(p)[-1] for p in evidence_folder.journals(tmp_path)]
    assert [(e["state"], e["reason"]) for e in ends] == [("stopped", "SIGTERM")] * 3
    code, report = _pod(tmp_path, *words, "--resume", torchrun=torchrun)
    assert (code, report["exit_code"]) == (0, 0), _reasons(report)
    assert [e["name"] for e in report["events"]].count("resumed") == 3


@pytest.mark.full
def test_a_hung_rank_is_named_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, "--ranks", "2", "--wait", "20", fault="hang:1:sum")
    assert code == report["exit_code"] == 1
    assert "rank 1 (node " in _reasons(report)


@pytest.mark.full
@pytest.mark.parametrize("what", ["broken", "slow"])
@pytest.mark.parametrize(
    ("who", "said"),
    [("1+2", "the link between rank 1 (node N) and rank 2 (node N) is bad"),
     ("2", "rank 2 (node N) is bad with most of its partners")],
)  # fmt: skip
def test_a_bad_pair_is_named_by_pairs_that_really_talk(
    tmp_path: Path, what: str, who: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "N")
    code, report = _pod(tmp_path, "--ranks", "4", "--wait", "60", fault=f"{what}:{who}:sum")
    assert code == report["exit_code"] == 1
    (reason,) = [r for r in report["reasons"] if "in pairs: " in r]
    assert f"in pairs: {said} (" in reason


@pytest.mark.full
@pytest.mark.parametrize(
    ("who", "said"),
    [("1+2", "the link between rank 1 (node N) and rank 2 (node N) is bad"),
     ("2", "rank 2 (node N) is bad with most of its partners"),
     (None, "no pair stands out")],
)  # fmt: skip
def test_a_link_that_is_slow_and_fails_nobody_is_named(
    tmp_path: Path, who: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bytes take some milliseconds, and over the slow link a second. A floor that nothing
    reaches has a healthy pod searched as well."""
    monkeypatch.setenv("NODE_NAME", "N")
    floor = "8 B/s" if who else "1 TB/s"
    own = tmp_path / "own.toml"
    own.write_text(_WITH_FLOOR.format(base=CRITERIA, floor=floor))
    words = ["--ranks", "4", "--wait", "60", "--criteria", str(own)]
    code, report = _pod(tmp_path / "out", *words, fault=f"lag:{who}:sum" if who else "")
    assert code == report["exit_code"] == 1
    (event,) = [e for e in report["events"] if e["name"] == "pairs"]
    assert f"in pairs: {said} (" in event["text"]
    named = [r for r in report["reasons"] if "in pairs: " in r]
    assert len(named) == (1 if who else 0)
    (last,) = [s for s in report["stages"] if s["name"] == "last"]
    assert (last["status"], last["devices"]) == ("passed", 4)


_WITH_FLOOR = """
schema = 1
name = "own"
version = "1"
title = "a CPU with a floor"
extends = "{base}"
[sources]
ours = "made up"
[rules."ours"]
metric = "collective.all_reduce"
floor = "{floor}"
gpus = "2+"
source = "ours"
"""


@pytest.mark.full
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_device_that_never_answers_ends_the_run_and_is_named(tmp_path: Path, ranks: int) -> None:
    words = ["--ranks", "2", "--wait", "20"] if ranks > 1 else []
    code, report = _pod(tmp_path, *words, fault=f"deaf:{ranks - 1}:last")
    assert code == report["exit_code"] == 1
    assert "Last: no answer after" in _reasons(report)
    entries = read(evidence_folder.journals(tmp_path)[ranks - 1])
    assert [e["kind"] for e in entries[-3:]] == ["event", "stage", "end"]
    assert (entries[-2]["status"], entries[-1]["state"]) == ("failed", "stopped")


@pytest.mark.full
def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, "--ranks", "3", "--wait", "6", fault="stop:1:sum")
    assert code == report["exit_code"] == 1
    assert "rank 1 (node " in _reasons(report)


@pytest.mark.full
def test_a_full_disk_under_a_rank(tmp_path: Path) -> None:
    """A limit on the size of files is a full disk for that process alone."""
    code, report = _pod(tmp_path, "--ranks", "2", "--wait", "10", fault="fill:1:last")
    assert code == report["exit_code"] == 1
    assert "(rank 1): the process died during last" in _reasons(report)
    entries = read(evidence_folder.journals(tmp_path)[1])
    assert (entries[-1]["name"], entries[-1]["state"]) == ("last", "begin")
    code, report = _pod(tmp_path, "--ranks", "2", "--resume")
    assert code == report["exit_code"] == 0


def test_a_run_that_still_goes_on_is_not_gone_on_with(tmp_path: Path) -> None:
    plan = _plan(tmp_path, _right)
    run.accept(plan)
    (path,) = evidence_folder.journals(tmp_path)
    held = RankJournal(path, new=False)
    before = path.read_bytes()
    with pytest.raises(Used, match="another process is writing it"):
        run.accept(dataclasses.replace(plan, resume=True))
    assert path.read_bytes() == before
    held.close()
    run.accept(dataclasses.replace(plan, resume=True))


@pytest.mark.full
def test_a_collective_that_fails_is_searched_in_pairs(tmp_path: Path) -> None:
    code, report = _pod(tmp_path, "--ranks", "3", "--wait", "20", fault="break:1:sum")
    assert code == report["exit_code"] == 1
    assert "Sum of all ranks failed or was slow on rank" in _reasons(report)
    assert "in pairs: no pair stands out (" in _reasons(report)  # of an odd number, one rests


# ---- examples


@pytest.mark.parametrize("name", ["slurm.sbatch", "slurm-torchrun.sbatch", "kubernetes.yaml"])
def test_options_in_the_examples_exist(name: str) -> None:
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    lines = [p for p in text.splitlines() if "kernels accept" in p and not p.startswith("#")]
    assert lines
    for line in lines:
        words = line.split("kernels accept", 1)[1].replace('"', "").split()
        options = build_parser().parse_args(joined(["accept", *words]))
        assert "merge" in words or (options.profile, options.expect_gpus) == ("full", 8)


def test_the_manifest_of_kubernetes_parses() -> None:
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 2
    assert spec["backoffLimit"] == 0
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


def test_nothing_follows_the_last_entry(tmp_path: Path) -> None:
    """Telemetry writes on while a device that never answers is told of."""
    journal = RankJournal(tmp_path / "j.jsonl")
    with journal.last():
        journal.append("end", state="stopped", reason="hang")
    with pytest.raises(evidence_folder.Unwritable):
        journal.append("sample", stage="burn", values={})
    assert [e["kind"] for e in read(journal.path)] == ["end"]


def test_a_stage_whose_time_is_up_has_no_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RankJournal(tmp_path / "j.jsonl")

    def late(file: int, data: bytes) -> int:
        raise TimeoutError("no answer after 3 s")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", late)
        with pytest.raises(TimeoutError, match="no answer after 3 s"):
            journal.append("event", stage="burn", name="x", text="y", detail={})
    journal.append("event", stage="burn", name="x", text="y", detail={})
    assert len(read(journal.path)) == 1


def test_a_run_is_resumed_with_the_gpus_that_it_expects(tmp_path: Path) -> None:
    begun = [{"kind": "begin", "expect_gpus": 8}]
    evidence_folder.refuse_other(tmp_path, begun, {"expect_gpus": 8})
    with pytest.raises(Used, match=r"begun with expect_gpus 8, and not with None"):
        evidence_folder.refuse_other(tmp_path, begun, {"expect_gpus": None})
