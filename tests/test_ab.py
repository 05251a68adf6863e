"""`bench ab`: two checkouts in turns, with planted faults, and two providers of one process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aimills_kernels import _registry
from aimills_kernels._op import Case, Op, Provider
from aimills_kernels.cli import main
from aimills_kernels.harness import ab, env

PLANTED = """

_right = launch


def launch(outs, *args):
    import os
    import time

    _right(outs, *args)
    height, width = outs[0].shape[-2:]
    if (height, width) == (5, 7):
        time.sleep(0.01)
    if (height, width) == (9, 5):
        os._exit(7)
    if (height, width) == (17, 9):
        outs[0].add_(1)
"""
FAKE = {
    "__init__.py": "",
    "_registry.py": "def get_op(name):\n    raise LookupError(f'no op {name}')\n",
    "_dispatch.py": "", "_validate.py": "validate_each = None\n", "harness/__init__.py": "",
    "harness/_contest.py": "", "harness/timing.py": "timer_for = None\n",
    "harness/env.py": "def stamp():\n    print('chatter')\n    return {'python': 'x'}\n",
}  # fmt: skip


def video(*cases: str) -> list[tuple[Op, Case, Provider]]:
    op = _registry.get_op("video_to_tensor")
    return [(op, op.case(case), op.provider("cpu")) for case in cases]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """This checkout's sources in another folder, without what is built."""
    for name in ("python", "kernels", "csrc"):
        shutil.copytree(env.ROOT / name, tmp_path / name,
                        ignore=shutil.ignore_patterns("__pycache__", "*.so"))  # fmt: skip
    shutil.copy(env.ROOT / "CMakeLists.txt", tmp_path)
    return tmp_path


def fake(folder: Path, **changed: str) -> ab.Tree:
    package = folder / "python" / "aimills_kernels"
    for name, text in (FAKE | {f"harness/{k}.py": v for k, v in changed.items()}).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return ab.Tree("fake", folder, sys.executable, str(folder))


@pytest.mark.full  # two processes that import torch, and time for enough blocks
def test_planted_faults_of_a_checkout_are_found(copy: Path) -> None:
    """Slower, dead, wrong, of other inputs: each its verdict, and one that is right goes on."""
    path = copy / "kernels" / "video" / "cpu.py"
    path.write_text(path.read_text() + PLANTED)
    path = copy / "python" / "aimills_kernels" / "_op.py"
    seeded = ".manual_seed(seed)"
    assert seeded in path.read_text()
    other = '.manual_seed(seed + (case.name == "center"))'
    path.write_text(path.read_text().replace(seeded, other))
    todo = video("tiny", "one-pixel-up", "ragged", "center", "identity")
    found = ab.trees(str(env.ROOT), str(copy), todo, "cpu", budget_s=20.0)
    verdicts = {v.case: v for v in found.verdicts}
    slower = verdicts["tiny"]
    assert slower.verdict == "SLOWER"
    assert slower.new_us is not None
    assert slower.new_us > 10_000
    assert verdicts["one-pixel-up"].verdict == "BROKEN"
    assert "its process ended (exit 7)" in verdicts["one-pixel-up"].why
    assert verdicts["ragged"].verdict == "BROKEN"
    assert "wrong: " in verdicts["ragged"].why
    assert verdicts["center"].verdict == "REFUSED"
    assert "other inputs" in verdicts["center"].why
    assert verdicts["identity"].ratio is not None
    assert found.code == 1
    assert found.named == ()


def test_other_cpp_sources_need_a_build(copy: Path) -> None:
    source = next((copy / "csrc").rglob("*.cpp"))
    source.write_text(source.read_text() + "\n")
    with (
        pytest.raises(ValueError, match=r"has other C\+\+ sources .* run `make setup` there"),
        ab.checkout(str(copy)),
    ):
        pass


