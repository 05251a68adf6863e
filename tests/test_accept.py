"""Acceptance: the verdict follows from what ran, and what did not run never counts as right."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import aimills_kernels
from aimills_kernels import _dispatch, _records, _registry
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels._validate import NO_MEMORY, validate_each
from aimills_kernels.accept import (
    correctness,
    library,
    page,
    rank,
    real_input,
    report,
    run,
    speed,
    stage_run,
)
from aimills_kernels.accept import session as session_module
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.evidence_folder import RankJournal, Unwritable, journals
from aimills_kernels.accept.journal import read
from aimills_kernels.accept.picture import moving_picture, to_420
from aimills_kernels.accept.session import NotRun, Session, Settings
from aimills_kernels.cli import main
from aimills_kernels.harness import bench, env
from aimills_kernels.harness._worker import Worker
from aimills_kernels.harness.record import SCHEMA, blank
from aimills_kernels.video import io as video_io
from tests import faults, late_faults

CPU = torch.device("cpu")
CRITERIA = str(Path(__file__).parent / "library_alone.toml")


def few(op: Op, *names: str) -> Op:
    """The op with these cases alone, the first of them for acceptance."""
    first, *rest = [op.case(n) for n in names]
    chosen = Case(first.name, tags={"accept"}, cpu=first.cpu, **first.dims)
    return dataclasses.replace(op, cases=(chosen, *rest))


def _bench_stub(**more: Any) -> Callable[..., dict[str, Any]]:
    """In place of `bench.run`: one row for each op that it is asked for."""
    row = blank(
        case="tiny", dims={"B": 1}, provider="sdpa", peer=True, device="cpu", validated=True, n=9,
        median_us=5.0, q1_us=4.0, q3_us=6.0, sol=0.5, sol_bound="bytes", unit="f16", flops=9,
    )  # fmt: skip

    def run(*, ops: list[Op], **options: Any) -> dict[str, Any]:
        rows = [{**row, **more, "op": op.name} for op in ops]
        return {"schema": SCHEMA, "kind": "bench", "created": "", "environment": {},
                "ceilings": {"copy_gbps": 9.0}, "rows": rows}  # fmt: skip

    return run


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attention on two small cases, a small clip, and no benchmark: seconds instead of minutes."""
    monkeypatch.delenv("AIMILLS_DEBUG", raising=False)
    monkeypatch.setenv("NODE_NAME", "host")
    _registry.register()
    attention = few(_registry.get_op("attention"), "tiny", "plain")
    video = few(_registry.get_op("video_to_tensor"), "tiny", "pitched")
    monkeypatch.setattr(_registry, "OPS", (attention, video))
    monkeypatch.setattr(real_input, "_SIZE", (90, 160))
    monkeypatch.setattr(real_input, "_CODED_WIDTH", 224)
    monkeypatch.setattr(real_input, "_SIZES", ((22, 22), (45, 80)))
    monkeypatch.setattr(run, "STAGES", library.STAGES)
    monkeypatch.setattr(bench, "run", _bench_stub())
    monkeypatch.setattr(env, "stamp", lambda device=None: {"cpu": {"model": "a CPU", "threads": 2}})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other take longer than this work
    yield
    torch.set_num_threads(threads)


