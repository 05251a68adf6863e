"""No torch name newer than 2.11, which is what the GPU hosts have.

`torch_2_11.txt` lists the dotted names that this package uses and that were looked up in the wheel
of torch 2.11.0. A name that is not in it has to be looked up there and added.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).parent / "torch_2_11.txt"
FOLDERS = ("python", "kernels", "bench")


def names_used() -> set[str]:
    found: set[str] = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found.update(_names(ast.parse(path.read_text())))
    return found


def _names(tree: ast.AST) -> Iterator[str]:
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            inner.update(id(n) for n in ast.walk(node.value))
            if (name := _dotted(node)).startswith("torch.") and ".ops.aimills" not in name:
                yield name


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_every_torch_name_was_looked_up_in_2_11() -> None:
    listed = {x for x in LIST.read_text().splitlines() if x and not x.startswith("#")}
    used = names_used()
    assert len(used) > 50
    assert not used - listed, "look these up in torch 2.11.0, then add them to torch_2_11.txt"
    assert not listed - used, "these are used no more"