def test_what_is_no_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ab", "--base", str(tmp_path)]) == 3
    assert "is a folder, but no checkout of aimills-kernels" in capsys.readouterr().err
    assert main(["bench", "ab", "--base", "--upload-pack=x"]) == 3
    assert main(["bench", "ab", "--base", "no-such-commit"]) == 3
    assert "is neither a folder nor a commit of this checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "--base CHECKOUT, or --providers BASE NEW"),
        (["--base", "HEAD", "--providers", "cpu", "reference"], "name what to compare"),
        (["--providers", "cpu", "reference", "--new", "HEAD"], "--providers names both sides"),
        (["--providers", "cpu", "cpu"], "no op here has both"),
        (["--providers", "cpu", "nowhere"], "unknown provider 'nowhere'"),
        (["--base", "HEAD", "--case", "nowhere"], "unknown case 'nowhere'"),
    ],
)
def test_wrong_use(words: list[str], match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ab", "--device", "cpu", *words]) == 3
    assert match in capsys.readouterr().err


def test_a_commit_is_unpacked_for_as_long_as_it_is_used() -> None:
    done = subprocess.run(
        ["git", "-C", str(env.ROOT), "diff", "--quiet", "HEAD", "--", "csrc", "CMakeLists.txt"],
        check=False,
    )
    if done.returncode:
        pytest.skip("this checkout's C++ sources are changed, or it has no git")
    with ab.checkout("HEAD") as tree:
        assert (tree.folder / "kernels" / "video" / "op.py").is_file()
        assert list(Path(tree.extension).glob("_C*.so"))
        kept = tree
    assert not kept.folder.exists()
    assert not Path(kept.extension).exists()


# ---- a side's process


@pytest.mark.full  # some seconds a process
def test_what_a_checkout_prints_is_no_answer(tmp_path: Path) -> None:
    worker = ab.Worker(fake(tmp_path))
    assert worker.ask("hello") == {"environment": {"python": "x"}}
    with pytest.raises(ab.Unusable, match="fake: LookupError: no op x") as caught:
        worker.ask("open", op="x", case="c", provider="p", device="cpu", seed=0)
    assert not isinstance(caught.value, ab.Ended)
    worker.stop()


def test_a_process_that_ends_is_named_and_started_anew(tmp_path: Path) -> None:
    ends = (
        "import os, sys\ndef stamp():\n    print('no memory', file=sys.stderr)\n    os._exit(9)\n"
    )
    worker = ab.Worker(fake(tmp_path, env=ends))
    for _ in range(2):
        with pytest.raises(ab.Ended, match=r"its process ended \(no memory\)"):
            worker.ask("hello")
    worker.stop()


def test_a_process_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ab, "_PATIENCE_S", 1.0)
    worker = ab.Worker(fake(tmp_path, env="import time\ndef stamp():\n    time.sleep(60)\n"))
    with pytest.raises(ab.Ended, match="no answer in 1 s"):
        worker.ask("hello")
    worker.stop()


def test_a_python_that_imports_another_checkout_is_refused(tmp_path: Path) -> None:
    tree = fake(tmp_path)
    worker = ab.Worker(ab.Tree("fake", tmp_path, tree.python))
    with pytest.raises(ab.Ended, match="not the checkout"):
        worker.ask("hello")
    worker.stop()


# ---- two providers


@pytest.mark.full  # two seconds for each provider
def test_two_providers_in_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    """The reference is many times as slow as the C++ path, so this needs no quiet machine."""
    words = ["bench", "ab", "video_to_tensor", "--case", "identity", "--device", "cpu",
             "--budget", "2"]  # fmt: skip
    assert main([*words, "--providers", "cpu", "reference"]) == 1
    said = capsys.readouterr().out
    assert "SLOWER" in said
    assert main([*words, "--providers", "reference", "cpu"]) == 0
    assert "FASTER" in capsys.readouterr().out
    assert main([*words, "--providers", "cuda", "cpu"]) == 2
    assert "NEW: video_to_tensor identity cpu against cuda" in capsys.readouterr().out