def accepted(out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = ["--device", "cpu", "--criteria", CRITERIA, "--out", str(out)]
    code = main(["accept", *words, *more])
    return code, json.loads((out / "report.json").read_text())


# ---- exit codes


def test_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = accepted(tmp_path)
    assert code == report["exit_code"] == 0
    assert report["headline"] == "accepted (CPU, not pod hardware)"
    assert next(iter(report)) == "headline"
    assert any(n.startswith("the GPU kernels: attention (triton, ") for n in report["not_checked"])
    said = capsys.readouterr().out
    assert "accepted (CPU, not pod hardware)" in said
    assert "not checked: " in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "journal",
        "junit.xml",
        "metrics.prom",
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_rejected_on_a_wrong_provider(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = few(faults.plant("attention", fault), "plain")
    monkeypatch.setattr(_registry, "OPS", (planted,))
    code, report = accepted(tmp_path, "--exclude", "video-decode")
    assert code == report["exit_code"] == 1
    assert report["headline"].startswith("rejected (")
    assert any("planted" in reason for reason in report["reasons"])
    (stage,) = [s for s in report["stages"] if s["name"] == "correctness"]
    assert stage["status"] == "wrong"


def test_rejected_on_a_wrong_result_while_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = _bench_stub(failure="out: NaN", median_us=None, sol=None, validated=False)
    monkeypatch.setattr(bench, "run", stub)
    code, report = accepted(tmp_path)
    assert code == 1
    assert "host cpu: attention tiny sdpa, timed: out: NaN" in report["reasons"]


def test_incomplete_where_a_stage_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> None:
        raise RuntimeError("the clock stopped\nin line 2")

    monkeypatch.setattr(bench, "run", broken)
    code, report = accepted(tmp_path)
    assert code == 2
    assert report["headline"].startswith("incomplete")
    assert report["stages"][-1]["status"] == "failed"
    assert report["reasons"] == [
        "host cpu: Times against peers failed: RuntimeError: the clock stopped"
    ]


def test_an_op_that_found_no_time_gets_a_turn_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(*, ops: list[Op], **options: Any) -> dict[str, Any]:
        asked.append([op.name for op in ops])
        record = _bench_stub()(ops=ops)
        for row in record["rows"][1:]:
            row |= {"median_us": None, "sol": None, "skipped": "the time budget ended"}
        return record

    monkeypatch.setattr(bench, "run", run)
    code, report = accepted(tmp_path)
    assert code == 0
    assert asked == [["video_to_tensor", "attention"], ["attention"]]
    assert not any("time budget" in n["reason"] for n in report["not_run"])
    assert [r["op"] for b in report["bench"] for r in b["rows"]] == ["video_to_tensor", "attention"]


def test_incomplete_where_nothing_could_be_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = _bench_stub(median_us=None, sol=None, skipped="the time budget ended")
    monkeypatch.setattr(bench, "run", stub)
    code, report = accepted(tmp_path)
    assert code == 2
    assert report["reasons"] == [
        f"host cpu: {op}, timed not run: no time was taken"
        for op in ("video_to_tensor", "attention")
    ]


def test_incomplete_without_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video_io, "missing", lambda: video_io.NOT_INSTALLED)
    code, report = accepted(tmp_path, "--exclude", "bench")
    reason = "PyAV is not installed (pip install aimills-kernels[video])"
    assert code == 2
    assert report["reasons"] == [f"host cpu: video-decode not run: {reason}"]
    assert [n["count"] for n in report["not_run"] if n["gap"]] == [1]
    assert "--exclude video-decode" in capsys.readouterr().out


def test_accepted_without_pyav_where_it_is_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_io, "missing", lambda: video_io.NOT_INSTALLED)
    code, report = accepted(tmp_path, "--exclude", "video-decode,bench")
    assert code == 0
    assert report["excluded"] == ["bench", "video-decode"]
    assert report["headline"] == "accepted without bench, video-decode (CPU, not pod hardware)"
    assert '<h1 class="open">' in (tmp_path / "report.html").read_text()
    assert "what was excluded by name: bench, video-decode" in report["not_checked"]
    assert {n["what"] for n in report["not_run"] if n["reason"] == "excluded by name"} == {
        "video-decode", "bench",
    }  # fmt: skip


def test_headline_counts_what_it_does_not_name() -> None:
    names = frozenset(f"op{i}" for i in range(9))
    assert report._without(sorted(names)) == (" without op0, op1, op2, op3, op4, op5 and 3 more")


def test_nothing_right_is_never_accepted(tmp_path: Path) -> None:
    every = [op.name for op in _registry.OPS]
    families = {op.reference.__module__.split(".")[-2] for op in _registry.OPS}
    names = ",".join(["bench", "video-decode", *(f"{family}/" for family in families)])
    code, report = accepted(tmp_path, "--exclude", names)
    assert report["excluded"] == sorted([*every, "bench", "video-decode"])
    assert code == 2
    assert report["reasons"] == ["host cpu: no check of a kernel's results ran"]


# ---- gaps


def _session(*ops: Op, exclude: frozenset[str] = frozenset()) -> Session:
    return Session(Settings((CPU,), ops, exclude))


