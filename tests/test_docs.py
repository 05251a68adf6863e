"""The documentation names only commands, files and decisions that exist."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

import aimills_kernels
from aimills_kernels._registry import OPS

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".venv", "build", "dist", "reports", ".git"}
PAGES = sorted(
    p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts[:1])
    and not any(part.startswith(".pytest") for part in p.parts)
)  # fmt: skip
ADRS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(text: str) -> str:
    """The fenced blocks and inline code of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", text))


@lru_cache(maxsize=1)
def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_make_targets_exist(page):
    used = re.findall(r"\bmake ((?:[A-Z_]+=\S+ +)*)([a-z][\w-]*)", code(page.read_text()))
    assert {target for _, target in used} <= targets()


def test_help_names_every_target():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert set(re.findall(r"^make ([\w-]+)", shown, re.M)) == targets() - {"help"}


@lru_cache(maxsize=1)
def subcommands() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "aimills_kernels", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_cli_commands_exist(page):
    pattern = r"(?:aimills-kernels|-m aimills_kernels) ([a-z]\w*)"
    for command in set(re.findall(pattern, code(page.read_text()))):
        assert re.search(rf"\b{command}\b", subcommands()), f"no command {command!r}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_shows_the_two_commands():
    shown = code((ROOT / "README.md").read_text())
    assert "make accept" in shown
    assert "make test" in shown


def test_adr_index_is_complete():
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index) == [p.name for p in ADRS]
    assert [int(p.name[:4]) for p in ADRS] == list(range(1, len(ADRS) + 1))


@pytest.mark.parametrize("path", ADRS, ids=lambda p: p.stem)
def test_adr_has_its_parts(path):
    text = path.read_text()
    assert re.findall(r"^## (\w+)$", text, re.M) == ["Context", "Decision", "Consequences"]
    assert text.startswith(f"# {int(path.name[:4]):04d}: ")


def test_adrs_named_in_the_code_exist():
    known = {p.name[:4] for p in ADRS}
    for folder in ("python", "kernels", "csrc", "tests", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".h", ".cpp", ".cu", ".md"} and path != Path(__file__):
                assert set(re.findall(r"docs/adr/(\d{4})", path.read_text())) <= known, path


@pytest.mark.parametrize("op", OPS, ids=str)
def test_public_docstrings_have_a_shape_table(op):
    """A row `name  [A, B]  dtypes` for each tensor argument, and one for a result."""
    function = getattr(aimills_kernels, op.name)
    text = function.__doc__ or ""
    rows = {
        word
        for names in re.findall(r"^ +(\w+(?:, \w+)*) +\[[^\]]*\] ", text, re.M)
        for word in names.split(", ")
    }
    kinds = inspect.get_annotations(function)
    tensors = {n for n, kind in kinds.items() if "Tensor" in str(kind)} - {
        "out",
        "return",
        "planes",
    }
    assert tensors <= rows
    assert rows - tensors, "no row for a result"
    assert "ValueError" in text, "errors are not named"
