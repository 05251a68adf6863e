"""The command line: what it says, its exit codes, and that a user never sees a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aimills_kernels import _dispatch, _records, _registry
from aimills_kernels._op import Op
from aimills_kernels._validate import NO_MEMORY, Validation
from aimills_kernels.cli import _choose, _ui, look, main
from aimills_kernels.cli import validate as validate_command
from aimills_kernels.cli._parser import ACCEPT_VERBS, BENCH_VERBS, build_parser, joined
from aimills_kernels.harness import bench
from aimills_kernels.harness._patience import TIMEOUT_S
from aimills_kernels.harness.record import SCHEMA, blank
from tests import faults

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "aimills_kernels"]
SHAPE = "B=1,M=8,N=8,H=2,G=1,D=16"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIMILLS_DEBUG", raising=False)
    monkeypatch.setenv("AIMILLS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> Op:
    _registry.register()
    return _registry.get_op("attention")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence that a wrong use gets, with exit code 3."""
    code = main(list(argv))
    said = capsys.readouterr()
    assert code == 3, said
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("aimills-kernels: ")
    return said.err


# ---- the parser


def test_parser_imports_neither_torch_nor_rich() -> None:
    code = (
        "import sys; from aimills_kernels.cli._parser import build_parser; build_parser();"
        "print([m for m in ('torch', 'rich', 'numpy', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["accept", "--help"]])
def test_help_and_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "aimills-kernels" in capsys.readouterr().out


def test_explain_imports_no_compiler() -> None:
    """torch.compile and Triton would double the time until it answers."""
    code = (
        "import sys; from aimills_kernels.cli import main;"
        f"main('explain attention --sm 90 --shape {SHAPE}'.split());"
        "print([m for m in ('torch._dynamo', 'triton', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_wrong_device_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from aimills_kernels.cli import main;"
        "print(main(['validate', '--device', 'tpu']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 False\n"


def test_every_command_names_a_function_that_exists() -> None:
    import importlib

    actions = [a for a in build_parser()._actions if a.choices]
    assert {*actions[0].choices} == {
        "env", "ops", "explain", "validate", "bench", "accept", "criteria", "gpu", "precompile",
        "video",
        *(f"bench {verb}" for verb in BENCH_VERBS),
        *(f"accept {verb}" for verb in ACCEPT_VERBS),
    }  # fmt: skip
    for made in actions[0].choices.values():
        module, _, function = made.get_default("run").partition(":")
        assert callable(getattr(importlib.import_module(module), function))


# ---- ops and families


def _named(*names: str) -> list[str]:
    return [op.name for op in _choose.ops(names)]


def test_a_family_stands_for_its_ops_and_an_op_goes_first() -> None:
    families = {
        folder.name: [op.name for op in _registry.OPS if f".kernels.{folder.name}." in
                      op.reference.__module__]
        for folder in (ROOT / "kernels").iterdir() if (folder / "resources.json").exists()
    }  # fmt: skip
    assert {*families} == {"attention", "matmul", "video"}
    for family, ops in families.items():
        assert ops
        assert _named(f"{family}/") == ops
    assert _named("matmul") == families["matmul"]
    assert _named("video") == families["video"]
    assert _named("attention") == ["attention"]
    assert _named("matmul_w4", "matmul", "attention") == [
        "matmul_w4", *(n for n in families["matmul"] if n != "matmul_w4"), "attention",
    ]  # fmt: skip
    assert _named() == [op.name for op in _registry.OPS]


@pytest.mark.parametrize("command", ["bench", "bench ab", "validate", "precompile", "accept"])
def test_help_names_the_families(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*joined(command.split()), "--help"])
    said = capsys.readouterr().out
    assert all(f"{family}/" in said for family in _registry.families())


# ---- wrong uses


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("", "required: <command>"),
        ("frobnicate", "invalid choice: 'frobnicate'"),
        ("validate attenton", "unknown op 'attenton'; the ops are: attention"),
        ("validate attention --provider cudnn", "unknown provider 'cudnn'"),
        (
            "validate attention --case huge",
            "unknown case 'huge' of attention; `aimills-kernels ops`",
        ),
        (
            "bench --case rows-identify",
            "close to it: rows-identity, identity; `aimills-kernels ops`",
        ),
        ("validate attention --device tpu", "unknown device 'tpu'"),
        ("validate attention --device cuda:x", "unknown device 'cuda:x'"),
        ("validate attention --seed -1", "'-1' is not a whole number"),
        ("validate --nonsense", "unrecognized arguments: --nonsense"),
        ("bench matmull", "the families of ops: attention/, matmul/, video/"),
        ("explain matmul --case tiny", "explain takes one op, and 'matmul' is the family of"),
        ("accept --exclude matmull", "the families attention/, matmul/, video/"),
        ("bench --budget 0", "'0' is not a number of seconds above 0"),
        ("bench --budget 2e6", "'2e6' is not a number of seconds above 0 and below 1e6"),
        ("accept --budget soon", "'soon' is not a number of seconds"),
        ("accept --stages bench --no-bench", "--exclude or --no-bench leaves out every stage"),
        ("accept --out /dev/null", "can't write to the folder '/dev/null': it is a file"),
        ("accept --exclude tetris", "--exclude: unknown 'tetris'; there are: video-decode, bench"),
        ("accept --video /no/such.mp4", "the video '/no/such.mp4' can't be read: No such file"),
        ("explain attention", "one of the arguments --shape --case is required"),
        ("explain attention --case decod", "has no case 'decod'; close to it: decode"),
        ("explain attention --shape B", "'B' should be <name>=<value>"),
        ("explain attention --shape B=1", "--shape lacks M, N, H, G, D; attention takes B, M"),
        ("explain attention --shape Z=1", "--shape: unknown 'Z'"),
        (
            "explain grouped_matmul_fp8 --shape N=4,K=5,counts=3;4",
            "counts should be one or more numbers like 224x224, got '3;4'",
        ),
        ("explain attention --shape B=1,B=2", "B is given twice"),
        ("explain attention --shape B=-1", "B should be a whole number from 0 to 2^62, got '-1'"),
        (f"explain attention --shape B={2**64}", "B should be a whole number from 0 to 2^62"),
        ("explain attention --shape causal=maybe", "causal should be true or false, got 'maybe'"),
        ("explain attention --shape B=1,M=8,N=8,H=3,G=2,D=16", "heads of q, 3"),
        (
            "explain attention --shape B=1,M=8,N=8,H=2,G=1,D=16,dtype=i4",
            "can't have such a problem",
        ),
        (f"explain attention --shape {SHAPE} --sm 9", "a compute capability times ten"),
        (f"explain attention --shape {SHAPE} --sm 90 --device cpu", "can't go with --device cpu"),
        ("gpu --out", "expected one argument"),
        ("validate --case=", "--case: '' names nothing"),
        ("validate --provider ,", "--provider: ',' names nothing"),
        ("bench --case ,,", "--case: ',,' names nothing"),
        ("bench --out=", "--out should name a file, it is empty"),
        ("accept --exclude=", "--exclude: '' names nothing"),
        ("accept --device gpu", "--device: unknown device 'gpu'; there are auto, cpu, cuda"),
        ("explain attention --case=", "has no case ''"),
        *(
            (f"explain {op} --shape {shape},{key}=zzz", f"{key} must be one of {words}")
            for op, shape, key, words in (
                ("attention", SHAPE, "dtype", "bf16, f16, f32"),
                ("attention", SHAPE, "fill", "normal, magnitudes, onehot"),
                ("attention", SHAPE, "layout", "contiguous, packed, heads_first, sparse"),
                ("matmul_fp8", "M=3,N=4,K=5", "fill", "normal, onehot"),
                ("matmul_fp8", "M=3,N=4,K=5", "layout", "contiguous, transposed"),
                ("matmul_fp8", "M=3,N=4,K=5", "scale_a", "tensor, row, one"),
                ("matmul_fp8", "M=3,N=4,K=5", "bias", "bf16, f16, f32"),
                ("matmul_fp8", "M=3,N=4,K=5", "out", "bf16, f16, f32"),
                ("quantize_fp8", "shape=3x4,granularity=row", "fill", "normal, ties"),
                ("quantize_fp8", "shape=3x4,granularity=row", "layout", "contiguous"),
                ("video_to_tensor", "F=1,H=4,W=4,h=2,w=2", "fill", "noise, impulses"),
                ("video_to_tensor", "F=1,H=4,W=4,h=2,w=2", "layout", "tight, pitched"),
                ("video_to_tensor", "F=1,H=4,W=4,h=2,w=2", "dtype", "bf16, f16, f32"),
            )
        ),
        ("explain quantize_fp8 --shape shape=3x4,granularity=zzz", "granularity must be 'tensor'"),
        ("explain attention --shape B=1,M=8,N=8,H=2,G=1,D=16,scale=nan", "scale must be finite"),
    ],
)
def test_wrong_use(argv: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *argv.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    "argv",
    ["validate --device cuda", "bench --device cuda:1", "accept --device cuda", "gpu --out x",
     f"explain attention --shape {SHAPE} --device cuda"],
)  # fmt: skip
def test_cuda_without_a_gpu(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *argv.split())
    assert "CUDA" in said
    assert not Path("x").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_without_a_driver(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A GPU that can't be used must not turn into a test of the CPU in silence."""
    for index, kind in enumerate(("0x030200", "0x030000", "0x040300")):
        folder = tmp_path / f"0000:0{index}:00.0"
        folder.mkdir()
        (folder / "vendor").write_text("0x10de\n")
        (folder / "class").write_text(kind + "\n")

    def no_driver() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that ...\nmore")

    monkeypatch.setattr(_choose, "_PCI", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", no_driver)
    said = refused(capsys, "accept")
    assert "this machine has 2 NVIDIA GPUs, but CUDA does not start here" in said
    assert "Found no NVIDIA driver on your system" in said
    assert "--device cpu" in said


def test_the_ranks_of_a_pod_try_one_folder_at_the_same_time(tmp_path: Path) -> None:
    def often(_: int) -> None:
        for _ in range(100):
            _choose.directory(str(tmp_path / "out"))

    with ThreadPoolExecutor(8) as ranks:
        list(ranks.map(often, range(8)))
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize("command", ["accept --out {}/file/sub", "accept --out /proc/none"])
def test_folder_that_cannot_be_written(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    said = refused(capsys, *command.format(tmp_path).split())
    assert "can't write to the folder" in said


def test_bench_out_must_name_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is a folder" in refused(capsys, "bench", "--out", str(tmp_path))


def test_missing_package_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(options: Any) -> int:
        raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr(look, "env", absent)
    assert "needs the package 'av', which is not installed" in refused(capsys, "env")


@pytest.mark.parametrize(
    "command", ["ops", "validate", "bench", "accept", f"explain attention --shape {SHAPE}"]
)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nosuch=x", "AIMILLS_PROVIDER: unknown op 'nosuch'; the ops are: attention"),
        ("attention=x", "AIMILLS_PROVIDER: attention has no provider 'x'; it has: triton"),
    ],
)
def test_provider_that_the_environment_gets_wrong(
    command: str,
    value: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dispatch, "_ENVIRONMENT", value)
    assert says in refused(capsys, *command.split())


# ---- what goes wrong inside


def test_unexpected_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(options: Any) -> int:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(look, "env", broken)
    assert main(["env"]) == 2
    assert capsys.readouterr().err == "aimills-kernels: did not finish: RuntimeError: first line\n"
    monkeypatch.setenv("AIMILLS_DEBUG", "1")
    assert main(["env"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(options: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(look, "env", stopped)
    assert main(["env"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, "accept", "--device", "cpu", "--out", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Whoever starts the tests in the background of a shell ignores the signal, and so would it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        while not any(out.glob("journal/*.jsonl")) or '"begin"' not in _text_in(out):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said == "aimills-kernels: interrupted; nothing was left half-written\n"
    assert json.loads(_text_in(out).splitlines()[-1])["reason"] == "SIGINT"
    assert json.loads((out / "report.json").read_text())["verdict"] == "incomplete"


def _text_in(out: Path) -> str:
    return next(out.glob("journal/*.jsonl")).read_text()


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        pytest.param("ops --json >&$GONE", 141, "", marks=pytest.mark.full),
        ("--help >&$GONE", 141, ""),
        ("ops > /dev/full", 2, "did not finish: No space left on device"),
        ("--version > /dev/full", 2, "did not finish: No space left on device"),
        pytest.param("ops >&-", 0, "", marks=pytest.mark.full),
        ("frobnicate 2> /dev/full", 3, ""),
        ("frobnicate 2>&-", 3, ""),
    ],
)
def test_output_that_cannot_be_written(command: str, code: int, says: str) -> None:
    """GONE is a pipe that nobody reads any more."""
    reads, gone = os.pipe()
    os.close(reads)
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(
            f"{' '.join(COMMAND)} {command}", shell=True, executable="/bin/bash",
            capture_output=True, text=True, check=False, env=environ | {"GONE": str(gone)},
            pass_fds=[gone],
        )  # fmt: skip
    finally:
        os.close(gone)
    assert done.stderr == (f"aimills-kernels: {says}\n" if says else "")
    assert done.returncode == code


# ---- env, ops, explain


def test_env_and_ops_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"] == sys.version.split()[0]
    assert main(["ops", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [op["name"] for op in found] == [op.name for op in _registry.OPS]
    for op, shown in zip(_registry.OPS, found, strict=True):
        assert [p["name"] for p in shown["providers"]] == [p.name for p in op.all_providers]


@pytest.mark.parametrize("package", ["rich", "pip._vendor.rich", "nothing"])
def test_tables_by_rich_by_pips_copy_and_plain(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("", ".console", ".table", ".text", ".box", ".progress")
    if package != "rich":
        for part in parts:
            monkeypatch.setitem(sys.modules, f"rich{part}", None)
    if package == "nothing":
        for part in parts:
            monkeypatch.setitem(sys.modules, f"pip._vendor.rich{part}", None)
    assert (_ui._rich("table") is None) == (package == "nothing")
    assert main(["ops"]) == 0
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    for op in _registry.OPS:
        assert op.name in said
    with _ui.progress("work", 2) as step:
        step("one")
        step("two", 2, 2)


@pytest.mark.parametrize("op", _registry.OPS, ids=str)
@pytest.mark.parametrize("place", [["--device", "cpu"], ["--sm", "80"], ["--sm", "120"]])
def test_explain_names_every_provider(
    op: Op, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(c for c in op.cases if "accept" in c.tags)
    assert main(["explain", op.name, "--case", case.name, *place]) == 0
    said = capsys.readouterr().out
    for provider in op.all_providers:
        assert provider.name in said
    assert "->" in said
    assert "serves" in said


def test_explain_needs_no_memory_for_its_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    shape = "B=64,M=1048576,N=1048576,H=32,G=8,D=128,lse=false,causal=true"
    assert main(["explain", "attention", "--sm", "90", "--shape", shape]) == 0
    said = capsys.readouterr().out
    assert "1048576, 32, 128" in said
    assert "cuda sm_90" in said


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("grouped_matmul_fp8 --shape N=8,K=16,counts=1x0x2x3x4", "a=float8_e4m3fn[10, 16]"),
        ("grouped_matmul_fp8 --shape N=8,K=16,counts=7", "b=float8_e4m3fn[1, 8, 16]"),
        ("quantize_fp8 --shape shape=2x3x4,granularity=row", "x=bfloat16[2, 3, 4]"),
        (
            "matmul_fp8 --sm 90 --shape M=64,N=256,K=512,scale_a=1x128,scale_b=128x128",
            "->   scaled_mm",
        ),
    ],
)
def test_explain_takes_lists_of_any_length_and_the_scales_of_quantize_fp8(
    call: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *call.split()]) == 0
    assert says in capsys.readouterr().out


# ---- validate


def test_validate_is_green_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "attention", "--case", "tiny,plain", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "8 checks: 5 not run, 3 right" in said
    assert "not run: attention triton, 2 cases: it runs on cuda" in said


def test_validate_that_was_short_of_memory_is_incomplete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a provider does not take counts for nothing; what it would have taken does."""
    made = {
        p: Validation("attention", "tiny", p, "cpu", 0) for p in ("triton", "sdpa", "reference")
    }
    made["triton"].skipped = "it runs on cuda"
    monkeypatch.setattr(validate_command, "validate_each", lambda *_, **__: iter(made.values()))
    command = ["validate", "attention", "--case", "tiny", "--device", "cpu"]
    assert main(command) == 0
    made["sdpa"].skipped, made["sdpa"].gap = NO_MEMORY, True
    assert main(command) == 2
    assert "1 check that could have run did not" in capsys.readouterr().out
    made["reference"].failures.append("out: NaN")
    assert main(command) == 1


@pytest.mark.parametrize("columns", ["1", "5", "20"])
def test_narrow_tables_keep_their_words(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["ops"]) == 0
    said = capsys.readouterr().out
    for op in _registry.OPS:
        assert all(provider.name in said for provider in op.all_providers)


def test_validate_that_checks_nothing_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    if _dispatch.interpreting():
        pytest.skip("the interpreter runs Triton on a CPU")
    assert main(["validate", "attention", "--provider", "triton", "--device", "cpu"]) == 2
    assert "nothing was checked" in capsys.readouterr().out


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_validate_catches_a_wrong_provider(
    fault: str,
    verbose: list[str],
    attention: Op,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_registry, "OPS", (faults.plant("attention", fault),))
    command = ["validate", "attention", "--device", "cpu", "--case", "tiny-bf16", *verbose]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "planted" in said
    assert "1 wrong" in said


# ---- records


GPU = "cuda:0"


def _results(op: Op, failures: list[str], device: str = GPU) -> list[Validation]:
    """Of every case, one of which the provider does not take."""
    rejected = Validation(op.name, "dims", "triton", device, 0, skipped="it can't")
    made = [
        Validation(op.name, case.name, "triton", device, 0, failures=list(failures))
        for case in op.cases
        if case.name != "dims"
    ]
    return [*made, rejected]


@pytest.fixture
def record(
    attention: Op, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """What `validate` says of records after these results, on a machine with that many GPUs."""
    monkeypatch.setattr(_dispatch, "sm_of", lambda device: 90)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(_records, "_all", _records._all.__wrapped__, raising=True)
    monkeypatch.setattr(_records._all, "cache_clear", lambda: None, raising=False)

    def ask(found: list[Validation], *words: str, gpus: int = 1) -> str:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        options = build_parser().parse_args(["validate", *words])
        mine = {attention.name: attention.all_providers}
        validate_command._record((attention,), mine, found, options)
        return " ".join(capsys.readouterr().out.split())

    return ask


def test_records_follow_what_was_right(attention: Op, record: Any) -> None:
    triton = attention.provider("triton")
    right, wrong = _results(attention, []), _results(attention, ["out: NaN"])
    assert "no record is written: --case" in record(right, "--case", "tiny")
    assert _records.missing(attention, triton, 90) is not None
    assert "attention triton on sm_90: recorded as correct" in record(right)
    assert _records.missing(attention, triton, 90) is None
    assert "withdrawn: it is wrong" in record(wrong)
    assert _records.missing(attention, triton, 90) is not None
    kept = json.loads(_records.cache_file().read_text())["records"]
    assert [r["provider"] for r in kept] == ["triton"]


def test_a_record_takes_every_case_on_every_gpu(attention: Op, record: Any) -> None:
    right = _results(attention, [])
    short = [replace(r, skipped=NO_MEMORY, gap=True) for r in right[1:]]
    some = "attention triton on sm_90: no record"
    for found, gpus, why in (
        ([right[0], *short], 1, f"tiny-f16 on {GPU}: {NO_MEMORY}"),
        (right[:3], 1, f"plain on {GPU} was not checked"),
        (right, 2, "tiny on cuda:1 was not checked"),
        ([*right, *_results(attention, [], "cuda:1")[:-2]], 2, "on cuda:1 was not checked"),
        ([replace(r, skipped="it can't") for r in right], 1, f"it takes no case on {GPU}"),
    ):
        assert f"{some}: " in (said := record(found, gpus=gpus)), said
        assert why in said
    assert not _records.cache_file().exists()
    both = [*right, *_results(attention, [], "cuda:1")]
    assert "recorded as correct" in record(both, gpus=2)
    assert "withdrawn" in record(_results(attention, ["out: NaN"]), gpus=2)


# ---- bench


def _bench_row(**more: Any) -> dict[str, Any]:
    known = {"op": "attention", "case": "c", "provider": "p", "device": "cpu", "unit": "f16"}
    return blank(**{**known, "validated": True, "n": 9, "flops": 1.0, "bytes": 1.0, **more})


TIMED = _bench_row(samples_us=[5.0] * 9, median_us=5.0, q1_us=4.0, q3_us=6.0, noise=0.1,
                   sol=0.5, sol_bound="bytes", gbps=1.0, tflops=1.0, error_used=0.5,
                   suspect="only 3 samples")  # fmt: skip


def test_bench_on_a_cpu_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []

    def run(**options: Any) -> dict[str, Any]:
        options["at"]("cpu")
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return {"schema": SCHEMA, "kind": "bench", "created": "", "environment": {}, "ceilings": {},
                "options": {}, "rows": [TIMED]}  # fmt: skip

    monkeypatch.setattr(bench, "run", run)
    assert main(["bench", "attention", "--case", "tiny", "--device", "cpu"]) == 0
    assert 0 < left[0] <= TIMEOUT_S
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([TIMED], 0),
        ([TIMED, _bench_row(failure="out: NaN", validated=False)], 1),
        ([_bench_row(skipped="no time left")], 2),
        ([TIMED, _bench_row(skipped="it runs on cuda, the tensors are on cpu")], 0),
        ([TIMED, _bench_row(skipped="too little memory", gap=True)], 2),
        ([TIMED, _bench_row(failure="NaN"), _bench_row(skipped="no memory", gap=True)], 1),
    ],
)
def test_bench_exit_codes(
    rows: list, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: dict[str, Any] = {}

    def run(**options: Any) -> dict[str, Any]:
        asked.update(options)
        options["progress"]("label", 0, 3)
        return {"schema": SCHEMA, "kind": "bench", "created": "", "environment": {}, "ceilings": {},
                "options": {}, "rows": rows}  # fmt: skip

    monkeypatch.setattr(bench, "run", run)
    out = tmp_path / "sub" / "record.json"
    command = ["bench", "attention", "--case", "tiny", "--device", "cpu", "--seed", "5"]
    assert main([*command, "--budget", "7", "--out", str(out)]) == code
    assert json.loads(out.read_text())["kind"] == "bench"
    assert [op.name for op in asked["ops"]] == ["attention"]
    assert (asked["cases"], asked["providers"], asked["seed"]) == (["tiny"], None, 5)
    assert (asked["device"], asked["budget_s"]) == ("cpu", 7.0)
    assert ("suspect: attention c p: only 3 samples" in capsys.readouterr().out) == (TIMED in rows)


class Asked(Exception):
    """In place of a run."""


def asked_of_bench(monkeypatch: pytest.MonkeyPatch, *command: str) -> tuple[str, dict[str, Any]]:
    """Which of the two runs the command starts, and with what."""
    from aimills_kernels.harness import isolated, model_bench

    told: dict[str, Any] = {}

    def asked(name: str) -> Any:
        def run(*found: Any, **options: Any) -> Any:
            told.update(options, name=name)
            raise Asked

        return run

    monkeypatch.setattr(bench, "run", asked("here"))
    monkeypatch.setattr(isolated, "run", asked("apart"))
    monkeypatch.setattr(model_bench, "run", asked("model"))
    main(["bench", "--device", "cpu", *command])
    return str(told.pop("name", None)), told


def test_bench_options_reach_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    from aimills_kernels.harness import isolated

    where, told = asked_of_bench(monkeypatch, "attention")
    assert (where, told["budget_s"], told["mode"]) == ("here", 120.0, "stream")
    assert (told["with_energy"], told["cases"]) == (False, None)
    where, quick = asked_of_bench(monkeypatch, "attention", "quantize_fp8", "--quick", "--energy")
    assert (where, quick["budget_s"], quick["with_energy"]) == ("here", 60.0, True)
    assert quick["cases"] is None
    first = [(str(op), *map(str, op.cases)) for op in quick["ops"]]
    assert first == [("attention", "gpt-oss-prefill"), ("quantize_fp8", "llama3-8b-hidden")]
    assert quick["target"] > told["target"]
    _, own = asked_of_bench(monkeypatch, "attention", "--quick", "--case", "tiny", "--budget", "9")
    assert (own["cases"], own["budget_s"]) == (["tiny"], 9.0)
    _, every = asked_of_bench(monkeypatch, "--quick")
    assert {len(op.cases) for op in every["ops"]} == {1}
    assert len(every["ops"]) == len(_registry.OPS)
    where, told = asked_of_bench(monkeypatch, "attention", "--timeout", "7")
    assert (where, told["timeout_s"], told["fresh"]) == ("apart", 7.0, False)
    where, told = asked_of_bench(monkeypatch, "attention", "--isolate")
    assert (where, told["timeout_s"], told["fresh"]) == ("apart", isolated.TIMEOUT_S, True)
    model = ("--model", "llama3-8b", "--quick")
    where, told = asked_of_bench(monkeypatch, *model)
    assert (where, told["budget_s"], told["mode"]) == ("model", 60.0, "stream")
    assert (told["target"], told["apart"]) == (quick["target"], {})
    _, told = asked_of_bench(monkeypatch, *model, "--timeout", "7", "--tp", "8")
    assert told["apart"].pop("model") == {
        "name": "llama3-8b", "phase": None, "tp": 8, "batch": 1, "context": None,
    }  # fmt: skip
    assert told["apart"] == {"timeout_s": 7.0, "fresh": False}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("--mode graph", "--mode graph is for a GPU: a call on a CPU has no queue behind it"),
        ("--mode host", "--mode host is for a GPU"),
        ("--mode fast", "invalid choice: 'fast' (choose from"),
        ("--model llama3-8b --mode graph", "--mode graph is for a GPU"),
        ("--model llama3-8b --energy", "--energy is not for --model: no call of a model has"),
        ("--timeout 0", "--timeout: '0' is not a number of seconds above 0"),
    ],
)
def test_bench_options_that_cannot_be_had(
    command: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "bench", "--device", "cpu", *command.split())
    assert says in said


def test_bench_tells_of_modes_and_energy(capsys: pytest.CaptureFixture[str]) -> None:
    from aimills_kernels.cli.bench import notes

    modes = [{"median_us": 5.0, "share": 0.75}, {"median_us": 9.0, "share": 0.25}]
    held = {"joules": 0.25, "watts": 640.0, "level": "GPU board"}
    missed = TIMED | {"energy_missing": "the energy counter did not move in 7.0 s"}
    rows = [TIMED | {"modes": modes, "energy": held}, missed]
    notes({"rows": rows, "options": {"energy": True}})
    said = capsys.readouterr().out
    assert "two modes: attention c p: 5 us (75%) and 9 us (25%)" in said
    assert "energy: attention c p: 0.25 J a call, 640 W mean" in said
    assert "no energy: attention c p: the energy counter did not move in 7.0 s" in said
    notes({"rows": [missed], "options": {"energy": False}})
    assert "no energy" not in capsys.readouterr().out