def staged(session: Session, name: str) -> session_module.Stage:
    """Run one stage of the library as a rank does, its journal in a folder that goes."""
    spec = next(s for s in library.STAGES if s.name == name)
    return _run_stage(session, spec)


def _run_stage(
    session: Session, spec: StageSpec, hung: Callable[[str], None] = lambda text: None
) -> session_module.Stage:
    with tempfile.TemporaryDirectory() as folder:
        session.journal = journal = RankJournal(Path(folder) / "rank.jsonl")
        options = {"session": session, "hung": hung}
        ctx = Context(CPU, journal, spec.name, "quick", 1.0, options=options)
        session.stages.append(stage_run.run(spec, ctx, journal))
    return session.stages[-1]


def _with(provider: Provider) -> Op:
    op = few(_registry.get_op("attention"), "tiny", "plain")
    return dataclasses.replace(op, providers=(provider, *op.providers))


OWN = Provider("ours", "nowhere:launch", devices=("cpu",))


def test_kernel_whose_package_is_missing_is_a_gap() -> None:
    op = _with(dataclasses.replace(OWN, needs=("no_such_package",)))
    session = _session(op)
    staged(session, "correctness")
    (gap,) = session.gaps
    assert (gap.name, gap.count) == ("no_such_package", 2)
    assert session.stages[0].status == "not run"
    session = _session(op, exclude=frozenset({"no_such_package"}))
    staged(session, "correctness")
    assert [g.what for g in session.gaps] == []


def test_op_of_which_no_kernel_of_ours_ran_is_a_gap() -> None:
    session = _session(_with(dataclasses.replace(OWN, rejects=lambda p: "it was not built")))
    staged(session, "correctness")
    (gap,) = session.gaps
    assert gap.name == "attention"
    assert gap.reason == "ours: it was not built"


def test_out_of_memory_is_not_run_and_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(op: Op, case: Any, providers: list[Provider], **options: Any) -> Any:
        for found in validate_each(op, case, providers, **options):
            if found.provider == "reference":
                found.skipped = NO_MEMORY
            yield found

    monkeypatch.setattr(correctness, "validate_each", hungry)
    session = _session(_registry.get_op("attention"))
    staged(session, "correctness")
    assert [g.name for g in session.gaps] == ["attention/reference"]
    assert not any(c["status"] == "wrong" for c in session.checks)


def test_equal_entries_are_counted_as_one() -> None:
    session = _session()
    for count in (1, 2):
        session.skip(NotRun("", "x", "why", "cpu", count=count))
    session.skip(NotRun("", "x", "another reason", "cpu"))
    assert [n.count for n in session.not_run] == [3, 1]


def test_cases_are_those_for_acceptance_and_the_small_ones() -> None:
    for op in _registry.OPS:
        chosen = correctness.cases_of(op)
        assert chosen
        assert all("accept" in c.tags or not c.tags & {"bench", "aot"} for c in chosen)


# ---- the report on disk


def test_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_records.os, "fsync", full)
    code = main(["accept", "--device", "cpu", "--out", str(tmp_path), "--exclude", "video-decode"])
    assert code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]


