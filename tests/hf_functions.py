"""Functions and class attributes of the installed Transformers, taken from its files.

Its video processors can't be imported without torchvision, and Transformers takes seconds.
"""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
NAMES: dict[str, Any] = {
    "math": math, "np": np, "torch": torch, "logger": SimpleNamespace(warning_once=print),
    "OPENAI_CLIP_MEAN": _CLIP_MEAN, "OPENAI_CLIP_STD": _CLIP_STD,
    "IMAGENET_DEFAULT_MEAN": [0.485, 0.456, 0.406], "IMAGENET_DEFAULT_STD": [0.229, 0.224, 0.225],
    "IMAGENET_STANDARD_MEAN": [0.5] * 3, "IMAGENET_STANDARD_STD": [0.5] * 3,
    "PILImageResampling": SimpleNamespace(BILINEAR=2, BICUBIC=3),
}  # fmt: skip


@lru_cache
def _tree(file: str) -> ast.Module:
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        pytest.skip("transformers is not installed")
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))


def _class(file: str, name: str) -> list[ast.stmt]:
    found = [n for n in _tree(file).body if isinstance(n, ast.ClassDef) and n.name == name]
    assert found, f"{file} has no class {name}"
    return found[0].body


def function(file: str, name: str, of: str | None = None) -> Callable[..., Any]:
    """The function `name` of a file of Transformers, or the method of the class `of`."""
    body = _tree(file).body if of is None else _class(file, of)
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert found, f"{file} has no function {name}"
    found[0].decorator_list = []
    space = dict(NAMES)
    # Not evaluated: annotations name types that aren't here. This file's own import says so.
    exec(compile(ast.Module(list(found), []), file, "exec"), space)
    return space[name]


def attributes(file: str, of: str) -> dict[str, Any]:
    """The class's attributes with values that are written out there."""
    found = {}
    for node in _class(file, of):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name not in ("valid_kwargs",):
                found[name] = eval(compile(ast.Expression(node.value), file, "eval"), dict(NAMES))
    return found
