"""Adding a Triton provider just as `kernels/README.md` says, to a copy of the tree."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from aimills_kernels import _dispatch
from tests import new_provider

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(_dispatch.interpreting(), reason="it compiles"),
    pytest.mark.skipif(not _dispatch.installed("triton"), reason="not run: no Triton"),
]

ROOT = Path(__file__).parent.parent
PACKAGES = sysconfig.get_path("purelib")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has, with the package as it is laid out once installed."""
    root = tmp_path_factory.mktemp("tree")
    skipped = shutil.ignore_patterns("__pycache__")
    for folder in ("kernels", "tests", "csrc"):
        shutil.copytree(ROOT / folder, root / folder, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", root)
    package = root / "site" / "aimills_kernels"
    shutil.copytree(ROOT / "python" / "aimills_kernels", package, ignore=skipped)
    for folder in ("kernels", "csrc"):
        (package / folder).symlink_to(root / folder)
    extension = importlib.util.find_spec("aimills_kernels._C")
    if extension is not None:
        shutil.copy(extension.origin, package)
    new_provider.add(root)
    return root


def run(tree: Path, *command: str, **environment: str) -> str:
    """Without `site`, whose hook of an editable install leads back to the checkout."""
    path = os.pathsep.join([str(tree / "site"), PACKAGES])
    done = subprocess.run(
        [sys.executable, "-S", "-m", *command], cwd=tree, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip
    return f"{done.stdout}{done.stderr}\nexit {done.returncode}"


def pytest_run(tree: Path, *args: str, **environment: str) -> str:
    return run(
        tree, "pytest", "-q", "-p", "no:cacheprovider", "-m", "not full", *args, **environment
    )


def passed(output: str) -> int:
    """How many tests passed, where none failed."""
    assert output.endswith("exit 0"), output
    return int(re.findall(r"(\d+) passed", output)[0])


def test_both_files_are_lint_clean(tree: Path) -> None:
    pytest.importorskip("ruff", reason="not run: ruff is not installed")
    files = (new_provider.PATH, new_provider.DECLARATION)
    for command in (("check",), ("format", "--check")):
        said = run(tree, "ruff", *command, *files)
        assert said.endswith("exit 0"), said


def test_the_declaration_holds(tree: Path) -> None:
    passed(pytest_run(tree, "tests/test_declarations.py"))


def test_it_is_checked_in_the_interpreter(tree: Path) -> None:
    chosen = f"{new_provider.NAME} or takes_some"
    file = "tests/interpret/test_triton.py"
    assert passed(pytest_run(tree, file, "-k", chosen, TRITON_INTERPRET="1")) >= 2


def test_it_is_compiled_and_locked_by_one_command(tree: Path) -> None:
    command = ("tests/test_aot.py", "-k", f"{new_provider.NAME} or lock")
    before = pytest_run(tree, *command)
    assert before.endswith("exit 1")
    assert "run `make lock`" in before
    assert passed(pytest_run(tree, *command, AIMILLS_UPDATE_RESOURCES="1")) >= 4
    assert passed(pytest_run(tree, *command)) >= 4