def test_a_page_that_cannot_be_drawn_leaves_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> str:
        raise KeyError("rows")

    monkeypatch.setattr(page, "render", broken)
    assert main(["accept", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]


def test_seed_and_progress_reach_the_checks(tmp_path: Path) -> None:
    told: list[str] = []
    settings = Settings((CPU,), (few(_registry.get_op("attention"), "tiny"),),
                        frozenset({"video-decode", "bench"}), seed=41)  # fmt: skip
    plan = rank.Plan(settings, tmp_path, library.STAGES)
    outcome = run.accept(plan, told=lambda stage: told.append(stage.name))
    assert outcome is not None
    assert told == ["correctness", "video", "shapes", "bench"]
    assert {c["seed"] for c in outcome.report["validations"]} == {41}


# ---- shapes


@pytest.mark.parametrize(
    "op", [op for op in _registry.OPS if op.name != "video_to_tensor"], ids=str
)
def test_shapes_are_called_through_the_public_function(
    op: Op, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    public = getattr(aimills_kernels, op.name)

    @functools.wraps(public)
    def seen(*args: Any, **options: Any) -> Any:
        called.append(op.name)
        return public(*args, **options)

    monkeypatch.setattr(aimills_kernels, op.name, seen)
    monkeypatch.setattr(_registry, "OPS", (op,))
    cases = [few(op, case.name) for case in (op.cases[0], op.cases[4])]
    session = _session(*cases)
    staged(session, "shapes")
    assert [c["failures"] for c in session.checks if c["failures"]] == []
    assert len(called) == len(session.checks) >= 2
    assert {c["status"] for c in session.checks} == {"right"}


def test_scaled_shapes_are_counted_and_told() -> None:
    op = _registry.get_op("attention")
    tiny = op.case("tiny")
    case = Case("real", tags={"accept"}, cpu={"M": 3}, **tiny.dims)
    session = _session(dataclasses.replace(op, cases=(case,)))
    staged(session, "shapes")
    (stage,) = session.stages
    assert stage.status == "passed"
    assert "scaled down" in stage.summary
    assert all(c["dims"]["M"] == 3 for c in session.checks)
    assert all(c["scaled"] == {"M": tiny.dims["M"]} for c in session.checks)


# ---- times


def test_one_case_is_timed_where_no_kernel_of_ours_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def run(*, ops: list[Op], tag: str, **options: Any) -> dict[str, Any]:
        asked.update({op.name: [c.name for c in op.cases if tag in c.tags] for op in ops})
        return _bench_stub()(ops=ops)

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(_registry, "OPS", tuple(_two_for_acceptance(op) for op in _registry.OPS))
    code, report = accepted(tmp_path, "--exclude", "video-decode")
    assert code == 0
    assert {name: len(cases) for name, cases in asked.items()} == {
        "attention": 1, "video_to_tensor": 2,
    }  # fmt: skip
    (left,) = [n for n in report["not_run"] if n["what"] == "attention, a further case timed"]
    assert left["count"] == 1


def _two_for_acceptance(op: Op) -> Op:
    cases = [Case(c.name, tags={"accept"}, **c.dims) for c in op.cases]
    return dataclasses.replace(op, cases=tuple(cases))


# ---- video


@pytest.fixture(scope="module")
def stream() -> bytes:
    return video_io.encode_h264(moving_picture(3, 90, 224), 160)


def test_decoder_memory_is_padded_and_not_copied(stream: bytes) -> None:
    frames = video_io.decode(stream, expect=3)
    assert len(frames) == 3
    for frame, (y, u, v) in zip(frames, moving_picture(3, 90, 224), strict=True):
        assert frame.y.shape == (90, 160)
        assert frame.pitch > 160
        assert frame.uv.shape == (45, 80, 2)
        assert frame.uv.stride(0) > 160
        assert (frame.color_space, frame.color_range) == ("bt709", "limited")
        there = torch.frombuffer(frame.source.planes[0], dtype=torch.uint8)
        assert frame.y.data_ptr() == there.data_ptr()
        assert (frame.y.float() - y[:, :160]).abs().mean() < 2
        assert (frame.uv.float() - torch.stack([u, v], -1)[:, :80]).abs().mean() < 2


@pytest.mark.parametrize("cut", [60, 200, 0.5, 0.9])
def test_truncated_video(stream: bytes, cut: float) -> None:
    left = len(stream) - cut if cut > 1 else int(len(stream) * cut)
    with pytest.raises(video_io.VideoError, match=r"truncated"):
        video_io.decode(stream[: int(left)], expect=3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the video is empty (0 bytes)"),
        (b"no video at all" * 50, "the video can't be decoded"),
        (b"\0" * 4096, "the video can't be decoded"),
    ],
)
def test_what_is_no_video(data: bytes, says: str) -> None:
    with pytest.raises(video_io.VideoError) as caught:
        video_io.decode(data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x" * 999, None])
def test_bad_video_on_the_command_line(
    content: bytes | None, stream: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.h264"
    path.write_bytes(stream[:-100] if content is None else content)
    out = tmp_path / "out"
    assert main(["accept", "--device", "cpu", "--video", str(path), "--out", str(out)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert not out.exists()


def test_pyav_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert video_io.missing() == video_io.NOT_INSTALLED
    with pytest.raises(video_io.VideoError, match="PyAV is not installed"):
        video_io.decode(b"x")


@pytest.mark.parametrize("rgb", [(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 0, 1)])
def test_picture_is_bt709_limited(rgb: tuple[int, ...]) -> None:
    """Against the integer values that ITU-R BT.709-6 gives for pure colours."""
    known = {(0, 0, 0): (16, 128, 128), (1, 1, 1): (235, 128, 128),
             (1, 0, 0): (63, 102, 240), (0, 0, 1): (32, 240, 118)}  # fmt: skip
    planes = to_420(torch.tensor(rgb).view(3, 1, 1).float().expand(3, 4, 4))
    assert tuple(int(p[0, 0]) for p in planes) == known[rgb]


def test_main_job_runs_on_a_decoded_clip(tmp_path: Path) -> None:
    _, report = accepted(tmp_path)
    rows = [c for c in report["validations"] if c["op"] == "video_to_tensor"]
    rows = [c for c in rows if c["stage"] == "real input"]
    assert [c["dims"]["F"] for c in rows] == [2, 1, 2, 1]
    assert all(c["status"] == "right" and c["dims"]["pitch"] > 160 for c in rows)
    assert all(c["swscale_levels"] < 0.01 for c in rows if c["dims"]["F"] == 1)
    assert report["clip"]["pitch"] > report["clip"]["width"]


def test_our_kernel_runs_on_the_clip_also_where_another_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU without records."""
    monkeypatch.setattr(_dispatch, "_ENVIRONMENT", "video_to_tensor=reference")
    _dispatch._plans.clear()
    _, report = accepted(tmp_path)
    _dispatch._plans.clear()
    rows = [c for c in report["validations"] if c["op"] == "video_to_tensor"]
    rows = [c for c in rows if c["stage"] == "real input"]
    assert [(c["provider"], c["own"]) for c in rows] == [("reference", False), ("cpu", True)] * 4
    assert {c["status"] for c in rows} == {"right"}


@pytest.mark.parametrize("wrong", [{"color_space": "bt601"}, {"color_range": "full"}])
def test_swscale_check_sees_a_wrong_colour(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel and the reference would agree with each other; FFmpeg does not."""
    decode = video_io.decode

    def mistaken(*args: Any, **kwargs: Any) -> list[video_io.Frame]:
        return [dataclasses.replace(f, **wrong) for f in decode(*args, **kwargs)]

    monkeypatch.setattr(video_io, "decode", mistaken)
    monkeypatch.setattr(video_io, "rgb24", _rgb24_of_tags)
    session = _session(*_registry.OPS)
    staged(session, "video")
    assert session.stages[0].status == "wrong"
    assert any("FFmpeg's swscale" in f for c in session.checks for f in c["failures"])


_rgb24 = video_io.rgb24


def _rgb24_of_tags(frame: video_io.Frame) -> torch.Tensor:
    return _rgb24(dataclasses.replace(frame, color_space="bt709", color_range="limited"))


@pytest.mark.parametrize(
    "wrong", [{"chroma_location": "center"}, {"chroma_upsampling": "nearest"}], ids=str
)
def test_swscale_check_sees_misplaced_chroma(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where kernel and reference agree on another place than the stream means."""
    misplaced = functools.partial(aimills_kernels.video_to_tensor, **wrong)
    monkeypatch.setattr(aimills_kernels, "video_to_tensor", misplaced)
    session = _session(*_registry.OPS)
    staged(session, "video")
    assert session.stages[0].status == "wrong"
    failures = [f for c in session.checks for f in c["failures"]]
    assert failures
    assert all("FFmpeg's swscale" in f for f in failures)


@pytest.mark.parametrize("fault", ["off_by_one_row", "nan_in_the_tail", "overwrites_an_input"])
def test_main_job_catches_a_wrong_kernel(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is served, not only what validate() calls."""
    right = _dispatch.load(_registry.get_op("video_to_tensor").provider("reference"))
    faulty = faults.launcher(f"video_to_tensor.{fault}")
    monkeypatch.setattr(faults, "_right", lambda op, outs, args: right(outs, *args))
    monkeypatch.setattr(_dispatch, "raw_launch", lambda provider: faulty)
    _dispatch._plans.clear()
    session = _session(*_registry.OPS)
    staged(session, "video")
    _dispatch._plans.clear()
    assert session.stages[0].status == "wrong"


# ---- what hangs


def _hangs(session: Session, seconds: float) -> str:
    with session.progress("shapes", 1) as step:
        step("the shape that hangs")
        time.sleep(seconds)
    return "not reached"


def _spec(name: str, work: Callable[[Session], str]) -> StageSpec:
    return StageSpec(name, name, library._of_session(work, here=name == "shapes"), {"quick": 1})


def test_a_stage_that_hangs_fails_and_the_others_go_on() -> None:
    session = Session(Settings(devices=(CPU,), ops=(), timeout_s=1.0))
    for name, seconds, status in (("shapes", 600.0, "failed"), ("bench", 1.5, "passed")):
        made = _run_stage(session, _spec(name, functools.partial(_hangs, seconds=seconds)))
        assert made.status == status
    assert session.stages[0].failure == "TimeoutError: no answer after 1 s"


def test_a_hang_that_cannot_be_interrupted_leaves_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, over = threading.Event(), threading.Event()

    def end(code: int) -> None:
        report.update(json.loads((tmp_path / "report.json").read_text()))
        ended.set()
        over.wait(600.0)

    def deaf(session: Session) -> str:
        with session.progress("shapes", 1) as step:
            step("the shape that hangs")
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            try:
                assert ended.wait(600.0)
            finally:
                over.set()
        return ""

    report: dict[str, Any] = {}
    monkeypatch.setattr(os, "_exit", end)
    settings = Settings(devices=(CPU,), ops=(), timeout_s=0.1)
    try:
        with pytest.raises(Unwritable):  # here alone it wakes up, and the journal has its end
            run.accept(rank.Plan(settings, tmp_path, (_spec("shapes", deaf),)))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    (path,) = journals(tmp_path)
    assert read(path)[-1]["reason"].startswith("the shape that hangs: no answer after 0.2 s")
    assert report["verdict"] == "rejected"
    (stage,) = report["stages"]
    assert stage["status"] == "failed"
    assert stage["failure"].startswith("the shape that hangs: no answer after 0.2 s")


@pytest.mark.full  # a process that loads PyTorch, twice
def test_a_provider_that_hangs_is_wrong_and_the_others_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (sys.executable, "-m", "tests.hanging_worker", "hangs:0")
    monkeypatch.setattr(session_module, "Worker", functools.partial(Worker, program=program))
    planted = few(late_faults.plant("attention", "none"), "tiny", "plain")
    monkeypatch.setattr(_registry, "OPS", (planted,))
    code, report = accepted(tmp_path, "--exclude", "video-decode,bench", "--timeout", "15")
    assert code == 1
    (reason,) = [r for r in report["reasons"] if "planted" in r]
    assert "no answer after 15 s, so it was ended" in reason
    found = {(c["case"], c["provider"]): c for c in report["validations"]}
    assert "ended its process in tiny" in found["plain", "planted"]["skipped"]
    assert found["plain", "sdpa"]["status"] == "right"


@pytest.mark.parametrize(
    ("profile", "asked", "joules", "budget_s"),
    [("quick", None, False, 100.0), ("full", None, True, 30.0), ("full", False, False, 100.0),
     ("gate", True, True, 30.0)],
)  # fmt: skip
def test_the_bench_keeps_to_its_profile(
    profile: str, asked: bool | None, joules: bool, budget_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    told: list[dict[str, Any]] = []

    def bench_run(**options: Any) -> dict[str, Any]:
        told.append(options)
        return {"rows": [], "ceilings": {}}

    monkeypatch.setattr(bench, "run", bench_run)
    op = _registry.get_op("attention")
    session = Session(Settings((CPU,), (op,), energy=asked), seconds=100.0, profile=profile)
    speed.run(session)
    assert [t["budget_s"] for t in told] == [budget_s, budget_s]
    assert told[0]["with_energy"] is joules
    assert told[0]["energy_cases"] == ["attention/tiny"]
